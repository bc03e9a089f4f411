"""Drawings of graphs, fused graphs, kernels and programs as DOT."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from os.path import basename
from typing import Any

from graphc.ir.attributes import attribute_text
from graphc.ir.control import Control
from graphc.ir.families import Accumulate, Contraction, Creation, View
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.kernel import Kernel
from graphc.ir.printer import value_names
from graphc.ir.program import KernelCall, Program, kernel_title
from graphc.passes.fuse import Fused
from graphc.pictures import palette
from graphc.pictures.dot import Dot, Row, Span

__all__ = ["draw"]

_LONGEST = 40
_WIDTH = 44
_LINE, _MOST_LINES = 96, 80
_OVAL = {"style": "rounded,filled", "margin": "0.12,0.04"}


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


def _value(dot: Dot, name: str, title: str, note: str, colors: tuple[str, str]) -> None:
    """An input or output: a pill with a title and a type."""
    dot.card(name, [[Span(title, "bold")], [Span(note, "muted")]], **palette.look(colors), **_OVAL)


def _wrapped(words: Sequence[str], separator: str = ", ") -> list[str]:
    """Words joined and wrapped to the width of a card; a word is never broken."""
    text = separator.join(w.replace(" ", "\0") for w in words)
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _arrow(dot: Dot, start: str, end: str, types: Iterable[str]) -> None:
    """An arrow labelled with the types of what goes along it; types that a card states need no label."""
    lines = [f" {t} " for t in dict.fromkeys(types)]
    label = "\n".join([*lines, ""] if len(lines) > 1 else lines)
    dot.edge(start, end, **({"label": label} if label else {}))


# -- graphs -------------------------------------------------------------------------------------------


def _literal(value: Value) -> str | None:
    """The number that a value is everywhere, where it is a constant of one element, expanded or not."""
    op = value.op
    while op is not None and isinstance(op, View) and len(op.operands) == 1:
        value = op.operands[0]
        op = value.op
    if isinstance(op, Creation) and "value" in op.attrs and op.attrs["value"].array.size == 1:
        return f"{op.attrs['value'].array.reshape(-1)[0].item():.6g}"
    return None


def _graph(graph: Graph, within: Dot | None = None, prefix: str = "") -> Dot:
    """Every op a card; regions are frames. Numbers stand in the cards that use them."""
    dot = within or Dot(graph.name)
    names = value_names(graph)
    source: dict[Value, str] = {}
    for v in graph.inputs:
        source[v] = f"{prefix}in {names[v]}"
        _value(dot, source[v], names[v], f"{v.type} {v.role or ''}", palette.of_role(v.role))
    shown = set(graph.outputs)
    for number, op in enumerate(graph.ops):
        if op.results and all(_literal(r) is not None and r not in shown for r in op.results):
            continue
        numbers = [_literal(v) for v in op.operands]
        name = f"{prefix}op {number}"
        dot.card(
            name, _op_rows(op, numbers), tooltip=str(op.loc or op.name), **palette.look(palette.of_op(op))
        )
        for r in op.results:
            source[r] = name
        for v, number_text in zip(op.operands, numbers, strict=True):
            if number_text is None or v in source:
                dot.edge(source[v], name)
        if isinstance(op, Control):
            for title, region in zip(op.region_names, op.regions, strict=True):
                _frame(dot, name, title, partial(_graph, region, dot))
    for i, v in enumerate(graph.outputs):
        state = graph.aliases.get(i)
        title = f"output {i}" if state is None else f"new {names[graph.inputs[state]]}"
        colors = palette.OUTPUT if state is None else palette.of_role(graph.inputs[state].role)
        _value(dot, f"{prefix}out {i}", title, str(v.type), colors)
        if v in source:
            dot.edge(source[v], f"{prefix}out {i}")
    return dot


def _frame(dot: Dot, owner: str, title: str, fill: Callable[[str], Dot]) -> None:
    """A region of the op with the card `owner`: a frame of what `fill` draws, given a prefix for its names."""
    dot.open_cluster(title)
    prefix = f"{owner} {title} "
    dot.text(f"{prefix}begin", title, shape="plaintext", style="solid")
    fill(prefix)
    dot.close_cluster()
    dot.edge(owner, f"{prefix}begin", style="dashed")


def _op_rows(op: Op, numbers: Iterable[str | None]) -> list[Row]:
    attrs = [f"{k}={_short(attribute_text(v))}" for k, v in op.attrs.items()]
    used = "".join(f" {n}" for n in numbers if n is not None)
    rows: list[Row] = [[Span(op.name, "bold"), Span(used)]]
    rows += [[Span(line, "muted")] for line in _wrapped(attrs)]
    rows += [[Span(str(r.type))] for r in op.results]
    if op.loc is not None:
        rows.append([Span(f"{basename(op.loc.filename)}:{op.loc.lineno}", "muted")])
    return rows


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


# -- fused graphs -------------------------------------------------------------------------------------


def _fused(fused: Fused, within: Dot | None = None, prefix: str = "") -> Dot:
    """Every kernel a card that lists its ops; state is named in the cards, other values are arrows."""
    graph = fused.graph
    dot = within or Dot(graph.name)
    names = value_names(graph)
    new_states = {graph.outputs[i]: names[graph.inputs[j]] for i, j in graph.aliases.items()}
    source: dict[Value, str] = {}
    for v in graph.inputs:
        if not v.is_state:
            source[v] = f"{prefix}in {names[v]}"
            _value(dot, source[v], names[v], str(v.type), palette.of_role(v.role))
    for number, group in enumerate(fused.groups):
        source.update((r, f"{prefix}kernel {number}") for op in group.ops for r in op.results)
    for number, group in enumerate(fused.groups):
        mine = {r for op in group.ops for r in op.results}
        read = dict.fromkeys(v for op in group.ops for v in op.operands if v not in mine)
        updated = dict.fromkeys(new_states[r] for op in group.ops for r in op.results if r in new_states)
        states = [names[v] for v in read if v.op is None and v.is_state and names[v] not in updated]
        head = f"kernel {number} · {group.kind}{_places(group.ops)}"
        rows: list[Row] = [[Span(head, "muted")], *_op_list(group.ops), *_state_rows(states, list(updated))]
        name = f"{prefix}kernel {number}"
        dot.card(name, rows, **palette.look(palette.KINDS[group.kind]))
        if group.control is not None:
            for title, body in zip(group.control.region_names, group.bodies, strict=True):
                _frame(dot, name, title, partial(_fused, body, dot))
        arrows: dict[str, list[str]] = {}
        for v in read:
            if v in source and _literal(v) is None:
                arrows.setdefault(source[v], []).extend([str(v.type)] * (v.op is not None))
        for start, types in arrows.items():
            _arrow(dot, start, name, types)
    for i in graph.returned():
        v = graph.outputs[i]
        if v in source:
            _value(dot, f"{prefix}out {i}", f"output {i}", str(v.type), palette.OUTPUT)
            dot.edge(source[v], f"{prefix}out {i}")
    return dot


def _places(ops: Iterable[Op]) -> str:
    """The lines of user code that ops come from."""
    lines = dict.fromkeys(f"{basename(op.loc.filename)}:{op.loc.lineno}" for op in ops if op.loc is not None)
    if not lines:
        return ""
    return f" · {', '.join(list(lines)[:2])}{' …' if len(lines) > 2 else ''}"


def _op_list(ops: Iterable[Op]) -> list[Row]:
    """Ops of a kernel on wrapped lines, accumulating ones in bold; what only moves or holds numbers is left out."""
    rows: list[list[Span]] = [[]]
    width = 0
    counted = itertools.groupby(
        (op.name, isinstance(op, (Accumulate, Contraction)))
        for op in ops
        if not isinstance(op, (View, Creation))
    )
    for (name, accumulates), same in counted:
        count = len(list(same))
        word = name + f" ×{count}" * (count > 1)
        if width + len(word) > _WIDTH:
            rows.append([])
            width = 0
        if rows[-1]:
            rows[-1].append(Span(" · ", "muted"))
        rows[-1].append(Span(word, "bold" if accumulates else "plain"))
        width += len(word) + 3
    return [row or [Span("copy")] for row in rows]


def _state_rows(read: Sequence[str], updated: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for head, words, style in (("reads ", read, "muted"), ("updates ", updated, "changed")):
        for n, line in enumerate(_wrapped(words)):
            rows.append([Span(head + line if n == 0 else line, "changed" if style == "changed" else "muted")])
    return rows


# -- programs -----------------------------------------------------------------------------------------


def _program(program: Program) -> Dot:
    """Phases as frames of kernel calls; arrows are the buffers that go from call to call."""
    dot = Dot(program.name)
    names = program.row_names()
    writer: dict[int, str] = {}
    for row, buffer in enumerate(program.buffers):
        if buffer.kind in ("input", "constant"):
            writer[row] = f"buffer {row}"
            colors = palette.INPUT if buffer.kind == "input" else palette.GREY
            _value(dot, writer[row], names[row], str(buffer.type), colors)
    edges: dict[tuple[str, str], list[str]] = {}
    number = 0
    for i, phase in enumerate(program.phases):
        may_fail = " · may fail" if any(c.kernel.checks for c in phase.calls) else ""
        dot.open_cluster(f"phase {i}{may_fail}{_when(program, names, i)}")
        made: dict[int, str] = {}
        for call in phase.calls:
            name = f"call {number}"
            dot.card(
                name, _call_rows(program, names, call, number), **palette.look(_call_colors(call.kernel))
            )
            number += 1
            for row, parameter in zip(call.buffers, call.kernel.parameters, strict=True):
                if parameter.access in ("in", "inout") and row in writer:
                    buffer = program.buffers[row]
                    types = edges.setdefault((writer[row], name), [])
                    types += [str(buffer.type)] * (buffer.kind not in ("input", "constant"))
                if parameter.access in ("out", "inout") and program.buffers[row].kind != "state":
                    made[row] = name
        dot.close_cluster()
        writer.update(made)
    for (start, end), types in edges.items():
        _arrow(dot, start, end, types)
    for row, buffer in enumerate(program.buffers):
        if buffer.kind == "output" and row in writer:
            _value(dot, f"buffer {row}", names[row], str(buffer.type), palette.OUTPUT)
            dot.edge(writer[row], f"buffer {row}")
    return dot


def _when(program: Program, names: Sequence[str], phase: int) -> str:
    """How often a phase is run, and on what that depends."""
    counts = [r.count for r in program.repeats if r.begin <= phase < r.end and r.count != 1]
    words = [f"× {'?' if n is None else n}" for n in reversed(counts)]
    for c in program.choices:
        if c.begin <= phase < c.end:
            words.append(f"{'if' if phase < c.middle else 'unless'} {names[c.row]}")
    return "".join(f" · {w}" for w in words)


def _call_colors(kernel: Kernel) -> tuple[str, str]:
    """Colours by the stage that decides: scatter before reduce before map."""
    if kernel.schedule is not None and kernel.schedule.engine != "loops":
        return palette.KINDS["contraction"]
    kinds = {stage.kind for stage in kernel.stages}
    return palette.KINDS[next((k for k in ("scatter", "reduce") if k in kinds), "map")]


def _call_rows(program: Program, names: Sequence[str], call: KernelCall, number: int) -> list[Row]:
    """What a call does: its stages, partitions, and the states it reads and updates."""

    def states(*accesses: str) -> list[str]:
        parameters = zip(call.buffers, call.kernel.parameters, strict=True)
        return [
            names[r] for r, p in parameters if p.access in accesses and program.buffers[r].kind == "state"
        ]

    head = f"kernel {number} · {call.parts} part{'s' if call.parts != 1 else ''}"
    title = [
        [Span(line, "bold" if n == 0 else "plain")]
        for n, line in enumerate(_wrapped([kernel_title(call.kernel)]))
    ]
    return [[Span(head, "muted")], *title, *_state_rows(states("in"), states("out", "inout"))]


# -- text ---------------------------------------------------------------------------------------------


def _kernels(kernels: Iterable[Kernel]) -> Dot:
    dot = Dot("kernels")
    rows = [(f"kernel {i}\n{k}", palette.look(_call_colors(k))) for i, k in enumerate(kernels)]
    _listings(dot, rows)
    return dot


def _text(text: str) -> Dot:
    dot = Dot("code")
    _listings(
        dot, [(section, palette.look(palette.GREY)) for section in text.split("; kernel ")[1:] or [text]]
    )
    return dot


def _listings(dot: Dot, listings: Sequence[tuple[str, dict[str, str]]]) -> None:
    """Pieces of code in columns that are about as many as each is long."""
    height = math.isqrt(len(listings))
    for i, (text, look) in enumerate(listings):
        lines = [part for line in text.splitlines() for part in _folded(line.replace("\t", "    "))]
        body = "\n".join([*lines[:_MOST_LINES], *(["…"] if len(lines) > _MOST_LINES else [])])
        dot.text(f"{i}", body, fontname="Menlo,Consolas,monospace", fontsize="8", style="filled", **look)
        if i % height:
            dot.edge(f"{i - 1}", f"{i}", style="invis")


def _folded(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(line, _LINE, subsequent_indent=indent, break_on_hyphens=False) or [""]
