"""Sums of products with constants, as which addresses are written: the part that changes least often first.

An offset is Σ factor·value + constant. Whatever way a caller went to compute an index, addresses that differ by a
constant share everything but that constant, which the processor adds for nothing, and what an inner
loop does not change is added before it. Arithmetic is modulo 2^64, as the instructions'.
"""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import NamedTuple

__all__ = ["Linear", "bytes_of", "scale_of"]

_SCALAR_BYTES = {
    "i8": 1, "i16": 2, "i32": 4, "i64": 8, "half": 2, "bfloat": 2, "float": 4, "double": 8, "ptr": 8,
}  # fmt: skip
_WRAP = 1 << 64
_LEAST = -(1 << 63)


@cache
def bytes_of(type_: str) -> int | None:
    """Bytes from one element of an array of `type_` to the next; None where this module does not know."""
    if type_.startswith("<"):
        lanes, _, scalar = type_[1:-1].partition(" x ")
        size = _SCALAR_BYTES.get(scalar)
        total = 0 if size is None else int(lanes) * size
        return total if total and total & (total - 1) == 0 else None
    return _SCALAR_BYTES.get(type_)


def scale_of(factors: list[int]) -> int:
    """The largest scale of an addressing mode that divides all factors."""
    common = gcd(*factors)
    return min(common & -common, 8)


class Linear(NamedTuple):
    """Σ factor·name + constant; the names in the order in which they came."""

    terms: tuple[tuple[str, int], ...]
    constant: int = 0

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        """self + factor·other."""
        constant = self.constant + factor * other.constant
        if not _LEAST <= constant < -_LEAST:
            constant = _wrapped(constant)
        if not other.terms:
            return Linear(self.terms, constant)
        if not self.terms and factor == 1:
            return Linear(other.terms, constant)
        total = dict(self.terms)
        for name, f in other.terms:
            total[name] = total.get(name, 0) + factor * f
        return Linear(tuple([(n, w) for n, f in total.items() if (w := _wrapped(f))]), constant)

    def times(self, factor: int) -> Linear:
        """factor·self."""
        return Linear((), 0).plus(self, factor)


def _wrapped(value: int) -> int:
    """The signed number of 64 bits that is the same modulo 2^64."""
    return (value + _WRAP // 2) % _WRAP - _WRAP // 2
