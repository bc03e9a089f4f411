"""Elementwise arithmetic. Integers wrap; 16-bit floats compute in float32 and are rounded once per op."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.families import ALL_DTYPES, FLOATS, NUMERIC, Attrs, Elementwise, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.creation import splat
from graphc.ir.ops.elementwise import SHAPES, Mapped, is_half
from graphc.ir.scalar import ScalarBuilder
from graphc.ir.types import DTYPES, DType, TensorType, bool_

__all__ = [
    "Abs",
    "Add",
    "Cast",
    "Clamp",
    "Div",
    "Maximum",
    "Minimum",
    "Mul",
    "Neg",
    "Reciprocal",
    "Sign",
    "Square",
    "Sub",
]


class Add(Mapped):
    """x + y."""

    name = "add"
    operand_names = ("x", "y")
    opcode = "add"
    numpy = np.add
    dtypes = NUMERIC
    traits = frozenset({"commutative", "cheap", "linear"})

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [g, g]

    def simplify(self, b: Any) -> Value | None:
        # Of floats only -0.0 is neutral: (-0.0) + 0.0 is 0.0.
        for x, other in (self.operands, self.operands[::-1]):
            value = splat(other)
            if value is not None and value == 0 and (x.type.dtype.is_integral or np.signbit(value)):
                return x
        return None


class Sub(Mapped):
    """x - y."""

    name = "sub"
    operand_names = ("x", "y")
    opcode = "sub"
    numpy = np.subtract
    dtypes = NUMERIC
    traits = frozenset({"cheap", "linear"})

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [g, b.neg(g)]

    def simplify(self, b: Any) -> Value | None:
        x, other = self.operands
        value = splat(other)
        return x if value is not None and value == 0 and not np.signbit(value) else None


class Mul(Mapped):
    """x · y."""

    name = "mul"
    operand_names = ("x", "y")
    opcode = "mul"
    numpy = np.multiply
    dtypes = NUMERIC
    traits = frozenset({"commutative", "cheap"})

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.mul(g, x[1]), b.mul(g, x[0])]

    def simplify(self, b: Any) -> Value | None:
        for x, other in (self.operands, self.operands[::-1]):
            value = splat(other)
            if value is not None and value == 1:
                return x
            if value is not None and value == 0 and x.type.dtype.is_integral:
                return other
        return None


class Div(Mapped):
    """x / y of floats."""

    name = "div"
    operand_names = ("x", "y")
    opcode = "div"
    numpy = np.divide
    dtypes = FLOATS
    traits = frozenset({"cheap"})

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.div(g, x[1]), b.neg(b.mul(g, b.div(y, x[1])))]

    def simplify(self, b: Any) -> Value | None:
        value = splat(self.operands[1])
        return self.operands[0] if value is not None and value == 1 else None


class Neg(Mapped):
    """-x."""

    name = "neg"
    operand_names = ("x",)
    opcode = "neg"
    numpy = np.negative
    dtypes = NUMERIC
    traits = frozenset({"cheap", "involution", "linear"})

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.neg(g)]


class Abs(Mapped):
    """|x|; the most negative integer stays itself. Derivative sign(x), 0 at 0."""

    name = "abs"
    operand_names = ("x",)
    opcode = "abs"
    numpy = np.abs
    dtypes = NUMERIC
    traits = frozenset({"cheap", "idempotent"})

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.mul(g, b.sign(x[0]))]


class Sign(Mapped):
    """-1, 0 or 1 as x is negative, zero (or NaN), or positive."""

    name = "sign"
    operand_names = ("x",)
    numpy = staticmethod(lambda x: np.where(x > 0, 1, 0) - np.where(x < 0, 1, 0))
    dtypes = NUMERIC
    traits = frozenset({"cheap", "idempotent"})
    zero_derivative = "constant on both sides of 0"

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        one, zero = x[0].like(1), x[0].like(0)
        below = x[0].lt(0).select(x[0].like(-1), zero) if x[0].s.dtype(x[0].value).is_signed else zero
        return x[0].gt(0).select(one, below)


class Reciprocal(Mapped):
    """1 / x of floats."""

    name = "reciprocal"
    operand_names = ("x",)
    numpy = staticmethod(lambda x: 1 / x)
    dtypes = FLOATS
    traits = frozenset({"cheap"})

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return 1 / x[0]

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.neg(b.mul(g, b.mul(y, y)))]


class Square(Mapped):
    """x · x."""

    name = "square"
    operand_names = ("x",)
    numpy = np.square
    dtypes = NUMERIC
    traits = frozenset({"cheap"})

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return x[0] * x[0]

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.mul(g, b.mul(x[0], 2))]


class Maximum(Mapped):
    """The larger of x and y; NaN where either is. The cotangent is halved at ties."""

    name = "maximum"
    operand_names = ("x", "y")
    opcode = "max"
    numpy = np.maximum
    dtypes = ALL_DTYPES
    # Not commutative: of 0.0 and -0.0, which compare equal, the order decides.
    traits = frozenset({"cheap"})

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return s.apply("or" if s.dtype(x[0]) is bool_ else "max", *x)

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return _extremum(b, g, b.lt(x[0], x[1]), b.lt(x[1], x[0]), b.eq(x[0], x[1]))


class Minimum(Mapped):
    """The smaller of x and y; NaN where either is. The cotangent is halved at ties."""

    name = "minimum"
    operand_names = ("x", "y")
    opcode = "min"
    numpy = np.minimum
    dtypes = ALL_DTYPES
    # Not commutative: of 0.0 and -0.0, which compare equal, the order decides.
    traits = frozenset({"cheap"})

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return s.apply("and" if s.dtype(x[0]) is bool_ else "min", *x)

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return _extremum(b, g, b.lt(x[1], x[0]), b.lt(x[0], x[1]), b.eq(x[0], x[1]))


def _extremum(b: Any, g: Any, x_loses: Any, y_loses: Any, tie: Any) -> list[Value | None]:
    shared = b.where(tie, b.mul(g, 0.5), g)
    return [b.where(x_loses, 0, shared), b.where(y_loses, 0, shared)]


class Clamp(Mapped):
    """min(max(x, lo), hi); NaN where any operand is. `lo` and `hi` have the shape of x."""

    name = "clamp"
    operand_names = ("x", "lo", "hi")
    numpy = staticmethod(lambda x, lo, hi: np.minimum(np.maximum(x, lo), hi))
    dtypes = NUMERIC
    traits = frozenset({"cheap"})

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return x[0].max(x[1]).min(x[2])

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        v, lo, hi = x
        below, above = b.lt(v, lo), b.gt(v, hi)
        inside = b.logical_not(b.logical_or(below, above))
        return [
            b.where(inside, g, 0),
            b.where(b.logical_and(below, b.lt(lo, hi)), g, 0),
            b.where(b.logical_or(above, b.lt(hi, lo)), g, 0),
        ]


class Cast(Elementwise):
    """x converted to `dtype`: float to integer truncates, anything to bool is x != 0.

    A float that is NaN or out of range becomes the least int64, or for narrower integers the least
    int32, of which the low bits are kept: what x86 and PyTorch give.
    """

    name = "cast"
    operand_names = ("x",)
    attributes = {"dtype": ...}
    dtypes = ALL_DTYPES
    traits = frozenset({"cheap"})

    @classmethod
    def result_dtype(cls, types: Types, attrs: Attrs) -> DType:
        return attrs["dtype"]  # type: ignore[no-any-return]

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return s.cast(x[0], attrs["dtype"])

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        source = self.operands[0].type.dtype
        if not (source.is_floating_point and self.attrs["dtype"].is_floating_point):
            return [None]
        return [b.cast_to(cotangents[0], source)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, to = arrays[0], attrs["dtype"].numpy
        if is_half(x.dtype):
            x = x.astype(np.float32)
        if to == np.bool_:
            return x != 0
        if x.dtype.kind == "f" and to.kind in "iu":
            wide = np.int64 if to.itemsize == 8 else np.int32
            fits = (x >= np.iinfo(wide).min) & (x < -float(np.iinfo(wide).min))
            return np.where(fits, np.trunc(np.where(fits, x, 0)).astype(wide), np.iinfo(wide).min).astype(to)
        with np.errstate(over="ignore"):
            return x.astype(to)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for source in cls.dtypes:
            for to in cls.dtypes:
                for shape in SHAPES:
                    yield Sample((TensorType(DTYPES[source], shape),), {"dtype": DTYPES[to]}, ("special",))

    def simplify(self, b: Any) -> Value | None:
        x, to = self.operands[0], self.attrs["dtype"]
        if x.type.dtype is to:
            return x
        if isinstance(x.op, Cast) and x.op.operands[0].type.dtype is to and _widens(to, x.type.dtype):
            return x.op.operands[0]
        return None


def _widens(narrow: DType, wide: DType) -> bool:
    """True where converting to `wide` and back gives every value of `narrow` again."""
    if narrow.kind == "float" and wide.kind == "float":
        return wide.bits > narrow.bits
    if narrow.is_integral and wide.is_integral:
        return wide.bits > narrow.bits
    return narrow is bool_
