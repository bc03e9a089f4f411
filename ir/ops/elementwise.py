"""Bases of the elementwise ops: a body from one opcode or a short formula, with NumPy beside it.

An op class gives `opcode` (the whole body) or `formula` (over `Term`s in the accumulator dtype, so
that 16-bit floats are rounded once per op), `numpy` for the reference, and its derivative in terms
of values in the accumulator dtype. Everything else about the op follows from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim
from graphc.ir.families import FLOATS, Attrs, Elementwise, Sample, Trait, Types
from graphc.ir.graph import Value
from graphc.ir.scalar import ScalarBuilder, Term
from graphc.ir.types import DTYPES, DType, TensorType, bool_

__all__ = ["SHAPES", "Comparison", "Mapped", "MathFunction", "narrow", "on_wide", "size_value", "widen"]

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (1,), (0, 4), (), (67,))
"""Typical, one-element, empty, scalar, and longer than any vector (with a tail)."""

ULP_MATH = {"f16": 1.0, "bf16": 1.0, "f32": 2.0, "f64": 2.0}
"""Bound of one transcendental opcode; 16-bit results are one rounding away from float32's."""


def widen(b: Any, *values: Value) -> tuple[Value, ...]:
    """Values in the dtype that their ops compute in: float32 for 16-bit floats, else their own."""
    return tuple(b.cast_to(v, v.type.dtype.accumulator) for v in values)


def narrow(b: Any, value: Value | None, like: Value) -> Value | None:
    """`value` in the dtype of `like`."""
    return None if value is None else b.cast_to(value, like.type.dtype)


def size_value(b: Any, dims: Sequence[Dim], dtype: DType) -> Any:
    """The product of `dims` as a number where it is fixed, else as a rank-0 value of `dtype`."""
    count: Dim = 1
    for d in dims:
        count = count * d
    return count if isinstance(count, int) else b.size(value=count, dtype=dtype)


def is_half(dtype: np.dtype[Any]) -> bool:
    """True of NumPy's float16 and ml_dtypes' bfloat16."""
    return dtype.itemsize == 2 and dtype.kind not in "iu"


def on_wide(function: Callable[..., Any], *arrays: Any, precise: bool = False, dtype: Any = None) -> Any:
    """`function` of arrays as an op means it: 16-bit floats through float32, one rounding at the end.

    With `precise`, float32 goes through float64 and float64 through the longest double there is, for
    functions whose NumPy form is not correctly rounded. `dtype` is the result's, else the first array's.
    """
    to = arrays[0].dtype if dtype is None else dtype

    def wide(a: Any) -> Any:
        if a.dtype.kind in "iub":
            return a
        if precise:
            return a.astype(np.longdouble if a.dtype == np.float64 else np.float64)
        return a.astype(np.float32) if is_half(a.dtype) else a

    with np.errstate(all="ignore"):
        return np.asarray(function(*(wide(a) for a in arrays))).astype(to)


class Mapped(Elementwise):
    """Base: see the module's first lines."""

    opcode: ClassVar[str] = ""
    numpy: ClassVar[Callable[..., Any]]
    """The reference function of the operands (and of `attrs` by keyword where `numpy_attrs`)."""
    numpy_attrs: ClassVar[bool] = False
    precise: ClassVar[bool] = False
    """Compute the reference in a wider dtype (see `on_wide`)."""
    draw: ClassVar[tuple[str, ...]] = ()
    """Distributions of the operands in samples; "normal" where absent."""
    sample_attrs: ClassVar[tuple[dict[str, Any], ...]] = ({},)

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        """The body over `Term`s whose 16-bit floats were converted to float32."""
        raise NotImplementedError(f"{cls.name}.formula")

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        if cls.opcode:
            return s.apply(cls.opcode, *x)
        to = s.dtype(x[0])
        terms = [
            Term(s, v if s.dtype(v).accumulator is s.dtype(v) else s.cast(v, s.dtype(v).accumulator))
            for v in x
        ]
        out = cls.formula(attrs, *terms).value
        return out if s.dtype(out) in (to, bool_) else s.cast(out, to)

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        """Cotangents of the operands from the cotangent `g`, the result `y` and the operands `x`.

        All are in the accumulator dtype; so may the results be.
        """
        raise NotImplementedError(f"{self.name}.derivative")

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        if self.zero_derivative:
            return super().vjp(b, cotangents)
        g = cotangents[0]
        assert g is not None
        found = self.derivative(b, *widen(b, g, self.results[0], *self.operands))
        return [narrow(b, c, x) for c, x in zip(found, self.operands, strict=True)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        function = cls.numpy
        if cls.numpy_attrs:
            return on_wide(lambda *x: function(*x, **attrs), *arrays, precise=cls.precise)
        return on_wide(function, *arrays, precise=cls.precise)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        count = len(cls.operand_names)
        draw = cls.draw or ("normal",) * count
        for name in cls.dtypes:
            for attrs in cls.sample_attrs:
                for shape in SHAPES:
                    yield Sample(
                        (TensorType(DTYPES[name], shape),) * count, {**cls.attributes, **attrs}, draw
                    )


class MathFunction(Mapped):
    """A transcendental function of one float operand, within `ulp` of the exact value."""

    operand_names = ("x",)
    dtypes = FLOATS
    ulp: ClassVar[Mapping[str, float]] = ULP_MATH
    precise = True


class Comparison(Mapped):
    """A predicate of one or two operands; the result is bool."""

    operand_names: ClassVar[tuple[str, ...]] = ("x", "y")
    traits: ClassVar[frozenset[Trait]] = frozenset({"cheap"})
    no_derivative = "the result is a bool"

    @classmethod
    def result_dtype(cls, types: Types, attrs: Attrs) -> DType:
        return bool_

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return on_wide(cls.numpy, *arrays, dtype=np.bool_)
