"""Merges ops that compute the same thing: same class, operands, attributes, types and regions.

Every op is pure (a random op depends on its operands only), so equal ops have equal results.
Ops marked `"recompute"` are clones made on purpose and are left alone.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphc.ir.families import GraphOp
from graphc.ir.graph import Graph, Op
from graphc.passes.base import GraphPass
from graphc.passes.rewrite import Rewriter

__all__ = ["Cse", "attributes_key", "op_key", "structure"]


def attributes_key(attrs: Mapping[str, Any]) -> Hashable:
    """A key that is equal for equal attributes only: 1, 1.0 and true differ, as do 0.0 and -0.0."""
    return tuple((k, _frozen(attrs[k])) for k in sorted(attrs))


def _frozen(value: Any) -> Any:
    kind = type(value)
    if kind is tuple:
        return (kind, tuple([_frozen(v) for v in value]))
    return (kind, struct.pack("<d", value) if kind is float else value)


def op_key(op: Op) -> Hashable:
    """Equal for ops of one graph that are known to have equal results."""
    operands = op.operands
    if isinstance(op, GraphOp) and "commutative" in op.traits:
        operands = tuple(sorted(operands, key=id))
    types = tuple([r.type for r in op.results])
    if op.regions:
        return type(op), operands, attributes_key(op.attrs), types, tuple(map(structure, op.regions))
    return type(op), operands, attributes_key(op.attrs) if op.attrs else (), types


def structure(graph: Graph) -> Hashable:
    """Equal for graphs that differ in names and source locations only."""
    numbers = {v: i for i, v in enumerate(graph.inputs)}
    rows = []
    for op in graph.ops:
        operands = tuple(numbers[v] for v in op.operands)
        regions = tuple(map(structure, op.regions))
        rows.append((type(op), operands, attributes_key(op.attrs), op.result_types, op.mark, regions))
        for r in op.results:
            numbers[r] = len(numbers)
    return (
        tuple((v.type, v.role) for v in graph.inputs),
        tuple(rows),
        tuple(numbers[v] for v in graph.outputs),
        tuple(sorted(graph.aliases.items())),
    )


@dataclass(frozen=True)
class Cse(GraphPass):
    """Common subexpression elimination: each op is replaced by the first equal one before it."""

    name: ClassVar[str] = "cse"

    def apply(self, graph: Graph) -> bool:
        rewriter, changed = Rewriter(graph), False
        seen: dict[Hashable, Op] = {}
        for op in graph.ops:
            if op.mark == "recompute":
                continue
            first = seen.setdefault(op_key(op), op)
            if first is not op:
                rewriter.replace_op(op, first.results)
                changed = True
        return changed
