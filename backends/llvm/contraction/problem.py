"""What a contraction kernel computes: C[b, m, n] = finish(sum over k of A[b, m, k] · B[b, n, k]).

`readings` looks at the structure of a kernel and nothing else: a first stage that sums, over its
inner axes, a product whose one factor depends on (batch, rows, k) and whose other factor
depends on (batch, columns, k); then map stages without inner axes, the epilogue. Vectors lie
along columns; which factor is which side is free, and which was written first makes no difference.

Every access is rewritten as a linear offset into a flat buffer, over merged axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from math import gcd
from typing import Literal

from graphc.backends.llvm.contraction.axes import Group, merge_axes
from graphc.backends.llvm.contraction.body import linear_offset
from graphc.backends.llvm.contraction.order import Order, Precedence, placed, take_off
from graphc.backends.llvm.kernel.values import carrier
from graphc.ir.dims import Dim, Symbol, floor_div, mod, split_linear, substitute, symbols
from graphc.ir.kernel import (
    Instruction,
    Kernel,
    KernelBuffer,
    Stage,
    extent,
    kernel_sizes,
    replace_symbols,
    size_of,
)
from graphc.ir.records import dataclass
from graphc.ir.types import DType, Shape, TensorType

__all__ = [
    "VECTOR_LEAST_STEPS",
    "Direct",
    "Operand",
    "Panels",
    "Parts",
    "Problem",
    "Side",
    "flat",
    "flat_buffer",
    "readings",
    "split_sides",
    "without_order",
]

VECTOR_LEAST_STEPS = 32
"""Below this many k a product with a vector is summed like any other product."""

Side = Literal["batch", "rows", "columns"]

_OPAQUE = frozenset({"to_index"})


@dataclass(frozen=True)
class Direct:
    """An operand that is one plain array read: element (r, k) is at offset + r·row + k·step."""

    buffer: int
    offset: Dim
    row: int
    step: int


@dataclass(frozen=True)
class Panels:
    """An operand that lies packed: element (r, k) is at r // `rows` · `panel` + k · `rows` + r % `rows`."""

    buffer: int
    rows: int
    panel: int


@dataclass(frozen=True)
class Operand:
    """One factor. `rows` are its own axes (m or n), `steps` the k axes, each merged for its accesses.

    `source` is the body over the kernel's own axes and whole indices.
    """

    body: tuple[Instruction, ...]
    result: int
    rows: Group
    steps: Group
    direct: Direct | None
    source: tuple[Instruction, ...]
    panels: Panels | None = None

    def stride(self, axis: Symbol | None) -> int | None:
        """The stride of largest size of its loads along an axis; None where one is not constant."""
        strides = []
        for load in self.body:
            if load.opcode == "load" and axis is not None:
                split = split_linear(load.index[0], axis)
                if split is None:
                    return None
                strides.append(split[0])
        return max(strides, default=0, key=abs)


