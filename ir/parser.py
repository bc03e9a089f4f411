"""Reads graph text back: `parse(str(graph))` is structurally equal to `graph`.

Nothing is evaluated. A mistake raises ValueError naming the line and what was expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from graphc.ir.attributes import parse_attributes
from graphc.ir.dims import Symbol
from graphc.ir.families import REGISTRY
from graphc.ir.graph import ROLES, Graph, Location, Op, Value
from graphc.ir.types import TensorType

__all__ = ["parse"]

_HEAD = re.compile(r"^graph @([\w.<>\-]+)\((.*)\) -> \((.*?)\)(?: where (.*))? \{$")
_BOUNDS = re.compile(r"(\w+): (\d+)\.\.(\d*)")
_INPUT = re.compile(r"%([\w.]+): (\w+\[[^\]]*\]) (\w+)(?:, |$)")
_RESULT = re.compile(r"%([\w.]+): (\w+\[[^\]]*\])(?:, | = )")
_OPERAND = re.compile(r"%([\w.]+)(?:, )?")
_MARK = re.compile(r'\s*mark\(("(?:[^"\\]|\\.)*")\)')
_LOC = re.compile(r'\s*loc\(("(?:[^"\\]|\\.)*"):(\d+)\)')


def parse(text: str) -> Graph:
    """The graph that `text` spells. Raises ValueError."""
    lines = [line.strip() for line in text.strip().splitlines()]
    graph, end = _parse_graph(lines, 0)
    if end != len(lines):
        raise ValueError(f"line {end + 1}: unexpected {lines[end]!r} after the graph")
    return graph


def _parse_graph(lines: list[str], at: int) -> tuple[Graph, int]:
    line = lines[at] if at < len(lines) else ""
    head = _HEAD.match(line)
    if head is None:
        raise ValueError(f"line {at + 1}: expected graph @name(inputs) -> (types) {{, got {line!r}")
    graph, names = Graph(head.group(1)), {}
    known = _parse_bounds(head.group(4), at) if head.group(4) else {}
    for name, type_, role in _INPUT.findall(head.group(2)):
        if role not in ROLES:
            raise ValueError(f"line {at + 1}: expected a role among {', '.join(ROLES)}, got {role!r}")
        names[name] = graph.add_input(TensorType.parse(type_, known), role, name)
    at += 1
    while at < len(lines) and not lines[at].startswith("return"):
        at = _parse_op(lines, at, graph, names, known)
    if at + 1 >= len(lines) or lines[at + 1] != "}":
        raise ValueError(f"line {at + 1}: expected return and a closing brace")
    _parse_return(lines[at], at, graph, names)
    return graph, at + 2


def _parse_bounds(text: str, at: int) -> dict[str, Symbol]:
    """The symbols that the head of a graph declares, by name."""
    known = {}
    for part in text.split(", "):
        match = _BOUNDS.fullmatch(part)
        if match is None:
            raise ValueError(f"line {at + 1}: expected bounds like batch: 2..64, got {part!r}")
        high = int(match.group(3)) if match.group(3) else None
        known[match.group(1)] = Symbol(match.group(1), int(match.group(2)), high)
    return known


def _parse_op(
    lines: list[str], at: int, graph: Graph, names: dict[str, Value], known: Mapping[str, Symbol]
) -> int:
    line, where = lines[at], 0
    results: list[tuple[str, TensorType]] = []
    while match := _RESULT.match(line, where):
        results.append((match.group(1), TensorType.parse(match.group(2), known)))
        where = match.end()
    word = re.compile(r"(\w+)\s*").match(line, where)
    if word is None or word.group(1) not in REGISTRY:
        raise ValueError(f"line {at + 1}: expected an op, got {line[where : where + 40]!r}")
    where = word.end()
    operands = []
    while match := _OPERAND.match(line, where):
        if match.group(1) not in names:
            raise ValueError(f"line {at + 1}: %{match.group(1)} is not defined before its use")
        operands.append(names[match.group(1)])
        where = match.end()
    attrs: dict[str, Any] = {}
    brace = re.compile(r"\s*\{").match(line, where)
    if brace:
        try:
            attrs, used = parse_attributes(line[brace.end() - 1 :], known)
        except ValueError as error:
            raise ValueError(f"line {at + 1}: {error}") from None
        where = brace.end() - 1 + used
    mark, loc = None, None
    if match := _MARK.match(line, where):
        mark, where = json.loads(match.group(1)), match.end()
    if match := _LOC.match(line, where):
        loc, where = Location(json.loads(match.group(1)), int(match.group(2))), match.end()
    if line[where:].strip():
        raise ValueError(f"line {at + 1}: unexpected {line[where:]!r}")
    at += 1
    regions = []
    while at < len(lines) and lines[at].startswith("region "):
        lines[at] = lines[at].removeprefix("region ")
        region, at = _parse_graph(lines, at)
        regions.append(region)
    cls = REGISTRY[word.group(1)]
    # What is not spelt has its default, so that text stays good when an op gets a new attribute.
    attrs = {**{k: v for k, v in cls.attributes.items() if v is not ... or k in attrs}, **attrs}
    op: Op = cls(operands, attrs, [t for _, t in results], loc, regions)
    op.mark = mark
    graph.insert(op)
    for value, (name, _) in zip(op.results, results, strict=True):
        # A purely numeric name was given by the printer and is given again by it.
        value.name = "" if name.isdigit() else name
        names[name] = value
    return at


def _parse_return(line: str, at: int, graph: Graph, names: dict[str, Value]) -> None:
    for i, part in enumerate(filter(None, line.removeprefix("return").strip().split(", "))):
        match = re.fullmatch(r"%([\w.]+)(?: -> %([\w.]+))?", part.strip())
        if match is None or match.group(1) not in names:
            raise ValueError(f"line {at + 1}: expected a defined value to return, got {part!r}")
        graph.outputs.append(names[match.group(1)])
        if match.group(2):
            target = names.get(match.group(2))
            if target is None or target.owner is not graph:
                raise ValueError(f"line {at + 1}: %{match.group(2)} is no input of the graph")
            graph.aliases[i] = target.index
