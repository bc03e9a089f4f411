"""Elementwise arithmetic ops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.families import (
    ALL_DTYPES,
    FLOATS,
    NUMERIC,
    Attrs,
    Elementwise,
    Sample,
    Types,
)
from graphc.ir.graph import Value
from graphc.ir.scalar import ScalarBuilder
from graphc.ir.types import DTYPES, DType, TensorType

__all__ = ["Add", "Cast", "Mul", "Neg", "Relu", "Sub"]

SHAPES = ((3, 5), (1,), (0, 4), ())


def elementwise_samples(cls: type[Elementwise], operands: int, draw: str = "normal") -> Iterator[Sample]:
    """Samples of every required dtype over typical, one-element, empty and scalar shapes."""
    for name in cls.dtypes:
        for shape in SHAPES:
            yield Sample((TensorType(DTYPES[name], shape),) * operands, draw=(draw,) * operands)


def in_compute_dtype(function: Any, *arrays: Any) -> Any:
    """Applies a NumPy function: 16-bit floats go through float32 and are rounded once."""
    dtype = arrays[0].dtype
    if dtype.itemsize == 2 and dtype.kind not in "iu":
        return np.asarray(function(*(a.astype(np.float32) for a in arrays))).astype(dtype)
    return np.asarray(function(*arrays)).astype(dtype)


class Add(Elementwise):
    """x + y. Integers wrap."""

    name = "add"
    operand_names = ("x", "y")
    dtypes = NUMERIC
    traits = frozenset({"commutative", "cheap"})

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return s.apply("add", *x)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [cotangents[0], cotangents[0]]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return in_compute_dtype(np.add, *arrays)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        return elementwise_samples(cls, 2)


class Sub(Elementwise):
    """x - y. Integers wrap."""

    name = "sub"
    operand_names = ("x", "y")
    dtypes = NUMERIC
    traits = frozenset({"cheap"})

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return s.apply("sub", *x)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [cotangents[0], b.neg(cotangents[0])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return in_compute_dtype(np.subtract, *arrays)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        return elementwise_samples(cls, 2)


class Mul(Elementwise):
    """x · y. Integers wrap."""

    name = "mul"
    operand_names = ("x", "y")
    dtypes = NUMERIC
    traits = frozenset({"commutative", "cheap"})

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return s.apply("mul", *x)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        x, y = self.operands
        return [b.mul(cotangents[0], y), b.mul(cotangents[0], x)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return in_compute_dtype(np.multiply, *arrays)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        return elementwise_samples(cls, 2)


class Neg(Elementwise):
    """-x."""

    name = "neg"
    operand_names = ("x",)
    dtypes = NUMERIC
    traits = frozenset({"cheap", "involution"})

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return s.apply("neg", *x)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.neg(cotangents[0])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return in_compute_dtype(np.negative, *arrays)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        return elementwise_samples(cls, 1)


class Cast(Elementwise):
    """x converted to `dtype`: float to integer truncates, anything to bool is x != 0."""

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
        return [b.cast_to(cotangents[0], source) if source.is_floating_point else None]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, to = arrays[0], attrs["dtype"].numpy
        if x.dtype.itemsize == 2 and x.dtype.kind not in "iu":
            x = x.astype(np.float32)
        return x != 0 if to == np.bool_ else x.astype(to)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for source in cls.dtypes:
            for to in cls.dtypes:
                yield Sample((TensorType(DTYPES[source], (3, 5)),), {"dtype": DTYPES[to]}, ("any",))

    def simplify(self, b: Any) -> Value | None:
        x = self.operands[0]
        return x if x.type.dtype is self.attrs["dtype"] else None


class Relu(Elementwise):
    """max(x, 0); NaN stays NaN."""

    name = "relu"
    operand_names = ("x",)
    dtypes = FLOATS
    traits = frozenset({"cheap", "idempotent"})

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        return s.apply("max", x[0], s.const(s.dtype(x[0]), 0))

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.where(b.gt(self.results[0], 0), cotangents[0], 0)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return in_compute_dtype(lambda x: np.maximum(x, 0), *arrays)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        return elementwise_samples(cls, 1)