@dataclass(frozen=True)
class Problem:
    """A recognised contraction. `a` is read by rows (broadcast), `b` by columns (vectors).

    `batch` are axes that both factors share, and columns that no vector may cross. `rows` and
    `columns` are the epilogue's merged axes; their flat indices equal those of the operands.
    `columns` is at most one axis; the epilogue's accesses are affine in pieces of `run` of it.
    `is_vector` (by shape alone) selects the order of summation for products with a vector.
    `buffers` are flat; `shapes` are their own shapes.
    `sides` are the kernel's own axes as batch, rows and columns, and `step_axes` those of k, in
    all of which axes of extent 1 are left out. `spread` is the epilogue over the merged column axes
    `spread_columns` instead of their flat index.
    """

    buffers: tuple[KernelBuffer, ...]
    shapes: tuple[Shape, ...]
    dtype: DType
    batch: Group
    a: Operand
    b: Operand
    rows: Group
    columns: Group
    run: int
    is_vector: bool
    sides: tuple[tuple[Symbol, ...], tuple[Symbol, ...], tuple[Symbol, ...]]
    step_axes: tuple[Symbol, ...]
    sum: int
    epilogue: tuple[Instruction, ...]
    spread_columns: Group
    spread: tuple[Instruction, ...]
    order: Order | None = None
    """Which terms there are; None where all are."""
    symbols: tuple[Symbol, ...] = ()
    """Symbolic sizes, on which the number of steps depends. An array of their values is passed behind the buffers,
    then `fold` and `kc` of a tiling for that number: in a `Tiling` these are the largest that may come."""
    resumed: int = 0
    """Where not 0, the steps of a fold of a longer sum, of which this is a part: two numbers are passed behind the
    buffers. Where the first is not 0 the sum goes on from what the result, or scratch, holds; where the other is not 0 it is complete."""

    @property
    def totals(self) -> dict[Side, int]:
        """Batch entries, rows and columns of the result."""
        return {"batch": self.batch.total, "rows": self.m, "columns": self.n}

    @property
    def m(self) -> int:
        return self.rows.total

    @property
    def n(self) -> int:
        return self.columns.total

    @property
    def k(self) -> int:
        return self.a.steps.total

    @property
    def is_empty(self) -> bool:
        """True of a sum of nothing: neither operand is read."""
        return self.k == 0 and not self.symbols

    def piece(self, width: int) -> int:
        """Neighbouring columns, at most `width`, over which the epilogue's accesses are affine."""
        return width if self.run == self.n else gcd(self.run, width)

    @property
    def scalar(self) -> str:
        """LLVM type of the accumulators."""
        return carrier(self.dtype)

    @property
    def plain_store(self) -> Instruction | None:
        """The epilogue where it only stores the sum as it is, contiguously along columns."""
        stores = [i for i in self.epilogue if i.opcode == "store"]
        if (
            self.run != self.n
            or len(self.epilogue) != 1
            or not stores
            or stores[0].operands != (self.sum,)
            or stores[0].guards
        ):
            return None
        buffer = self.buffers[stores[0].buffer]
        axis = self.columns.inner
        split = split_linear(stores[0].index[0], axis) if axis else (1, 0)
        same = buffer.type.dtype is self.dtype and buffer.access == "out"
        return stores[0] if same and split is not None and split[0] == 1 else None


def without_order(problem: Problem) -> Problem:
    """The problem where every term is there: an epilogue that asks whether an element has terms is told that it has."""
    order = problem.order
    if order is None or not order.of_results:
        return dataclasses.replace(problem, order=None)
    rows, columns = problem.rows.axes, problem.columns.axes
    if len(rows) != 1 or len(columns) != 1 or problem.spread_columns.axes != columns:
        return dataclasses.replace(problem, order=None)
    low, high = (columns, rows) if order.low == "columns" else (rows, columns)
    places = {i.id: i.index[0] for i in problem.epilogue if i.opcode == "index"}
    ends = [high[0].expr, low[0].expr]
    true = {
        i.id for i in problem.epilogue if i.opcode == "ge" and [places.get(o) for o in i.operands] == ends
    }
    same = {i.id: i.operands[1] for i in problem.epilogue if i.opcode == "select" and i.operands[0] in true}

    def told(body: Sequence[Instruction]) -> tuple[Instruction, ...]:
        found = []
        for i in body:
            if i.id not in true and i.id not in same:
                found.append(dataclasses.replace(i, operands=tuple(same.get(o, o) for o in i.operands)))
        needed = {o for i in found for o in i.operands}
        return tuple(i for i in found if i.opcode not in ("index", "const") or i.id in needed)

    if any(o in true for i in problem.epilogue if i.id not in same for o in i.operands):
        return dataclasses.replace(problem, order=None)
    if any(o in same for o in same.values()):
        return dataclasses.replace(problem, order=None)
    return dataclasses.replace(
        problem, order=None, epilogue=told(problem.epilogue), spread=told(problem.spread)
    )


