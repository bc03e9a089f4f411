"""Measures the error of results in units in the last place of the exact ones.

The unit is that of the format under test at the reference value, the subnormal unit below
the normal range. Overflow is no special case: beyond the largest number the reference is
taken as 2^128 (2^1024), and so is an infinite result. A mismatch is a NaN on one side only
or a wrong sign (of zero too).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.backends.math.reference import Array

__all__ = ["Error", "Exact", "merge"]


@dataclass
class Error:
    """Largest error in ULP, where it occurs, and how many values are mismatched."""

    ulp: float = 0.0
    worst: tuple[float, ...] = ()
    mismatches: int = 0
    first_mismatch: tuple[float, ...] = ()
    count: int = 0


def merge(a: Error, b: Error) -> Error:
    """The error over both sets of values."""
    larger = a if a.ulp >= b.ulp else b
    return Error(
        larger.ulp,
        larger.worst,
        a.mismatches + b.mismatches,
        a.first_mismatch or b.first_mismatch,
        a.count + b.count,
    )


class Exact:
    """Reference values prepared for measuring results of a narrower format."""

    def __init__(self, reference: Array, result: Any) -> None:
        """`reference` is float64 for float32 results and longdouble for float64 results."""
        self._nan = np.isnan(reference)
        self._negative = np.signbit(reference)
        narrow = result is np.float32
        self._limit = np.ldexp(reference.dtype.type(1), 128 if narrow else 1024)
        self._value = np.clip(reference, -self._limit, self._limit)
        self._per_unit = self._inverse_unit_32() if narrow else self._inverse_unit_64()

    def _inverse_unit_32(self) -> Array:
        exponent = (self._value.view(np.int64) >> 52) & 0x7FF
        # Field of the unit is exponent - 23, at least that of 2^-149; the inverse's is 2046 less it.
        exponent = 2046 - np.clip(exponent - 23, 1023 - 149, 1023 + 104)
        return np.asarray((exponent << 52).view(np.float64))

    def _inverse_unit_64(self) -> Array:
        exponent = np.frexp(np.where(self._nan, 1, self._value))[1]
        # 2^-k for k beyond the double range is still a longdouble.
        return np.asarray(np.ldexp(np.longdouble(1), -np.clip(exponent - 53, -1074, 1023 - 52)))

    def error(self, result: Array, *arguments: Array) -> Error:
        """The error of `result` at `arguments` (only used to report positions)."""
        wide = np.clip(result.astype(self._value.dtype), -self._limit, self._limit)
        distance = np.abs(wide - self._value)
        distance *= self._per_unit
        nan = np.isnan(result)
        bad = nan != self._nan
        bad |= (np.signbit(result) != self._negative) & ~nan
        both = nan | self._nan
        distance[both] = 0
        at = int(distance.argmax())
        mismatches = int(np.count_nonzero(bad))
        first: tuple[Any, ...] = ()
        if mismatches:
            where = int(bad.argmax())
            first = tuple(float(a[where]) for a in arguments)
        return Error(
            float(distance[at]), tuple(float(a[at]) for a in arguments), mismatches, first, result.size
        )
