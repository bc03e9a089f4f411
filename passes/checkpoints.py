"""Checkpoints: what a way back reads of values from inside of one is computed again.

A value belongs to a checkpoint where all that read it on the way forward are inside too; what leaves it, and what enters
it, is kept. A value inside nested checkpoints is computed again from the inputs of the innermost, which are computed
again from those of the next one out. Clones stand right before the first op that needs them, and their marks keep
them apart from their originals. Every op is pure, so no bit changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from graphc.ir.graph import Graph, Op, Value
from graphc.ir.marks import GRADIENT, RECOMPUTE, add_mark, checkpoint_path, has_mark
from graphc.ir.records import dataclass
from graphc.passes.free import takes_nothing

__all__ = ["has_checkpoints", "insert_clones", "recompute_in_checkpoints"]

_CHECK = "check"


def has_checkpoints(graph: Graph) -> bool:
    """Whether an op of `graph` itself was recorded in a checkpoint."""
    return any(checkpoint_path(op) for op in graph.ops)


@dataclass(frozen=True)
class _Again:
    """An op that runs again, `depth` checkpoints deep."""

    op: Op
    depth: int


def recompute_in_checkpoints(graph: Graph) -> bool:
    """Makes ops with the mark `gradient` read clones of what was made in checkpoints; False where there are none."""
    paths = {op: path for op in graph.ops if (path := checkpoint_path(op))}
    late = {op for op in graph.ops if has_mark(op, GRADIENT)} if paths else set()
    if not late:
        return False
    insert_clones(graph, paths, late)
    # What a derivative makes of forward values on its own account is made there too.
    for op in late:
        if op.operands and (path := checkpoint_path(op)):
            add_mark(op, f"{RECOMPUTE}:{'.'.join(path)}")
    return True


def insert_clones(graph: Graph, paths: Mapping[Op, tuple[str, ...]], late: Collection[Op]) -> bool:
    """Makes `late` ops read clones of what does not leave its checkpoint; False where none does.

    `paths` name the checkpoints that ops are in, outermost first; those of late ops do not count.
    """
    # What takes no operands costs nothing to make again and needs no clone.
    kept = {op: path for op, path in paths.items() if path and op.operands and op not in late}
    return bool(kept) and _Insertion(graph, kept, late).run()


class _Insertion:
    def __init__(self, graph: Graph, paths: Mapping[Op, tuple[str, ...]], late: Collection[Op]) -> None:
        self.graph = graph
        self.ops = ops = list(graph.ops)
        self.paths = paths
        self.place = {op: n for n, op in enumerate(ops)}
        self.outputs = graph.output_uses()
        self.late = late
        self.depths: dict[Value, int] = {}

    def depth(self, v: Value) -> int:
        """How many checkpoints deep `v` is made again; 0 where it is kept."""
        known = self.depths.get(v)
        if known is None:
            known = self.depths[v] = self._depth(v)
        return known

    def _depth(self, v: Value) -> int:
        if v.op is None or v in self.outputs:
            return 0
        path = self.paths.get(v.op, ())
        found = len(path)
        for use in v.uses:
            if use.op not in self.late and found:
                found = min(found, _shared(path, self.paths.get(use.op, ())))
                if takes_nothing(use.op):
                    # What is read through a view is kept as a whole.
                    found = min(found, self.depth(use.op.results[0]))
        return found

    def run(self) -> bool:
        first = self._first_readers()
        made: dict[tuple[Value, int], Value] = {}
        for again in sorted(first, key=lambda a: (self.place[a.op], a.depth)):
            clone = self._clone(again, made)
            self.graph.insert(clone, self.ops[first[again]])
            for old, new in zip(again.op.results, clone.results, strict=True):
                new.name = old.name
                made[old, again.depth] = new
        for op in self.ops:
            for i, v in enumerate(op.operands if op in self.late else ()):
                if self.depth(v):
                    op.set_operand(i, made[v, self.depth(v)])
        return bool(first)

    def _first_readers(self) -> dict[_Again, int]:
        """What is to run again, and the number of the first op that needs it."""
        first: dict[_Again, int] = {}
        waiting: dict[Op, set[int]] = {}

        def want(v: Value, depth: int, reader: int) -> None:
            if depth:
                assert v.op is not None
                again = _Again(v.op, depth)
                first[again] = min(reader, first.get(again, reader))
                waiting.setdefault(v.op, set()).add(depth)

        for op in self.ops:
            if op in self.late:
                for v in op.operands:
                    want(v, self.depth(v), self.place[op])
        for op in reversed(self.ops):
            for depth in waiting.get(op, ()):
                for v in op.operands:
                    want(v, min(depth, self.depth(v)), first[_Again(op, depth)])
        return first

    def _clone(self, again: _Again, made: Mapping[tuple[Value, int], Value]) -> Op:
        op, depth = again.op, again.depth
        operands = []
        for v in op.operands:
            level = min(depth, self.depth(v))
            operands.append(made[v, level] if level else v)
        attrs: dict[str, Any] = op.attrs
        if attrs.get(_CHECK) is not None:
            attrs = {**attrs, _CHECK: None}  # the original has checked the same positions
        clone = type(op)(operands, attrs, op.result_types, op.loc, [r.copy() for r in op.regions])
        clone.mark = f"{RECOMPUTE}:{'.'.join(self.paths[op][:depth])}"
        return clone


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many names two paths begin with in common."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
