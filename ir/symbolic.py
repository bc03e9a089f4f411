"""Symbolic sizes of a graph: which there are, and graphs with other sizes in their place.

From fusion on a size `batch` is spelt `$batch`, so that it is never taken for an axis of a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.ir.dims import Dim, Expr, Symbol, substitute, symbols
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType

__all__ = ["graph_sizes", "mark_sizes", "put_sizes"]

Sizes = Mapping[Symbol, Dim]


def graph_sizes(graph: Graph) -> tuple[Symbol, ...]:
    """The symbols in the types of a graph's inputs, by name; none of a static graph."""
    found: set[Symbol] = set()
    for value in graph.inputs:
        if not value.type.is_static:
            for d in value.type.shape:
                found |= symbols(d)
    return tuple(sorted(found, key=lambda s: s.name))


def mark_sizes(graph: Graph) -> None:
    """Spells the symbolic sizes of a graph `$name`, in place."""
    found = graph_sizes(graph)
    if found:
        put_sizes(graph, {s: Symbol(f"${s.name}", s.lo, s.hi).expr for s in found if s.name[0] != "$"})


def put_sizes(graph: Graph, values: Sizes) -> None:
    """Puts values in the place of symbols in all types and attributes of a graph and its regions."""
    for value in graph.inputs:
        value.type = _type(value.type, values)
    for op in graph.ops:
        op.attrs = {k: _put(v, values) for k, v in op.attrs.items()}
        for result in op.results:
            result.type = _type(result.type, values)
        for region in op.regions:
            put_sizes(region, values)


def _type(type_: TensorType, values: Sizes) -> TensorType:
    if type_.is_static:
        return type_
    return TensorType(type_.dtype, tuple(substitute(d, values) for d in type_.shape))


def _put(x: Any, values: Sizes) -> Any:
    """An attribute with symbols replaced."""
    if isinstance(x, Expr):
        return substitute(x, values)
    if isinstance(x, TensorType):
        return _type(x, values)
    if type(x) in (tuple, list):
        return type(x)([_put(e, values) for e in x])
    return x