def readings(kernel: Kernel, vector: bool | None, resumed: int = 0) -> list[Problem]:
    """The ways to read a contraction kernel as rows × columns; empty where it is none.

    They differ in which factor is `a` and in whether vectors may cross the outer column axes.
    Every reading means the same sums in the same order. `vector` says whether one side of the op
    has a single point, by the op's own operands: what the kernel reads instead of an expanded
    operand has fewer axes. None goes by what the kernel reads. With `resumed` steps a fold, sums may go on from earlier ones.
    """
    parts = split_sides(kernel, vector)
    if parts is None:
        return []
    found = []
    for swap in (False, True):
        rows, columns = (parts.columns, parts.rows) if swap else (parts.rows, parts.columns)
        if parts.is_vector and Group(tuple(rows)).total > 1:
            continue
        if parts.order is not None:
            if placed(parts.order, rows, columns, parts.steps) is not None:
                found.append(_assemble(kernel, parts, swap, rows, columns, []))
            continue
        columns = _unit_stride_last(columns, parts.epilogue)
        joined, _ = merge_axes(columns, _expressions(parts.epilogue))
        outer = _outer_part(columns, joined)
        found.append(_assemble(kernel, parts, swap, rows, columns[len(outer) :], outer))
        if outer:
            found.append(_assemble(kernel, parts, swap, rows, columns, []))
        if len(outer) > 1:
            found.append(_assemble(kernel, parts, swap, rows, columns[1:], columns[:1]))
    if resumed:
        return [r for p in found if (r := dataclasses.replace(p, resumed=resumed)).plain_store is not None]
    return found


@dataclass(frozen=True)
class Parts:
    """The two factors' bodies and the outer axes that each depends on."""

    left: list[Instruction]
    right: list[Instruction]
    results: tuple[int, int]
    rows: list[Symbol]
    columns: list[Symbol]
    batch: list[Symbol]
    steps: list[Symbol]
    epilogue: list[Instruction]
    is_vector: bool
    order: Precedence | None


def split_sides(kernel: Kernel, vector: bool | None) -> Parts | None:
    factors = _factors(kernel)
    if factors is None or any(b.access == "local" for b in kernel.buffers):
        return None
    stage = kernel.stages[0]
    if any(a.size is not None for a in kernel.axes):
        return None
    left, right = (_cone(stage.body, f) for f in factors)
    order = None
    if (taken := take_off(left, right)) is not None:
        order, left, right = taken
    uses_left, uses_right = _used_axes(left), _used_axes(right)
    outer = [a for a in kernel.axes if extent(a) != 1]
    rows = [a for a in outer if a in uses_left and a not in uses_right]
    columns = [a for a in outer if a in uses_right and a not in uses_left]
    batch = [a for a in outer if (a in uses_left) == (a in uses_right)]
    steps = [a for a in stage.axes if size_of(a) != 1]
    totals = [Group(tuple(side)).total for side in (rows, columns)]
    is_vector = (min(totals) == 1 if vector is None else vector) and Group(
        tuple(steps)
    ).total >= VECTOR_LEAST_STEPS
    if order is not None or kernel_sizes(kernel):
        is_vector = False
    if is_vector and min(totals) > 1:
        # Axes that both operands had: one of them is the same all along.
        few = rows if totals[0] <= totals[1] else columns
        batch = [a for a in outer if a in batch or a in few]
        rows, columns = [a for a in rows if a not in few], [a for a in columns if a not in few]
    return Parts(
        left=left,
        right=right,
        results=factors,
        rows=rows,
        columns=columns,
        batch=batch,
        steps=steps,
        epilogue=[flat(kernel, i) for s in kernel.stages[1:] for i in s.body],
        is_vector=is_vector,
        order=order,
    )


