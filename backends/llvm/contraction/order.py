"""Sums whose terms are there in order only: position along one axis at most that along another.

Such a sum is written with the same guard on both factors. The guard is taken off here, so that the
factors are plain again, and register tiles leave absent terms out instead of adding zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from graphc.ir.dims import Dim, Expr, Symbol
from graphc.ir.kernel import Instruction, extent
from graphc.ir.records import dataclass

__all__ = ["Order", "Place", "Precedence", "placed", "take_off"]

Place = Literal["rows", "columns", "steps"]


@dataclass(frozen=True)
class Precedence:
    """Terms are there where the position along axis `low` is at most that along `high`."""

    low: Symbol
    high: Symbol


@dataclass(frozen=True)
class Order:
    """The same, by what the two axes are to the product: each is the only axis of its kind."""

    low: Place
    high: Place

    @property
    def of_results(self) -> bool:
        """True where it says which elements of the result have terms at all."""
        return "steps" not in (self.low, self.high)


def take_off(
    left: Sequence[Instruction], right: Sequence[Instruction]
) -> tuple[Precedence, list[Instruction], list[Instruction]] | None:
    """The order that both factors are guarded by, and the factors without it; None where there is none.

    A factor is one load, or a conversion of one: zero where its load is.
    """
    loads = [[i for i in side if i.opcode == "load"] for side in (left, right)]
    if any(len(found) != 1 or len(found[0].guards) != 1 for found in loads):
        return None
    guard = loads[0][0].guards[0]
    found = _precedence(guard[0])
    if found is None or loads[1][0].guards != (guard,) or guard[1] != 0:
        return None
    if not isinstance(guard[2], int) or guard[2] < extent(found.high):
        return None
    if any(i.opcode not in ("load", "const", "cast") for side in (left, right) for i in side):
        return None
    return found, _plain(left), _plain(right)


def _precedence(difference: Dim) -> Precedence | None:
    """The axes of `high - low`."""
    if not isinstance(difference, Expr) or len(difference.terms) != 2:
        return None
    by_sign: dict[int, Symbol] = {}
    for monomial, factor in difference.terms:
        if len(monomial) != 1 or monomial[0][1] != 1 or not isinstance(monomial[0][0], Symbol):
            return None
        by_sign[factor] = monomial[0][0]
    return Precedence(by_sign[-1], by_sign[1]) if set(by_sign) == {1, -1} else None


def _plain(side: Sequence[Instruction]) -> list[Instruction]:
    fills = {o for i in side if i.opcode == "load" for o in i.operands}
    return [
        dataclasses.replace(i, operands=(), guards=()) if i.opcode == "load" else i
        for i in side
        if i.id not in fills
    ]


def placed(
    order: Precedence, rows: Sequence[Symbol], columns: Sequence[Symbol], steps: Sequence[Symbol]
) -> Order | None:
    """The order by kinds of axes; None where an axis is not the only one of its kind, or columns follow steps."""
    kinds: dict[Symbol, Place] = {}
    sides: tuple[tuple[Place, Sequence[Symbol]], ...] = (
        ("rows", rows),
        ("columns", columns),
        ("steps", steps),
    )
    for kind, axes in sides:
        if len(axes) == 1:
            kinds[axes[0]] = kind
    low, high = kinds.get(order.low), kinds.get(order.high)
    if low is None or high is None or {low, high} == {"columns", "steps"}:
        return None
    return Order(low, high)
