"""Colours of pictures: (fill, border) by op family, kernel kind and role."""

from __future__ import annotations

from graphc.ir.control import Control
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
from graphc.ir.graph import Op

__all__ = ["INPUT", "KINDS", "OUTPUT", "look", "of_op", "of_role"]

Colors = tuple[str, str]

ORANGE: Colors = ("#fff0de", "#f08c00")
VIOLET: Colors = ("#f0ebff", "#845ef7")
GREEN: Colors = ("#e6f7ea", "#40a860")
CYAN: Colors = ("#e0f6fa", "#1098ad")
YELLOW: Colors = ("#fff8db", "#e0a800")
PINK: Colors = ("#fdeaf2", "#d6336c")
BLUE: Colors = ("#e4f1ff", "#1c7ed6")
GREY: Colors = ("#f4f5f7", "#adb5bd")

INDIGO: Colors = ("#e8ebff", "#4263eb")

INPUT, OUTPUT = BLUE, ("#d3f9d8", "#2b8a3e")
KINDS = {"contraction": ORANGE, "reduce": VIOLET, "map": GREEN, "scatter": CYAN, "control": BLUE}

# By family, most specific first.
_FAMILIES: tuple[tuple[type[Op], Colors], ...] = (
    (Control, BLUE),
    (Contraction, ORANGE),
    (Accumulate, VIOLET),
    (View, GREY),
    (Elementwise, GREEN),
    (Gather, CYAN),
    (Scatter, CYAN),
    (Random, PINK),
    (Creation, GREY),
    (Composite, YELLOW),
)


_ROLES = {"argument": INPUT, "parameter": INDIGO, "buffer": INDIGO, "scalar": GREY, "constant": GREY}


def look(colors: Colors) -> dict[str, str]:
    """The DOT attributes of a node in these colours."""
    return {"fillcolor": colors[0], "color": colors[1]}


def of_op(op: Op) -> Colors:
    """Colours of an op's family."""
    return next((colors for family, colors in _FAMILIES if isinstance(op, family)), GREY)


def of_role(role: str | None) -> Colors:
    """Colours of a graph input."""
    return _ROLES.get(role or "", PINK)
