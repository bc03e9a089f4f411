"""Measures the error of results in units in the last place of the exact ones.

The unit is that of the format under test at the reference value, the subnormal unit below
the normal range. Overflow is no special case: beyond the largest number the reference is
taken as 2^128 (2^1024), and so is an infinite result. A mismatch is a NaN on one side only
or a wrong sign (of zero too).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.backends.llvm.text import ModuleText, Val
from graphc.ir.target import TARGETS
from tests.backends.math.jit import load_function, runnable
from tests.backends.math.reference import Array

__all__ = ["Error", "Exact", "Sieve", "merge"]


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


class Sieve:
    """Tells in one native pass whether a block of float32 results can matter.

    `Exact` takes several times as long as the function under test; over 2^32 arguments it is
    only asked about the few blocks whose error exceeds what was seen before.
    """

    _WIDTH = 8

    def __init__(self) -> None:
        target = TARGETS[runnable()[-1]]
        module = ModuleText(target)
        parameters = [("ptr", "reference"), ("ptr", "result"), ("ptr", "out"), ("i64", "count")]
        b = module.function("sieve", "void", parameters)
        reference, result, out, count = b.params
        wide, bits, bools = (f"<{self._WIDTH} x {t}>" for t in ("double", "i64", "i1"))

        def within(x: Val, low: float, high: float) -> Val:
            least, most = b.const(wide, low), b.const(wide, high)
            x = b.select(b.fcmp("olt", x, least), least, x)
            return b.select(b.fcmp("ogt", x, most), most, x)

        def body(index: Val, carried: tuple[Val, ...]) -> tuple[Val, ...]:
            largest, wrong = carried
            exact = b.load(wide, b.gep(reference, index, "double"), 8)
            narrow = b.load(f"<{self._WIDTH} x float>", b.gep(result, index, "float"), 4)
            found = b.cast("fpext", narrow, wide)
            value = within(exact, -(2.0**128), 2.0**128)
            masked = b.and_(b.cast("bitcast", value, bits), b.const(bits, 0x7FF << 52))
            power = within(b.cast("bitcast", masked, wide), 2.0**-126, 2.0**127)
            inverse = b.sub(b.const(bits, 2046 << 52), b.cast("bitcast", power, bits))
            distance = b.fsub(within(found, -(2.0**128), 2.0**128), value)
            distance = b.intrinsic("fabs", wide, [distance])
            distance = b.fmul(distance, b.cast("bitcast", inverse, wide))
            larger = b.select(b.fcmp("ogt", distance, largest), distance, largest)
            nan = b.fcmp("uno", narrow, narrow)
            zero = b.const(bits, 0)
            signs = [b.icmp("slt", b.cast("bitcast", x, bits), zero) for x in (exact, found)]
            bad = b.and_(b.xor(*signs), b.xor(nan, b.const(bools, True)))
            bad = b.or_(bad, b.xor(nan, b.fcmp("uno", exact, exact)))
            return larger, b.or_(wrong, b.cast("zext", bad, bits))

        start = [b.const(wide, 0.0), b.const(bits, 0)]
        largest, wrong = b.loop(0, count, self._WIDTH, start, body)
        b.store(largest, out, 8)
        b.store(wrong, b.gep(out, self._WIDTH, "i64"), 8)
        b.ret()
        pointers = [ctypes.c_void_p] * 3
        self._engine, address = load_function(str(module), target, "sieve")
        self._function = ctypes.CFUNCTYPE(None, *pointers, ctypes.c_int64)(address)
        self._out = np.empty(2 * self._WIDTH, np.float64)

    def __call__(self, reference: Array, result: Array, known: float) -> bool:
        """Whether some error exceeds `known` ULP or some NaN or sign is wrong.

        `reference` is float64, `result` float32; their length is a multiple of 8.
        """
        assert reference.flags.c_contiguous and result.flags.c_contiguous
        self._function(reference.ctypes.data, result.ctypes.data, self._out.ctypes.data, result.size)
        largest = self._out[: self._WIDTH].max() * 2.0**23
        return bool(largest > known or self._out[self._WIDTH :].view(np.int64).any())
