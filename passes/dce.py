"""Removes ops whose results nobody uses."""

from __future__ import annotations

from typing import ClassVar

from graphc.ir.graph import Graph
from graphc.ir.records import dataclass
from graphc.passes.base import GraphPass

__all__ = ["Dce", "eliminate_dead_ops"]


def eliminate_dead_ops(graph: Graph) -> bool:
    """Erases every op of `graph` that no output needs; True where there was one."""
    kept = graph.output_uses()
    before = len(graph)
    for op in reversed(list(graph.ops)):
        if not any(r.uses or r in kept for r in op.results):
            op.erase()
    return len(graph) != before


@dataclass(frozen=True)
class Dce(GraphPass):
    """Dead code elimination: one sweep from the last op to the first."""

    name: ClassVar[str] = "dce"

    def apply(self, graph: Graph) -> bool:
        return eliminate_dead_ops(graph)
