"""Which phase each call runs in: as early as it can, or one after the other where that saves memory.

Calls that run as early as they can need the fewest barriers, but all that they read and write lives at once: a
weight gradient beside the input gradients of two layers, for instance. Where much memory is at stake calls are put
in an order that frees what it can before it takes more, and cut in as few phases as that memory allows.

Invariant: every call runs in a later phase than all that it waits for; the result depends on the program alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from graphc.ir.graph import Value
from graphc.passes.plan.arena import ALIGNMENT
from graphc.passes.plan.control import ControlCall
from graphc.passes.plan.work import Call

__all__ = ["Edges", "Needs", "phases_for_memory"]

Edges = tuple[Mapping[Call, Sequence[Call]], Mapping[Call, int]]
"""What waits for each call, and for how many calls each one waits."""

NEGLIGIBLE = 1 << 20
"""Bytes of temporaries up to which calls run as early as they can: barriers would cost more than memory."""
WORTH = 32
"""More barriers must save one part in so many of the memory."""
WINDOW = 16
"""Calls that may share a phase stand at most so far apart in the order."""


class Needs:
    """What calls take and free. `sizes` are the bytes of values in temporary memory; all that a call makes and
    nobody reads is free after it. `over` lists pairs (made, read) of a call where the first may take the second's
    place; `given` are values that are there before the first call; `scratch` gives the bytes that a call uses while
    it runs, of which calls of one phase share the largest piece."""

    def __init__(
        self,
        calls: Sequence[Call],
        sizes: Mapping[Value, int],
        over: Mapping[Call, Sequence[tuple[Value, Value]]],
        given: Sequence[Value],
        scratch: Callable[[Call], int],
    ) -> None:
        self.sizes = {v: -(-n // ALIGNMENT) * ALIGNMENT for v, n in sizes.items()}
        self.reads = {c: [v for v in dict.fromkeys(c.read()) if v in sizes] for c in calls}
        self.makes = {c: [v for v in c.taken() if v in sizes] for c in calls}
        self.over = over
        self.given = given
        self.scratch = scratch
        self.readers: dict[Value, list[Call]] = {}
        for c in calls:
            for v in self.reads[c]:
                self.readers.setdefault(v, []).append(c)


class _Memory:
    """What is live while calls run."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.left = {v: len(needs.readers.get(v, ())) for v in needs.sizes}
        self.live = self.most = sum(needs.sizes[v] for v in needs.given if self.left[v])
        self.scratch = 0
        """Scratch memory of the phase."""

    def takes(self, call: Call) -> int:
        """Bytes that a call would add while it runs."""
        sizes = self.needs.sizes
        replaced = sum(sizes[old] for _, old in self._replaced(call))
        return sum(sizes[v] for v in self.needs.makes.get(call, ())) - replaced

    def adds(self, call: Call) -> int:
        """Bytes by which there would be more after a call than before it."""
        sizes, gone = self.needs.sizes, {old for _, old in self._replaced(call)}
        freed = sum(sizes[v] for v in self.needs.reads.get(call, ()) if self.left[v] == 1 and v not in gone)
        unread = sum(sizes[v] for v in self.needs.makes.get(call, ()) if not self.left[v])
        return self.takes(call) - freed - unread

    def _replaced(self, call: Call) -> list[tuple[Value, Value]]:
        """Pairs of values of which the first takes the second's place, each value once."""
        found: list[tuple[Value, Value]] = []
        for new, old in self.needs.over.get(call, ()):
            if self.left[old] == 1 and all(new is not n and old is not o for n, o in found):
                found.append((new, old))
        return found

    def beside(self, call: Call) -> int:
        """Bytes live if a call began now."""
        return self.live + self.takes(call) + max(self.scratch, self._scratch_of(call))

    def _scratch_of(self, call: Call) -> int:
        return 0 if call.is_barrier else self.needs.scratch(call)

    def begin(self, call: Call) -> None:
        """A call runs beside those that have begun since the last `rest`."""
        added = self.takes(call)
        for _, old in self._replaced(call):
            self.left[old] = 0
        self.live += added
        self.scratch = max(self.scratch, self._scratch_of(call))
        self.most = max(self.most, self.live + self.scratch)

    def rest(self) -> None:
        """A phase has ended."""
        self.scratch = 0

    def end(self, call: Call) -> list[Value]:
        """It has run; gives the values that one call alone has yet to read."""
        single = []
        for v in self.needs.reads.get(call, ()):
            if self.left[v]:
                self.left[v] -= 1
                if not self.left[v]:
                    self.live -= self.needs.sizes[v]
                elif self.left[v] == 1:
                    single.append(v)
        for v in self.needs.makes.get(call, ()):
            if not self.left[v]:
                self.live -= self.needs.sizes[v]
            elif self.left[v] == 1:
                single.append(v)
        return single


