"""The part of a graph that a way back reads, and where to cut it in segments.

Segments end where few bytes are handed on: in most models between blocks. Which of them are made again first is a matter
of bytes that need not be kept against the work of making them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from graphc.ir.families import Contraction, Window
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.marks import GRADIENT, has_mark, is_clone
from graphc.ir.records import dataclass
from graphc.passes.free import behind_views, bytes_of, takes_nothing

__all__ = ["Part", "part_of", "segments_of"]

PRODUCT = 16
"""Terms of a product that cost as much as an element of another op."""


@dataclass(frozen=True)
class Part:
    """Ops that are run on the way forward and that ways back depend on, in order; the ops of ways back; and the values
    that these read."""

    forward: list[Op]
    late: set[Op]
    wanted: set[Value]

    def bytes_wanted(self, op: Op) -> int:
        """Bytes of the op's results that a way back reads, through views or not."""
        return sum(bytes_of(v) for v in op.results if v in self.wanted)


def part_of(graph: Graph) -> Part:
    """Ops of ways back are those with their mark and clones; what else depends on them is in neither part."""
    ops = list(graph.ops)
    late: set[Op] = set()
    behind: set[Value] = set()
    for op in ops:
        marked = has_mark(op, GRADIENT) or is_clone(op)
        if marked:
            late.add(op)
        if marked or any(v in behind for v in op.operands):
            behind.update(op.results)
    shown = behind_views(ops)
    read = {v for op in late for v in op.operands if v not in behind}
    needed = set(read)
    forward: list[Op] = []
    for op in reversed(ops):
        if op not in late and any(r in needed for r in op.results):
            forward.append(op)
            needed.update(op.operands)
    return Part(forward[::-1], late, {shown.get(v, v) for v in read})


def segments_of(part: Part, fewest: int) -> list[list[Op]]:
    """The forward ops in segments of at most one part in `fewest` of the bytes wanted, where that is possible.

    Of all such ways to cut, the one that hands on fewest bytes. Those segments come first that save most for their
    work; the last one, which is read at once, comes last.
    """
    ops = part.forward
    made = list(accumulate(map(part.bytes_wanted, ops), initial=0))
    if not made[-1]:
        return []
    live = [0, *_handed_on(ops)]
    # Places where no more is handed on than before and less than behind; in a plain chain, where it is as much.
    low = [n for n in range(1, len(ops)) if live[n] <= min(live[n - 1], live[n + 1])]
    places = [n for n in low if live[n] < live[n + 1]]
    if len(places) < fewest:
        places = [n for n in low if not takes_nothing(ops[n - 1])]
    ends = _cheapest(made, live, [0, *places, len(ops)], made[-1] // fewest)
    found = [ops[begin:end] for begin, end in pairwise(ends)]
    worth = {id(s): sum(map(part.bytes_wanted, s)) / (1 + sum(map(_work, s))) for s in found}
    return [*sorted(found[:-1], key=lambda s: -worth[id(s)]), found[-1]]


def _cheapest(made: Sequence[int], live: Sequence[int], places: Sequence[int], most: int) -> list[int]:
    """Some of `places`, the first and last among them, with fewest bytes handed on in all and at most `most` made from
    one to the next. A stretch that has no place inside may make more."""
    best: list[tuple[int, int]] = [(0, 0)]
    for i in range(1, len(places)):
        choices, limit = [], most
        for j in range(i - 1, -1, -1):
            limit = max(limit, made[places[j + 1]] - made[places[j]])
            if made[places[i]] - made[places[j]] > limit:
                break
            choices.append((best[j][0] + live[places[i]], j))
        best.append(min(choices))
    chosen = [len(places) - 1]
    while chosen[-1]:
        chosen.append(best[chosen[-1]][1])
    return [places[i] for i in reversed(chosen)]


def _handed_on(ops: Sequence[Op]) -> list[int]:
    """Bytes that ops behind each of `ops` read of it and those before, among themselves."""
    place = {op: n for n, op in enumerate(ops)}
    behind = behind_views(ops)
    last: dict[Value, int] = {}
    for n, op in enumerate(ops):
        for v in () if takes_nothing(op) else op.operands:
            last[behind.get(v, v)] = n
    change = [0] * len(ops)
    for v, n in last.items():
        if v.op in place and not takes_nothing(v.op):
            change[place[v.op]] += bytes_of(v)
            change[n] -= bytes_of(v)
    return list(accumulate(change))


def _work(op: Op) -> float:
    """Elements that an op computes, terms of products among them."""
    if takes_nothing(op):
        return 0
    size = sum(bytes_of(v) for v in op.results)
    if isinstance(op, (Contraction, Window)):
        # Of a matrix product: the root of the product of three matrices' sizes is its number of terms.
        x, y = bytes_of(op.operands[0]), bytes_of(op.operands[-1]) if len(op.operands) > 1 else 0
        return size + math.sqrt(x * y * size) / PRODUCT
    return size
