"""Index expressions at a point whose vector axis stands for several lanes.

`step_of` says by how much an expression grows from lane to lane (0 where all lanes agree), or
that it is not affine in the lane. Its value in lane 0 is always the expression at the vector
axis's base, so an affine expression needs scalar arithmetic only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from graphc.ir.dims import Apply, Dim, Expr, Symbol, bounds

__all__ = ["LaneAxis", "fits_32", "merge_division", "step_of"]


@dataclass(frozen=True)
class LaneAxis:
    """The vector axis: `width` consecutive points from a base that is a multiple of `aligned`.

    `varying` names the `to_index` symbols that differ between lanes.
    """

    name: str
    width: int
    aligned: int = 1
    varying: frozenset[str] = frozenset()


def step_of(x: Dim, axis: LaneAxis | None) -> int | None:
    """Growth of `x` from one lane to the next; None where it is not constant."""
    if axis is None or isinstance(x, int):
        return 0
    total = 0
    for monomial, k in x.terms:
        steps = [_atom_step(atom, axis) for atom, _ in monomial]
        if all(s == 0 for s in steps):
            continue
        if len(monomial) != 1 or monomial[0][1] != 1 or steps[0] is None:
            return None
        total += k * steps[0]
    return total


def _atom_step(atom: Symbol | Apply, axis: LaneAxis) -> int | None:
    if isinstance(atom, Symbol):
        return 1 if atom.name == axis.name else None if atom.name in axis.varying else 0
    steps = [step_of(a, axis) for a in atom.args]
    if steps == [0, 0]:
        return 0
    first = steps[0]
    if atom.function in ("min", "max"):
        return first if first == steps[1] else None
    divisor = atom.args[1]
    if (
        first is None
        or not isinstance(divisor, int)
        or not _stays_in_block(atom.args[0], first, divisor, axis)
    ):
        return None
    return 0 if atom.function == "//" else first


def _stays_in_block(x: Dim, step: int, divisor: int, axis: LaneAxis) -> bool:
    """True where the lanes of `x` surely fall between two neighbouring multiples of `divisor`."""
    assert isinstance(x, Expr)
    block, constant = divisor, 0
    for monomial, k in x.terms:
        if monomial == ():
            constant = k
        elif len(monomial) == 1 and isinstance(monomial[0][0], Symbol) and monomial[0][0].name == axis.name:
            block = gcd(block, k * axis.aligned ** monomial[0][1])
        else:
            block = gcd(block, k)
    first = constant % block
    last = first + step * (axis.width - 1)
    return min(first, last) >= 0 and max(first, last) < block


def merge_division(x: Dim) -> Dim:
    """`x` with every `c·d·(a//d) + c·(a%d)` replaced by `c·a`."""
    while isinstance(x, Expr):
        merged = _merge_one(x)
        if merged is None:
            return x
        x = merged
    return x


def _merge_one(x: Expr) -> Dim | None:
    by_monomial = dict(x.terms)
    for monomial, k in x.terms:
        for position, (atom, power) in enumerate(monomial):
            if not isinstance(atom, Apply) or atom.function != "%" or power != 1:
                continue
            a, d = atom.args
            if not isinstance(d, int):
                continue
            quotient = Apply("//", (a, d))
            others = monomial[:position] + monomial[position + 1 :]
            partner = tuple(sorted((*others, (quotient, 1)), key=lambda t: str(t[0])))
            if by_monomial.get(partner) == k * d:
                rest: Dim = Expr(((others, 1),)) if others else 1
                return x - k * rest * _term(atom) - k * d * rest * _term(quotient) + k * rest * a
    return None


def _term(atom: Apply) -> Expr:
    return Expr(((((atom, 1),), 1),))


def fits_32(x: Dim) -> bool:
    """True where `x` and every part of it surely fit in 31 bits."""
    if isinstance(x, int):
        return abs(x) < 1 << 31
    for monomial, k in x.terms:
        lo, hi = bounds(Expr(((monomial, k),))) if monomial else (k, k)
        if lo is None or hi is None or max(abs(lo), abs(hi)) >= 1 << 30:
            return False
        if any(isinstance(a, Apply) and not all(fits_32(y) for y in a.args) for a, _ in monomial):
            return False
    lo, hi = bounds(x)
    return lo is not None and hi is not None and max(abs(lo), abs(hi)) < 1 << 31
