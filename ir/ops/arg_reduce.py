"""Positions of extrema. Accumulates (value, position) pairs in an order that does not matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim, product
from graphc.ir.families import NUMERIC, Attrs, Index, Reduce, Requirement, Sample, Types
from graphc.ir.ops.elementwise import is_half
from graphc.ir.ops.reduce import REDUCED, highest, lowest
from graphc.ir.scalar import ScalarBuilder, Term
from graphc.ir.types import DTYPES, DType, TensorType, int64

__all__ = ["ArgMax", "ArgMin"]


def _prefer(s: ScalarBuilder[Any], better: str, a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """Of two (value, position) pairs the one with the better value, by opcode `lt` or `gt`.

    Equal values go to the lower position; NaN is better than any number, and of several the first
    wins. So the choice is commutative and associative.
    """
    (av, ai), (bv, bi) = ((Term(s, p[0]), Term(s, p[1])) for p in (a, b))
    beats = Term(s, s.apply(better, bv.value, av.value))
    tie, lower = bv.eq(av), bi.lt(ai)
    if not s.dtype(a[0]).is_floating_point:
        take = beats | (tie & lower)
    else:
        a_nan, b_nan = Term(s, s.apply("is_nan", av.value)), Term(s, s.apply("is_nan", bv.value))
        a_number = Term(s, s.apply("not", a_nan.value))
        take = beats | (tie & lower) | (b_nan & (a_number | lower))
    return [take.select(bv, av).value, take.select(bi, ai).value]


class ArgExtremum(Reduce):
    """Base: int64 row-major position among the reduced axes; the first of equals, NaN before all."""

    dtypes = NUMERIC
    no_derivative = "the result is a position"
    better: ClassVar[str]

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if types[0].dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {types[0].dtype}')
        if any(types[0].shape[a] == 0 for a in attrs["axes"] if 0 <= a < types[0].rank):
            raise IndexError(
                f"{cls.name}(): Expected reduction dim {attrs['axes']} to have non-zero size, got {types[0]}"
            )
        return (TensorType(int64, cls.result_shape(types, attrs)),)

    @classmethod
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        for a in attrs["axes"]:
            yield types[0].shape[a], "!="

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        wide = types[0].dtype.accumulator
        worst = lowest(wide) if cls.better == "gt" else highest(wide)
        return [(wide, worst), (int64, highest(int64))]

    @classmethod
    def element(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[Any]
    ) -> Sequence[Any]:
        wide = types[0].dtype.accumulator
        position: Dim = 0
        for i, a in zip(reduced, attrs["axes"], strict=True):
            position = position * types[0].shape[a] + i
        return [x[0] if wide is types[0].dtype else s.cast(x[0], wide), s.index(position, int64)]

    @classmethod
    def combine(
        cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]
    ) -> Sequence[Any]:
        return _prefer(s, cls.better, a, b)

    @classmethod
    def finish(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, results: Types, acc: Sequence[Any]
    ) -> Sequence[Any]:
        return [acc[1]]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, axes = arrays[0], attrs["axes"]
        if is_half(x.dtype):
            x = x.astype(np.float32)
        kept = [i for i in range(x.ndim) if i not in axes]
        count = int(product([x.shape[a] for a in axes]))
        rows = x.transpose([*kept, *axes]).reshape([*(x.shape[i] for i in kept), count])
        return np.asarray(np.argmax(rows, -1) if cls.better == "gt" else np.argmin(rows, -1)).astype(np.int64)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, axes in REDUCED:
                if all(shape[a] for a in axes):
                    yield Sample((TensorType(DTYPES[name], shape),), {"axes": axes}, ("any",))


class ArgMax(ArgExtremum):
    """Position of the largest element over `axes`; of the first NaN where there is one.

    Raises IndexError for an empty axis.
    """

    name = "argmax"
    better = "gt"


class ArgMin(ArgExtremum):
    """Position of the smallest element over `axes`; of the first NaN where there is one.

    Raises IndexError for an empty axis.
    """

    name = "argmin"
    better = "lt"
