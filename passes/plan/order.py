"""Which kernel must run before which, and the phases that follow.

Besides reads of results there are two more reasons to wait: a kernel that overwrites a state
waits for all readers of its old value and for every kernel that may fail. Where that would be a
cycle, the writers on it give up writing in place.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphc.ir.graph import Value
from graphc.passes.plan.work import Call

__all__ = ["Order"]


class Order:
    """The graph of calls; `levels` gives each call's phase."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.makers: dict[Value, Call] = {v: c for c in calls for v in c.written()}
        self.readers: dict[Value, list[Call]] = {}
        for c in calls:
            for v in c.read():
                self.readers.setdefault(v, []).append(c)

    def edges(self, overwriting: dict[Call, list[Value]]) -> tuple[dict[Call, list[Call]], dict[Call, int]]:
        """Followers of each call, and how many calls each waits for; checks go through one joint node."""
        after: dict[Call, list[Call]] = {c: [] for c in self.calls}
        waits: dict[Call, int] = dict.fromkeys(self.calls, 0)

        def edge(a: Call, b: Call) -> None:
            after[a].append(b)
            waits[b] += 1

        for value, readers in self.readers.items():
            maker = self.makers.get(value)
            if maker is not None:
                for r in readers:
                    edge(maker, r)
        failing = [c for c in self.calls if c.lowered.checks]
        if failing and overwriting:
            joint = Call.barrier()
            after[joint], waits[joint] = [], 0
            for c in failing:
                edge(c, joint)
            for c in overwriting:
                edge(joint, c)
        for c, states in overwriting.items():
            for s in states:
                for r in self.readers.get(s, ()):
                    if r is not c:
                        edge(r, c)
        return after, waits

    def levels(self, overwriting: dict[Call, list[Value]]) -> tuple[dict[Call, int], set[Call]]:
        """The phase of each call, and the calls that must not overwrite because of cycles: if any, try again."""
        after, waits = self.edges(overwriting)
        level = dict.fromkeys(waits, 0)
        ready = [c for c, n in waits.items() if n == 0]
        done = 0
        while ready:
            c = ready.pop()
            done += 1
            for d in after[c]:
                level[d] = max(level[d], level[c] + (not c.is_barrier))
                waits[d] -= 1
                if waits[d] == 0:
                    ready.append(d)
        if done == len(level):
            return level, set()
        return level, _one_of_each(_on_cycles({c for c, n in waits.items() if n}, after), after, overwriting)


def _one_of_each(
    cyclic: set[Call], after: dict[Call, list[Call]], overwriting: dict[Call, list[Value]]
) -> set[Call]:
    """One overwriting call of each connected part of the calls on cycles."""
    near: dict[Call, list[Call]] = {c: [] for c in cyclic}
    for c in cyclic:
        for d in after[c]:
            if d in cyclic:
                near[c].append(d)
                near[d].append(c)
    chosen: set[Call] = set()
    seen: set[Call] = set()
    for start in sorted((c for c in cyclic if c in overwriting), key=lambda c: c.number):
        if start not in seen:
            chosen.add(start)
            waiting = [start]
            while waiting:
                c = waiting.pop()
                if c not in seen:
                    seen.add(c)
                    waiting += near[c]
    return chosen


def _on_cycles(left: Iterable[Call], after: dict[Call, list[Call]]) -> set[Call]:
    """Calls left over that lead to a cycle as well as coming from one."""
    nodes = set(left)
    outgoing = {c: sum(d in nodes for d in after[c]) for c in nodes}
    before: dict[Call, list[Call]] = {c: [] for c in nodes}
    for c in nodes:
        for d in after[c]:
            if d in nodes:
                before[d].append(c)
    ready = [c for c in nodes if outgoing[c] == 0]
    while ready:
        c = ready.pop()
        nodes.discard(c)
        for b in before[c]:
            outgoing[b] -= 1
            if outgoing[b] == 0:
                ready.append(b)
    return nodes
