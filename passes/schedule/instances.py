"""Loops whose steps never mix the rows of what they carry are run as several loops at once.

Row r of every value that a step makes must depend on row r of the others alone (a batch). Then each instance
carries some of the rows through all steps, and nobody waits for anybody between steps. The kernels are those of
the whole batch with a shorter first axis, so the bits of every row stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping

from graphc.ir.control import Loop
from graphc.ir.dims import Dim, Symbol, plain_symbol, substitute, symbols, typical
from graphc.ir.graph import Graph, Value
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer
from graphc.ir.types import TensorType
from graphc.passes.context import CompileContext
from graphc.passes.fuse import Fused
from graphc.passes.lower import Lowered, LoweredControl, LoweredRegion
from graphc.passes.schedule.cost import work
from graphc.passes.schedule.flatten import flatten
from graphc.passes.schedule.split import split_reduction

__all__ = ["divide"]

LEAST_ROWS = 5
"""Fewest rows of an instance: a product with fewer reads its other operand too often."""
MOST_INSTANCES = 8
LONG_STEP = 16
"""Grains of work from which a step's own kernels are shared by all threads: waiting for each other costs them
little then, and each of several instances would read all that the steps have in common, such as large weights."""


def divide(loop: LoweredControl, context: CompileContext) -> LoweredControl:
    """The loop with kernels for one of `instances` parts of the rows; as it is where that does not pay or
    cannot be."""
    if not isinstance(loop.op, Loop):
        return loop
    kernels = [step for step in loop.steps if isinstance(step, Lowered)]
    rows = _rows(loop)
    if len(kernels) != len(loop.steps) or rows is None or not context.options.fuse:
        return loop
    count = _instances(rows, loop.loop.attrs["length"], sum(work(k.kernel) for k in kernels), context)
    batched = {v for v in _values(loop) if v.type.rank and v.type.shape[0] == rows}
    fixed = set(loop.body.graph.inputs[loop.loop.carries + loop.loop.attrs["slices"] :])
    batched -= fixed | {op.result for op in loop.body.constants}
    if count < 2 or not all(_is_by_rows(k, batched, fixed) for k in kernels):
        return loop
    narrow = {v: _narrowed(v, rows // count) for v in batched}
    steps = [_narrow(k, narrow, rows // count) for k in kernels]
    if any(len(split_reduction(_flat(k))) > 1 for k in (*kernels, *steps)):
        return loop  # how a sum is cut may depend on the number of its results
    graph = Graph(loop.body.graph.name)
    graph.inputs = [narrow.get(v, v) for v in loop.body.graph.inputs]
    graph.outputs = [narrow.get(v, v) for v in loop.body.graph.outputs]
    body = Fused(graph, [], loop.body.constants)
    return dataclasses.replace(loop, regions=(LoweredRegion(body, tuple(steps)),), instances=count)


def _rows(loop: LoweredControl) -> int | None:
    """The first size of all that a step carries, reads slice by slice and puts out, where they have one."""
    body, n = loop.body.graph, loop.loop.carries + loop.loop.attrs["slices"]
    shapes = [v.type.shape for v in (*body.inputs[:n], *body.outputs)]
    sizes = {s[0] if s else None for s in shapes}
    found = sizes.pop() if len(sizes) == 1 else None
    return found if isinstance(found, int) and found > 1 else None


def _instances(rows: int, length: Dim, step: int, context: CompileContext) -> int:
    """How many instances a loop of `length` steps with `step` element operations each is worth."""
    options = context.options
    if step >= LONG_STEP * options.grain:
        return 1
    most = min(
        MOST_INSTANCES, context.target.cores, options.max_parts, typical(length) * step // options.grain
    )
    return max((d for d in range(1, most + 1) if rows % d == 0 and rows // d >= LEAST_ROWS), default=1)


def _values(loop: LoweredControl) -> Iterator[Value]:
    yield from loop.body.graph.inputs
    yield from loop.body.graph.outputs
    for step in loop.steps:
        assert isinstance(step, Lowered)
        yield from step.values


def _is_by_rows(lowered: Lowered, batched: set[Value], fixed: set[Value]) -> bool:
    """True where the kernel makes row r of what it writes of row r of batched values, and of fixed ones."""
    kernel = lowered.kernel
    if kernel.checks or any(s.kind == "scatter" for s in kernel.stages):
        return False
    for v, b in zip(lowered.values, kernel.parameters, strict=True):
        # What is neither batched nor the same in every step is made by a step for all rows together.
        if v not in batched and (
            b.access != "in" or (v not in fixed and v.op is not None and not _constant(v))
        ):
            return False
    return _row_axes(lowered, batched) is not None


def _constant(value: Value) -> bool:
    return value.op is not None and "value" in value.op.attrs


def _row_axes(lowered: Lowered, batched: Collection[Value]) -> set[Symbol] | None:
    """The axes that count rows, where every stage has one: an outer axis or an inner one of a map.

    It is the first index of every batched value that the stage reads or writes, and nothing else depends on it.
    """
    kernel, found = lowered.kernel, set[Symbol]()
    for stage in kernel.stages:
        axes = {
            plain_symbol(i.index[0])
            for i in stage.body
            if i.opcode in ("load", "store") and _is_batched(i, lowered, batched)
        }
        own = stage.axes if stage.kind == "map" else ()
        if len(axes) > 1 or not axes <= {*kernel.axes, *own}:
            return None
        found |= {a for a in axes if a is not None}
    outer = found & set(kernel.axes)
    folded = {a for stage in kernel.stages if stage.kind != "map" for a in stage.axes}
    if not found or found & folded or (outer and len(found) > 1):
        return None
    return found if all(_follows(i, found, lowered, batched) for i in kernel.instructions()) else None


def _is_batched(i: Instruction, lowered: Lowered, batched: Collection[Value]) -> bool:
    return i.buffer < len(lowered.values) and lowered.values[i.buffer] in batched


def _follows(i: Instruction, rows: set[Symbol], lowered: Lowered, batched: Collection[Value]) -> bool:
    """True where an instruction names rows as the first index of batched values only."""
    if any(symbols(x) & rows for guard in i.guards for x in guard):
        return False
    by_row = i.opcode in ("load", "store") and _is_batched(i, lowered, batched)
    return not any(symbols(x) & rows for x in (i.index[1:] if by_row else i.index))


def _narrowed(value: Value, rows: int) -> Value:
    owner = value.owner
    return Value(_shorter(value.type, rows), owner, value.index, value.name, value.role)


def _shorter(t: TensorType, rows: int) -> TensorType:
    return t.with_shape((rows, *t.shape[1:]))


def _narrow(lowered: Lowered, narrow: Mapping[Value, Value], rows: int) -> Lowered:
    """The kernel for fewer rows."""
    kernel = lowered.kernel
    found = _row_axes(lowered, narrow)
    assert found is not None
    shorter = {a: Symbol(a.name, 0, rows - 1) for a in found}
    swap = {a: b.expr for a, b in shorter.items()}

    def buffer(n: int, b: KernelBuffer) -> KernelBuffer:
        on = n < len(lowered.values) and lowered.values[n] in narrow
        return KernelBuffer(_shorter(b.type, rows), b.access) if on else b

    def instruction(i: Instruction) -> Instruction:
        return dataclasses.replace(
            i, index=tuple(substitute(x, swap) if not isinstance(x, int) else x for x in i.index)
        )

    stages = tuple(
        dataclasses.replace(
            s, axes=tuple(shorter.get(a, a) for a in s.axes), body=tuple(map(instruction, s.body))
        )
        for s in kernel.stages
    )
    narrowed = Kernel(
        tuple(buffer(n, b) for n, b in enumerate(kernel.buffers)),
        tuple(shorter.get(a, a) for a in kernel.axes),
        stages,
        kernel.checks,
    )
    return dataclasses.replace(
        lowered, kernel=narrowed, values=tuple(narrow.get(v, v) for v in lowered.values)
    )


def _flat(lowered: Lowered) -> Lowered:
    return dataclasses.replace(lowered, kernel=flatten(lowered.kernel))
