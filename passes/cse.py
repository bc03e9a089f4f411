"""Merges ops that compute the same thing: same class, operands, attributes, types and regions.

Every op is pure (a random op depends on its operands only), so equal ops have equal results.
Clones made on purpose are merged with clones of the same mark alone, unless they read other clones' results.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from graphc.ir.families import GraphOp
from graphc.ir.graph import Graph, Op
from graphc.ir.marks import RECOMPUTE, is_clone
from graphc.ir.records import dataclass
from graphc.ir.structure import attributes_key, structure
from graphc.passes.base import GraphPass
from graphc.passes.rewrite import Rewriter

__all__ = ["Cse", "op_key"]


def op_key(op: Op) -> Hashable:
    """Equal for ops of one graph that are known to have equal results."""
    operands = op.operands
    if isinstance(op, GraphOp) and "commutative" in op.traits:
        operands = tuple(sorted(operands, key=id))
    types = tuple([r.type for r in op.results])
    if op.regions:
        return type(op), operands, attributes_key(op.attrs), types, tuple(map(structure, op.regions))
    return type(op), operands, attributes_key(op.attrs) if op.attrs else (), types


@dataclass(frozen=True)
class Cse(GraphPass):
    """Common subexpression elimination: each op is replaced by the first equal one before it."""

    name: ClassVar[str] = "cse"

    def apply(self, graph: Graph) -> bool:
        rewriter, changed = Rewriter(graph), False
        seen: dict[Hashable, Op] = {}
        for op in graph.ops:
            # What reads clones' results stands where they are wanted, like them.
            apart = is_clone(op) and not any(v.op is not None and is_clone(v.op) for v in op.operands)
            if apart and op.mark == RECOMPUTE:
                continue
            first = seen.setdefault((op_key(op), op.mark) if apart else op_key(op), op)
            if first is not op:
                rewriter.replace_op(op, first.results)
                changed = True
        return changed
