"""Graph text. Uniform for all ops; `graphc.ir.parser` reads it back.

    graph @mlp(%x: f32[64, 784] argument, %w: f32[10, 784] parameter) -> (f32[64, 10]) {
      %0: f32[64, 10] = dot %x, %w {contract=[[1], [1]]}   loc("net.py":12)
      return %0
    }

An output that is the new value of a state input is returned as `%5 -> %w`.
"""

from __future__ import annotations

import json

from graphc.ir.attributes import attribute_text
from graphc.ir.graph import Graph, Op, Value

__all__ = ["graph_text", "op_text", "value_names"]


def value_names(graph: Graph) -> dict[Value, str]:
    """A unique printable name for every value: input and result names kept, others numbered."""
    names: dict[Value, str] = {}
    taken: set[str] = set()
    number = 0
    for v in _values(graph):
        name = v.name
        while not name or name in taken:
            name, number = (str(number), number + 1) if not v.name else (f"{v.name}.{number}", number + 1)
        names[v] = name
        taken.add(name)
    return names


def _values(graph: Graph) -> list[Value]:
    return [*graph.inputs, *(r for op in graph.ops for r in op.results)]


def op_text(op: Op, names: dict[Value, str] | None = None, indent: str = "  ") -> str:
    """One op as a line (several where it has regions)."""
    n = names if names is not None else {}
    results = ", ".join(f"%{n.get(r, r.name or '?')}: {r.type}" for r in op.results)
    operands = ", ".join(f"%{n.get(v, v.name or '?')}" for v in op.operands)
    text = f"{indent}{results} = {op.name}" if results else f"{indent}{op.name}"
    text += f" {operands}" if operands else ""
    if op.attrs:
        text += f" {{{', '.join(f'{k}={attribute_text(v)}' for k, v in op.attrs.items())}}}"
    if op.mark:
        text += f" mark({json.dumps(op.mark)})"
    if op.loc is not None:
        text += f"   loc({json.dumps(op.loc.filename)}:{op.loc.lineno})"
    for region in op.regions:
        body = graph_text(region).replace("\n", "\n" + indent)
        text += f"\n{indent}region {body}"
    return text


def graph_text(graph: Graph) -> str:
    """The whole graph."""
    names = value_names(graph)
    inputs = ", ".join(f"%{names[v]}: {v.type} {v.role}" for v in graph.inputs)
    results = ", ".join(str(v.type) for v in graph.outputs)
    lines = [f"graph @{graph.name}({inputs}) -> ({results}) {{"]
    lines += [op_text(op, names) for op in graph.ops]
    outputs = [
        f"%{names[v]}" + (f" -> %{names[graph.inputs[graph.aliases[i]]]}" if i in graph.aliases else "")
        for i, v in enumerate(graph.outputs)
    ]
    lines += [f"  return {', '.join(outputs)}".rstrip(), "}"]
    return "\n".join(lines)
