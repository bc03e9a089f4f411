"""Rounding to integers, integer division and remainders, and powers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.families import FLOATS, INTEGERS, NUMERIC, Attrs, Elementwise, Sample
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import SHAPES, Mapped, is_half, on_wide
from graphc.ir.scalar import ScalarBuilder, Term
from graphc.ir.types import DTYPES, TensorType, int64

__all__ = ["Ceil", "Floor", "FloorDiv", "Pow", "Rem", "Remainder", "Round", "Trunc", "TruncDiv"]

DIVISION_CHECK = "RuntimeError: ZeroDivisionError"


class Rounding(Mapped):
    """Base of rounding to an integral float."""

    operand_names = ("x",)
    dtypes = FLOATS
    traits = frozenset({"cheap", "idempotent"})
    draw = ("special",)
    zero_derivative = "constant between jumps"


class Floor(Rounding):
    """The largest integer not above x."""

    name = "floor"
    opcode = "floor"
    numpy = np.floor


class Ceil(Rounding):
    """The smallest integer not below x."""

    name = "ceil"
    opcode = "ceil"
    numpy = np.ceil


class Trunc(Rounding):
    """x without its fraction."""

    name = "trunc"
    opcode = "trunc"
    numpy = np.trunc


class Round(Rounding):
    """The nearest integer, ties to even."""

    name = "round"
    opcode = "round"
    numpy = np.rint


class Division(Elementwise):
    """Base of division with an integral quotient. An integer divisor of 0 fails the call."""

    operand_names = ("x", "y")
    dtypes: ClassVar[tuple[str, ...]] = NUMERIC
    traits = frozenset({"cheap"})

    @classmethod
    def integers(cls, x: Term, y: Term) -> Term:
        """The body for integers; y is not 0."""
        raise NotImplementedError

    @classmethod
    def floats(cls, x: Term, y: Term) -> Term:
        """The body for floats."""
        raise NotImplementedError

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        dtype = s.dtype(x[0])
        if dtype.is_floating_point:
            a, c = (Term(s, s.cast(v, dtype.accumulator)) for v in x)
            return s.cast(cls.floats(a, c).value, dtype)
        # An index into one element that is out of range where the divisor is 0.
        s.to_index(s.cast(Term(s, x[1]).eq(0).value, int64), 1, DIVISION_CHECK)
        return cls.integers(Term(s, x[0]), Term(s, x[1])).value

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in SHAPES:
                yield Sample((TensorType(DTYPES[name], shape),) * 2, draw=("normal", "nonzero"))


def _divisible(x: Any, y: Any) -> tuple[Any, Any]:
    """The operands, once no integer divisor is 0 (in the reference)."""
    if y.dtype.kind in "iu" and (y == 0).any():
        raise RuntimeError("ZeroDivisionError")
    return x, y


def _floor_adjust(x: Term, y: Term, remainder: Term) -> Term:
    """True where a truncated quotient is one above the floored one."""
    return remainder.ne(0) & (remainder.lt(0) ^ y.lt(0))


class FloorDiv(Division):
    """x // y, rounded toward minus infinity. Division of a float by 0 gives x / 0."""

    name = "floor_div"
    zero_derivative = "constant between jumps"

    @classmethod
    def integers(cls, x: Term, y: Term) -> Term:
        quotient = x / y
        if not x.s.dtype(x.value).is_signed:
            return quotient
        return _floor_adjust(x, y, x.rem(y)).select(quotient - 1, quotient)

    @classmethod
    def floats(cls, x: Term, y: Term) -> Term:
        # Exact where x / y is not: (x - rem) / y is an integer up to rounding.
        remainder = x.rem(y)
        quotient = (x - remainder) / y
        quotient = _floor_adjust(x, y, remainder).select(quotient - 1, quotient)
        whole = quotient.floor()
        whole = (quotient - whole).gt(0.5).select(whole + 1, whole)
        # A zero quotient has the sign of x / y.
        result = quotient.ne(0).select(whole, (x / y) * 0)
        return y.eq(0).select(x / y, result)

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return on_wide(np.floor_divide, *_divisible(*arrays))


