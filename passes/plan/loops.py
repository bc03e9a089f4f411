"""Loops in the plan: where what is carried lies, and the moves of rows between steps.

Nothing is copied from step to step. A slice's row walks through the whole value. A history's row is
where the step before left it, one place further in each step. Any other carried value has two buffers,
of which one step reads the first and writes the second, the next the other way round; the last step
writes the result's own buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from graphc.ir.graph import Value
from graphc.passes.fuse.blocks import Block
from graphc.passes.lower import LoweredLoop
from graphc.passes.plan.work import Call

__all__ = ["LoopCall", "LoopRows", "Swap", "Walk"]


@dataclass(frozen=True)
class Walk:
    """A row of a loop's step: value `inner` of the region, in `outer` from byte `start` on, moved by
    `stride` bytes between steps."""

    inner: Value
    outer: Value
    start: int
    stride: int = 0


@dataclass(frozen=True)
class Swap:
    """A carried value in two buffers: `before` and `after` the step. The first step reads `initial` and writes
    `first`, the next reads that and writes `second`, and so on."""

    before: Value
    after: Value
    initial: Block
    first: Value
    second: Value


@dataclass
class LoopRows:
    """All rows of a loop's step that are set anew for each step. `starts` are histories to be given their
    first entry: the block, and where it goes."""

    walks: list[Walk] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    starts: list[tuple[Block, Walk]] = field(default_factory=list)


class LoopCall(Call):
    """A loop to be run. Its results are never stored over anything."""

    def __init__(self, loop: LoweredLoop, number: int) -> None:
        self.lowered = loop  # type: ignore[assignment]
        self.loop = loop
        self.number = number
        self.is_barrier = False
        self.over = {}

    def restore(self) -> None:
        """There is nothing to undo."""

    def read(self) -> Iterator[Value]:
        yield from dict.fromkeys(b.value for b in self.loop.operands)

    def written(self) -> Iterator[Value]:
        yield from self.loop.op.results

    def rows(self, outputs: list[Value]) -> LoopRows:
        """Where the values of one step are; `outputs` are the homes of what the region returns."""
        op, found = self.loop.op, LoopRows()
        length: int = op.attrs["length"]
        back: bool = op.attrs["reverse"]
        body = self.loop.body.graph
        for i, inner in enumerate(body.inputs):
            block = self.loop.operands[i]
            size = inner.type.nbytes
            if i < op.carries:
                self._carry(found, i, outputs[i])
            elif i < op.carries + op.attrs["slices"]:
                start = block.offset_bytes + (size * (length - 1) if back else 0)
                found.walks.append(Walk(inner, block.value, start, -size if back else size))
            else:
                found.walks.append(Walk(inner, block.value, block.offset_bytes))
        for home, result in zip(outputs[op.carries :], op.results[op.carries :], strict=True):
            size = home.type.nbytes
            found.walks.append(
                Walk(home, result, size * (length - 1) if back else 0, -size if back else size)
            )
        return found

    def _carry(self, found: LoopRows, i: int, after: Value) -> None:
        op = self.loop.op
        before, result, block = self.loop.body.graph.inputs[i], op.results[i], self.loop.operands[i]
        length: int = op.attrs["length"]
        if op.is_history(i):
            size = before.type.nbytes
            at, stride = (size * length, -size) if op.attrs["reverse"] else (0, size)
            found.walks += [Walk(before, result, at, stride), Walk(after, result, at + stride, stride)]
            found.starts.append((block, found.walks[-2]))
            return
        other = Value(result.type, op, i, "carried")
        first, second = (result, other) if length % 2 else (other, result)
        found.swaps.append(Swap(before, after, block, first, second))
