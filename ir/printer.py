"""Graph text. Uniform for all ops; `graphc.ir.parser` reads it back.

    graph @mlp(%x: f32[64, 784] argument, %w: f32[10, 784] parameter) -> (f32[64, 10]) {
      %0: f32[64, 10] = dot %x, %w {contract=[[1], [1]]}   loc("net.py":12)
      return %0
    }

An output that is the new value of a state input is returned as `%5 -> %w`. Symbols with bounds
other than 0 and up are declared before the brace: `where batch: 2..64, seq: 1..`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from graphc.ir.attributes import attribute_text
from graphc.ir.dims import Expr, Symbol, symbols
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.types import TensorType

__all__ = ["dim_symbols", "graph_text", "op_text", "value_names"]


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


def dim_symbols(graph: Graph) -> dict[str, Symbol]:
    """The symbols in the types and attributes of `graph`, not of its regions, by name.

    Raises ValueError where one name has two bounds.
    """
    found: dict[str, Symbol] = {}
    everything = [*(v.type for v in _values(graph)), *(a for op in graph.ops for a in op.attrs.values())]
    for symbol in _symbols_of(everything):
        if found.setdefault(symbol.name, symbol) != symbol:
            raise ValueError(f"symbol {symbol.name} has two bounds in graph @{graph.name}")
    return found


def _symbols_of(x: Any) -> Iterator[Symbol]:
    """The symbols in a dim, type or attribute, or in a sequence of these."""
    if isinstance(x, Expr):
        yield from symbols(x)
    elif isinstance(x, TensorType):
        if not x.is_static:
            yield from _symbols_of(x.shape)
    elif isinstance(x, tuple | list):
        for e in x:
            yield from _symbols_of(e)


def _bounds_text(graph: Graph) -> str:
    bounded = [s for _, s in sorted(dim_symbols(graph).items()) if (s.lo, s.hi) != (0, None)]
    ranges = [f"{s.name}: {s.lo}..{'' if s.hi is None else s.hi}" for s in bounded]
    return f" where {', '.join(ranges)}" if ranges else ""


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
    lines = [f"graph @{graph.name}({inputs}) -> ({results}){_bounds_text(graph)} {{"]
    lines += [op_text(op, names) for op in graph.ops]
    outputs = [
        f"%{names[v]}" + (f" -> %{names[graph.inputs[graph.aliases[i]]]}" if i in graph.aliases else "")
        for i, v in enumerate(graph.outputs)
    ]
    lines += [f"  return {', '.join(outputs)}".rstrip(), "}"]
    return "\n".join(lines)
