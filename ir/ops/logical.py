"""Logic on bools and bits, shifts, and the choice between two operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.families import ALL_DTYPES, INTEGERS, Attrs, Elementwise, Sample, Trait, Types
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import SHAPES, Mapped
from graphc.ir.scalar import ScalarBuilder, Term
from graphc.ir.types import DTYPES, DType, TensorType, bool_

__all__ = [
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "LogicalAnd",
    "LogicalNot",
    "LogicalOr",
    "LogicalXor",
    "ShiftLeft",
    "ShiftRight",
    "Where",
]


class Bitwise(Mapped):
    """Base: one opcode on integers' bits or on bools."""

    operand_names: ClassVar[tuple[str, ...]] = ("x", "y")
    dtypes: ClassVar[tuple[str, ...]] = (*INTEGERS, "bool")
    traits: ClassVar[frozenset[Trait]] = frozenset({"commutative", "cheap"})
    no_derivative = "operands and result are integers or bools"


class BitwiseAnd(Bitwise):
    """x & y."""

    name = "bitwise_and"
    opcode = "and"
    numpy = np.bitwise_and


class BitwiseOr(Bitwise):
    """x | y."""

    name = "bitwise_or"
    opcode = "or"
    numpy = np.bitwise_or


class BitwiseXor(Bitwise):
    """x ^ y."""

    name = "bitwise_xor"
    opcode = "xor"
    numpy = np.bitwise_xor


class BitwiseNot(Bitwise):
    """~x: every bit of an integer, or a bool, inverted."""

    name = "bitwise_not"
    operand_names = ("x",)
    opcode = "not"
    numpy = np.invert
    traits = frozenset({"cheap", "involution"})


class LogicalAnd(Bitwise):
    """x and y, of bools (other dtypes are compared with 0 first)."""

    name = "logical_and"
    opcode = "and"
    numpy = np.logical_and
    dtypes = ("bool",)


class LogicalOr(Bitwise):
    """x or y, of bools."""

    name = "logical_or"
    opcode = "or"
    numpy = np.logical_or
    dtypes = ("bool",)


class LogicalXor(Bitwise):
    """x != y, of bools."""

    name = "logical_xor"
    opcode = "xor"
    numpy = np.logical_xor
    dtypes = ("bool",)


class LogicalNot(Bitwise):
    """not x, of bools."""

    name = "logical_not"
    operand_names = ("x",)
    opcode = "not"
    numpy = np.logical_not
    dtypes = ("bool",)
    traits = frozenset({"cheap", "involution"})


class Shift(Elementwise):
    """Base of shifts: a count outside of [0, bits) shifts every bit out."""

    operand_names = ("x", "y")
    dtypes = INTEGERS
    traits = frozenset({"cheap"})
    no_derivative = "operands and result are integers or bools"

    @classmethod
    def shifted(cls, x: Term, count: Term, bits: int) -> tuple[Term, Term]:
        """(x shifted by a count that is in range, the result for a count that is not)."""
        raise NotImplementedError

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        value, count = Term(s, x[0]), Term(s, x[1])
        bits = s.dtype(x[0]).bits
        fits = count.ge(0) & count.lt(bits)
        inside, outside = cls.shifted(value, fits.select(count, 0), bits)
        return fits.select(inside, outside).value

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in SHAPES:
                yield Sample((TensorType(DTYPES[name], shape),) * 2, draw=("normal", "index:40"))


class ShiftLeft(Shift):
    """x << y; 0 where y is outside of [0, bits)."""

    name = "shift_left"

    @classmethod
    def shifted(cls, x: Term, count: Term, bits: int) -> tuple[Term, Term]:
        return x << count, x & 0

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, y = arrays
        bits = 8 * x.dtype.itemsize
        fits = (y >= 0) & (y < bits)
        return np.where(fits, np.left_shift(x, np.where(fits, y, 0).astype(x.dtype)), 0).astype(x.dtype)


class ShiftRight(Shift):
    """x >> y with the sign kept; all sign bits where y is outside of [0, bits)."""

    name = "shift_right"

    @classmethod
    def shifted(cls, x: Term, count: Term, bits: int) -> tuple[Term, Term]:
        # The scalar shift is logical: a negative x is shifted as its complement.
        if not x.s.dtype(x.value).is_signed:
            return x >> count, x & 0
        negative = x.lt(0)
        inverted = Term(x.s, x.s.apply("not", x.value))
        moved = negative.select(inverted, x) >> count
        back = negative.select(Term(x.s, x.s.apply("not", moved.value)), moved)
        return back, negative.select(Term(x.s, x.s.const(x.s.dtype(x.value), -1)), 0)

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, y = arrays
        bits = 8 * x.dtype.itemsize
        fits = (y >= 0) & (y < bits)
        moved = np.right_shift(x, np.where(fits, y, 0).astype(x.dtype))
        return np.where(fits, moved, np.where(x < 0, -1, 0)).astype(x.dtype)


class Where(Elementwise):
    """x where the bool `condition` holds, else y. Condition, x and y have one shape."""

    name = "where"
    operand_names = ("condition", "x", "y")
    dtypes = ALL_DTYPES
    traits = frozenset({"cheap"})

    @classmethod
    def result_dtype(cls, types: Types, attrs: Attrs) -> DType:
        return types[1].dtype

    @classmethod
    def check_dtypes(cls, types: Types) -> None:
        if types[0].dtype is not bool_:
            raise RuntimeError(
                f"where expected condition to be a boolean tensor, but got a tensor with dtype {types[0].dtype}"
            )
        if types[1].dtype is not types[2].dtype:
            raise RuntimeError(f"where: x and y must have one dtype, got {types[1]} and {types[2]}")

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return s.apply("select", *x)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        g, condition = cotangents[0], self.operands[0]
        return [None, b.where(condition, g, 0), b.where(condition, 0, g)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.where(*arrays)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in SHAPES:
                t = TensorType(DTYPES[name], shape)
                yield Sample((t.with_dtype(bool_), t, t), draw=("bool", "any", "any"))

    def simplify(self, b: Any) -> Value | None:
        return self.operands[1] if self.operands[1] is self.operands[2] else None
