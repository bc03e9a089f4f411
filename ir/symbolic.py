"""Symbolic sizes of a graph, and their spelling from fusion on: `$batch`, never taken for an axis of a kernel."""

from __future__ import annotations

from graphc.ir.dims import Symbol, symbols
from graphc.ir.graph import Graph
from graphc.ir.specialise import specialised

__all__ = ["graph_sizes", "marked"]


def graph_sizes(graph: Graph) -> tuple[Symbol, ...]:
    """The symbols in the types of a graph's inputs, by name; none of a static graph."""
    found: set[Symbol] = set()
    for value in graph.inputs:
        if not value.type.is_static:
            for d in value.type.shape:
                found |= symbols(d)
    return tuple(sorted(found, key=lambda s: s.name))


def marked(graph: Graph) -> Graph:
    """A copy whose symbolic sizes are spelt `$name`."""
    plain = [s for s in graph_sizes(graph) if s.name[0] != "$"]
    if not plain:
        return graph.copy()
    return specialised(graph, {s: Symbol(f"${s.name}", s.lo, s.hi).expr for s in plain})
