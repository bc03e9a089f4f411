"""Computes values again behind the point of a graph where most values are live, instead of keeping them.

An attempt says how much may be computed again. The first attempts run only what costs little again; later ones cut the
part before the point in segments, keep what goes from one to the next, and run the products of a segment again too.
Invariant: a clone stands right before the first op that needs it, so the order of the graph shows when it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from graphc.ir.families import Contraction, Creation, Gather, Pointwise, Random, Scatter
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.marks import RECOMPUTE
from graphc.passes.dce import eliminate_dead_ops
from graphc.passes.remat.cut import kept_values
from graphc.passes.remat.order import SMALL, takes_nothing

__all__ = ["ATTEMPTS", "Attempt", "rematerialise"]


@dataclass(frozen=True)
class Attempt:
    """What may be computed again: `reductions` besides pointwise ops, and where there are several `segments`
    products inside of them."""

    reductions: bool = False
    segments: int = 1

    def may_rerun(self, op: Op) -> bool:
        """Whether an op may run again. Ops that check positions and ops with regions never do."""
        if op.regions or isinstance(op, (Gather, Scatter)):
            return False
        if isinstance(op, (Pointwise, Creation, Random)):
            return True
        return self.segments > 1 or (self.reductions and not isinstance(op, Contraction))


ATTEMPTS = (Attempt(), Attempt(reductions=True), *(Attempt(True, n) for n in (2, 3, 4, 6)))
"""From what costs least time to what keeps least."""


_ROW = 8
"""Clones one after the other that are a segment made again."""


def rematerialise(graph: Graph, attempt: Attempt) -> bool:
    """Changes the graph in place; False where nothing is computed again."""
    ops = list(graph.ops)
    place = {op: n for n, op in enumerate(ops)}
    if not _cut_at(graph, _fullest(ops, place), attempt):
        return False
    eliminate_dead_ops(graph)
    if attempt.segments > 1:
        # What a segment has made again need not all be kept until it is read either.
        for op in _ends(graph):
            place = {op: n for n, op in enumerate(graph.ops)}
            _cut_at(graph, place[op], Attempt())
        eliminate_dead_ops(graph)
    return True


def _ends(graph: Graph) -> list[Op]:
    """The last op of each longer row of clones."""
    ops, found, row = list(graph.ops), [], 0
    for op, following in pairwise([*ops, None]):
        row = row + 1 if op is not None and op.mark == RECOMPUTE else 0
        if op is not None and row >= _ROW and (following is None or following.mark != RECOMPUTE):
            found.append(op)
    return found


def _cut_at(graph: Graph, point: int, attempt: Attempt) -> bool:
    """Keeps least across the place behind op number `point`; False where nothing is computed again."""
    ops = list(graph.ops)
    place = {op: n for n, op in enumerate(ops)}
    late: dict[Value, list[Op]] = {}
    for op in ops[point + 1 :]:
        for v in dict.fromkeys(op.operands):
            if v.op is not None and place[v.op] <= point:
                late.setdefault(v, []).append(op)
    outputs = graph.output_uses()
    between = _between(ops[: point + 1], place, attempt.segments)

    def free(v: Value) -> bool:
        return v.op is None or v in outputs

    def fixed(op: Op, v: Value) -> bool:
        return v in between or not attempt.may_rerun(op)

    kept = kept_values(late, free, fixed)
    again = _reruns(late, kept)
    if not again:
        return False
    _insert(graph, [op for op in ops if op in again], late, kept, place, ops)
    return True


def _fullest(ops: Sequence[Op], place: dict[Op, int]) -> int:
    """Number of the op behind which most results are still to be read: the end of a forward part. Their bytes would
    say less, since a large weight's gradient may wait long for its update."""
    live = list(accumulate(_changes(ops, place, _matters)))
    return max(range(len(live)), key=live.__getitem__, default=-1)


def _matters(v: Value) -> int:
    return int(v.type.nbytes > SMALL and v.op is not None and not takes_nothing(v.op))


def _changes(ops: Sequence[Op], place: dict[Op, int], weight: Callable[[Value], int]) -> list[int]:
    """Weights of results that are read later, by op: what begins to live less what ends, uses behind `ops` not counted."""
    change = [0] * len(ops)
    for n, op in enumerate(ops):
        for v in op.results:
            last = max((place[u.op] for u in v.uses if place[u.op] < len(ops)), default=-1)
            if last > n:
                change[n] += weight(v)
                change[last] -= weight(v)
    return change


def _between(ops: Sequence[Op], place: dict[Op, int], segments: int) -> set[Value]:
    """Values that go from one segment of `ops` to the next. Segments make about as many bytes each and end where few
    are handed on."""
    if segments < 2:
        return set()
    live = list(accumulate(_changes(ops, place, lambda v: v.type.nbytes)))
    made = list(accumulate(sum(v.type.nbytes for v in op.results) for op in ops))
    found: set[Value] = set()
    for k in range(1, segments):
        around = [n for n in range(len(ops)) if abs(made[n] * segments - k * made[-1]) * 2 <= made[-1]]
        if not around:
            continue
        end = min(around, key=lambda n: (live[n], n))
        for n, op in enumerate(ops[: end + 1]):
            found.update(v for v in op.results if any(n <= end < place[u.op] < len(ops) for u in v.uses))
    return found


def _reruns(late: dict[Value, list[Op]], kept: set[Value]) -> set[Op]:
    """The ops that make all late values from the kept ones."""
    again: set[Op] = set()
    waiting = [v for v in late if v not in kept]
    while waiting:
        op = waiting.pop().op
        if op is not None and op not in again:
            again.add(op)
            waiting += [v for v in op.operands if v not in kept]
    return again


def _insert(
    graph: Graph,
    again: Sequence[Op],
    late: dict[Value, list[Op]],
    kept: set[Value],
    place: dict[Op, int],
    ops: Sequence[Op],
) -> None:
    """Clones of the ops of `again` (in order), each before the first op that needs it; late readers read them."""
    anchor: dict[Op, int] = {}
    for op in reversed(again):
        needed = [place[r] for v in op.results if v not in kept for r in late.get(v, ())]
        needed += [anchor[u.op] for v in op.results if v not in kept for u in v.uses if u.op in anchor]
        anchor[op] = min(needed)
    made: dict[Value, Value] = {}
    for op in again:
        clone = type(op)([made.get(v, v) for v in op.operands], op.attrs, op.result_types, op.loc)
        clone.mark = RECOMPUTE
        graph.insert(clone, ops[anchor[op]])
        for old, new in zip(op.results, clone.results, strict=True):
            new.name = old.name
            if old not in kept:
                made[old] = new
    for v, new in made.items():
        for reader in late.get(v, ()):
            for i, operand in enumerate(reader.operands):
                if operand is v:
                    reader.set_operand(i, new)
