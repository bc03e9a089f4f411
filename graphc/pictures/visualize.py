"""Writes a picture of a stage to a file; the suffix decides the format."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

from graphc.ir.errors import MissingToolError
from graphc.pictures.drawings import draw

__all__ = ["visualize"]

_RENDERED = (".svg", ".png")


def visualize(x: Any, path: str | os.PathLike[str]) -> Path:
    """Draws a graph, or any stage of `Compiled.stages()`, to `path`; returns the path.

    `.dot` always works. `.svg` and `.png` need graphviz. Raises MissingToolError, which names what
    to install, where it is absent, ValueError for another suffix and TypeError for another object.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in (".dot", *_RENDERED):
        raise ValueError(f"visualize writes .dot, .svg or .png, got {target.name!r}")
    text = str(draw(x))
    target.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".dot":
        target.write_text(text, encoding="utf-8")
    else:
        target.write_bytes(_render(text, suffix[1:]))
    return target


def _render(text: str, kind: str) -> bytes:
    try:
        # Optional: only pictures other than .dot need it.
        graphviz = importlib.import_module("graphviz")
    except ImportError:
        raise MissingToolError(
            'drawing .svg or .png needs the graphviz package: pip install "graphc[viz]" (or write a .dot file)'
        ) from None
    if shutil.which("dot") is None:
        raise MissingToolError(
            "drawing .svg or .png needs graphviz's `dot` program: install it, for example with "
            "`apt-get install graphviz` or `brew install graphviz` (or write a .dot file)"
        )
    if kind == "png":
        # Twice the resolution of a screen of old, so that small type can be read.
        text = text.replace("{\n", '{\n  graph [dpi="144"];\n', 1)
    rendered: bytes = graphviz.Source(text).pipe(format=kind)
    return rendered
