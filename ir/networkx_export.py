"""A graph as a `networkx.DiGraph`, for analysis and pictures."""

from __future__ import annotations

import importlib
from typing import Any

from graphc.ir.graph import Graph
from graphc.ir.printer import value_names

__all__ = ["to_networkx"]


def to_networkx(graph: Graph) -> Any:
    """Nodes: `in:<name>`, `op:<number>`, `out:<position>`, with `label`, `kind` (`input`, `op`,
    `output`) and for ops `op`, `attrs`, `loc`. Edges carry `type` (text) and `operand`."""
    # networkx takes a tenth of a second to import and only pictures need it.
    nx = importlib.import_module("networkx")
    result = nx.DiGraph(name=graph.name)
    names, source = value_names(graph), {}
    for v in graph.inputs:
        source[v] = f"in:{names[v]}"
        result.add_node(source[v], kind="input", label=names[v], role=v.role, type=str(v.type))
    for number, op in enumerate(graph.ops):
        node = f"op:{number}"
        result.add_node(node, kind="op", label=op.name, op=op.name, attrs=dict(op.attrs), loc=op.loc)
        for i, v in enumerate(op.operands):
            result.add_edge(source[v], node, type=str(v.type), operand=i)
        for r in op.results:
            source[r] = node
    for i, v in enumerate(graph.outputs):
        node = f"out:{i}"
        result.add_node(node, kind="output", label=f"output {i}", alias=graph.aliases.get(i))
        result.add_edge(source[v], node, type=str(v.type), operand=0)
    return result
