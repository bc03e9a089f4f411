"""Operands that are packed once and kept from call to call.

A kernel that the code generator would rather have read a packed matrix reads a *kept* buffer in its place, and a
kernel of its own fills that buffer: [row, k] goes to [row // columns, k, row % columns], with 0 for rows that are not there.
Only what no call writes is kept, so only in programs without new values of states. When a kept buffer is filled again
is said in `graphc.ir.program.Kept`.
"""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass, field

from graphc.ir.dims import Symbol, floor_div, mod
from graphc.ir.graph import Graph, Value
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer, Stage, new_axis
from graphc.ir.types import TensorType, uint8
from graphc.passes.context import CompileContext
from graphc.passes.lower import Lowered, LoweredControl
from graphc.passes.schedule import schedule

__all__ = ["KEPT_HEAD", "Keeper", "KeptOperand"]

LEAST_BYTES, MOST_BYTES = 1 << 12, 1 << 22
"""Bytes of a map of a state that is kept: less is made as fast as looked for."""
KEPT_HEAD = 64
"""Bytes before a kept buffer: the first one says whether it is to be filled, the rest belongs to the runtime."""


@dataclass(frozen=True, eq=False)
class KeptOperand:
    """`packed` is made of `source` (a state) by `filling`; `head` are the bytes before it. `columns` are those of its
    panels, or a number below 0 that says what else it is."""

    source: Value
    columns: int
    head: Value
    packed: Value
    filling: Lowered


@dataclass
class Keeper:
    """What is kept in one program."""

    graph: Graph
    context: CompileContext
    operands: dict[tuple[Value, int], KeptOperand] = field(default_factory=dict)

    def finished(self) -> list[KeptOperand]:
        """What is kept, with the kernels that fill it scheduled."""
        made = []
        for kept in self.operands.values():
            (filling,) = schedule(kept.filling, self.context)
            made.append(dataclasses.replace(kept, filling=filling))
        return made

    def keeps(self, lowered: Lowered | LoweredControl) -> bool:
        """Whether the kernel is a map of one state, large enough to be kept whole; then it is to be run nowhere else."""
        if isinstance(lowered, LoweredControl) or self.graph.aliases:
            return False
        kernel = lowered.kernel
        outer = [p.access for p in kernel.parameters]
        if kernel.checks or outer != ["in", "out"] or any(s.kind != "map" for s in kernel.stages):
            return False
        source, made = lowered.values
        if not source.is_state or made.op is None or made.op.graph is None or made in made.op.graph.outputs:
            return False
        if not (
            source.type.is_static and made.type.is_static and LEAST_BYTES <= made.type.nbytes <= MOST_BYTES
        ):
            return False
        layout = -1 - zlib.crc32(str(kernel).encode())
        head = Value(TensorType(uint8, (KEPT_HEAD,)), self.graph, 0, f"{source.name or 'state'}.kept")
        self.operands[made, layout] = KeptOperand(source, layout, head, made, lowered)
        return True

    def applied(self, lowered: Lowered | LoweredControl) -> Lowered | LoweredControl:
        """The unscheduled kernel, reading kept operands where these are worth it."""
        if (
            isinstance(lowered, LoweredControl)
            or not lowered.contraction
            or lowered.vector
            or self.graph.aliases
        ):
            return lowered
        found = self.context.backend.kept_operand(lowered.kernel, self.context.target)
        if found is None:
            return lowered
        number, columns = found
        index = _index(lowered.kernel, number)
        value = lowered.values[number]
        if index is None or not value.is_state or lowered.values.count(value) != 1:
            return lowered
        kept = self.operands.get((value, columns))
        if kept is None:
            kept = self.operands[value, columns] = _kept(self.graph, value, columns)
        values = list(lowered.values)
        values[number] = kept.packed
        kernel = reading_panels(lowered.kernel, number, columns, kept.packed.type)
        return dataclasses.replace(lowered, kernel=kernel, values=tuple(values))


def _index(kernel: Kernel, number: int) -> tuple[Symbol, Symbol] | None:
    """The row and k axes of a matrix that the kernel reads once, row by k and nothing else."""
    uses = [i for i in kernel.instructions() if i.buffer == number]
    if len(uses) != 1 or uses[0].opcode != "load" or uses[0].guards or len(uses[0].index) != 2:
        return None
    axes = {a: a for a in (*kernel.axes, *kernel.stages[0].axes)}
    pair = [next((a for a in axes if a.expr == x), None) for x in uses[0].index]
    row, step = pair
    return None if row is None or step is None else (row, step)


def reading_panels(kernel: Kernel, number: int, columns: int, type_: TensorType) -> Kernel:
    """The kernel with a packed matrix in place of buffer `number`."""

    def changed(i: Instruction) -> Instruction:
        if i.buffer != number:
            return i
        row, step = i.index
        return dataclasses.replace(i, index=(floor_div(row, columns), step, mod(row, columns)))

    buffers = list(kernel.buffers)
    buffers[number] = KernelBuffer(type_, "in")
    stages = tuple(dataclasses.replace(s, body=tuple(map(changed, s.body))) for s in kernel.stages)
    return dataclasses.replace(kernel, buffers=tuple(buffers), stages=stages)


def _kept(graph: Graph, source: Value, columns: int) -> KeptOperand:
    rows, steps = source.type.sizes
    packed_type = TensorType(source.type.dtype, (-(-rows // columns), steps, columns))
    name = source.name or "state"
    packed = Value(packed_type, graph, 0, f"{name}.packed")
    head = Value(TensorType(uint8, (KEPT_HEAD,)), graph, 0, f"{name}.kept")
    return KeptOperand(
        source, columns, head, packed, Lowered(filling(source.type, packed_type), (source, packed))
    )


def filling(source: TensorType, packed: TensorType) -> Kernel:
    """The kernel that packs a matrix."""
    dtype, (rows, _), (panels, steps, columns) = source.dtype, source.sizes, packed.sizes
    panel, step, lane = new_axis("panel", panels), new_axis("k", steps), new_axis("lane", columns)
    row = panel.expr * columns + lane.expr
    load = Instruction(1, "load", dtype, buffer=0, index=(row, step.expr))
    body: tuple[Instruction, ...] = (load,)
    if rows % columns:
        zero = Instruction(0, "const", dtype, value=0)
        body = (zero, dataclasses.replace(load, operands=(0,), guards=((row, 0, rows),)))
    store = Instruction(-1, "store", dtype, (1,), buffer=1, index=(panel.expr, step.expr, lane.expr))
    buffers = (KernelBuffer(source, "in"), KernelBuffer(packed, "out"))
    return Kernel(buffers, (panel, step, lane), (Stage("map", (), (*body, store)),))
