"""Drawings of graphs, fused graphs, kernels and programs as DOT."""

from __future__ import annotations

import textwrap
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
from graphc.ir.program import KernelCall, Program
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
_KIND_COLORS = {"contraction": "#ffd8a8", "reduce": "#d0bfff", "map": "#b2f2bb", "scatter": "#99e9f2"}
_ROLE_COLORS = {"argument": "#a5d8ff", "parameter": "#74c0fc", "constant": "#f1f3f5"}
_LONGEST = 40


def draw(x: Any) -> Dot:
    """The DOT drawing of anything that `stages()` gives. Raises TypeError for other objects."""
    match x:
        case Graph():
            return _graph(x)
        case Fused():
            return _fused(x)
        case Program():
            return _program(x)
        case tuple() if all(isinstance(k, Kernel) for k in x):
            return _kernels(x)
        case str():
            return _text(x)
    raise TypeError(f"visualize takes a Graph or any stage of Compiled.stages(), got {type(x).__name__}")


def _literal(value: Value) -> str | None:
    """The number that a value is everywhere, where it is a constant of one element, expanded or not."""
    op = value.op
    while op is not None and isinstance(op, View) and len(op.operands) == 1:
        value = op.operands[0]
        op = value.op
    if isinstance(op, Creation) and "value" in op.attrs and op.attrs["value"].array.size == 1:
        return f"{op.attrs['value'].array.reshape(-1)[0].item():.6g}"
    return None


def _graph(graph: Graph) -> Dot:
    """Every op a box. Numbers stand in the boxes that use them."""
    dot = Dot(graph.name)
    names = value_names(graph)
    source: dict[Value, str] = {}
    for v in graph.inputs:
        source[v] = f"in {names[v]}"
        color = _ROLE_COLORS.get(v.role or "", "#ffc9c9")
        dot.node(source[v], f"{names[v]}\n{v.type} {v.role}", shape="ellipse", fillcolor=color)
    shown = set(graph.outputs)
    for number, op in enumerate(graph.ops):
        if op.results and all(_literal(r) is not None and r not in shown for r in op.results):
            continue
        numbers = [_literal(v) for v in op.operands]
        name = f"op {number}"
        dot.node(name, _op_label(op, numbers), fillcolor=_color(op), tooltip=str(op.loc or ""))
        for r in op.results:
            source[r] = name
        for v, number_text in zip(op.operands, numbers, strict=True):
            if number_text is None or v in source:
                dot.edge(source[v], name, label=str(v.type))
    _outputs(dot, graph, names, source)
    return dot


def _outputs(dot: Dot, graph: Graph, names: dict[Value, str], source: dict[Value, str]) -> None:
    for i, v in enumerate(graph.outputs):
        state = graph.aliases.get(i)
        label = f"output {i}" if state is None else f"new {names[graph.inputs[state]]}"
        color = "#8ce99a" if state is None else "#ffc9c9"
        dot.node(f"out {i}", f"{label}\n{v.type}", shape="ellipse", fillcolor=color)
        dot.edge(source[v], f"out {i}")


def _fused(fused: Fused) -> Dot:
    """Every kernel a box that lists its ops; state is named in the boxes, other values are arrows."""
    graph = fused.graph
    dot = Dot(graph.name)
    names = value_names(graph)
    new_states = {graph.outputs[i]: names[graph.inputs[j]] for i, j in graph.aliases.items()}
    source: dict[Value, str] = {}
    for v in graph.inputs:
        if not v.is_state:
            source[v] = f"in {names[v]}"
            dot.node(source[v], f"{names[v]}\n{v.type}", shape="ellipse", fillcolor="#a5d8ff")
    for number, group in enumerate(fused.groups):
        name = f"kernel {number}"
        for op in group.ops:
            source.update(dict.fromkeys(op.results, name))
    for number, group in enumerate(fused.groups):
        name = f"kernel {number}"
        mine = {r for op in group.ops for r in op.results}
        read = [v for op in group.ops for v in op.operands if v not in mine]
        states = dict.fromkeys(names[v] for v in read if v.op is None and v.is_state)
        updated = dict.fromkeys(new_states[r] for op in group.ops for r in op.results if r in new_states)
        lines = [f"kernel {number}: {group.kind}", *_op_lines(group.ops)]
        lines += _wrapped("reads ", [s for s in states if s not in updated])
        lines += _wrapped("updates ", list(updated))
        dot.node(name, "\n".join(lines), fillcolor=_KIND_COLORS[group.kind])
        arrows: dict[str, list[str]] = {}
        for v in dict.fromkeys(read):
            if v in source and _literal(v) is None:
                arrows.setdefault(source[v], []).append(str(v.type))
        for start, types in arrows.items():
            dot.edge(start, name, label="\n".join(types))
    for i in graph.returned():
        v = graph.outputs[i]
        if v in source:
            dot.node(f"out {i}", f"output {i}\n{v.type}", shape="ellipse", fillcolor="#8ce99a")
            dot.edge(source[v], f"out {i}")
    return dot