def phases_for_memory(levels: dict[Call, int], edges: Edges, needs: Needs) -> tuple[dict[Call, int], int]:
    """The phase of each call: `levels`, those of the earliest run, or others where much less memory is live. Also
    the bytes then live at most."""
    total = sum(needs.sizes.values())
    if total <= NEGLIGIBLE:
        return levels, total
    most = _most(levels, needs)
    if most <= NEGLIGIBLE:
        return levels, most
    order, least = _frugal(edges, needs)
    if most - least < most // WORTH:
        return levels, most
    packed = _packed(order, edges, needs, least)
    found = _most(packed, needs)
    return (packed, found) if most - found >= most // WORTH else (levels, most)


def _most(levels: Mapping[Call, int], needs: Needs) -> int:
    """Most bytes live in a phase."""
    phases: dict[int, list[Call]] = {}
    for c in sorted(levels, key=lambda c: c.number):
        phases.setdefault(levels[c], []).append(c)
    memory = _Memory(needs)
    for n in sorted(phases):
        # Kernels run together, ops with regions one after the other behind them.
        kernels = [c for c in phases[n] if not isinstance(c, ControlCall)]
        groups = [kernels] + [[c] for c in phases[n] if isinstance(c, ControlCall)]
        for together in groups:
            for c in together:
                memory.begin(c)
            for c in together:
                memory.end(c)
            memory.rest()
    return memory.most


def _frugal(edges: Edges, needs: Needs) -> tuple[list[Call], int]:
    """All calls one by one, and the most bytes live: first what leaves no more than there was, else the next in
    the program's order."""
    after, waiting = edges[0], dict(edges[1])
    memory = _Memory(needs)
    ready: list[tuple[bool, int, int]] = []
    calls = list(waiting)
    place = {c: i for i, c in enumerate(calls)}
    open_, done = set(), set()

    def push(c: Call) -> None:
        heapq.heappush(ready, (not c.is_barrier and memory.adds(c) > 0, c.number, place[c]))

    for c in calls:
        if not waiting[c]:
            open_.add(c)
            push(c)
    order = []
    while ready:
        c = calls[heapq.heappop(ready)[2]]
        if c in done:
            continue
        done.add(c)
        order.append(c)
        memory.begin(c)
        single = memory.end(c)
        memory.rest()
        for d in after[c]:
            waiting[d] -= 1
            if not waiting[d]:
                open_.add(d)
                push(d)
        # Who reads such a value now frees it.
        for v in single:
            for r in needs.readers[v]:
                if r in open_ and r not in done:
                    push(r)
    return order, memory.most


def _packed(order: Sequence[Call], edges: Edges, needs: Needs, limit: int) -> dict[Call, int]:
    """Phases of calls near each other in an order, in which at most `limit` bytes are live."""
    after, waiting = edges[0], dict(edges[1])
    memory = _Memory(needs)
    left = [c for c in order if not c.is_barrier]
    levels: dict[Call, int] = {}
    phase, begin = 0, 0
    while begin < len(left):
        chosen: list[Call] = []
        seen, n = 0, begin
        while n < len(left) and seen < WINDOW:
            c = left[n]
            n += 1
            if c in levels:
                continue
            seen += 1
            alone = isinstance(c, ControlCall) or isinstance(left[begin], ControlCall)
            if not waiting[c] and (not chosen or (memory.beside(c) <= limit and not alone)):
                memory.begin(c)
                levels[c] = phase
                chosen.append(c)
        for c in chosen:
            memory.end(c)
        memory.rest()
        ended = chosen
        while ended:
            ended = [d for c in ended for d in after[c] if _arrives(d, waiting) and d.is_barrier]
            levels.update(dict.fromkeys(ended, phase))
        while begin < len(left) and left[begin] in levels:
            begin += 1
        phase += 1
    return levels


def _arrives(call: Call, waiting: dict[Call, int]) -> bool:
    """Counts that one of those a call waits for has run; whether it was the last."""
    waiting[call] -= 1
    return not waiting[call]
