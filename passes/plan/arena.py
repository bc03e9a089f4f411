"""Offsets in one arena for buffers that live over intervals of phases.

Several orders are tried until one comes near the bytes that live at once; else the smallest arena is
taken. Buffers whose intervals meet never overlap; offsets and sizes are multiples of 64 bytes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence

from graphc.ir.records import dataclass

__all__ = ["ALIGNMENT", "Lifetime", "assign_offsets", "most_live", "places_below", "stacked"]

ALIGNMENT = 64
FEW = 2000
"""Up to so many buffers the orders that take quadratic time are tried too."""
TRIES, PAIRS = 32, 400_000
"""An order is changed and tried again up to so often, and until so many pairs of buffers have been compared."""
GOOD = 100
"""An arena that exceeds the live bytes by less than one part in so many is taken."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` bytes, live from phase `first` to phase `last`, both included."""

    size: int
    first: int
    last: int

    @property
    def padded(self) -> int:
        """The size rounded up to whole cache lines."""
        return -(-self.size // ALIGNMENT) * ALIGNMENT


def most_live(lifetimes: Sequence[Lifetime]) -> int:
    """Most bytes live in any phase: no arena can be smaller."""
    change: dict[int, int] = {}
    for x in lifetimes:
        change[x.first] = change.get(x.first, 0) + x.padded
        change[x.last + 1] = change.get(x.last + 1, 0) - x.padded
    live = most = 0
    for phase in sorted(change):
        live += change[phase]
        most = max(most, live)
    return most


def assign_offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """An offset for each buffer, and the arena's size in bytes."""
    best = _earliest_first(lifetimes)
    least = most_live(lifetimes)
    if len(lifetimes) > FEW:
        return best
    numbers = range(len(lifetimes))
    for key in _ORDERS:
        order = sorted(numbers, key=lambda i, key=key: (*key(lifetimes[i]), i))  # type: ignore[misc]
        for _ in range(max(1, min(TRIES, PAIRS // max(1, len(lifetimes) ** 2)))):
            if best[1] <= least + least // GOOD:
                return best
            found = _lowest_place(lifetimes, order)
            best = min(best, found, key=lambda f: f[1])
            # Whatever ended highest comes first in the next attempt.
            last = max(order, key=lambda i: found[0][i] + lifetimes[i].padded)
            order.remove(last)
            order.insert(0, last)
    return best


def places_below(lifetimes: Sequence[Lifetime], offsets: Sequence[int]) -> dict[int, list[int]]:
    """Which buffers each one lies right above, the lowest buffers first.

    Of two buffers that are live at once the one with the lower offset comes first; so an arena in which each buffer
    begins where all of these end is one for any sizes, and no larger than the given one for the sizes of that.
    """
    found: dict[int, list[int]] = {}
    under: dict[int, set[int]] = {}
    order = sorted(range(len(lifetimes)), key=lambda i: (offsets[i], i))
    for n, i in enumerate(order):
        mine, right, all_below = lifetimes[i], list[int](), set[int]()
        for j in reversed(order[:n]):
            other = lifetimes[j]
            if j not in all_below and other.first <= mine.last and mine.first <= other.last:
                right.append(j)
                all_below |= under[j]
                all_below.add(j)
        found[i], under[i] = right, all_below
    return found


def stacked(lifetimes: Sequence[Lifetime], below: Mapping[int, Sequence[int]]) -> tuple[list[int], int]:
    """Each buffer where all those right below it end (see `places_below`), and the arena's size."""
    offsets = [0] * len(lifetimes)
    total = 0
    for i, under in below.items():
        at = offsets[i] = max((offsets[j] + lifetimes[j].padded for j in under), default=0)
        total = max(total, at + lifetimes[i].padded)
    return offsets, total


_ORDERS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda x: (-x.padded, x.first),
    lambda x: (x.first - x.last, -x.padded),
    lambda x: (-x.padded * (x.last - x.first + 1), x.first),
)
"""Largest first, longest-lived first, most bytes times phases first."""


def _lowest_place(lifetimes: Sequence[Lifetime], order: Sequence[int]) -> tuple[list[int], int]:
    """Each buffer at the lowest place free throughout its life, in an order of their numbers."""
    offsets = [0] * len(lifetimes)
    placed: list[tuple[int, int]] = []
    total = 0
    for i in order:
        mine = lifetimes[i]
        at = 0
        for start, j in placed:
            other = lifetimes[j]
            if other.last < mine.first or mine.last < other.first:
                continue
            if start - at >= mine.padded:
                break
            at = max(at, start + other.padded)
        offsets[i] = at
        total = max(total, at + mine.padded)
        if mine.padded:
            insort(placed, (at, i))
    return offsets, total


def _earliest_first(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """In order of birth into the smallest hole that fits, from a list of holes that joins neighbours."""
    offsets = [0] * len(lifetimes)
    starts = sorted(range(len(lifetimes)), key=lambda i: (lifetimes[i].first, -lifetimes[i].padded, i))
    ends = sorted(range(len(lifetimes)), key=lambda i: (lifetimes[i].last, i))
    holes = _Holes()
    ended = 0
    for i in starts:
        while lifetimes[ends[ended]].last < lifetimes[i].first:
            gone = ends[ended]
            holes.give_back(offsets[gone], lifetimes[gone].padded)
            ended += 1
        offsets[i] = holes.take(lifetimes[i].padded)
    return offsets, holes.total


class _Holes:
    """Free ranges below `total`, by size and by place."""

    def __init__(self) -> None:
        self.total = 0
        self.by_size: list[tuple[int, int]] = []
        self.by_start: dict[int, int] = {}
        self.by_end: dict[int, int] = {}

    def take(self, size: int) -> int:
        if size == 0:
            return 0
        k = bisect_left(self.by_size, (size, -1))
        if k < len(self.by_size):
            length, start = self.by_size[k]
            self._remove(start, length)
            if length > size:
                self._add(start + size, length - size)
            return start
        # Nothing fits: the hole at the end, if there is one, grows.
        start = self.by_end.get(self.total, self.total)
        if start < self.total:
            self._remove(start, self.total - start)
        self.total = start + size
        return start

    def give_back(self, start: int, size: int) -> None:
        if size == 0:
            return
        end = start + size
        before, after = self.by_end.get(start), self.by_start.get(end)
        if before is not None:
            self._remove(before, start - before)
            start = before
        if after is not None:
            self._remove(end, after - end)
            end = after
        self._add(start, end - start)

    def _add(self, start: int, size: int) -> None:
        insort(self.by_size, (size, start))
        self.by_start[start], self.by_end[start + size] = start + size, start

    def _remove(self, start: int, size: int) -> None:
        del self.by_size[bisect_left(self.by_size, (size, start))]
        del self.by_start[start], self.by_end[start + size]
