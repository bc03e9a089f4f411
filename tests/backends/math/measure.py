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
        form = np.finfo(result)
        wide = reference.dtype.type
        self._digits = int(form.nmant)
        self._limit = np.ldexp(wide(1), int(form.maxexp))
        self._value = _clip(reference, self._limit)
        self._nan = np.isnan(reference)
        self._negative = np.signbit(reference)
        # The power of two at or below |value|, from the least normal to the largest.
        if wide is np.float64:
            power = (self._value.view(np.int64) & (0x7FF << 52)).view(np.float64)
        else:
            power = np.ldexp(wide(0.5), np.frexp(np.where(self._nan, 1, self._value))[1])
        self._power = np.minimum(np.maximum(power, np.ldexp(wide(1), int(form.minexp))), self._limit / 2)

    def error(self, result: Array, *arguments: Array) -> Error:
        """The error of `result` at `arguments` (only used to report positions)."""
        distance = _clip(result.astype(self._value.dtype), self._limit)
        distance -= self._value
        np.abs(distance, out=distance)
        distance /= self._power
        nan = np.isnan(result)
        bad = np.signbit(result) != self._negative
        bad &= ~nan
        bad |= nan != self._nan
        distance[nan | self._nan] = 0
        at = int(distance.argmax())
        mismatches = int(np.count_nonzero(bad))
        first: tuple[float, ...] = ()
        if mismatches:
            where = int(bad.argmax())
            first = tuple(float(a[where]) for a in arguments)
        ulp = float(np.ldexp(distance[at], self._digits))
        return Error(ulp, tuple(float(a[at]) for a in arguments), mismatches, first, result.size)


def _clip(x: Array, limit: Any) -> Array:
    """x within ±limit, NaN kept (faster than `np.clip`)."""
    return np.asarray(np.minimum(np.maximum(x, -limit), limit))
