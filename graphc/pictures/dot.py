"""DOT text: nodes, clusters and edges with escaped labels. Knows nothing of graphs of ops."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Dot", "quoted"]


def quoted(text: str) -> str:
    """`text` as a DOT string; newlines become left-justified line ends."""
    body = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\l")
    return f'"{body}"'


def _attributes(attributes: Mapping[str, str]) -> str:
    return f" [{', '.join(f'{k}={quoted(v)}' for k, v in attributes.items())}]" if attributes else ""


class Dot:
    """A directed graph under construction; `str` is its DOT text."""

    def __init__(self, title: str) -> None:
        self._lines = [
            f"digraph {quoted(title)} {{",
            '  graph [rankdir="TB", fontname="Helvetica", fontsize="11", ranksep="0.35", nodesep="0.25"];',
            '  node [shape="box", style="rounded,filled", fontname="Helvetica", fontsize="10", margin="0.12,0.06"];',
            '  edge [fontname="Helvetica", fontsize="8", color="#667788", fontcolor="#556677", arrowsize="0.6"];',
        ]
        self._depth = 1
        self._clusters = 0

    def node(self, name: str, label: str, **attributes: str) -> None:
        """A node; a label of several lines is left-justified."""
        text = label + "\n" if "\n" in label else label
        self._put(f"{quoted(name)}{_attributes({'label': text, **attributes})};")

    def edge(self, source: str, target: str, **attributes: str) -> None:
        """An arrow."""
        self._put(f"{quoted(source)} -> {quoted(target)}{_attributes(attributes)};")

    def open_cluster(self, label: str, color: str) -> None:
        """Starts a framed group; nodes until `close_cluster` stand inside."""
        self._clusters += 1
        self._put(f'subgraph "cluster_{self._clusters}" {{')
        self._depth += 1
        self._put(
            f'label={quoted(label)}; style="rounded,filled"; color={quoted(color)}; fillcolor="#f6f8fa"; labeljust="l";'
        )

    def close_cluster(self) -> None:
        """Ends the group."""
        self._depth -= 1
        self._put("}")

    def _put(self, line: str) -> None:
        self._lines.append("  " * self._depth + line)

    def __str__(self) -> str:
        return "\n".join([*self._lines, "}"]) + "\n"
