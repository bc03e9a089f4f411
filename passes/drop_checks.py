"""Drops checks of positions that an earlier op of the graph makes already.

The gradient of an embedding looks at the very positions that the forward pass looked at. A kernel
that may fail comes before all that writes state, so a check less lets optimiser steps start early.
"""

from __future__ import annotations

from typing import Any, ClassVar

from graphc.ir.dims import bounds
from graphc.ir.families import GraphOp
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.records import dataclass
from graphc.passes.base import GraphPass
from graphc.passes.rewrite import Rewriter

__all__ = ["DropChecks"]

_POSITIONS = "indices"


@dataclass(frozen=True)
class DropChecks(GraphPass):
    """Clears the attribute `check` where a live op before has one on the same positions and extent.

    Runs where nothing removes ops afterwards.
    """

    name: ClassVar[str] = "drop_checks"

    def apply(self, graph: Graph) -> bool:
        live = _live(graph)
        rewriter, changed = Rewriter(graph), False
        seen: set[tuple[Value, Any]] = set()
        for op in list(graph.ops):
            if op not in live or not isinstance(op, GraphOp) or op.attrs.get("check") is None:
                continue
            key = _checked(op)
            if key is None:
                continue
            if key in seen:
                clone = type(op)(op.operands, {**op.attrs, "check": None}, op.result_types, op.loc)
                clone.mark = op.mark
                graph.insert(clone, op)
                rewriter.replace_op(op, clone.results)
                changed = True
            elif all(bounds(v.type.count)[0] for v in (*op.operands, *op.results)):
                seen.add(key)  # an op that moves no element checks nothing
        return changed


def _checked(op: GraphOp) -> tuple[Value, Any] | None:
    """The positions that an op checks, and the extent that they are checked against."""
    if _POSITIONS not in op.operand_names or "axis" not in op.attrs:
        return None
    positions = op.operands[op.operand_names.index(_POSITIONS)]
    return positions, op.operands[0].type.shape[op.attrs["axis"]]


def _live(graph: Graph) -> set[Op]:
    """Ops that some output needs."""
    kept = graph.output_uses()
    live: set[Op] = set()
    for op in reversed(list(graph.ops)):
        if any(r in kept or any(use.op in live for use in r.uses) for r in op.results):
            live.add(op)
    return live
