"""Questions about dims: the sizes that stand for symbols in choices, which symbols occur, equality, linear parts, and
the substitution of symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from graphc.ir.dims.expression import (
    KEPT,
    NO_SYMBOLS,
    Dim,
    Symbol,
    atom_expr,
    bounds,
    floor_div,
    from_terms,
    maximum,
    minimum,
    mod,
    symbols,
)

TYPICAL, AMPLE = 64, 1024
"""The sizes that choices are made for, and that memory is weighed for, where a dimension is symbolic."""


def typical(x: Dim) -> int:
    """`x` at the sizes that choices are made for: 64 for each symbol, or what of its bounds is nearest."""
    if isinstance(x, int):
        return x
    found = substitute(x, {s: _typical_of(s) for s in symbols(x)})
    assert isinstance(found, int)
    return found


def ample(x: Dim) -> int:
    """`x` at the sizes that memory is weighed for where it is asked to be saved: 1024 for each symbol, or what of its
    bounds is nearest."""
    if isinstance(x, int):
        return x
    found = substitute(x, {s: max(s.lo, AMPLE if s.hi is None else min(AMPLE, s.hi)) for s in symbols(x)})
    assert isinstance(found, int)
    return found


def _typical_of(symbol: Symbol) -> int:
    return max(symbol.lo, TYPICAL if symbol.hi is None else min(TYPICAL, symbol.hi))


@lru_cache(maxsize=KEPT)
def size_symbols(x: Dim) -> frozenset[Symbol]:
    """The symbols that stand for sizes of a program's dimensions, spelt `$name`; see `graphc.ir.symbolic`."""
    return frozenset(s for s in symbols(x) if s.name[0] == "$")


def axis_symbols(x: Dim) -> frozenset[Symbol]:
    """The symbols of `x` that stand for no size."""
    if isinstance(x, int):
        return NO_SYMBOLS
    if x._axes is None:
        x._axes = symbols(x) - size_symbols(x)
    return x._axes


def plain_symbol(x: Dim) -> Symbol | None:
    """The symbol where `x` is exactly one."""
    if isinstance(x, int):
        return None
    if x._plain is False:
        x._plain = None
        if len(x.terms) == 1 and x.terms[0][1] == 1:
            monomial = x.terms[0][0]
            if len(monomial) == 1 and monomial[0][1] == 1 and isinstance(monomial[0][0], Symbol):
                x._plain = monomial[0][0]
    return x._plain  # type: ignore[return-value]


def equal(a: Dim, b: Dim) -> bool | None:
    """a == b: True, False, or None where it depends on the symbols' values."""
    difference = b - a
    if isinstance(difference, int):
        return difference == 0
    lo, hi = bounds(difference)
    return False if (lo is not None and lo > 0) or (hi is not None and hi < 0) else None


def substitute(x: Dim, values: Mapping[Symbol, Dim]) -> Dim:
    """`x` with symbols replaced, simplified again."""
    if isinstance(x, int):
        return x
    plain = plain_symbol(x)
    if plain is not None:
        return values.get(plain, x)
    if symbols(x).isdisjoint(values):
        return x
    total: Dim = 0
    for monomial, k in x.terms:
        term: Dim = k
        for atom, power in monomial:
            if isinstance(atom, Symbol):
                value: Dim = values.get(atom, atom.expr)
            else:
                args = [substitute(a, values) for a in atom.args]
                value = _REBUILD[atom.function](*args)
            for _ in range(power):
                term = term * value
        total = total + term
    return total


_REBUILD: dict[str, Callable[[Dim, Dim], Dim]] = {
    "//": floor_div,
    "%": mod,
    "min": minimum,
    "max": maximum,
}


@lru_cache(maxsize=KEPT, typed=True)
def split_linear(x: Dim, symbol: Symbol) -> tuple[int, Dim] | None:
    """`x` as `k*symbol + rest` with integer k and rest free of `symbol`, or None where it is not so."""
    if isinstance(x, int):
        return 0, x
    k, rest = 0, {}
    for monomial, coefficient in x.terms:
        if monomial == ((symbol, 1),):
            k = coefficient
        elif any(
            atom == symbol if isinstance(atom, Symbol) else symbol in symbols(atom_expr(atom))
            for atom, _ in monomial
        ):
            return None
        else:
            rest[monomial] = coefficient
    return k, from_terms(rest)
