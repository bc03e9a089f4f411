"""Makes loops smaller: what nobody uses is not computed, what is there already is not stored again.

An output that is what a carried value becomes is read off the value's history; a carried value that never
changes is a constant; equal operands and equal outputs are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.control import Loop
from graphc.ir.graph import Graph, Value
from graphc.ir.records import dataclass
from graphc.passes.base import GraphPass
from graphc.passes.loops.parts import entries
from graphc.passes.rewrite import Rewriter

__all__ = ["SimplifyLoops"]


@dataclass(frozen=True)
class SimplifyLoops(GraphPass):
    """Simplifies every loop of a graph."""

    name: ClassVar[str] = "simplify_loops"

    def apply(self, graph: Graph) -> bool:
        changed = False
        for op in list(graph.ops):
            if isinstance(op, Loop) and op.graph is graph:
                changed = _Simplifier(op, Rewriter(graph)).run() or changed
        return changed


class _Simplifier:
    def __init__(self, loop: Loop, rewriter: Rewriter) -> None:
        self.loop = loop
        self.rewriter = rewriter
        body, n, m = loop.body, loop.carries, loop.attrs["slices"]
        self.inputs = body.inputs
        self.sliced = set(self.inputs[n : n + m])
        self.returned = list(body.outputs)
        self.places = {v: i for i, v in enumerate(self.inputs)}
        self.used = [bool(r.uses) or r in rewriter.positions for r in loop.results]
        # An unchanged value is a constant; its history, if asked for, is left to be carried.
        self.fixed = {i for i in range(n) if body.outputs[i] is self.inputs[i] and not loop.is_history(i)}
        self.moved = {body.outputs[i]: i for i in range(n) if i not in self.fixed}
        self.outputs = [v for v, used in zip(body.outputs[n:], self.used[n:], strict=True) if used]
        self.kept = list(
            dict.fromkeys(v for v in self.outputs if v not in self.moved and v not in self.sliced)
        )
        self.live = self._live()

    def _live(self) -> list[int]:
        """Carried values that a used result depends on."""
        body, n = self.loop.body, self.loop.carries
        live = {i for i in range(n) if i not in self.fixed and self.used[i]}
        live |= {self.moved[v] for v in self.outputs if v in self.moved}
        while True:
            needed = {body.outputs[i] for i in live} | set(self.kept)
            for op in reversed(list(body.ops)):
                if any(r in needed for r in op.results):
                    needed.update(op.operands)
            more = {i for i in range(n) if self.inputs[i] in needed and i not in self.fixed} - live
            if not more:
                self.needed = needed
                return sorted(live)
            live |= more

    def run(self) -> bool:
        loop, n = self.loop, self.loop.carries
        m = loop.attrs["slices"]
        histories = {i for i in self.live if loop.is_history(i)}
        histories |= {self.moved[v] for v in self.outputs if v in self.moved}
        slices = [i for i in range(n, n + m) if self.inputs[i] in self.needed]
        constants = [i for i in range(n + m, len(self.inputs)) if self.inputs[i] in self.needed]
        constants += [i for i in sorted(self.fixed) if self.inputs[i] in self.needed]
        merged = [_merged(loop.operands, part) for part in (slices, constants)]
        order = [*self.live, *merged[0][0], *merged[1][0]]
        if order == list(range(len(self.inputs))) and self.kept == loop.body.outputs[n:]:
            return False
        graph = loop.graph
        assert graph is not None
        same = {**merged[0][1], **merged[1][1]}
        body = self._body(order, same)
        b = Builder(graph, before=loop, loc=loop.loc)
        attrs = {
            **loop.attrs,
            "carries": len(self.live),
            "slices": len(merged[0][0]),
            "outputs": tuple(v.type for v in self.kept),
            "history": tuple(self.live.index(i) for i in sorted(histories)),
        }
        new: Loop | None = None
        if body.outputs:
            made = b.create(type(loop), [loop.operands[i] for i in order], [body], **attrs)
            assert isinstance(made, Loop)
            made.mark = loop.mark
            new = made
        for i, old in enumerate(loop.results):
            if self.used[i]:
                self.rewriter.replace(old, self._result(b, new, i))
        loop.erase()
        return True

    def _body(self, order: Sequence[int], same: dict[int, int]) -> Graph:
        """The region with the inputs in `order`, those of equal operands being one."""
        body = self.loop.body
        for i, j in same.items():
            self.inputs[i].replace_by(self.inputs[j])
        wanted = [body.outputs[i] for i in self.live] + self.kept
        for op in reversed(list(body.ops)):
            if not any(r in self.needed for r in op.results):
                op.erase()
        inputs = [self.inputs[i] for i in order]
        body.inputs, body.outputs = inputs, wanted
        for i, v in enumerate(inputs):
            v.index = i
        return body

    def _result(self, b: Builder, new: Loop | None, i: int) -> Value:
        """What result i is now."""
        loop, n = self.loop, self.loop.carries
        if i < n and i in self.fixed:
            return loop.operands[i]
        value = self.returned[i]
        if i >= n and value in self.sliced:
            return loop.operands[self.places[value]]
        assert new is not None
        if i >= n and value not in self.moved:
            return new.results[len(self.live) + self.kept.index(value)]
        at = self.live.index(i if i < n else self.moved[value])
        if i < n:
            whole = new.is_history(at) and not loop.is_history(i)
            return entries(b, new, at).last if whole else new.results[at]
        return entries(b, new, at).after


def _merged(operands: Sequence[Value], numbers: Sequence[int]) -> tuple[list[int], dict[int, int]]:
    """Numbers of distinct operands, and for each other one the number of its equal."""
    first: dict[Value, int] = {}
    same = {}
    for i in numbers:
        j = first.setdefault(operands[i], i)
        if j != i:
            same[i] = j
    return list(first.values()), same
