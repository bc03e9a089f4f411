"""Gradients that leave a compiled call: results that require grad and whose `backward` comes later.

The traced graph is split at residuals as a recording is that is evaluated before its `backward`.
Residuals are further outputs of the program; a `Tape` over them hangs on the results of each call.
Where `backward` ran inside of the function, its results need none of this.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphc.compiler.tracing import State, Traced
from graphc.core.build import ReplayPlan
from graphc.core.node import Node
from graphc.core.storage import Memory
from graphc.core.tape import Tape
from graphc.ir.builder import Builder
from graphc.ir.dims import Symbol
from graphc.ir.graph import Graph
from graphc.ir.lazy import lazy_module
from graphc.ir.records import dataclass
from graphc.ir.specialise import specialised
from graphc.runtime.state import bump_pending

if TYPE_CHECKING:
    from graphc.passes import gradients, split
    from graphc.passes.split import Source
else:
    gradients = lazy_module("graphc.passes.gradients")
    split = lazy_module("graphc.passes.split")

__all__ = ["WayBack", "with_way_back"]


@dataclass(frozen=True, eq=False)
class WayBack:
    """How gradients go from the results of a call to its inputs.

    `roots` are the positions of results among the outputs, `wrt` those of inputs. Residual outputs
    come after the ones that alias inputs, of which there are `aliases` from `first_alias` on.
    """

    plan: ReplayPlan
    sources: tuple[Source, ...]
    roots: tuple[int, ...]
    wrt: tuple[int, ...]
    first_alias: int
    aliases: int
    again: tuple[Source, ...] | None

    def at(self, sizes: Mapping[Symbol, int]) -> WayBack:
        """The way back at the sizes of a call: outside of it every shape is known."""
        if not sizes:
            return self
        plan = self.plan
        return replace(
            self,
            plan=ReplayPlan(
                lambda: specialised(plan.graph, sizes),
                None if plan.again_graph is None else lambda: specialised(plan.again.graph, sizes),
            ),
        )

    def attach(
        self, fresh: Sequence[Node], tensors: Sequence[Any], memories: Sequence[Memory], traced: Traced
    ) -> None:
        """Hangs a tape on the results among `fresh`, the values of the outputs that alias no input.

        `memories` are those that the call has read.
        """
        inputs = [*tensors, *traced.states]

        def kept(source: Source) -> Node:
            kind, i = source
            if kind == "input":
                return ends[i] if i in ends else _read_now(inputs[i], memories[i])
            return fresh[i if i < self.first_alias else i - self.aliases]

        ends = {i: _end(inputs[i], memories[i]) for i in self.wrt}
        roots = [fresh[i] for i in self.roots]
        tape = Tape(
            self.plan,
            [kept(s) for s in self.sources],
            roots,
            list(ends.values()),
            again=None if self.again is None else [kept(s) for s in self.again],
        )
        for position, node in enumerate(roots):
            node.tape, node.requires_grad = (tape, position), True
        if any(kind == "input" for kind, _ in self.sources):
            # What the tape reads again may be written by native calls, whose writes are counted once an epoch.
            bump_pending()


def with_way_back(traced: Traced) -> tuple[Graph, WayBack | None]:
    """The graph to compile for a trace, and the way back where gradients leave the call."""
    graph = traced.graph
    if not traced.roots:
        return graph, None
    gradients.expand_gradients(graph)
    roots = [graph.outputs[i] for i in traced.roots]
    wrt = [graph.inputs[i] for i in traced.wrt]
    blocked = gradients.blocked_values(graph)
    parts = split.split_joint(graph, roots, wrt, blocked=blocked)
    b = Builder(parts.backward)
    parts.backward.outputs = [
        b.zeros_like(graph.inputs[i].type) if at is None else parts.backward.outputs[at]
        for i, at in zip(traced.wrt, parts.gradients, strict=True)
    ]
    first_alias = min(graph.aliases, default=len(graph.outputs))
    way = WayBack(
        ReplayPlan(parts.backward, lambda: split.backward_again(graph, roots, wrt, blocked=blocked)),
        parts.sources,
        tuple(traced.roots),
        tuple(traced.wrt),
        first_alias,
        len(graph.aliases),
        parts.again,
    )
    return parts.forward, way


def _read_now(source: Any, memory: Memory) -> Node:
    """The value of an argument or state that the call has just read."""
    if not isinstance(source, State):
        node: Node = source._storage.node
    elif source.storage is None or source.grad_of is not None:
        return Node(memory.type, memory=memory)
    else:
        node = source.storage.node
    if node.memory is not None:
        node.version = node.memory.version
    return node


def _end(source: Any, memory: Memory) -> Node:
    """Where a gradient with respect to an argument or state goes: a leaf, or a value on an older tape."""
    node = _read_now(source, memory)
    tensor = source.leaf if isinstance(source, State) else source
    if tensor is None or not tensor._leaf:
        return node
    leaf = Node(node.type, memory=node.memory)
    leaf.leaf, leaf.requires_grad = weakref.ref(tensor), True
    return leaf
