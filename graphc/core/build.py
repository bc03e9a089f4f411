"""Recorded entries to a graph. Runs only when a recording's structure is seen for the first time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import field
from functools import cached_property
from typing import Any

from graphc.core.node import Entry, Node
from graphc.core.scopes import ScopeWords
from graphc.ir.batching import batch_graph
from graphc.ir.graph import Graph, Role, Value, clone_ops
from graphc.ir.marks import NO_GRAD, add_mark
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType

__all__ = ["REPLAY", "SECTION_PLANS", "GraphBuild", "Marker", "ReplayPlan"]


@dataclass(frozen=True)
class Marker:
    """A recorded operation that is no op class."""

    name: str


REPLAY = Marker("replay")
"""Stands for the ops of a graph: a tape's way back, or a section. Operands: the graph's inputs. attrs: `plan`."""

_numbers = itertools.count()


@dataclass(frozen=True, eq=False)
class ReplayPlan:
    """A graph that entries stand for: a tape's way back (one for each cached program), or a section."""

    source: Graph | Callable[[], Graph]
    """The graph, or what makes it when it is first asked for."""
    again_graph: Callable[[], Graph] | None = None
    """Makes the graph that computes again what this one reads as residuals; it can be differentiated."""
    _batched: dict[int, ReplayPlan] = field(default_factory=dict)
    number: int = field(default_factory=lambda: next(_numbers))
    """What keys of programs name the plan by; never used twice."""

    @cached_property
    def graph(self) -> Graph:
        """The graph."""
        return self.source if isinstance(self.source, Graph) else self.source()

    @cached_property
    def types(self) -> tuple[TensorType, ...]:
        """Types of the graph's outputs."""
        return tuple([v.type for v in self.graph.outputs])

    @cached_property
    def again(self) -> ReplayPlan:
        """The plan of `again_graph`, which is made on first use."""
        assert self.again_graph is not None
        return ReplayPlan(self.again_graph())

    def for_instances(self, instances: int, cotangents: int) -> ReplayPlan:
        """The plan for many instances at once of the last `cotangents` inputs, along a leading axis."""
        known = self._batched.get(instances)
        if known is None:
            fixed = len(self.graph.inputs) - cotangents
            graph, _ = batch_graph(self.graph, [i >= fixed for i in range(len(self.graph.inputs))], instances)
            known = self._batched[instances] = ReplayPlan(graph)
        return known


SECTION_PLANS: dict[Any, ReplayPlan] = {}
"""Graphs of sections by structure: equal sections of different owners are one."""


class GraphBuild:
    """A graph under construction from entries, and the value of every node in it."""

    def __init__(self, name: str) -> None:
        self.graph = Graph(name)
        self.values: dict[Node, Value] = {}
        self._words = ScopeWords()

    def add_input(self, nodes: Sequence[Node], role: Role, name: str) -> Value:
        """One graph input standing for nodes that share memory."""
        value = self.graph.add_input(nodes[0].type, role, name)
        for node in nodes:
            self.values[node] = value
        return value

    def add_entry(self, entry: Entry) -> None:
        """Appends one entry's op, or the ops of a replayed tape."""
        if entry.kind is REPLAY:
            self._replay(entry)
            return
        op = entry.kind(
            [self.values[n] for n in entry.operands],
            entry.attrs,
            [r.type for r in entry.results],
            entry.loc,
            [region.copy() for region in entry.regions],
        )
        self.graph.insert(op)
        if not entry.taped and entry.kind.differentiable and any(n.requires_grad for n in entry.operands):
            add_mark(op, NO_GRAD)
        word = self._words.word(entry.scope) if entry.scope is not None else None
        if word is not None:
            add_mark(op, word)
        for node, value in zip(entry.results, op.results, strict=True):
            self.values[node] = value

    def _replay(self, entry: Entry) -> None:
        plan: ReplayPlan = entry.attrs["plan"]
        mapping = {v: self.values[n] for v, n in zip(plan.graph.inputs, entry.operands, strict=True)}
        last = self.graph._last
        clone_ops(plan.graph.ops, self.graph, mapping)
        word = self._words.word(entry.scope) if entry.scope is not None else None
        op = self.graph._last
        while op is not None and op is not last:
            if not entry.attrs["create_graph"]:
                add_mark(op, NO_GRAD)
            if word is not None:
                add_mark(op, word)
            op = op.previous
        for node, value in zip(entry.results, plan.graph.outputs, strict=True):
            self.values[node] = mapping[value]
