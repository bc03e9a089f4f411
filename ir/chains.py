"""Which scalar operations become long chains of dependent instructions, and how many chains to run side by side.

A processor overlaps chains only as far as its schedulers hold them, so code that has several vectors to
compute says each step of all of them before the next step. That decides speed only.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphc.ir.kernel import Instruction
from graphc.ir.types import bool_

__all__ = ["interleaved"]

_SHORT = frozenset({"exp", "expm1", "sigmoid"})
_LONG = frozenset({"log", "log1p", "tanh", "erf", "sin", "cos", "pow"})


def interleaved(body: Iterable[Instruction]) -> int:
    """How many vectors of one register to compute side by side.

    Masks of several registers are slow, so a body with masks gets one.
    """
    found = 1
    for i in body:
        if i.guards or (i.opcode in ("load", "store") and i.dtype is bool_):
            return 1
        if i.opcode in _LONG:
            found = max(found, 2)
        elif i.opcode in _SHORT:
            found = 4
    return found
