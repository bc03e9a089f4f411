"""Keys that are equal for attributes and graphs that mean the same."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Mapping
from typing import Any

from graphc.ir.graph import Graph

__all__ = ["attributes_key", "structure"]


def attributes_key(attrs: Mapping[str, Any]) -> Hashable:
    """A key that is equal for equal attributes only: 1, 1.0 and true differ, as do 0.0 and -0.0."""
    return tuple((k, _frozen(attrs[k])) for k in sorted(attrs))


def _frozen(value: Any) -> Any:
    kind = type(value)
    if kind is tuple:
        return (kind, tuple([_frozen(v) for v in value]))
    return (kind, struct.pack("<d", value) if kind is float else value)


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
