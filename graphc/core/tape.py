"""Evaluated tapes: what `backward` needs of a recording that was evaluated before it.

A tape is a backward graph over residuals. Its inputs are values that the evaluation kept (hidden
outputs and the program's own inputs) and one cotangent per root; its outputs are gradients of
leaves and of values on older tapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from graphc.core.build import ReplayPlan
from graphc.core.node import Node

__all__ = ["FREED", "FreedTape", "Tape"]

_numbers = itertools.count()


class Tape:
    """One evaluation's way back. `number` orders tapes by age."""

    __slots__ = ("number", "plan", "residuals", "roots", "wrt")

    def __init__(
        self, plan: ReplayPlan, residuals: Sequence[Node], roots: Sequence[Node], wrt: Sequence[Node]
    ) -> None:
        self.number = next(_numbers)
        self.plan: ReplayPlan | None = plan
        self.residuals = tuple(residuals)
        self.roots = [n.type for n in roots]
        self.wrt = tuple(wrt)

    @property
    def freed(self) -> bool:
        return self.plan is None

    def free(self) -> None:
        """Lets go of the residuals; another backward through the tape is an error."""
        self.plan = None
        self.residuals = ()
        self.wrt = ()


class FreedTape:
    """Stands for the tape of a value whose `backward` ran before it was evaluated."""

    freed = True
    number = -1


FREED = FreedTape()
