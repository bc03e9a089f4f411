"""DOT text: cards, clusters and edges with escaped labels. Knows nothing of graphs of ops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Literal, NamedTuple

__all__ = ["Dot", "Row", "Span", "quoted"]

_FONT = "Helvetica,Arial,sans-serif"
_DEFAULTS = (
    f'graph [rankdir="TB", fontname="{_FONT}", fontsize="10", fontcolor="#495057", ranksep="0.4", nodesep="0.3", '
    'pad="0.15", labeljust="l"];',
    f'node [shape="box", style="rounded,filled", fontname="{_FONT}", fontsize="10", fontcolor="#212529", '
    'color="#adb5bd", margin="0.1,0.06"];',
    f'edge [fontname="{_FONT}", fontsize="8", color="#868e96", fontcolor="#495057", arrowsize="0.6", penwidth="0.9"];',
)

Style = Literal["plain", "bold", "muted", "changed"]
_STYLES: Mapping[Style, tuple[str, str]] = {
    "plain": ("", ""),
    "bold": ("<b>", "</b>"),
    "muted": ('<font point-size="8" color="#868e96">', "</font>"),
    "changed": ('<font point-size="8" color="#c92a2a">', "</font>"),
}


class Span(NamedTuple):
    """Text in one style."""

    text: str
    style: Style = "plain"


Row = Sequence[Span]
"""One line of a card."""


def quoted(text: str) -> str:
    """`text` as a DOT string; newlines become left-justified line ends."""
    body = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\l")
    return f'"{body}"'


def _attributes(attributes: Mapping[str, str]) -> str:
    return ", ".join(f"{k}={quoted(v)}" for k, v in attributes.items())


def _span(span: Span) -> str:
    before, after = _STYLES[span.style]
    # Graphviz drops blanks at the ends of an element.
    body = escape(span.text).replace(" ", "&#160;")
    return f"{before}{body}{after}"


class Dot:
    """A directed graph under construction; `str` is its DOT text."""

    def __init__(self, title: str) -> None:
        self._lines = [f"digraph {quoted(title)} {{", *(f"  {line}" for line in _DEFAULTS)]
        self._depth = 1
        self._clusters = 0

    def card(self, name: str, rows: Iterable[Row], **attributes: str) -> None:
        """A node of several left-justified lines."""
        cells = "".join(f'<tr><td align="left">{"".join(map(_span, row))}</td></tr>' for row in rows)
        table = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{cells}</table>'
        self._put(f"{quoted(name)} [label=<{table}>, {_attributes(attributes)}];")

    def text(self, name: str, text: str, **attributes: str) -> None:
        """A node of left-justified text as it stands."""
        self._put(f"{quoted(name)} [{_attributes({'label': text + chr(10), **attributes})}];")

    def edge(self, source: str, target: str, **attributes: str) -> None:
        """An arrow."""
        given = f" [{_attributes(attributes)}]" if attributes else ""
        self._put(f"{quoted(source)} -> {quoted(target)}{given};")

    def open_cluster(self, label: str) -> None:
        """Starts a framed group; nodes until `close_cluster` stand inside."""
        self._clusters += 1
        self._put(f'subgraph "cluster_{self._clusters}" {{')
        self._depth += 1
        look = {"style": "rounded,filled", "color": "#dee2e6", "fillcolor": "#f8f9fa", "margin": "8"}
        self._put(f"graph [{_attributes({'label': label, **look})}];")

    def close_cluster(self) -> None:
        """Ends the group."""
        self._depth -= 1
        self._put("}")

    def _put(self, line: str) -> None:
        self._lines.append("  " * self._depth + line)

    def __str__(self) -> str:
        return "\n".join([*self._lines, "}"]) + "\n"