def _op_lines(ops: Iterable[Op]) -> list[str]:
    """Ops of a kernel as wrapped lines; what only moves or holds numbers is left out."""
    words = [op.name for op in ops if not isinstance(op, (View, Creation))]
    return _wrapped("", words or ["copy"], separator=" · ")


def _wrapped(head: str, words: list[str], separator: str = ", ") -> list[str]:
    if not words:
        return []
    return textwrap.wrap(head + separator.join(words), 46, subsequent_indent="  " if head else "")


def _color(op: Op) -> str:
    return next((color for family, color in _COLORS if isinstance(op, family)), "#ffffff")


def _op_label(op: Op, numbers: Iterable[str | None]) -> str:
    attrs = ", ".join(f"{k}={_short(attribute_text(v))}" for k, v in op.attrs.items())
    used = "".join(f" {n}" for n in numbers if n is not None)
    lines = [op.name + used + (f" {{{attrs}}}" if attrs else "")]
    lines += [str(r.type) for r in op.results]
    if op.loc is not None:
        lines.append(f"{basename(op.loc.filename)}:{op.loc.lineno}")
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _program(program: Program) -> Dot:
    """Phases as frames of kernel calls; arrows are the buffers that go from call to call."""
    dot = Dot(program.name)
    writer: dict[int, str] = {}
    for row, buffer in enumerate(program.buffers):
        if buffer.kind in ("input", "constant"):
            writer[row] = f"buffer {row}"
            color = "#a5d8ff" if buffer.kind == "input" else "#e9ecef"
            label = f"{buffer.kind} {buffer.name or buffer.index}\n{buffer.type}"
            dot.node(writer[row], label, shape="ellipse", fillcolor=color)
    edges: dict[tuple[str, str], list[str]] = {}
    number = 0
    for i, phase in enumerate(program.phases):
        dot.open_cluster(f"phase {i}", "#adb5bd")
        made: dict[int, str] = {}
        for call in phase.calls:
            name = f"call {number}"
            dot.node(name, _call_label(program, call, number), fillcolor="#ffd8a8")
            number += 1
            for row, parameter in zip(call.buffers, call.kernel.parameters, strict=False):
                if parameter.access in ("in", "inout") and row in writer:
                    edges.setdefault((writer[row], name), []).append(str(program.buffers[row].type))
                if parameter.access in ("out", "inout") and program.buffers[row].kind != "state":
                    made[row] = name
        dot.close_cluster()
        writer.update(made)
    for (start, end), types in edges.items():
        dot.edge(start, end, label="\n".join(dict.fromkeys(types)))
    for row, buffer in enumerate(program.buffers):
        if buffer.kind == "output" and row in writer:
            dot.node(
                f"buffer {row}", f"output {buffer.index}\n{buffer.type}", shape="ellipse", fillcolor="#8ce99a"
            )
            dot.edge(writer[row], f"buffer {row}")
    return dot


def _call_label(program: Program, call: KernelCall, number: int) -> str:
    """What a call does: its stages, partitions, and the states it reads and updates."""
    kinds = " · ".join(stage.kind for stage in call.kernel.stages)
    lines = [f"kernel {number}", kinds, f"{call.parts} part" + "s" * (call.parts > 1)]
    for head, accesses in (("reads ", ("in",)), ("updates ", ("out", "inout"))):
        names = [
            program.buffers[row].name or f"state {program.buffers[row].index}"
            for row, parameter in zip(call.buffers, call.kernel.parameters, strict=False)
            if parameter.access in accesses and program.buffers[row].kind == "state"
        ]
        lines += _wrapped(head, names)
    return "\n".join(lines)


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
