"""Splits a program that is evaluated before its `backward()` into a forward and a backward graph.

The joint graph (forward and cotangents) is cut at residuals: values of the forward part that the
backward part reads. Kept are the fewest that need no expensive recomputation: what is cheap to
compute from values that are there anyway is computed again, and a view or conversion of something
smaller is kept as that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from graphc.ir.dims import Dim, less_equal, product
from graphc.ir.families import GraphOp
from graphc.ir.graph import Graph, Op, Value, clone_ops
from graphc.ir.types import TensorType
from graphc.passes.dce import eliminate_dead_ops
from graphc.passes.differentiate import differentiate

__all__ = ["Source", "SplitJoint", "split_joint"]

Source = tuple[Literal["input", "residual"], int]
"""Where an input of the backward graph comes from: ("input", i) is the forward graph's input i,
("residual", j) its output j (the first are its own outputs, which also serve as residuals)."""


@dataclass(frozen=True)
class SplitJoint:
    """A forward graph, a backward graph, and how the second is fed from the first.

    `forward` has the inputs of the graph that was split, and its outputs followed by residuals.
    `backward` has one input for each of `sources`, then one cotangent for each root. Position i of
    `gradients` says which output of `backward` is the gradient of leaf i; None is zero throughout.
    """

    forward: Graph
    backward: Graph
    sources: tuple[Source, ...]
    gradients: tuple[int | None, ...]


def split_joint(
    graph: Graph, roots: Sequence[Value], wrt: Sequence[Value], *, blocked: Collection[Value] = ()
) -> SplitJoint:
    """Differentiates `roots` with respect to leaves `wrt`, values of `graph`, and splits the result.

    No gradient flows through `blocked` values. `graph` itself is not changed. An input that the forward graph overwrites (an output aliases
    it) or that is random-number state is kept as a residual; other inputs cost nothing.
    """
    joint = Graph(graph.name)
    mapping = {v: joint.add_input(v.type, v.role or "argument", v.name) for v in graph.inputs}
    clone_ops(graph.ops, joint, mapping)
    joint.outputs = [mapping[v] for v in graph.outputs]
    joint.aliases = dict(graph.aliases)
    last = None
    for last in joint.ops:  # noqa: B007
        pass
    cotangents = [joint.add_input(r.type, "argument", f"cotangent{i}") for i, r in enumerate(roots)]
    gradients = differentiate(
        joint,
        [mapping[r] for r in roots],
        cotangents,
        [mapping[v] for v in wrt],
        stop=False,
        blocked=[mapping[v] for v in blocked],
    )
    return _Split(joint, last, len(graph.inputs), cotangents, gradients).run()


class _Split:
    def __init__(
        self,
        joint: Graph,
        last: Op | None,
        inputs: int,
        cotangents: list[Value],
        gradients: list[Value | None],
    ) -> None:
        self.joint = joint
        self.inputs = joint.inputs[:inputs]
        self.cotangents = cotangents
        self.gradients = gradients
        self.forward_ops: list[Op] = []
        self.backward_ops: list[Op] = []
        backward = last is None
        for op in joint.ops:
            (self.backward_ops if backward else self.forward_ops).append(op)
            backward = backward or op is last
        self.made_forward = {r for op in self.forward_ops for r in op.results} | set(self.inputs)
        overwritten = {joint.inputs[i] for i in joint.aliases.values()}
        self.free = {v for v in self.inputs if v.role != "rng" and v not in overwritten}

    def run(self) -> SplitJoint:
        residuals, recomputed = self.choose()
        forward, outputs = self.build_forward(residuals)
        backward, sources, gradients = self.build_backward(outputs, recomputed)
        return SplitJoint(forward, backward, sources, gradients)

    def choose(self) -> tuple[list[Value], list[Op]]:
        """Forward values to keep, and forward ops to compute again in the backward graph, in order."""
        needed = {v for op in self.backward_ops for v in op.operands if v in self.made_forward}
        needed |= {v for v in self.gradients if v is not None and v in self.made_forward}
        for op in reversed(self.forward_ops):
            if any(r in needed for r in op.results) and is_recomputable(op) and grows(op):
                needed.update(op.operands)
        kept = {v for v in needed if v not in self.free and (v.op is None or not is_recomputable(v.op))}
        there = self.free | kept
        for op in self.forward_ops:
            if is_recomputable(op) and all(v in there for v in op.operands):
                there.update(op.results)
            else:
                late = [r for r in op.results if r in needed and r not in kept]
                kept.update(late)
                there.update(late)
        recomputed = []
        wanted = set(needed)
        for op in reversed(self.forward_ops):
            if any(r in wanted and r not in kept for r in op.results):
                recomputed.append(op)
                wanted.update(op.operands)
        order = [*self.inputs, *(r for op in self.forward_ops for r in op.results)]
        return [v for v in order if v in kept and v in wanted], recomputed[::-1]

    def build_forward(self, residuals: list[Value]) -> tuple[Graph, dict[Value, Source]]:
        """The forward graph, and which values the backward graph can have from it."""
        forward = Graph(self.joint.name)
        mapping = {v: forward.add_input(v.type, v.role or "argument", v.name) for v in self.inputs}
        clone_ops(self.forward_ops, forward, mapping)
        forward.outputs = [mapping[v] for v in self.joint.outputs]
        forward.aliases = dict(self.joint.aliases)
        sources: dict[Value, Source] = {v: ("input", v.index) for v in self.inputs if v in self.free}
        returned = {v: i for i, v in enumerate(self.joint.outputs) if i not in forward.aliases}
        for v in residuals:
            at = returned.get(v)
            if at is None:
                at = len(forward.outputs)
                forward.outputs.append(mapping[v])
            sources[v] = ("residual", at)
        eliminate_dead_ops(forward)
        return forward, sources

    def build_backward(
        self, available: dict[Value, Source], recomputed: list[Op]
    ) -> tuple[Graph, tuple[Source, ...], tuple[int | None, ...]]:
        """The backward graph, the sources of its first inputs, and where each gradient is."""
        backward = Graph(f"{self.joint.name}.backward")
        ops = [*recomputed, *self.backward_ops]
        read = {v for op in ops for v in op.operands} | {v for v in self.gradients if v is not None}
        mapping: dict[Value, Value] = {}
        sources: list[Source] = []
        for v, source in available.items():
            if v in read:
                role = v.role if source[0] == "input" and v.role is not None else "argument"
                mapping[v] = backward.add_input(v.type, role, v.name)
                sources.append(source)
        for v in self.cotangents:
            mapping[v] = backward.add_input(v.type, "argument", v.name)
        clone_ops(ops, backward, mapping)
        gradients: list[int | None] = []
        for g in self.gradients:
            gradients.append(None if g is None else len(backward.outputs))
            if g is not None:
                backward.outputs.append(mapping[g])
        eliminate_dead_ops(backward)
        return backward, tuple(sources), tuple(gradients)


def is_recomputable(op: Op) -> bool:
    """True of an op that costs less to compute again than to keep and load."""
    return isinstance(op, GraphOp) and bool(op.traits & {"cheap", "view"})


def grows(op: Op) -> bool:
    """True where the operands of `op` take less memory than its results; for a view, no more."""
    operands = sum_bytes(op.operand_types)
    results = sum_bytes(op.result_types)
    view = isinstance(op, GraphOp) and "view" in op.traits
    answer = less_equal(operands, results) if view else less_equal(operands + 1, results)
    return answer is True


def sum_bytes(types: Sequence[TensorType]) -> Dim:
    """Bytes of tensors of these types."""
    total: Dim = 0
    for t in types:
        total = total + product(t.shape) * t.dtype.itemsize
    return total
