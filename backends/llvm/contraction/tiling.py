"""Sizes of a contraction's loops, from its shape and target alone.

The result's bits depend on `fold` only (the sum over k is a sum of sums of `fold` steps); it is a function
of k. Everything else is free to follow layouts and cache sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import gcd, prod
from typing import Literal

from graphc.backends.llvm.contraction.axes import Group
from graphc.backends.llvm.contraction.problem import Direct, Operand, Problem, Side
from graphc.ir.dims import symbols
from graphc.ir.kernel import typical_size
from graphc.ir.records import dataclass
from graphc.ir.target import Target

__all__ = [
    "DEPTH",
    "FOLD",
    "FOLD_OF_RUNS",
    "LEAST_FOLD",
    "Source",
    "Tiling",
    "along_steps",
    "block_steps",
    "cached_steps",
    "choose_tiling",
    "fold_steps",
    "is_near",
    "leads",
    "near_tiling",
    "panel_rows",
    "register_rows",
    "round_up",
    "step_numbers",
    "sums_in_result",
]

Source = Literal["place", "kept", "field", "runs", "columns", "panels", "transpose"]
"""How the register tile gets an operand.

place      from its own buffer
kept       from its own buffer, which has the layout of `panels` (B only)
field      gathered from a field, panel by panel (B only; see `gathered`)
runs       packed [row][k], copied along k (A only)
columns    packed [k][row] with one row stride for the whole block, copied along rows
panels     packed [row / tile][k][row % tile], copied along rows
transpose  the same layout, copied along k and transposed in registers
"""


@dataclass(frozen=True)
class Tiling:
    """Register tile `rows` × `vectors`·`width` (`full_width` is the target's); blocks of `kc` steps, `mc` rows, `nc` columns.

    `kc` is a multiple of `fold`: so many steps are summed from zero and added to what there is.
    `mb` rows are finished before the next ones are begun, which bounds the partial sums kept.
    `a_lead` and `b_lead` are element strides of packed blocks (see `Source`). `rows_outside` says
    that register tiles follow one another along rows of the result. `near` says that all steps of `mb` rows of A are packed
    at once, and all steps of a panel of B, block by block in L1, come before the next panel: sums are kept in scratch, few columns at a time.
    So many columns of B, `nb`, are packed at once, all of k.
    """

    full_width: int
    width: int
    rows: int
    vectors: int
    fold: int
    kc: int
    mc: int
    nc: int
    mb: int
    a: Source
    b: Source
    a_lead: int
    b_lead: int
    rows_outside: bool = False
    near: bool = False
    nb: int = 0

    @property
    def columns(self) -> int:
        """Columns of a register tile."""
        return self.width * self.vectors

    @property
    def depth(self) -> int:
        """Steps that a packed panel has room for: odd, so that panels spread over cache sets, and more than `kc`."""
        return self.kc + 1 + self.kc % 2

    @property
    def units(self) -> dict[Side, int]:
        """What a partition's share is a multiple of."""
        return {"batch": 1, "rows": self.rows, "columns": self.columns}

    def even(self, k: int) -> int:
        """What the number of steps of every fold is a multiple of."""
        return k if k <= self.fold else gcd(k, self.fold)

    def blocks(self, k: int) -> int:
        """Number of blocks of k."""
        return max(1, -(-k // self.kc))


FOLD, LEAST_FOLD = 160, 96
FOLD_OF_RUNS = 320
DEPTH = 512


def block_steps(*extents: int) -> int:
    """Steps of k that are summed from zero, by the extents of the k axes: all of a short k, else nearly equal blocks.

    Short blocks keep rounding errors small: they grow with the root of what one block sums. Blocks of a single axis
    have up to 160 steps and are folded in registers. Those of several axes have up to 320; such a block is whole runs of
    the inner axes where those are short, and divides the next axis where it can, so that none crosses from one image to
    the next.
    """
    k = prod(extents)
    outer = [e for e in extents if e > 1]
    if len(outer) < 2:
        return _fold_of(k)
    if k <= FOLD_OF_RUNS:
        return max(k, 1)
    size = -(-k // -(-k // FOLD_OF_RUNS))
    unit = 1
    while unit * outer[-1] <= FOLD_OF_RUNS:
        unit *= outer.pop()
    if unit == 1:
        return round_up(size, 16)
    if len(outer) > 1:
        whole = max(m for m in range(1, FOLD_OF_RUNS // unit + 1) if outer[-1] % m == 0)
        if 2 * whole * unit >= FOLD_OF_RUNS:
            return whole * unit
    up = round_up(size, unit)
    return up if up <= FOLD_OF_RUNS + 32 else max(unit, size // unit * unit)


def _fold_of(k: int) -> int:
    """Of one axis: blocks that divide it, if such there are."""
    if k <= FOLD:
        return max(k, 1)
    whole = [f for f in range(LEAST_FOLD, FOLD + 1, 16) if k % f == 0]
    return whole[-1] if whole else round_up(-(-k // -(-k // FOLD)), 16)


def cached_steps(k: int, fold: int, most: int = DEPTH) -> int:
    """Steps of a block whose sums stay in registers: nearly equal blocks of whole folds, at most about `most`."""
    count = max(1, -(-k // max(fold, most)))
    return max(fold, round_up(-(-k // count), fold)) if count > 1 else round_up(max(k, 1), fold)


def round_up(value: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def step_numbers(extents: Sequence[int]) -> tuple[int, int]:
    """`fold` and `kc` of a sum over k axes of these extents."""
    long = [e for e in extents if e != 1]
    fold = block_steps(*long)
    return fold, cached_steps(prod(long), fold) if len(long) == 1 else fold


_KEPT_ROWS = {16: 4, 32: 8}
"""Rows of a register tile of three vectors beside an operand that lies packed: fewer instructions for a multiply-add than two
vectors, which needs that no column is packed again for every few rows."""

_KEPT_VECTORS = 3

_ROWS = {16: {1: 12, 2: 6}, 32: {1: 16, 2: 12, 3: 8}}
"""Rows of a register tile by registers of the target and vectors of a row."""


def register_rows(target: Target, vectors: int) -> tuple[int, int]:
    """(rows, vectors) of a register tile that is to cover at least `vectors` vectors, many rows there being."""
    few = target.vector_registers <= 16
    vectors = min(max(1, vectors), 2 if few else 3)
    return _ROWS[16 if few else 32][vectors], vectors


def panel_rows(target: Target, bits: int) -> int:
    """Columns of the packed panels that register tiles read in place."""
    return _KEPT_VECTORS * target.width(bits)


def _register_tile(problem: Problem, target: Target, width: int) -> tuple[int, int]:
    """(rows, vectors) that leave registers for one row of B and a broadcast."""
    if problem.b.panels is not None and problem.b.panels.rows == panel_rows(target, problem.dtype.bits):
        rows = _KEPT_ROWS[16 if target.vector_registers <= 16 else 32]
        return min(rows, max(1, problem.m)), _KEPT_VECTORS
    rows, vectors = register_rows(target, -(-problem.n // width))
    if problem.is_empty:
        return 1, vectors  # nothing is loaded for several rows
    return min(rows, max(1, problem.m)), vectors


def fold_steps(problem: Problem) -> int:
    """Steps that every plan of a problem sums from zero."""
    if problem.symbols:
        return FOLD_OF_RUNS
    return problem.resumed or block_steps(*(typical_size(a) for a in problem.step_axes))


def choose_tiling(problem: Problem, target: Target) -> Tiling:
    """The tiling of a contraction."""
    size = problem.dtype.itemsize
    width = target.width(size * 8)
    least = 1 if problem.order is None else 2  # masks have lanes
    while width > least and width // 2 >= problem.n:
        width //= 2
    rows, vectors = _register_tile(problem, target, width)
    columns = width * vectors
    fold = fold_steps(problem)
    kept_panels = problem.b.panels is not None and problem.b.panels.rows == columns
    deep = len(problem.step_axes) == 1 and problem.order is None
    kc = cached_steps(problem.k, fold) if deep else fold
    if problem.symbols:
        kc = DEPTH + FOLD
    if kept_panels:
        kc = fold  # a panel of B stays in L1 while all rows pass
    row_tiles, column_tiles = max(1, -(-problem.m // rows)), max(1, -(-problem.n // columns))
    mc = rows * min(row_tiles, max(1, target.l2_bytes // 3 // (kc * size) // rows))
    if problem.order is not None and not problem.order.of_results:
        mc = rows * min(row_tiles, max(1, _ROWS_IN_ORDER // rows))
    a = _source_of_a(problem.a, column_tiles, size)
    if kept_panels:
        a = "transpose" if along_steps(problem.a) else "panels"  # once, all steps before the first column
    # A block of B that stays in L2. Where A is packed again for each, a larger one, of which a panel at a
    # time is in L1; but partial sums that are kept for all its columns are to stay near.
    kept = (kc < problem.k or bool(problem.symbols)) and problem.plain_store is None
    block_bytes = target.l2_bytes // 2 if a == "place" else target.l2_bytes if kept else 4 * target.l2_bytes
    rows_outside = problem.k <= _SHORT and not problem.is_empty and _updates(problem)
    if rows_outside:
        block_bytes = target.l2_bytes // 4
    nc = columns * min(column_tiles, max(1, block_bytes // (kc * size) // columns))
    if kept_panels:
        mc = round_up(problem.m, rows)
    mb = round_up(max(1, min(problem.m, max(mc, 1024))), mc)
    b: Source = (
        "kept" if kept_panels else _source_of_b(problem.b, row_tiles, problem.n % width != 0, size, target)
    )
    if kept_panels:
        nc = columns
    chosen = Tiling(
        full_width=target.width(size * 8), width=width, rows=rows, vectors=vectors, fold=fold, kc=kc, mc=mc, nc=nc, mb=mb, a=a, b=b,
        a_lead=0, b_lead=0, rows_outside=rows_outside, near=kept_panels,
    )  # fmt: skip
    return leads(chosen, size)


_NEAR_ROWS, _NEAR_COLUMNS, _NEAR_STEPS = 128, 96, 96
"""From how many rows, columns and steps on packing both operands once is little beside the products."""


def near_tiling(problem: Problem, target: Target) -> Tiling | None:
    """The tiling whose panels of B are packed one after the other, a fold at a time; None where there is none.

    Tiles of three vectors need fewer instructions for a multiply-add than those of two, and a panel of a fold takes a third of L1.
    """
    large = problem.m >= _NEAR_ROWS and problem.n >= _NEAR_COLUMNS and problem.k >= _NEAR_STEPS
    if not large or problem.batch.total != 1 or (problem.k <= _SHORT and _updates(problem)):
        return None
    if len(problem.a.steps.axes) != 1 or len(problem.b.steps.axes) != 1:
        return None
    if target.vector_registers > 16 or problem.a.panels or problem.b.panels:
        return None
    size = problem.dtype.itemsize
    sources: list[Source] = []
    for operand in (problem.a, problem.b):
        along = along_steps(operand)
        if not along and len(operand.rows.axes) > 1:
            return None
        sources.append("transpose" if along else "panels")
    width, rows, fold = target.width(size * 8), _KEPT_ROWS[16], fold_steps(problem)
    most = max(_NEAR_ROWS, target.l3_bytes // 4 // (problem.k * size) // rows * rows)
    mc = min(round_up(problem.m, rows), most, 1024)
    chosen = Tiling(
        full_width=width, width=width, rows=rows, vectors=_KEPT_VECTORS, fold=fold, kc=fold, mc=mc, nc=width * _KEPT_VECTORS,
        mb=mc, a=sources[0], b=sources[1], a_lead=0, b_lead=0, near=True,
        nb=_packed_at_once(problem, target, width * _KEPT_VECTORS),
    )  # fmt: skip
    return leads(chosen, size)


_LEAST_PANELS = 4
"""Panels that are packed at once: a row's lines come as a run."""


def _packed_at_once(problem: Problem, target: Target, columns: int) -> int:
    """Columns of B that are packed at once for panels of so many columns: about half of L2."""
    panels = target.l2_bytes // 2 // (problem.k * problem.dtype.itemsize * columns)
    return columns * min(max(_LEAST_PANELS, panels), -(-problem.n // columns))


def sums_in_result(problem: Problem, tiling: Tiling) -> bool:
    """Whether sums of earlier blocks of k are kept in the result's own memory."""
    return problem.plain_store is not None and not tiling.near


def leads(tiling: Tiling, size: int) -> Tiling:
    """The tiling with the strides that packed blocks of its sizes have, elements having `size` bytes."""
    a_leads = {"runs": tiling.kc + 64 // size, "panels": tiling.rows, "transpose": tiling.rows}
    panels = tiling.b in ("kept", "field", "panels", "transpose")
    return dataclasses.replace(
        tiling,
        a_lead=a_leads.get(tiling.a, _odd_lines(tiling.mc + tiling.width, size)),
        b_lead=tiling.columns if panels else _odd_lines(tiling.nc + tiling.width, size),
    )


_ROWS_IN_ORDER = 48
"""Rows packed at once where each has steps of its own: what none of them has is not packed."""

_SHORT = 160
"""Steps of k up to which an epilogue that updates memory bounds the time of a tile."""


def _updates(problem: Problem) -> bool:
    """True where the epilogue reads arrays as large as the result, row by row."""
    columns, rows = problem.columns.inner, problem.rows.inner
    loads = [i.index[0] for i in problem.epilogue if i.opcode == "load"]
    return any(columns in symbols(e) and rows in symbols(e) for e in loads)


def _odd_lines(count: int, size: int) -> int:
    """A row length of an odd number of 64-byte lines, so that rows spread over all cache sets."""
    line = 64 // size
    lines = -(-count // line)
    return (lines + 1 - lines % 2) * line


def along_steps(operand: Operand) -> bool:
    """True where packing walks k: runs of neighbours in memory are longer along k than along rows."""
    return _run(operand, operand.steps) > _run(operand, operand.rows)


def _run(operand: Operand, group: Group) -> int:
    """Neighbouring points of the group that are neighbours in memory too."""
    return group.run if operand.stride(group.inner) == 1 else 1


def _source_of_a(a: Operand, column_tiles: int, size: int) -> Source:
    if a.direct is not None:
        if a.direct.step == 1 or a.rows.total == 1:
            # Rows a multiple of 4 KiB apart share one cache set.
            return "runs" if a.direct.row * size % 4096 == 0 and column_tiles > 2 else "place"
        return "panels" if column_tiles > 3 else "place"
    if along_steps(a):
        return "runs"
    return "panels" if len(a.rows.axes) <= 1 else "columns"


_NEAR = 1024
"""Bytes from one step of k to the next up to which a panel is read in place: few pages, and all cache sets."""


def is_near(direct: Direct, size: int) -> bool:
    """True where neighbouring steps of k lie close together."""
    return direct.step * size <= _NEAR


def _source_of_b(b: Operand, row_tiles: int, ragged: bool, size: int, target: Target) -> Source:
    if b.direct is not None and (b.direct.row == 1 or b.rows.total == 1):
        masks = target.has_masks or not ragged
        if masks and row_tiles <= 12 and (is_near(b.direct, size) or row_tiles <= 2):
            return "place"
    if along_steps(b):
        return "transpose"
    return "panels" if len(b.rows.axes) <= 1 else "columns"
