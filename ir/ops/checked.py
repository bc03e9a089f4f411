"""A value that is what it is only where a condition holds of every element: else the call fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.failure import raise_failure
from graphc.ir.families import ALL_DTYPES, Attrs, Elementwise, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import SHAPES
from graphc.ir.scalar import ScalarBuilder
from graphc.ir.types import DTYPES, DType, TensorType, bool_, int64

__all__ = ["Checked"]


class Checked(Elementwise):
    """x, where `valid`, a bool tensor of its shape, holds everywhere. Otherwise the call fails with `check`, which is
    "ExceptionClass: message", and nothing is written. A gradient passes as it came.

    Raises RuntimeError where `valid` is no bool tensor of the shape of x.
    """

    name = "checked"
    operand_names = ("x", "valid")
    attributes = {"check": ...}
    dtypes = ALL_DTYPES
    traits = frozenset({"cheap"})

    @classmethod
    def check_dtypes(cls, types: Types) -> None:
        if types[1].dtype is not bool_:
            raise RuntimeError(f"checked: expected a bool condition, got {types[1]}")

    @classmethod
    def result_dtype(cls, types: Types, attrs: Attrs) -> DType:
        return types[0].dtype

    @classmethod
    def body(cls, s: ScalarBuilder[Any], attrs: Attrs, *x: Any) -> Any:
        # An index into one element that is out of range where the condition does not hold.
        s.to_index(s.cast(s.apply("not", x[1]), int64), 1, attrs["check"])
        return x[0]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [cotangents[0], None]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        if not arrays[1].all():
            raise_failure(attrs["check"], 1)
        return arrays[0]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in SHAPES:
                types = (TensorType(DTYPES[name], shape), TensorType(bool_, shape))

                def make(rng: Any, of: TensorType = types[0]) -> Sequence[Any]:
                    drawn = rng.standard_normal(of.sizes) * 3
                    return [np.asarray(drawn).astype(of.dtype.numpy), np.ones(of.sizes, bool)]

                yield Sample(types, {"check": "RuntimeError: an element is not valid"}, make=make)
