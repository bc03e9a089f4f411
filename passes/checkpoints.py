"""Checkpoints: what a way back reads of values from inside of one is computed again.

A value belongs to a checkpoint where all that read it on the way forward are inside too; what leaves it, and what enters
it, is kept. A value inside nested checkpoints is computed again from the inputs of the innermost, which are computed
again from those of the next one out. Clones stand right before the first op that needs them, and their marks keep
them apart from their originals. Every op is pure, so no bit changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphc.ir.graph import Graph, Op, Value
from graphc.ir.marks import GRADIENT, RECOMPUTE, add_mark, checkpoint_path, has_mark

__all__ = ["has_checkpoints", "recompute_in_checkpoints"]

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
    """Makes ops with the mark `gradient` read clones of what was made in checkpoints; False where none does."""
    ops = list(graph.ops)
    paths = {op: path for op in ops if (path := _path(op))}
    if not paths:
        return False
    return _Insertion(graph, ops, paths).run()


def _path(op: Op) -> tuple[str, ...]:
    # What takes no operands costs nothing to make again and needs no clone.
    return () if not op.operands or has_mark(op, GRADIENT) else checkpoint_path(op)


class _Insertion:
    def __init__(self, graph: Graph, ops: Sequence[Op], paths: Mapping[Op, tuple[str, ...]]) -> None:
        self.graph = graph
        self.ops = ops
        self.paths = paths
        self.place = {op: n for n, op in enumerate(ops)}
        self.outputs = graph.output_uses()
        self.late = {op for op in ops if has_mark(op, GRADIENT)}
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
        readers = (self.paths.get(use.op, ()) for use in v.uses if use.op not in self.late)
        return min((_shared(path, other) for other in readers), default=len(path))

    def run(self) -> bool:
        first = self._first_readers()
        made: dict[tuple[Value, int], Value] = {}
        for again in sorted(first, key=lambda a: (self.place[a.op], a.depth)):
            clone = self._clone(again, made)
            self.graph.insert(clone, self.ops[first[again]])
            for old, new in zip(again.op.results, clone.results, strict=True):
                new.name = old.name
                made[old, again.depth] = new
        for op in self.late:
            for i, v in enumerate(op.operands):
                if self.depth(v):
                    op.set_operand(i, made[v, self.depth(v)])
        # What a derivative makes of forward values on its own account is made there too.
        for op in self.late:
            if op.operands and (path := checkpoint_path(op)):
                add_mark(op, f"{RECOMPUTE}:{'.'.join(path)}")
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
