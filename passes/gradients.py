"""Expands `gradient` ops: the differentiate stage of a recorded program.

Ops recorded while grad mode was off carry the mark "no_grad": no gradient flows through them.
What an expansion appends gets that mark too unless the gradient was asked for with `create_graph`.
The marks go when every gradient is expanded.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from graphc.ir.batching import Batcher, batch_ops
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.marks import GRADIENT, NO_GRAD, add_mark, drop_marks, has_mark
from graphc.ir.ops.tape import Gradient
from graphc.ir.records import dataclass
from graphc.passes.base import Pass, nested_graphs
from graphc.passes.checkpoints import has_checkpoints, recompute_in_checkpoints
from graphc.passes.context import CompileContext
from graphc.passes.differentiate import differentiate

__all__ = ["NO_GRAD", "ExpandGradients", "blocked_values", "expand_gradients"]


def blocked_values(graph: Graph) -> set[Value]:
    """Results of ops that no gradient flows through."""
    return {r for op in graph.ops if has_mark(op, NO_GRAD) for r in op.results}


def expand_gradients(graph: Graph, keep: bool = False) -> dict[Value, Value]:
    """Replaces every `gradient` op, first to last, those of regions before; keeps the marks. With `keep`, and where
    there are checkpoints, what it builds is marked too.

    Returns what became of each result of the graph's own.
    """
    for op in graph.ops:
        for region in op.regions:
            expand_gradients(region, keep)
    moved: dict[Value, Value] = {}
    for op in [op for op in graph.ops if isinstance(op, Gradient)]:
        _expand(graph, op, moved, keep)
    return moved


def _expand(graph: Graph, op: Gradient, moved: dict[Value, Value], keep: bool) -> None:
    n = op.attrs["roots"]
    roots, seeds, wrt = op.operands[:n], op.operands[n : 2 * n], op.operands[2 * n :]
    last = op.previous
    blocked = blocked_values(graph)
    instances = op.attrs["instances"]
    if instances is None:
        gradients = differentiate(
            graph, roots, seeds, wrt, op, stop=False, blocked=blocked, check_nan=op.attrs["check_nan"]
        )
    else:
        gradients = _for_instances(graph, op, instances, blocked)
    b = Builder(graph, before=op, loc=op.loc)
    for old, new in zip(op.results, gradients, strict=True):
        moved[old] = b.zeros_like(old) if new is None else new
        old.replace_by(moved[old])
    wanted = keep or has_checkpoints(graph)
    at: Op | None = op.previous
    while at is not None and at is not last:
        if not op.attrs["create_graph"]:
            add_mark(at, NO_GRAD)
        if wanted:
            add_mark(at, GRADIENT)
        at = at.previous
    op.erase()


def _for_instances(
    graph: Graph, op: Gradient, instances: int, blocked: Collection[Value]
) -> list[Value | None]:
    """The gradients for cotangents of many instances: those for one, batched."""
    n = op.attrs["roots"]
    roots, seeds, wrt = op.operands[:n], op.operands[n : 2 * n], op.operands[2 * n :]
    one = [Builder(graph, before=op, loc=op.loc).full(r.type.shape, 1, r.type.dtype) for r in roots]
    last = op.previous
    gradients = differentiate(
        graph, roots, one, wrt, op, stop=False, blocked=blocked, check_nan=op.attrs["check_nan"]
    )
    made: list[Op] = []
    at = op.previous
    while at is not None and at is not last:
        made.append(at)
        at = at.previous
    b = Batcher(graph, instances, before=op, loc=op.loc)
    values = {v: (s, True) for v, s in zip(one, seeds, strict=True)}
    batch_ops(made[::-1], b, values)
    found = [None if g is None else b.whole(*values.get(g, (g, False))) for g in gradients]
    for old in made:
        if not any(r.uses for r in old.results):
            old.erase()
    return found


@dataclass(frozen=True)
class ExpandGradients(Pass):
    """Replaces `gradient` ops by the VJPs they stand for, which read clones of what checkpoints do not keep; removes the
    marks that guided it."""

    name: ClassVar[str] = "expand_gradients"
    keep: bool = False
    """Leaves what gradients are made of marked as such."""

    def run(self, graph: Graph, context: CompileContext) -> bool:
        changed = any(isinstance(op, Gradient) for g in nested_graphs(graph) for op in g.ops)
        expand_gradients(graph, self.keep)
        for g in nested_graphs(graph):
            recompute_in_checkpoints(g)
            for op in g.ops:
                drop_marks(op, *((GRADIENT,) if self.keep else ()))
        return changed
