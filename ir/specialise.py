"""Symbolic graphs at given sizes: every symbol replaced by its size.

Invariant: the result computes, op for op, what the symbolic graph computes at these sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.ir.dims import Dim, Expr, Symbol, substitute
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.types import TensorType

__all__ = ["concrete", "specialised"]

Sizes = Mapping[Symbol, Dim]


def concrete(x: Any, sizes: Sizes) -> Any:
    """A dim, type or attribute (or tuple of these) with symbols replaced by their sizes."""
    match x:
        case Expr():
            return substitute(x, sizes)
        case TensorType():
            return x if x.is_static else x.with_shape(concrete(x.shape, sizes))
        case tuple():
            return tuple([concrete(e, sizes) for e in x])
    return x


def specialised(graph: Graph, sizes: Sizes) -> Graph:
    """A copy of `graph` with the sizes in place of its symbols."""
    result, mapping = Graph(graph.name), dict[Value, Value]()
    for v in graph.inputs:
        assert v.role is not None
        mapping[v] = result.add_input(concrete(v.type, sizes), v.role, v.name)
    for op in graph.ops:
        made: Op = type(op)(
            [mapping[v] for v in op.operands],
            {k: concrete(a, sizes) for k, a in op.attrs.items()},
            [concrete(t, sizes) for t in op.result_types],
            op.loc,
            [specialised(region, sizes) for region in op.regions],
        )
        made.mark = op.mark
        result.insert(made)
        for old, new in zip(op.results, made.results, strict=True):
            new.name = old.name
            mapping[old] = new
    result.outputs = [mapping[v] for v in graph.outputs]
    result.aliases = dict(graph.aliases)
    return result
