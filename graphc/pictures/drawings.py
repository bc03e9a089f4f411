"""Drawings of graphs, fused graphs, kernels and programs as DOT."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import basename
from typing import Any

from graphc.ir.attributes import attribute_text
from graphc.ir.families import (
    Accumulate,
    Composite,
    Contraction,
    Creation,
    Elementwise,
    Gather,
    Random,
    Scatter,
    View,
)
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.kernel import Kernel
from graphc.ir.printer import value_names
from graphc.ir.program import Program
from graphc.passes.fuse import Fused
from graphc.pictures.dot import Dot

__all__ = ["draw"]

# Colour by family, most specific first.
_COLORS: tuple[tuple[type[Op], str], ...] = (
    (Contraction, "#ffd8a8"),
    (Accumulate, "#d0bfff"),
    (View, "#e9ecef"),
    (Elementwise, "#b2f2bb"),
    (Gather, "#99e9f2"),
    (Scatter, "#99e9f2"),
    (Random, "#fcc2d7"),
    (Creation, "#f1f3f5"),
    (Composite, "#ffec99"),
)
_ROLE_COLORS = {"argument": "#a5d8ff", "parameter": "#74c0fc", "constant": "#f1f3f5"}
_LONGEST = 40


def draw(x: Any) -> Dot:
    """The DOT drawing of anything that `stages()` gives. Raises TypeError for other objects."""
    match x:
        case Graph():
            return _graph(x, [(None, list(x.ops))])
        case Fused():
            return _graph(
                x.graph,
                [
                    (None, list(x.constants)),
                    *((f"kernel {i}: {g.kind}", list(g.ops)) for i, g in enumerate(x.groups)),
                ],
            )
        case Program():
            return _program(x)
        case tuple() if all(isinstance(k, Kernel) for k in x):
            return _kernels(x)
        case str():
            return _text(x)
    raise TypeError(f"visualize takes a Graph or any stage of Compiled.stages(), got {type(x).__name__}")


def _graph(graph: Graph, clusters: Iterable[tuple[str | None, list[Op]]]) -> Dot:
    dot = Dot(graph.name)
    names = value_names(graph)
    source: dict[Value, str] = {}
    for v in graph.inputs:
        source[v] = f"in {names[v]}"
        color = _ROLE_COLORS.get(v.role or "", "#ffc9c9")
        dot.node(source[v], f"{names[v]}: {v.type}\n{v.role}", shape="ellipse", fillcolor=color)
    number = 0
    for label, ops in clusters:
        if label is not None:
            dot.open_cluster(label, "#adb5bd")
        for op in ops:
            name = f"op {number}"
            number += 1
            dot.node(name, _op_label(op), fillcolor=_color(op), tooltip=str(op.loc or ""))
            for r in op.results:
                source[r] = name
        if label is not None:
            dot.close_cluster()
    for op in graph.ops:
        if op.results:
            for v in op.operands:
                dot.edge(source[v], source[op.results[0]], label=str(v.type))
    for i, v in enumerate(graph.outputs):
        state = graph.aliases.get(i)
        label = f"output {i}" if state is None else f"new {names[graph.inputs[state]]}"
        dot.node(
            f"out {i}",
            f"{label}\n{v.type}",
            shape="ellipse",
            fillcolor="#8ce99a" if state is None else "#ffc9c9",
        )
        dot.edge(source[v], f"out {i}")
    return dot


def _color(op: Op) -> str:
    return next((color for family, color in _COLORS if isinstance(op, family)), "#ffffff")


def _op_label(op: Op) -> str:
    attrs = ", ".join(f"{k}={_short(attribute_text(v))}" for k, v in op.attrs.items())
    lines = [op.name + (f" {{{attrs}}}" if attrs else "")]
    lines += [str(r.type) for r in op.results]
    if op.loc is not None:
        lines.append(f"{basename(op.loc.filename)}:{op.loc.lineno}")
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _program(program: Program) -> Dot:
    dot = Dot(program.name)
    colors = {
        "input": "#a5d8ff",
        "state": "#ffc9c9",
        "output": "#8ce99a",
        "temporary": "#f1f3f5",
        "constant": "#e9ecef",
    }
    used = {row for phase in program.phases for call in phase.calls for row in call.buffers}
    for row, buffer in enumerate(program.buffers):
        if row in used:
            place = f" @{buffer.offset}" if buffer.kind == "temporary" else ""
            dot.node(
                f"buffer {row}", f"{buffer.kind} {buffer.name or buffer.index}{place}\n{buffer.type}",
                shape="ellipse", fillcolor=colors[buffer.kind],
            )  # fmt: skip
    number = 0
    for i, phase in enumerate(program.phases):
        dot.open_cluster(f"phase {i}" + (" (writes state)" if phase.writes_state else ""), "#adb5bd")
        calls = []
        for call in phase.calls:
            name = f"call {number}"
            number += 1
            calls.append((name, call))
            kinds = ", ".join(stage.kind for stage in call.kernel.stages)
            dot.node(name, f"kernel {number - 1}\n{kinds}\n{call.parts} parts", fillcolor="#ffd8a8")
        dot.close_cluster()
        for name, call in calls:
            for row, parameter in zip(call.buffers, call.kernel.parameters, strict=False):
                if parameter.access in ("in", "inout"):
                    dot.edge(f"buffer {row}", name)
                if parameter.access in ("out", "inout"):
                    dot.edge(name, f"buffer {row}")
    return dot


def _kernels(kernels: Iterable[Kernel]) -> Dot:
    dot = Dot("kernels")
    for i, kernel in enumerate(kernels):
        dot.node(f"kernel {i}", str(kernel), fillcolor="#fff4e6", fontname="monospace", style="filled")
    return dot


def _text(text: str) -> Dot:
    dot = Dot("code")
    for i, section in enumerate(text.split("; kernel ")[1:] or [text]):
        head, *lines = section.splitlines()
        body = "\n".join([head, *lines[:60], *(["…"] if len(lines) > 60 else [])])
        dot.node(f"section {i}", body, fillcolor="#f8f9fa", fontname="monospace", style="filled")
    return dot
