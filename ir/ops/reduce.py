"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.families import NUMERIC, Attrs, Index, Reduce, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.scalar import ScalarBuilder
from graphc.ir.types import DTYPES, DType, TensorType

__all__ = ["Sum"]

REDUCED = (((3, 5), (1,)), ((3, 5), (0,)), ((3, 5), (0, 1)), ((2, 3, 4), (0, 2)), ((0, 4), (0,)), ((3, 0), (0,)), ((1,), (0,)), ((), ()))


class Sum(Reduce):
    """Sum over `axes`. Accumulates in float32 for 16-bit floats, else in the operand's dtype."""

    name = "sum"
    dtypes = NUMERIC
    ulp = {"f16": 1, "bf16": 1, "f32": 8, "f64": 8}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        return (TensorType(types[0].dtype, cls.result_shape(types, attrs)),)

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        return [(types[0].dtype.accumulator, 0)]

    @classmethod
    def element(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[Any]
    ) -> Sequence[Any]:
        return [s.cast(x[0], types[0].dtype.accumulator)]

    @classmethod
    def combine(cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]) -> Sequence[Any]:
        return [s.apply("add", a[0], b[0])]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.keep_dims(cotangents[0], self.operands[0].type.shape, self.attrs["axes"])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x = arrays[0]
        wide = np.float64 if x.dtype.kind not in "iu" else x.dtype
        return np.asarray(x.astype(wide).sum(axis=attrs["axes"], dtype=wide)).astype(x.dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, axes in REDUCED:
                yield Sample((TensorType(DTYPES[name], shape),), {"axes": axes})
