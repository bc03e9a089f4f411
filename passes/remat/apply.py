"""Computes values of the forward part of a graph again in its ways back, instead of keeping them.

An attempt says how much may be computed again. The first attempts run only what costs little again: what is kept is a
minimum cut. Later ones make whole segments of the forward part again, each from what the one before hands on, just
before the way back wants it, as if the user had put checkpoints there: few at first, in the end all of them.
Invariant: a clone stands right before the first op that needs it, so the order of the graph shows when it is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import accumulate

from graphc.ir.families import Contraction, Gather, Pointwise, Scatter
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.marks import RECOMPUTE
from graphc.ir.records import dataclass
from graphc.passes.checkpoints import insert_clones
from graphc.passes.dce import eliminate_dead_ops
from graphc.passes.free import bytes_of, takes_nothing
from graphc.passes.remat.cut import kept_values
from graphc.passes.remat.order import SMALL
from graphc.passes.remat.parts import Part, part_of, segments_of

__all__ = ["ATTEMPTS", "THOROUGH", "Attempt", "rematerialise"]


@dataclass(frozen=True)
class Attempt:
    """What may be computed again: `cheap` ops (1: pointwise ones, 2: reductions too), and a `share` of the segments
    that the forward part has where each makes at most one part in `fewest` of what is kept."""

    cheap: int = 1
    fewest: int = 0
    share: float = 0

    def may_rerun(self, op: Op) -> bool:
        """Whether an op may run again for a reader. Ops that check positions and ops with regions never do."""
        if op.regions or isinstance(op, (Gather, Scatter)):
            return False
        return isinstance(op, Pointwise) or (self.cheap > 1 and not isinstance(op, Contraction))


ATTEMPTS = (Attempt(), *(Attempt(1, 8, n / 8) for n in range(1, 9)))
"""From what costs least time to what keeps little."""
THOROUGH = tuple(Attempt(1, n, 1) for n in (8, 16, 4))
"""What makes everything again, in segments of several sizes: where they are few, much is made again at once, where they
are many, much is handed on."""


def rematerialise(graph: Graph, attempt: Attempt) -> bool:
    """Changes the graph in place; False where nothing is computed again."""
    part = part_of(graph)
    changed = False
    if attempt.fewest:
        found = segments_of(part, attempt.fewest)
        chosen = found[: math.ceil(len(found) * attempt.share)]
        paths = {op: (str(n),) for n, segment in enumerate(chosen) for op in segment}
        changed = insert_clones(graph, paths, part.late)
        part = part_of(graph)
    if attempt.cheap:
        changed = _cut(graph, part, attempt) or changed
    eliminate_dead_ops(graph)
    return changed


def _cut(graph: Graph, part: Part, attempt: Attempt) -> bool:
    """Keeps least for the ways back; False where nothing is computed again."""
    ops = list(graph.ops)
    place = {op: n for n, op in enumerate(ops)}
    early: Collection[Op] = set(part.forward)
    if not part.late:
        early = set(ops[: _fullest(ops, place) + 1])
    late: dict[Value, list[Op]] = {}
    for op in ops:
        if op not in early:
            for v in dict.fromkeys(op.operands):
                if v.op in early:
                    late.setdefault(v, []).append(op)
    outputs = graph.output_uses()

    def free(v: Value) -> bool:
        return v.op is None or v in outputs

    def fixed(op: Op, v: Value) -> bool:
        return not attempt.may_rerun(op)

    kept = kept_values(late, free, fixed)
    again = _reruns(late, kept)
    if not again:
        return False
    _insert(graph, [op for op in ops if op in again], late, kept, place, ops)
    return True


def _fullest(ops: Sequence[Op], place: dict[Op, int]) -> int:
    """Number of the op behind which most results are still to be read: the end of a forward part whose way back has no
    marks. Their bytes would say less, since a large weight's gradient may wait long for its update."""
    live = list(accumulate(_changes(ops, place)))
    return max(range(len(live)), key=live.__getitem__, default=-1)


def _changes(ops: Sequence[Op], place: dict[Op, int]) -> list[int]:
    """How many results that matter begin to live behind each op, less how many end."""
    change = [0] * len(ops)
    for n, op in enumerate(ops):
        for v in () if takes_nothing(op) else op.results:
            last = max((place[u.op] for u in v.uses), default=-1)
            if last > n and bytes_of(v) > SMALL:
                change[n] += 1
                change[last] -= 1
    return change


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
