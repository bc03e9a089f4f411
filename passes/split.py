"""Splits a program that is evaluated before its `backward()` into a forward and a backward graph.

The joint graph (forward and cotangents) is cut at residuals: values that do not depend on the
cotangents and that the backward part reads. What is cheap to compute from values that are there
anyway is computed again instead, and a view or conversion of something smaller is kept as that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from graphc.ir.builder import Builder
from graphc.ir.dims import Dim, less_equal, product
from graphc.ir.families import GraphOp
from graphc.ir.graph import Graph, Op, Value, clone_ops
from graphc.ir.marks import GRADIENT, NO_GRAD, add_mark, drop_marks, is_clone
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.passes.checkpoints import has_checkpoints, recompute_in_checkpoints
from graphc.passes.cse import Cse
from graphc.passes.dce import eliminate_dead_ops
from graphc.passes.decompose import Decompose
from graphc.passes.differentiate import differentiate

__all__ = ["Source", "SplitJoint", "backward_again", "split_joint"]

Source = tuple[Literal["input", "residual"], int]
"""Where an input of the backward graph comes from: ("input", i) is the forward graph's input i,
("residual", j) its output j (the first are its own outputs, which also serve as residuals)."""


@dataclass(frozen=True)
class SplitJoint:
    """A forward graph, a backward graph, and how the second is fed from the first.

    `forward` has the inputs of the graph that was split, and its outputs followed by residuals.
    `backward` has one input for each of `sources`, then one cotangent for each root. Position i of
    `gradients` says which output of `backward` is the gradient of leaf i; None is zero throughout.
    `again` says where the inputs that the roots depend on come from when the whole is computed again
    (see `backward_again`); None where one of them is overwritten.
    """

    forward: Graph
    backward: Graph
    sources: tuple[Source, ...]
    gradients: tuple[int | None, ...]
    again: tuple[Source, ...] | None


def whole_joint(
    graph: Graph, roots: Sequence[Value], wrt: Sequence[Value], *, blocked: Collection[Value] = ()
) -> tuple[Graph, list[Value | None]]:
    """A copy of `graph` with one cotangent for each root as further inputs, and in it the gradients of `wrt`.

    Its outputs are those of `graph`.
    """
    joint = Graph(graph.name)
    mapping = {v: joint.add_input(v.type, v.role or "argument", v.name) for v in graph.inputs}
    clone_ops(graph.ops, joint, mapping)
    joint.outputs = [mapping[v] for v in graph.outputs]
    joint.aliases = dict(graph.aliases)
    for i, root in enumerate(roots):
        joint.add_input(root.type, "argument", f"cotangent{i}")
    last = joint._last
    gradients = differentiate(
        joint,
        [mapping[r] for r in roots],
        joint.inputs[len(graph.inputs) :],
        [mapping[v] for v in wrt],
        stop=False,
        blocked=[mapping[v] for v in blocked],
    )
    if has_checkpoints(joint):
        op = joint._last
        while op is not None and op is not last:
            add_mark(op, GRADIENT)
            op = op.previous
    return joint, gradients


def backward_again(
    graph: Graph,
    roots: Sequence[Value],
    wrt: Sequence[Value],
    *,
    blocked: Collection[Value] = (),
    cuts: Sequence[int] = (),
) -> Graph:
    """The backward graph that computes again what it needs of the forward graph.

    Inputs are those of `graph` that the roots depend on, in order, then the outputs of `graph` at `cuts`,
    behind which nothing is looked at, then cotangents; outputs are the gradients of `wrt`. Its results can be
    differentiated, which those of a graph over residuals cannot.
    """
    joint, gradients = whole_joint(graph, roots, wrt, blocked=blocked)
    read = inputs_of(roots, [graph.outputs[i] for i in cuts])
    b = Builder(joint)
    outputs = [b.zeros_like(v) if g is None else g for v, g in zip(wrt, gradients, strict=True)]
    cotangents = joint.inputs[len(graph.inputs) :]
    given = []
    for i in cuts:
        given.append(joint.add_input(joint.outputs[i].type))
        joint.outputs[i].replace_by(given[-1])
    joint.outputs, joint.aliases = outputs, {}
    eliminate_dead_ops(joint)
    result = Graph(f"{graph.name}.again")
    kept = [joint.inputs[v.index] for v in graph.inputs if v in read] + given + cotangents
    mapping = {v: result.add_input(v.type, v.role or "argument", v.name) for v in kept}
    clone_ops(joint.ops, result, mapping)
    result.outputs = [mapping[v] for v in outputs]
    for op in result.ops:
        drop_marks(op, NO_GRAD)
    return result


def inputs_of(roots: Sequence[Value], cuts: Collection[Value]) -> set[Value]:
    """The graph inputs that `roots` depend on, not looking behind `cuts`."""
    seen = set(roots)
    stack = [v for v in seen if v not in cuts]
    while stack:
        op = stack.pop().op
        fresh = [] if op is None else [v for v in op.operands if v not in seen]
        seen.update(fresh)
        stack.extend(v for v in fresh if v not in cuts)
    return {v for v in seen if v.op is None}


def split_joint(
    graph: Graph,
    roots: Sequence[Value],
    wrt: Sequence[Value],
    *,
    blocked: Collection[Value] = (),
    cuts: Sequence[int] = (),
) -> SplitJoint:
    """Differentiates `roots` with respect to leaves `wrt`, values of `graph`, and splits the result.

    No gradient flows through `blocked` values. `graph` itself is not changed; composite ops are
    decomposed in the result, unless a derivative is their own. An input that the forward graph overwrites (an output aliases it) or
    that is random-number state is kept as a residual; other inputs cost nothing. `cuts` are as for
    `backward_again`.
    """
    joint, gradients = whole_joint(graph, roots, wrt, blocked=blocked)
    recompute_in_checkpoints(joint)
    read = inputs_of(roots, [graph.outputs[i] for i in cuts])
    needed = {joint.inputs[v.index]: v in wrt for v in graph.inputs if v in read}
    joint.outputs += [g for g in gradients if g is not None]
    # What a VJP computes again of its op's decomposition is found and shared.
    Decompose(derivatives=True).apply(joint)
    Cse().apply(joint)
    eliminate_dead_ops(joint)
    found = iter(range(len(gradients)))
    positions = tuple(None if g is None else next(found) for g in gradients)
    return _Split(joint, len(graph.inputs), len(graph.outputs), needed, cuts).run(positions)


class _Split:
    """Cuts `joint`, whose first inputs and outputs are the forward graph's, the others cotangents
    and gradients."""

    def __init__(
        self, joint: Graph, inputs: int, outputs: int, needed: dict[Value, bool], cuts: Sequence[int]
    ) -> None:
        self.joint = joint
        self.cuts = cuts
        self.needed = needed
        """Inputs that the roots depend on, and whether they are leaves."""
        self.inputs = joint.inputs[:inputs]
        self.cotangents = joint.inputs[inputs:]
        self.outputs = joint.outputs[:outputs]
        self.gradients = joint.outputs[outputs:]
        self.backward_ops: list[Op] = []
        self.other_ops: list[Op] = []
        dependent = set(self.cotangents)
        for op in joint.ops:
            if any(v in dependent for v in op.operands):
                dependent.update(op.results)
                self.backward_ops.append(op)
            else:
                self.other_ops.append(op)
        self.dependent = dependent
        self.forward_ops = self.producers(self.outputs)
        overwritten = {joint.inputs[i] for i in joint.aliases.values()}
        self.free = {v for v in self.inputs if v.role != "rng" and v not in overwritten}

    def producers(self, values: Sequence[Value]) -> set[Op]:
        """The ops that `values` are computed by."""
        wanted = set(values)
        found = set()
        for op in reversed(self.other_ops):
            if any(r in wanted for r in op.results):
                found.add(op)
                wanted.update(op.operands)
        return found

    def run(self, positions: tuple[int | None, ...]) -> SplitJoint:
        residuals, recomputed = self.choose()
        forward, outputs = self.build_forward(residuals)
        backward, sources = self.build_backward(outputs, recomputed)
        # A leaf must be there itself, other inputs may be copies.
        there = all(
            v in outputs and (not leaf or outputs[v][0] == "input") for v, leaf in self.needed.items()
        )
        at_cuts: list[Source] = [("residual", i) for i in self.cuts]
        again = (*(outputs[v] for v in self.needed), *at_cuts) if there else None
        return SplitJoint(forward, backward, sources, positions, again)

    def is_recomputable(self, op: Op) -> bool:
        """True of an op that costs less to compute again than to keep and load, or that only the
        backward graph needs."""
        return op not in self.forward_ops or (isinstance(op, GraphOp) and bool(op.traits & {"cheap", "view"}))

    def choose(self) -> tuple[list[Value], list[Op]]:
        """Values to keep, and ops of the forward part to compute in the backward graph, in order."""
        read = [v for op in self.backward_ops for v in op.operands] + self.gradients
        needed = {v for v in read if v not in self.dependent}
        # Two numbers, with which random values can be drawn again.
        needed.update(v for v in self.needed if v.role == "rng")
        for op in reversed(self.other_ops):
            if any(r in needed for r in op.results) and (
                is_clone(op) or (self.is_recomputable(op) and grows(op))
            ):
                needed.update(op.operands)
        kept = {v for v in needed if v not in self.free and (v.op is None or not self.is_recomputable(v.op))}
        there = self.free | kept
        for op in self.other_ops:
            if self.is_recomputable(op) and all(v in there for v in op.operands):
                there.update(op.results)
            else:
                late = [r for r in op.results if r in needed]
                kept.update(late)
                there.update(late)
        recomputed = []
        wanted = set(needed)
        for op in reversed(self.other_ops):
            if any(r in wanted and r not in kept for r in op.results):
                recomputed.append(op)
                wanted.update(op.operands)
        order = [*self.inputs, *(r for op in self.other_ops for r in op.results)]
        return [v for v in order if v in kept and v in wanted], recomputed[::-1]

    def build_forward(self, residuals: list[Value]) -> tuple[Graph, dict[Value, Source]]:
        """The forward graph, and which values the backward graph can have from it."""
        forward = Graph(self.joint.name)
        mapping = {v: forward.add_input(v.type, v.role or "argument", v.name) for v in self.inputs}
        clone_ops(self.other_ops, forward, mapping)
        forward.outputs = [mapping[v] for v in self.outputs]
        forward.aliases = dict(self.joint.aliases)
        sources: dict[Value, Source] = {v: ("input", v.index) for v in self.inputs if v in self.free}
        returned = {v: i for i, v in enumerate(self.outputs) if i not in forward.aliases}
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
    ) -> tuple[Graph, tuple[Source, ...]]:
        """The backward graph, and the sources of its first inputs."""
        backward = Graph(f"{self.joint.name}.backward")
        wanted = {*recomputed, *self.backward_ops}
        ops = [op for op in self.joint.ops if op in wanted]  # what is made again comes where it is wanted
        read = {v for op in ops for v in op.operands} | set(self.gradients)
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
        backward.outputs = [mapping[g] for g in self.gradients]
        for op in backward.ops:
            drop_marks(op)
        eliminate_dead_ops(backward)
        return backward, tuple(sources)


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
