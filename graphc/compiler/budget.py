"""A memory budget: the attempt at computing values again that costs least time of those that fit.

Only whole plans say what a call takes, and they are dear; so attempts are estimated on the graph, estimates are set right
by the plans that were made, and an attempt is planned where it is likely to be the one. Invariant: what is returned was
planned and fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graphc.ir.errors import CompileError
from graphc.ir.graph import Graph
from graphc.ir.marks import GRADIENT, has_mark
from graphc.passes.free import bytes_of
from graphc.passes.plan.resolve import most_bytes
from graphc.passes.remat import (
    ATTEMPTS,
    THOROUGH,
    Attempt,
    frugal_copy,
    likely_peak,
    part_of,
    rematerialise,
)

if TYPE_CHECKING:
    from graphc.compiler.lowering import Stages

__all__ = ["within"]

_DOUBT = 1.25
"""Estimates may be wrong by this factor: what they say is too large by less is planned before a budget is refused."""
_TRIES = 3
"""So many attempts with the least estimates are planned before a budget is refused, whatever they say."""


def within(graph: Graph, budget: int, plan: Callable[[Graph], Stages]) -> Stages:
    """A plan of `graph` whose temporaries fit in `budget` bytes, at the largest sizes where there are symbolic ones. Raises CompileError where none is found."""
    plain = plan(graph.copy())
    if most_bytes(plain.program) <= budget:
        return plain
    return _Search(graph, budget, plan, plain).found()


class _Search:
    """Attempts at one graph, with what was learnt of them."""

    def __init__(self, graph: Graph, budget: int, plan: Callable[[Graph], Stages], plain: Stages) -> None:
        self.graph = graph
        self.budget = budget
        self.plan = plan
        self.plain = plain
        self.last = self.least = plain
        self.made: dict[Attempt, tuple[Graph, int]] = {}
        self.planned: set[Attempt] = set()
        self.ratio = most_bytes(plain.program) / max(1, likely_peak(frugal_copy(graph)))
        """What the last plan took by its estimate."""

    def found(self) -> Stages:
        """The first attempt that fits, as far as estimates lead there."""
        for attempt in ATTEMPTS:
            if self.likely(attempt) <= self.budget and self.fits(attempt):
                return self.last
        rest = sorted([*reversed(ATTEMPTS), *THOROUGH], key=lambda a: self.made_of(a)[1])
        for n, attempt in enumerate([a for a in rest if a not in self.planned]):
            if n >= _TRIES and self.likely(attempt) > self.budget * _DOUBT:
                break
            if self.fits(attempt):
                return self.cheaper(attempt, self.last)
        raise self.refusal()

    def cheaper(self, attempt: Attempt, found: Stages) -> Stages:
        """What fits before `attempt`, of which estimates did not tell, by halves; else `found`, which is its plan."""
        first, end = 0, ATTEMPTS.index(attempt) if attempt in ATTEMPTS else 0
        while first < end:
            middle = (first + end) // 2
            if ATTEMPTS[middle] not in self.planned and self.fits(ATTEMPTS[middle]):
                found, end = self.last, middle
            else:
                first = middle + 1
        return found

    def made_of(self, attempt: Attempt) -> tuple[Graph, int]:
        """What an attempt makes of the graph, and the estimate of its memory."""
        found = self.made.get(attempt)
        if found is None:
            marked = any(has_mark(op, GRADIENT) for op in self.graph.ops)
            changed = self.graph.copy() if marked else frugal_copy(self.graph)
            rematerialise(changed, attempt)
            changed = frugal_copy(changed)
            found = self.made[attempt] = changed, likely_peak(changed)
        return found

    def likely(self, attempt: Attempt) -> float:
        """The estimate of an attempt's memory, by what plans took so far."""
        return self.made_of(attempt)[1] * self.ratio

    def fits(self, attempt: Attempt) -> bool:
        """Plans an attempt; True where its temporaries fit."""
        graph, estimate = self.made_of(attempt)
        self.planned.add(attempt)
        self.last = self.plan(graph)
        self.ratio = most_bytes(self.last.program) / max(1, estimate)
        self.least = min(self.least, self.last, key=lambda s: most_bytes(s.program))
        return most_bytes(self.last.program) <= self.budget

    def refusal(self) -> CompileError:
        """The error of a budget that no attempt meets. It names the line that makes the largest value."""
        forward = part_of(self.graph).forward or self.graph.ops
        large = max(forward, key=lambda op: max(map(bytes_of, op.results)), default=None)
        loc = None if large is None else large.loc
        value = (
            ""
            if large is None
            else f"; the largest value is {large.results[0].type}, made here by {large.name}"
        )
        sizes, least = most_bytes(self.plain.program), most_bytes(self.least.program)
        return CompileError(
            f"memory_budget={self.budget} cannot be met: the temporaries of {self.graph.name!r} take {sizes} bytes, and "
            f"{least} where as much as possible is computed again; give a budget of at least {least} or a smaller "
            f"batch{value}",
            filename=None if loc is None else loc.filename,
            lineno=None if loc is None else loc.lineno,
        )
