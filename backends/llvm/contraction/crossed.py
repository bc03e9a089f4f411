"""Products with few rows and a long second operand that lies along k: that operand is read in place, once.

    pack A                                          (all of k, rows side by side)
    for block of columns:                           (if there is only one, A is packed block of k by block of k)
        for k block of kc, register tile: accumulate into sums kept [column][row]
        transpose the kept sums in registers and finish them along columns

The register tile broadcasts B and has its vectors along the rows, so no element of B is copied or
transposed; only sums are, k times fewer. A sum's terms and order are those of every other plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd, lcm

from graphc.backends.llvm.contraction.axes import Env, chunks, constant, index_value, minimum, plus, times
from graphc.backends.llvm.contraction.body import joined
from graphc.backends.llvm.contraction.epilogue import (
    emit_epilogue,
    emit_epilogues,
    emit_uniform,
    side_by_side,
    varying,
)
from graphc.backends.llvm.contraction.fold import Earlier, accumulate_folds
from graphc.backends.llvm.contraction.micro import Ahead, Panel, PanelColumns, accumulate
from graphc.backends.llvm.contraction.packing import Block, pack_panels, pack_transposed, transpose
from graphc.backends.llvm.contraction.problem import Problem
from graphc.backends.llvm.contraction.share import Units, each, load_pointers, place_scratch, shares
from graphc.backends.llvm.contraction.tiling import (
    along_steps,
    cached_steps,
    fold_steps,
    register_rows,
    round_up,
)
from graphc.backends.llvm.text import Builder, ModuleText, Val, vector
from graphc.ir.records import dataclass
from graphc.ir.target import Target

__all__ = ["Crossing", "crossed_scratch", "emit_crossed", "find_crossing"]

_MOST_ROWS = 256
_LEAST_STEPS = 32
_LEAST_PIECES = 8
_UNROLLED_EPILOGUE = 160
_PARAMETERS = (("ptr", "b"), ("ptr", "a"), ("i64", "steps"), ("ptr", "kept"), ("i64", "block"))


@dataclass(frozen=True)
class Crossing:
    """Sizes: a tile of `columns` × `vectors`·`width` rows, folds of `fold` steps, blocks of `kc` steps and `block` columns.

    Of A, a block of k is no larger than L1 (or one fold) where there are more than two panels, and of kept sums a block of
    columns an eighth of L2.

    `full_width` is the target's vector, along columns, in which sums are finished.
    """

    full_width: int
    width: int
    columns: int
    vectors: int
    fold: int
    kc: int
    block: int
    unit: int

    @property
    def depth(self) -> int:
        """Steps that a packed panel has room for."""
        return self.kc + 1 + self.kc % 2

    @property
    def panel(self) -> int:
        """Rows of a register tile."""
        return self.width * self.vectors

    def once(self, problem: Problem) -> bool:
        """Whether one block holds all columns, so that a block of k is packed where it is used and the next in its place."""
        return problem.n <= self.block

    def panels(self, problem: Problem) -> int:
        """Register tiles over all rows."""
        return -(-problem.m // self.panel)

    def lead(self, problem: Problem) -> int:
        """Elements of kept sums from one column to the next."""
        return round_up(self.panels(problem) * self.panel, self.full_width)

    def units(self, problem: Problem) -> Units:
        """What a partition's share is a multiple of."""
        return {"batch": 1, "rows": max(1, problem.m), "columns": self.unit}