def _assemble(
    kernel: Kernel, parts: Parts, swap: bool, rows: list[Symbol], columns: list[Symbol], apart: list[Symbol]
) -> Problem:
    stage = kernel.stages[0]
    bodies, results = (parts.left, parts.right), parts.results
    if swap:
        bodies, results = bodies[::-1], results[::-1]
    row_group, by_row = merge_axes(rows, _expressions(parts.epilogue))
    joined, by_column = merge_axes(columns, _expressions(parts.epilogue))
    column_group, run = joined, joined.run
    ones: dict[Symbol, Dim] = {s: 0 for s in kernel.axes if extent(s) == 1}
    spread = tuple(replace_symbols(i, ones | by_row | by_column) for i in parts.epilogue)
    if len(joined.axes) > 1:
        flat = Symbol("_".join(a.name for a in joined.axes), 0, joined.total - 1)
        crossing = _unflatten(joined, flat)
        by_column = {s: substitute(e, crossing) for s, e in by_column.items()} | crossing
        column_group = Group((flat,))
    return Problem(
        buffers=tuple(flat_buffer(x) for x in kernel.buffers),
        shapes=tuple(x.type.shape for x in kernel.buffers),
        dtype=stage.init[0][0],
        batch=Group((*parts.batch, *apart)),
        a=_operand(bodies[0], results[0], rows, parts.steps, kernel),
        b=_operand(bodies[1], results[1], columns, parts.steps, kernel),
        rows=row_group,
        columns=column_group,
        run=run,
        is_vector=parts.is_vector,
        sides=((*parts.batch, *apart), tuple(rows), tuple(columns)),
        step_axes=tuple(parts.steps),
        sum=stage.results[0],
        epilogue=tuple(replace_symbols(i, ones | by_row | by_column) for i in parts.epilogue),
        spread_columns=joined,
        spread=spread,
        order=None if parts.order is None else placed(parts.order, rows, columns, parts.steps),
        symbols=kernel_sizes(kernel),
    )


def _unflatten(group: Group, flat: Symbol) -> dict[Symbol, Dim]:
    """Each axis of the group in terms of its flat index."""
    values: dict[Symbol, Dim] = {}
    rest: Dim = flat.expr
    for axis in reversed(group.axes[1:]):
        values[axis] = mod(rest, extent(axis))
        rest = floor_div(rest, extent(axis))
    values[group.axes[0]] = rest
    return values


def _factors(kernel: Kernel) -> tuple[int, int] | None:
    """The scalar numbers of the two factors where stage 0 sums products of floats."""
    stages = kernel.stages
    if not stages or stages[0].kind != "reduce" or not _sums_floats(stages[0]):
        return None
    if any(s.kind != "map" or s.axes for s in stages[1:]) or len(stages) < 2:
        return None
    if any(i.opcode in _OPAQUE or i.value == "add" for s in stages for i in s.body if i.opcode != "const"):
        return None
    made = {i.id: i for i in stages[0].body}
    (folded,) = stages[0].body[-1].operands
    product = made.get(folded)
    if product is None or product.opcode != "mul" or product.dtype is not stages[0].init[0][0]:
        return None
    return product.operands[0], product.operands[1]


def _sums_floats(stage: Stage) -> bool:
    return (
        len(stage.init) == 1
        and stage.init[0][0].name in ("f32", "f64")
        and stage.init[0][1] == 0
        and stage.combine is not None
        and stage.combine.opcode == "add"
        and stage.body[-1].opcode == "yield"
    )


def _cone(body: Sequence[Instruction], result: int) -> list[Instruction]:
    """The instructions that `result` depends on, in order."""
    needed = {result}
    kept = []
    for instruction in reversed(body):
        if instruction.id in needed:
            needed.update(instruction.operands)
            kept.append(instruction)
    return kept[::-1]


def _expressions(body: Iterable[Instruction]) -> list[Dim]:
    """Every index expression and guard expression of a body."""
    found: list[Dim] = []
    for i in body:
        found += i.index
        found += [g for guard in i.guards for g in guard]
    return found


def _used_axes(body: Iterable[Instruction]) -> set[Symbol]:
    return set().union(*(symbols(e) for e in _expressions(body)))