class TruncDiv(Division):
    """x / y of integers, rounded toward zero."""

    name = "trunc_div"
    dtypes = INTEGERS
    no_derivative = "operands and result are integers"

    @classmethod
    def integers(cls, x: Term, y: Term) -> Term:
        return x / y

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, y = _divisible(*arrays)
        quotient = np.floor_divide(x, y)
        return (quotient + ((quotient < 0) & (quotient * y != x))).astype(x.dtype)


class Remainder(Division):
    """x - y · floor(x / y): the sign of y, as Python's %."""

    name = "remainder"

    @classmethod
    def integers(cls, x: Term, y: Term) -> Term:
        rest = x.rem(y)
        if not x.s.dtype(x.value).is_signed:
            return rest
        return _floor_adjust(x, y, rest).select(rest + y, rest)

    @classmethod
    def floats(cls, x: Term, y: Term) -> Term:
        rest = x.rem(y)
        return _floor_adjust(x, y, rest).select(rest + y, rest)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        g, (x, y) = cotangents[0], self.operands
        return [g, b.neg(b.mul(g, b.floor_div(x, y)))]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        def exact(x: Any, y: Any) -> Any:
            rest = np.fmod(x, y)
            return np.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)

        return on_wide(exact, *_divisible(*arrays))


class Rem(Division):
    """x - y · trunc(x / y): the sign of x, as C's fmod; exact for floats."""

    name = "rem"

    @classmethod
    def integers(cls, x: Term, y: Term) -> Term:
        return x.rem(y)

    @classmethod
    def floats(cls, x: Term, y: Term) -> Term:
        return x.rem(y)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        g, (x, y) = cotangents[0], self.operands
        return [g, b.neg(b.mul(g, b.trunc(b.div(x, y))))]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return on_wide(np.fmod, *_divisible(*arrays))


class Pow(Mapped):
    """x to the power y. Integers wrap, and a negative integer power is 0 except of 1 and -1."""

    name = "pow"
    operand_names = ("x", "y")
    dtypes = NUMERIC
    ulp = {"f16": 1, "bf16": 1, "f32": 4, "f64": 4}
    precise = True

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        if s.dtype(x[0]).is_floating_point:
            return s.apply("pow", *x)
        base, power = Term(s, x[0]), Term(s, x[1])
        signed = s.dtype(x[0]).is_signed
        # Square and multiply over every bit of a non-negative power.
        result = base.like(1)
        left, square = power, base
        bits = s.dtype(x[0]).bits - signed
        for i in range(bits):
            result = (left & 1).ne(0).select(result * square, result)
            if i + 1 < bits:
                left, square = left >> 1, square * square
        if not signed:
            return result.value
        odd = (power & 1).ne(0)
        inverse = base.eq(1).select(base.like(1), base.eq(-1).select(odd.select(base, base.like(1)), 0))
        return power.lt(0).select(inverse, result).value

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        base, power = x
        by_base = b.mul(g, b.mul(power, b.pow(base, b.sub(power, 1))))
        by_power = b.mul(g, b.mul(y, b.log(base)))
        flat = b.logical_and(b.eq(base, 0), b.ge(power, 0))
        return [b.where(b.eq(power, 0), 0, by_base), b.where(flat, 0, by_power)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, y = arrays
        if x.dtype.kind not in "iu" or is_half(x.dtype):
            return on_wide(np.power, x, y, precise=True)
        positive = np.power(x, np.where(y < 0, 0, y).astype(x.dtype))
        inverse = np.where(x == 1, 1, np.where(x == -1, np.where(y % 2 == 1, -1, 1), 0)).astype(x.dtype)
        return np.where(y < 0, inverse, positive)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            draw = ("positive", "normal") if name in FLOATS else ("any", "any")
            for shape in SHAPES:
                yield Sample((TensorType(DTYPES[name], shape),) * 2, draw=draw)
