"""Loops in the plan: where what is carried lies, and the moves of rows between steps.

Nothing is copied from step to step. A slice's row walks through the whole value. A history's row is
where the step before left it, one place further in each step. Any other carried value has two buffers,
of which one step reads the first and writes the second, the next the other way round; the last step
writes the result's own buffer. So which of them comes first depends on whether the number of steps is odd.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field

from graphc.ir.dims import Dim
from graphc.ir.graph import Value
from graphc.ir.records import dataclass
from graphc.passes.fuse.blocks import Block
from graphc.passes.lower import LoweredControl
from graphc.passes.plan.control import ControlCall

__all__ = ["LoopCall", "LoopRows", "Swap", "Walk"]


@dataclass(frozen=True)
class Walk:
    """A row of a loop's step: value `inner` of the region, in `outer` from byte `start` on, moved by
    `stride` bytes between steps."""

    inner: Value
    outer: Value
    start: Dim
    stride: Dim = 0


@dataclass(frozen=True)
class Swap:
    """A carried value in two buffers: `before` and `after` the step. The first step reads `initial` and writes
    `first` from byte `start` on, the next reads that and writes `second` there, and so on."""

    before: Value
    after: Value
    initial: Block
    first: Value
    second: Value
    start: Dim = 0


@dataclass
class LoopRows:
    """All rows of a loop's step that are set anew for each step, for an odd number of steps where that number is
    symbolic. `starts` are histories to be given their first entry: the block, and where it goes."""

    walks: list[Walk] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    starts: list[tuple[Block, Walk]] = field(default_factory=list)


class LoopCall(ControlCall):
    """A loop of known length to be run."""

    def __init__(self, loop: LoweredControl, number: int) -> None:
        super().__init__(loop, number)
        op = loop.loop
        self.others = {
            i: Value(r.type, op, i, "carried")
            for i, r in enumerate(op.results[: op.carries])
            if not op.is_history(i)
        }
        """The second buffer of each carried value that has two."""

    @property
    def length(self) -> Dim:
        """The number of steps."""
        found: Dim = self.control.loop.attrs["length"]
        return found

    def used(self) -> Iterator[Value]:
        yield from super().used()
        yield from self.others.values()

    def rows(self, outputs: list[Value], instance: int) -> LoopRows:
        """Where the values of one step of an instance are; `outputs` are the homes of what the region returns."""
        op, found = self.control.loop, LoopRows()
        length = self.length
        back: bool = op.attrs["reverse"]
        body = self.control.body.graph
        for i, inner in enumerate(body.inputs):
            block = self.control.operands[i]
            if i < op.carries:
                self._carry(found, i, outputs[i], instance)
            elif i < op.carries + op.attrs["slices"]:
                start, stride = self._path(inner, 0, length, back, instance)
                found.walks.append(Walk(inner, block.value, block.offset_bytes + start, stride))
            else:
                found.walks.append(Walk(inner, block.value, block.offset_bytes))
        for home, result in zip(outputs[op.carries :], op.results[op.carries :], strict=True):
            found.walks.append(Walk(home, result, *self._path(home, 0, length, back, instance)))
        return found

    def _path(self, part: Value, first: int, length: Dim, back: bool, instance: int) -> tuple[Dim, Dim]:
        """First place and stride, in bytes, of an instance's part of each slice from number `first` on."""
        size = part.type.size_bytes
        whole = size * self.control.instances
        start = whole * (first + (length - 1 if back else 0)) + size * instance
        return start, -whole if back else whole

    def _carry(self, found: LoopRows, i: int, after: Value, instance: int) -> None:
        op = self.control.loop
        before, result, block = self.control.body.graph.inputs[i], op.results[i], self.control.operands[i]
        length = self.length
        part = before.type.size_bytes * instance
        initial = Block(block.value, block.offset + before.type.count * instance)
        if op.is_history(i):
            back = op.attrs["reverse"]
            start, stride = self._path(before, 1 if back else 0, length, back, instance)
            found.walks += [Walk(before, result, start, stride), Walk(after, result, start + stride, stride)]
            found.starts.append((initial, found.walks[-2]))
            return
        odd = not isinstance(length, int) or length % 2
        first, second = (result, self.others[i]) if odd else (self.others[i], result)
        found.swaps.append(Swap(before, after, initial, first, second, part))
