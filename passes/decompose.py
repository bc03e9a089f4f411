"""Replaces composite ops by the smaller ops that they stand for."""

from __future__ import annotations

from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.families import Composite
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.records import dataclass
from graphc.passes.base import GraphPass
from graphc.passes.rewrite import Rewriter, results_of

__all__ = ["Decompose", "build_decomposition"]


def build_decomposition(op: Composite) -> tuple[tuple[Value, ...], Op]:
    """Builds the decomposition of `op` just before it.

    Returns its results and the first op built (`op` itself where none was).
    """
    assert op.graph is not None
    earlier = op.previous
    values = results_of(op.decompose(Builder(op.graph, before=op, loc=op.loc)))
    first = next(op.graph.ops) if earlier is None else earlier.next
    assert first is not None
    at: Op | None = first
    while at is not None and at is not op:
        at.mark = at.mark or op.mark
        at = at.next
    return values, first


@dataclass(frozen=True)
class Decompose(GraphPass):
    """Decomposes every composite op, and those in decompositions, except the names in `keep`.

    With `derivatives` those stay whose derivative is not that of their parts.
    """

    name: ClassVar[str] = "decompose"
    exact: ClassVar[bool] = False
    keep: tuple[str, ...] = ()
    derivatives: bool = False

    def apply(self, graph: Graph) -> bool:
        rewriter, changed = Rewriter(graph), False
        op = next(graph.ops, None)
        while op is not None:
            following = op.next
            if isinstance(op, Composite) and not self.keeps(op):
                values, first = build_decomposition(op)
                rewriter.replace_op(op, values)
                following = first if first is not op else following
                changed = True
            op = following
        return changed

    def keeps(self, op: Composite) -> bool:
        """True where an op stays as it is."""
        return op.name in self.keep or (self.derivatives and "own_derivative" in op.traits)
