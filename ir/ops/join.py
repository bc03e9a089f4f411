"""Larger tensors from pieces: padding with a constant, and concatenation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim, less_equal
from graphc.ir.families import Attrs, Index, Leading, Requirement, Sample, Types, View
from graphc.ir.graph import Value
from graphc.ir.ops.view import Pieces
from graphc.ir.types import DTYPES, TensorType

__all__ = ["Concat", "Pad"]


class Pad(View):
    """x with `low` elements of `value` before and `high` after it on every axis; negative ones cut off."""

    name = "pad"
    leading: ClassVar[Mapping[str, Leading] | None] = {"low": "zero", "high": "zero"}
    operand_names = ("x",)
    attributes = {"low": ..., "high": ..., "value": 0}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, low, high = types[0], attrs["low"], attrs["high"]
        if not len(low) == len(high) == x.rank:
            raise RuntimeError(
                f"pad: expected {x.rank} low and high paddings for {x}, got {list(low)} and {list(high)}"
            )
        shape = tuple(lo + d + hi for lo, d, hi in zip(low, x.shape, high, strict=True))
        if any(less_equal(0, d) is False for d in shape):
            raise RuntimeError(
                f"pad: low {list(low)} and high {list(high)} cut {x} to a negative size {list(shape)}"
            )
        return (x.with_shape(shape),)

    @classmethod
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        for lo, d, hi in zip(attrs["low"], types[0].shape, attrs["high"], strict=True):
            yield lo + d + hi, ">="

    @classmethod
    def pieces(cls, attrs: Attrs, types: Types, result: TensorType, index: Index) -> Pieces:
        at = tuple(i - lo for i, lo in zip(index, attrs["low"], strict=True))
        sides = zip(at, types[0].shape, attrs["low"], attrs["high"], strict=True)
        return [(0, at, tuple((i, 0, d) for i, d, lo, hi in sides if lo > 0 or hi > 0))]

    @classmethod
    def fill(cls, attrs: Attrs) -> float | int | bool:
        return attrs["value"]  # type: ignore[no-any-return]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        low, high = (tuple(-p for p in self.attrs[k]) for k in ("low", "high"))
        return [b.pad(cotangents[0], low=low, high=high, value=0)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x = arrays[0]
        shape = [lo + d + hi for lo, d, hi in zip(attrs["low"], x.shape, attrs["high"], strict=True)]
        result = np.full(shape, attrs["value"]).astype(x.dtype)
        inner = tuple(
            slice(max(lo, 0), max(lo, 0) + max(0, d + min(lo, 0) + min(hi, 0)))
            for lo, d, hi in zip(attrs["low"], x.shape, attrs["high"], strict=True)
        )
        kept = tuple(
            slice(max(-lo, 0), max(d + min(hi, 0), max(-lo, 0)))
            for lo, d, hi in zip(attrs["low"], x.shape, attrs["high"], strict=True)
        )
        result[inner] = x[kept]
        return result

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        cases: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = (
            ((3, 5), (1, 0), (2, 3)),
            ((3, 5), (-1, 2), (0, -3)),
            ((1,), (1,), (1,)),
            ((0, 2), (1, 0), (0, 1)),
            ((), (), ()),
            ((67,), (1,), (1,)),
        )
        for name in cls.dtypes:
            for shape, low, high in cases:
                for value in (0, 1):
                    yield Sample(
                        (TensorType(DTYPES[name], shape),),
                        {"low": low, "high": high, "value": value},
                        ("any",),
                    )

    def simplify(self, b: Any) -> Value | None:
        return self.operands[0] if not any(self.attrs["low"]) and not any(self.attrs["high"]) else None


class Concat(View):
    """Operands one after the other along `axis`; their other dimensions are equal."""

    name = "concat"
    leading: ClassVar[Mapping[str, Leading] | None] = {"axis": "axis"}
    operand_names = ("operands",)
    variadic = True
    attributes = {"axis": ...}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        axis = attrs["axis"]
        if not types:
            raise RuntimeError("concat: expected a non-empty list of tensors")
        first = types[0]
        if not 0 <= axis < first.rank:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [0, {first.rank - 1}], but got {axis}) in concat"
            )
        for number, t in enumerate(types):
            if t.dtype is not first.dtype:
                raise RuntimeError(f"concat: expected one dtype, got {', '.join(map(str, types))}")
            if t.rank != first.rank:
                raise RuntimeError(
                    f"Tensors must have same number of dimensions: got {first.rank} and {t.rank} (concat)"
                )
            for i, (m, n) in enumerate(zip(first.shape, t.shape, strict=True)):
                if i != axis and m != n:
                    raise RuntimeError(
                        f"Sizes of tensors must match except in dimension {axis}. Expected size {m} but got size {n} "
                        f"for tensor number {number} in the list."
                    )
        total: Dim = 0
        for t in types:
            total = total + t.shape[axis]
        return (first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :])),)

    @classmethod
    def pieces(cls, attrs: Attrs, types: Types, result: TensorType, index: Index) -> Pieces:
        axis = attrs["axis"]
        if len(types) == 1:
            return [(0, index, ())]
        found = []
        start: Dim = 0
        for number, t in enumerate(types):
            at = index[axis] - start
            found.append((number, (*index[:axis], at, *index[axis + 1 :]), ((at, 0, t.shape[axis]),)))
            start = start + t.shape[axis]
        return found

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        axis, shape = self.attrs["axis"], self.results[0].type.shape
        found = []
        start: Dim = 0
        for v in self.operands:
            stop = start + v.type.shape[axis]
            starts = tuple(start if i == axis else 0 for i in range(len(shape)))
            stops = tuple(stop if i == axis else d for i, d in enumerate(shape))
            found.append(b.slice(cotangents[0], starts=starts, stops=stops, strides=(1,) * len(shape)))
            start = stop
        return found

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.concatenate(arrays, attrs["axis"])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        cases: tuple[tuple[int, tuple[tuple[int, ...], ...]], ...] = (
            (0, ((3, 4), (2, 4))),
            (1, ((3, 4), (3, 1), (3, 5))),
            (0, ((1,), (1,))),
            (0, ((0, 2), (3, 2), (0, 2))),
            (0, ((0,), (0,))),
            (0, ((5,),)),
            (1, ((2, 67), (2, 33))),
        )
        for name in cls.dtypes:
            for axis, shapes in cases:
                yield Sample(
                    tuple(TensorType(DTYPES[name], s) for s in shapes), {"axis": axis}, ("any",) * len(shapes)
                )

    def simplify(self, b: Any) -> Value | None:
        return self.operands[0] if len(self.operands) == 1 else None