def flat_buffer(buffer: KernelBuffer) -> KernelBuffer:
    """The buffer seen as one run of elements."""
    return KernelBuffer(TensorType(buffer.type.dtype, (buffer.type.count,)), buffer.access)


def flat(kernel: Kernel, instruction: Instruction) -> Instruction:
    """A load or store with its index as one linear offset; any other instruction as it is."""
    if instruction.opcode not in ("load", "store"):
        return instruction
    offset = linear_offset(kernel.buffers[instruction.buffer], instruction.index)
    return dataclasses.replace(instruction, index=(offset,))


def _stores(epilogue: Iterable[Instruction]) -> list[Dim]:
    return [i.index[0] for i in epilogue if i.opcode == "store"]


def _unit_stride_last(axes: Sequence[Symbol], epilogue: list[Instruction]) -> list[Symbol]:
    for offset in _stores(epilogue):
        for axis in axes:
            if (split_linear(offset, axis) or (0, 0))[0] == 1:
                return [a for a in axes if a is not axis] + [axis]
    return list(axes)


def _outer_part(axes: list[Symbol], joined: Group) -> list[Symbol]:
    """The axes outside the last merged one: vectors may not cross them."""
    size, count = 1, 0
    for axis in reversed(axes):
        if size >= joined.run:
            break
        size *= extent(axis)
        count += 1
    return axes[: len(axes) - count]


def _operand(
    body: list[Instruction], result: int, rows: list[Symbol], k_axes: list[Symbol], kernel: Kernel
) -> Operand:
    ones: dict[Symbol, Dim] = {s: 0 for s in (*kernel.axes, *kernel.stages[0].axes) if size_of(s) == 1}
    source = [replace_symbols(i, ones) for i in body]
    body = [flat(kernel, i) for i in source]
    row_group, by_row = merge_axes(rows, _expressions(body))
    body = [replace_symbols(i, by_row) for i in body]
    step_group, by_step = merge_axes(k_axes, _expressions(body))
    body = [replace_symbols(i, by_step) for i in body]
    direct = _direct(body, row_group, step_group, kernel.stages[0].init[0][0])
    panels = None if direct is not None else _panels(body, row_group, step_group, kernel)
    return Operand(tuple(body), result, row_group, step_group, direct, tuple(source), panels)


def _panels(body: list[Instruction], rows: Group, steps: Group, kernel: Kernel) -> Panels | None:
    """How an operand lies packed, whose buffer is [panel][k][row of the panel]; None of any other one."""
    load = body[0]
    if len(body) != 1 or load.opcode != "load" or load.guards or len(rows.axes) != 1 or len(steps.axes) != 1:
        return None
    shape, (axis,), (step,) = kernel.buffers[load.buffer].type.shape, rows.axes, steps.axes
    if len(shape) != 3 or not all(isinstance(d, int) for d in shape) or axis.size is not None:
        return None
    count, depth, size = (int(d) for d in shape)
    panel, lane = Symbol("panel", 0, count - 1), Symbol("lane", 0, size - 1)
    expected = panel.expr * (depth * size) + step.expr * size + lane.expr
    found = substitute(load.index[0], {axis: panel.expr * size + lane.expr})
    return Panels(load.buffer, size, depth * size) if found == expected else None


def _direct(body: list[Instruction], rows: Group, steps: Group, dtype: DType) -> Direct | None:
    if len(body) != 1 or body[0].opcode != "load" or body[0].guards or body[0].dtype is not dtype:
        return None
    if len(rows.axes) > 1 or len(steps.axes) > 1:
        return None
    offset: Dim = body[0].index[0]
    strides = []
    for group in (rows, steps):
        split = split_linear(offset, group.inner) if group.inner else (0, offset)
        if split is None:
            return None
        strides.append(split[0])
        offset = split[1]
    return Direct(body[0].buffer, offset, strides[0], strides[1])
