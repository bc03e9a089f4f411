"""Index expressions at a point whose vector axis stands for several lanes.

Lane l of an expression is the expression with the vector axis replaced by its base plus l. The
base is a multiple of the vector length (or a constant), which is written as `aligned·Q` with a
fresh symbol Q, so that divisions and remainders simplify by themselves: with 8 lanes from a
multiple of 8, `(j//2)` is `4·Q`, `4·Q`, `4·Q + 1`, … and `(j%2)` is 0, 1, 0, 1, ….
"""

from __future__ import annotations

from dataclasses import field

from graphc.ir.dims import Apply, Dim, Expr, Symbol, bounds, split_linear, substitute, symbols
from graphc.ir.records import dataclass

__all__ = ["LaneAxis", "fits_32", "merge_division", "step_of"]


@dataclass(frozen=True)
class LaneAxis:
    """The vector axis: `width` consecutive points from `base` where that is a constant, else from a
    multiple of `aligned`, the first `real` of them surely points of the axis. `varying` names the
    `to_index` symbols that differ between lanes."""

    name: str
    width: int
    aligned: int = 1
    base: int | None = None
    real: int = 1
    varying: frozenset[str] = frozenset()
    _offsets: dict[Dim, tuple[int, ...] | None] = field(default_factory=dict, compare=False, repr=False)
    _forms: dict[Dim, tuple[Dim, ...] | None] = field(default_factory=dict, compare=False, repr=False)

    def offsets(self, x: Dim) -> tuple[int, ...] | None:
        """By how much each lane of `x` exceeds lane 0; None where that is not constant."""
        if isinstance(x, int):
            return (0,) * self.width
        if x not in self._offsets:
            self._offsets[x] = self._find_offsets(x)
        return self._offsets[x]

    def _find_offsets(self, x: Expr) -> tuple[int, ...] | None:
        found = symbols(x)
        if any(s.name in self.varying for s in found):
            return None
        symbol = next((s for s in found if s.name == self.name), None)
        if symbol is None:
            return (0,) * self.width
        split = split_linear(x, symbol)
        if split is not None:
            return tuple(split[0] * i for i in range(self.width))
        forms = self.forms(x)
        assert forms is not None
        differences = [f - forms[0] for f in forms]
        return tuple(differences) if all(isinstance(d, int) for d in differences) else None  # type: ignore[arg-type]

    def forms(self, x: Dim) -> tuple[Dim, ...] | None:
        """`x` in each lane, in terms of Q; None where it depends on lanes otherwise."""
        if x not in self._forms:
            found = symbols(x)
            symbol = next((s for s in found if s.name == self.name), Symbol(self.name))
            if any(s.name in self.varying for s in found):
                self._forms[x] = None
            else:
                start = self._start(symbol)
                self._forms[x] = tuple(substitute(x, {symbol: start + i}) for i in range(self.width))
        return self._forms[x]

    def _start(self, symbol: Symbol) -> Dim:
        if self.base is not None:
            return self.base
        top = None if symbol.hi is None else max(0, symbol.hi + 1 - self.real) // self.aligned
        return self.aligned * Symbol(f"{symbol.name}'", 0, top).expr


def step_of(x: Dim, axis: LaneAxis | None) -> int | None:
    """Growth of `x` from one lane to the next; None where it is not constant."""
    offsets = (0,) if axis is None else axis.offsets(x)
    if offsets is None or len(offsets) == 1:
        return None if offsets is None else 0
    step = offsets[1]
    return step if offsets == tuple(step * i for i in range(len(offsets))) else None


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
