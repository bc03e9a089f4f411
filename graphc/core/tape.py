"""Evaluated tapes: what `backward` needs of a recording that was evaluated before it.

A tape is a backward graph over residuals. Its inputs are values that the evaluation kept (hidden
outputs and the program's own inputs) and one cotangent per root; its outputs are gradients of
leaves and of values on older tapes. Roots whose ways have no operation in common are freed one
by one, as in PyTorch, where an operation is freed when a `backward` has passed it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from graphc.core.build import ReplayPlan
from graphc.core.node import Entry, Node
from graphc.ir.graph import Graph

__all__ = ["AGES", "FREED", "FreedTape", "Tape", "Way", "ways_back"]

AGES = itertools.count()
"""Numbers tapes and hooked points by age."""


class Way(NamedTuple):
    """What one root's gradients have to do with: operations they pass, residuals, ends; by number."""

    passes: frozenset[int]
    residuals: frozenset[int]
    ends: frozenset[int]


def ways_back(roots: Sequence[Node], ends: Sequence[Node], backward: Graph) -> tuple[Way, ...]:
    """The way of each pending root.

    `ends` are all the leaves and values on tapes that gradients reach, and roots that they pass; the inputs
    of `backward` are residuals, then the roots' cotangents.
    """
    needs = _residuals_of(backward, len(roots))
    numbers: dict[Entry, int] = {}
    place = {node: i for i, node in enumerate(ends)}
    ways = []
    for root, residuals in zip(roots, needs, strict=True):
        passes: set[int] = set()
        reached: set[int] = set()
        stack = [root]
        while stack:
            node = stack.pop()
            if node in place:
                reached.add(place[node])
            if node.leaf is not None or node.entry is None or node.hooked is not None:
                continue
            number = numbers.setdefault(node.entry, len(numbers))
            if number not in passes:
                passes.add(number)
                stack.extend(n for n in node.entry.operands if n.requires_grad)
        ways.append(Way(frozenset(passes), residuals, frozenset(reached)))
    return tuple(ways)


def _residuals_of(backward: Graph, roots: int) -> list[frozenset[int]]:
    """For each root, the residuals that meet its cotangent, or a value made of it, in some operation."""
    first = len(backward.inputs) - roots
    none: frozenset[int] = frozenset()
    made_of = {v: frozenset((i,)) if i < first else none for i, v in enumerate(backward.inputs)}
    seeds = {v: frozenset((i - first,)) if i >= first else none for i, v in enumerate(backward.inputs)}
    needs: list[set[int]] = [set() for _ in range(roots)]
    for op in backward.ops:
        of = none.union(*(made_of[v] for v in op.operands))
        by = none.union(*(seeds[v] for v in op.operands))
        for root in by:
            needs[root] |= of
        for v in op.results:
            made_of[v], seeds[v] = (none if by else of), by
    return [frozenset(n) for n in needs]


class Tape:
    """One evaluation's way back. `number` orders tapes by age."""

    __slots__ = ("_passed", "_ways", "again", "inner", "number", "plan", "residuals", "roots", "wrt")

    def __init__(
        self,
        plan: ReplayPlan,
        residuals: Sequence[Node],
        roots: Sequence[Node],
        wrt: Sequence[Node],
        ways: Sequence[Way] | None = None,
        again: Sequence[Node] | None = None,
    ) -> None:
        self.number = next(AGES)
        self.plan: ReplayPlan | None = plan
        self.residuals = tuple(residuals)
        self.roots = [n.type for n in roots]
        self.wrt = tuple(wrt)
        self.again = None if again is None else tuple(again)
        """What the way back is computed from where it is to be differentiated itself; None where that is gone."""
        position = {node: i for i, node in enumerate(roots)}
        self.inner = {position[n]: i for i, n in enumerate(wrt) if n in position}
        """Roots that other roots' gradients pass: their positions among the roots and in `wrt`."""
        # Where the ways are not known, all roots share one operation.
        everything = Way(frozenset((0,)), frozenset(range(len(residuals))), frozenset(range(len(wrt))))
        self._ways = ways or [everything] * len(roots)
        self._passed: set[int] = set()

    def freed(self, roots: Collection[int]) -> bool:
        """True where a `backward` that did not retain has passed an operation on the way of a root."""
        return self.plan is None or any(not self._passed.isdisjoint(self._ways[i].passes) for i in roots)

    def needed(self, roots: Collection[int]) -> list[Node]:
        """The residuals that gradients of these roots are made of."""
        wanted = set().union(*(self._ways[i].residuals for i in roots))
        return [node for i, node in enumerate(self.residuals) if i in wanted]

    def ends(self, roots: Collection[int]) -> list[int]:
        """Positions in `wrt` that gradients of these roots reach."""
        inner = self.inner.values()
        return sorted(i for i in set().union(*(self._ways[r].ends for r in roots)) if i not in inner)

    def passed(self, roots: Collection[int]) -> dict[int, int]:
        """Which roots the gradients of these roots pass, themselves included where others lead there; as `inner`."""
        met = set().union(*(self._ways[r].ends for r in roots))
        return {root: i for root, i in self.inner.items() if i in met}

    def free(self, roots: Collection[int]) -> None:
        """Another backward by way of these roots is an error; residuals go with the last way."""
        self._passed.update(*(self._ways[i].passes for i in roots))
        if all(self.freed((i,)) for i in range(len(self.roots))):
            self.plan = None
            self.residuals = ()
            self.again = None
            self.wrt = ()


class FreedTape:
    """Stands for the tape of a value whose `backward` ran before it was evaluated."""

    number = -1
    inner: ClassVar[Mapping[int, int]] = MappingProxyType({})

    def freed(self, roots: Collection[int]) -> bool:
        """True."""
        return True


FREED = FreedTape()
