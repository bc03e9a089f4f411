"""Ops with regions in the plan: branches, and loops that go on while a predicate holds.

The regions of a branch write the results' own buffers, whichever of them is run. What a loop with a predicate
carries has two buffers that take turns, as in a loop of known length; since nobody knows which of them the last
step writes, the results are copied at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphc.ir.control import While
from graphc.ir.graph import Value
from graphc.passes.lower import LoweredControl
from graphc.passes.plan.work import Call

__all__ = ["BranchCall", "ControlCall", "WhileCall"]


class ControlCall(Call):
    """An op with regions to be run. Its results are never stored over anything."""

    def __init__(self, control: LoweredControl, number: int) -> None:
        self.lowered = control  # type: ignore[assignment]
        self.control = control
        self.number = number
        self.is_barrier = False
        self.over = {}

    def restore(self) -> None:
        """There is nothing to undo."""

    def read(self) -> Iterator[Value]:
        yield from dict.fromkeys(b.value for b in self.control.operands)

    def written(self) -> Iterator[Value]:
        yield from self.control.op.results

    def used(self) -> Iterator[Value]:
        """Values whose memory is the op's from before its first phase until after its last."""
        yield from self.read()
        yield from self.written()

    def taken(self) -> Iterator[Value]:
        read = set(self.read())
        yield from (v for v in self.used() if v not in read)


class BranchCall(ControlCall):
    """A branch to be run."""


class WhileCall(ControlCall):
    """A loop with a predicate to be run."""

    def __init__(self, control: LoweredControl, number: int) -> None:
        super().__init__(control, number)
        op = control.op
        assert isinstance(op, While)
        self.op = op
        self.others = [Value(r.type, op, i, "carried") for i, r in enumerate(op.results)]
        """The second buffer of each carried value."""

    def used(self) -> Iterator[Value]:
        yield from super().used()
        yield from self.others