def find_crossing(problem: Problem, target: Target) -> Crossing | None:
    """The sizes for a problem that may be emitted this way; None for another one."""
    direct, k = problem.b.direct, problem.k
    full = target.width(problem.dtype.bits)
    if direct is None or direct.step != 1 or k < _LEAST_STEPS or problem.is_vector:
        return None
    if not 1 < problem.m <= _MOST_ROWS or problem.columns.inner is None or problem.piece(full) != full:
        return None
    if not along_steps(problem.a) and len(problem.a.rows.axes) > 1:
        return None
    width = full
    while width > 1 and width // 2 >= problem.m:
        width //= 2
    columns, vectors = register_rows(target, -(-problem.m // width))
    size = problem.dtype.itemsize
    # Whole cache lines of the result, unless that leaves too few pieces.
    units = [lcm(columns, max(1, 64 // size)), lcm(columns, full)]
    unit = next((u for u in units if problem.n >= _LEAST_PIECES * u), columns)
    lead = round_up(problem.m, width * vectors)
    block = unit * max(1, target.l2_bytes // 8 // (lead * size) // unit)
    fold = fold_steps(problem)
    # With one or two panels, B is hardly read again and comes faster in long rows.
    room = target.l1_bytes if lead > 2 * width * vectors else target.l2_bytes // 8
    kc = cached_steps(k, fold, max(fold, room // (lead * size)))
    return Crossing(full, width, columns, vectors, fold, kc, block, unit)


def crossed_scratch(problem: Problem, crossing: Crossing) -> tuple[int, int]:
    """Bytes of one partition's packed A and kept sums."""
    size, panel = problem.dtype.itemsize, crossing.panel
    blocks = 1 if crossing.once(problem) else -(-problem.k // crossing.kc)
    packed = blocks * crossing.depth * crossing.panels(problem) * panel + crossing.width * (panel + 1)
    kept = (crossing.block + crossing.full_width) * crossing.lead(problem)
    return round_up(packed, 16) * size, round_up(kept, 16) * size


def emit_crossed(problem: Problem, crossing: Crossing, builder: Builder) -> None:
    """Emits the body of the kernel function, and its register tiles as functions of the module."""
    _Crossed(builder, problem, crossing).emit()


def _emit_tile(module: ModuleText, name: str, problem: Problem, crossing: Crossing, columns: int) -> None:
    """Emits `name(_PARAMETERS)`: the sums of `columns` columns and all rows over a block of k, kept."""
    builder = module.function(
        name, "void", _PARAMETERS, linkage="internal", attributes="nounwind noinline", hides_steps=True
    )
    b, a, steps, kept, block = builder.params
    direct = problem.b.direct
    assert direct is not None
    scalar, width, size = problem.scalar, crossing.width, problem.dtype.itemsize
    type_ = vector(scalar, width)
    even = problem.k if problem.k <= crossing.fold else gcd(problem.k, crossing.fold)
    is_first = builder.icmp("eq", block, constant(0))

    strips = crossing.panels(problem)

    def tile(strip: Val, packed: Val, place: Val, vectors: int) -> None:
        source = PanelColumns(packed, scalar, width, vectors, crossing.panel, 0)
        sizes = builder, scalar, width, columns, vectors
        a, ahead = (
            (b, Panel(direct.row, 1)),
            Ahead(columns * direct.row, share=(strip, strips) if strips > 1 else None),
        )

        def at(i: int, j: int) -> Val:
            return builder.gep(place, i * crossing.lead(problem) + j * width, scalar)

        def load(i: int, j: int) -> Val:
            return builder.load(type_, at(i, j), size)

        def keep(grid: list[list[Val]], before: Callable[[int, int], Val] | None = None) -> None:
            for i, row in enumerate(grid):
                for j, x in enumerate(row):
                    builder.store(x if before is None else builder.fadd(before(i, j), x), at(i, j), size)

        if problem.k > crossing.fold and crossing.kc > crossing.fold:
            earlier = Earlier(is_first, load) if problem.k > crossing.kc else None
            keep(accumulate_folds(*sizes, a, source, steps, crossing.fold, even, ahead, earlier))
            return
        grid = accumulate(*sizes, a, source, steps, even, ahead)
        if problem.k <= crossing.kc:
            keep(grid)
            return
        first, later, done = (builder.label(x) for x in ("first", "later", "done"))
        builder.branch_if(is_first, first, later)
        builder.block(first)
        keep(grid)
        builder.branch(done)
        builder.block(later)
        keep(grid, load)
        builder.branch(done)
        builder.block(done)

    def full(i: Val, carried: tuple[Val, ...]) -> list[Val]:
        packed, place = carried
        tile(i, packed, place, crossing.vectors)
        return [
            builder.gep(packed, crossing.depth * crossing.panel, scalar),
            builder.gep(place, crossing.panel, scalar),
        ]

    count, rest = divmod(problem.m, crossing.panel)
    after = builder.loop(0, count, 1, (a, kept), full, "strip") if count else (a, kept)
    if rest:
        tile(constant(count), after[0], after[1], -(-rest // width))
    builder.ret()


class _Crossed:
    """State of one emission; its methods nest as the loops do."""

    def __init__(self, builder: Builder, problem: Problem, crossing: Crossing) -> None:
        self.builder = builder
        self.problem = problem
        self.crossing = crossing
        self.pointers = load_pointers(builder, problem, builder.params[0])
        self.uniform = emit_uniform(builder, problem, self.pointers)
        self.packed, self.kept = place_scratch(builder, problem, crossed_scratch(problem, crossing))
        sizes = [c for c in (crossing.columns, problem.n % crossing.columns) if c and c <= problem.n]
        self.tiles = {c: f"{builder.name}.tile.{c}x{crossing.vectors}" for c in sizes}
        for columns, name in self.tiles.items():
            _emit_tile(builder.module, name, problem, crossing, columns)

    def emit(self) -> None:
        """Emits the loops over this partition's share."""
        bounds = shares(self.builder, self.problem.totals, self.crossing.units(self.problem))

        def entry(batch: Val) -> None:
            self.env: Env = self.problem.batch.split(self.builder, batch)
            if not self.crossing.once(self.problem):
                self._each_block(self._pack)
            self.end = bounds["columns"][1]
            self.builder.loop(*bounds["columns"], self.crossing.block, (), self._columns, "columns")

        each(self.builder, bounds["batch"], entry, "batch")

    def _each_block(self, body: Callable[[Val, Val], None]) -> None:
        builder, problem, kc = self.builder, self.problem, self.crossing.kc

        def block(k: Val, _: tuple[Val, ...]) -> list[Val]:
            body(k, minimum(builder, plus(builder, k, constant(kc)), constant(problem.k)))
            return []

        if problem.k <= kc:
            body(constant(0), constant(problem.k))
        else:
            builder.loop(0, problem.k, kc, (), block, "kc")

    def _packed_at(self, k: Val) -> Val:
        """Where the packed block of k begins."""
        crossing = self.crossing
        if k.text == "0" or crossing.once(self.problem):
            return self.packed
        number = self.builder.binary("udiv", k, constant(crossing.kc))
        size = crossing.panels(self.problem) * crossing.panel * crossing.depth
        return self.builder.gep(self.packed, times(self.builder, number, size), self.problem.scalar)

    def _pack(self, k: Val, end: Val) -> None:
        problem, crossing = self.problem, self.crossing
        block = Block(
            problem.a, problem.buffers, self.pointers, self.env, problem.scalar, crossing.width,
            constant(0), constant(problem.m), k, end, self._packed_at(k),
        )  # fmt: skip
        pack = pack_transposed if along_steps(problem.a) else pack_panels
        pack(self.builder, block, crossing.panel, crossing.depth)

    def _columns(self, first: Val, _: tuple[Val, ...]) -> list[Val]:
        builder = self.builder
        self.first = first
        self.last = minimum(builder, plus(builder, first, constant(self.crossing.block)), self.end)
        self._each_block(self._tiles)
        self._finish()
        return []

    def _tiles(self, k: Val, end: Val) -> None:
        builder, problem, size = self.builder, self.problem, self.crossing.columns
        direct = problem.b.direct
        assert direct is not None
        if self.crossing.once(self.problem):
            self._pack(k, end)
        start = plus(builder, index_value(builder, direct.offset, self.env), k)
        packed, steps = self._packed_at(k), builder.sub(end, k)

        def call(n: Val, columns: int) -> None:
            at = plus(builder, start, times(builder, n, direct.row))
            b = builder.gep(self.pointers[direct.buffer], at, problem.scalar)
            builder.call_void(self.tiles[columns], [b, packed, steps, self._kept_at(n), k])

        def full(n: Val, _: tuple[Val, ...]) -> list[Val]:
            call(n, size)
            return []

        rest = builder.binary("urem", builder.sub(self.last, self.first), constant(size))
        whole = builder.sub(self.last, rest)
        if problem.n >= size:
            builder.loop(self.first, whole, size, (), full, "tiles")
        if problem.n % size:
            with builder.if_(builder.icmp("slt", whole, self.last)):
                call(whole, problem.n % size)

    def _kept_at(self, n: Val) -> Val:
        at = times(self.builder, self.builder.sub(n, self.first), self.crossing.lead(self.problem))
        return self.builder.gep(self.kept, at, self.problem.scalar)

    # -- the epilogue: kept sums [column][row] become vectors along columns --------------

    def _finish(self) -> None:
        builder, width, m = self.builder, self.crossing.full_width, self.problem.m

        def group(row: Val, count: int) -> None:
            def piece(n: Val, mask: Val | None) -> None:
                self._square(row, count, n, mask)

            chunks(builder, self.first, self.last, width, piece)

        def full(row: Val, _: tuple[Val, ...]) -> list[Val]:
            group(row, width)
            return []

        builder.loop(0, m - m % width, width, (), full, "rows")
        if m % width:
            group(constant(m - m % width), m % width)

    def _square(self, row: Val, count: int, n: Val, mask: Val | None) -> None:
        """`count` rows of one vector of columns."""
        builder, problem, width = self.builder, self.problem, self.crossing.full_width
        type_, size = vector(problem.scalar, width), problem.dtype.itemsize
        place = builder.gep(self._kept_at(n), row, problem.scalar)
        lines = transpose(
            builder,
            [
                builder.load(type_, builder.gep(place, q * self.crossing.lead(problem), problem.scalar), size)
                for q in range(width)
            ],
        )[:count]
        together = side_by_side(problem)
        if together > 1 and mask is None and count % together == 0:
            for i in range(0, count, together):
                self._apply_to_rows(plus(builder, row, constant(i)), n, lines[i : i + together])
            return
        if len(varying(problem)) * count <= _UNROLLED_EPILOGUE:
            for i, line in enumerate(lines):
                self._apply(plus(builder, row, constant(i)), n, line, mask)
            return
        stack = builder.alloca(type_, count)
        for i, line in enumerate(lines):
            builder.store(line, builder.gep(stack, i, type_))

        def one(i: Val, _: tuple[Val, ...]) -> list[Val]:
            self._apply(plus(builder, row, i), n, builder.load(type_, builder.gep(stack, i, type_)), mask)
            return []

        builder.loop(0, count, 1, (), one, "finish")

    def _apply_to_rows(self, row: Val, n: Val, lines: Sequence[Val]) -> None:
        """The epilogue of neighbouring rows."""
        builder, problem, axis = self.builder, self.problem, self.problem.columns.inner
        assert axis is not None
        rows = [plus(builder, row, constant(i)) for i in range(len(lines))]
        envs = [self.env | problem.rows.split(builder, r) | {axis: n} for r in rows]
        emit_epilogues(builder, problem, self.pointers, self.uniform, envs, joined(builder, lines))

    def _apply(self, row: Val, n: Val, value: Val, mask: Val | None) -> None:
        problem, axis = self.problem, self.problem.columns.inner
        assert axis is not None
        env = self.env | problem.rows.split(self.builder, row) | {axis: n}
        width = self.crossing.full_width
        emit_epilogue(self.builder, problem, self.pointers, self.uniform, env, value, width, mask)
