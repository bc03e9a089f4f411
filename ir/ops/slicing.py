"""Parts of a tensor: slice, its write-back, and reversal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim, ceil_div, floor_div, less_equal, minimum, mod
from graphc.ir.families import Attrs, Index, Leading, Requirement, Sample, Types, View
from graphc.ir.graph import Value
from graphc.ir.ops.view import Pieces
from graphc.ir.scalar import Guard
from graphc.ir.types import DTYPES, TensorType

__all__ = ["Flip", "Slice", "UpdateSlice"]

# (shape, starts, stops, strides)
SLICED: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = (
    ((5, 6), (1, 0), (4, 6), (1, 1)),
    ((5, 6), (0, 1), (5, 6), (2, 3)),
    ((7,), (2,), (3,), (1,)),
    ((7,), (3,), (3,), (1,)),
    ((0, 4), (0, 1), (0, 3), (1, 1)),
    ((1,), (0,), (1,), (1,)),
    ((70,), (1,), (70,), (2,)),
    ((), (), (), ()),
)


def _lengths(starts: Sequence[Dim], stops: Sequence[Dim], strides: Sequence[int]) -> tuple[Dim, ...]:
    return tuple(ceil_div(stop - start, k) for start, stop, k in zip(starts, stops, strides, strict=True))


class Slice(View):
    """Elements start, start + stride, … below stop, on every axis.

    `starts`, `stops` and `strides` have one entry per axis: 0 <= start <= stop <= size (else IndexError),
    stride >= 1 (else ValueError).
    """

    name = "slice"
    leading: ClassVar[Mapping[str, Leading] | None] = {"starts": "zero", "stops": "size", "strides": "one"}
    operand_names = ("x",)
    attributes = {"starts": ..., "stops": ..., "strides": ...}
    traits = frozenset({"view", "cheap"})

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        starts, stops, strides = attrs["starts"], attrs["stops"], attrs["strides"]
        if not len(starts) == len(stops) == len(strides) == x.rank:
            raise RuntimeError(
                f"slice: expected {x.rank} starts, stops and strides for {x}, got {starts}, {stops}, {strides}"
            )
        for start, stop, k, size in zip(starts, stops, strides, x.shape, strict=True):
            if k < 1:
                raise ValueError(f"slice step must be positive, got {k}")
            if (
                less_equal(0, start) is False
                or less_equal(start, stop) is False
                or less_equal(stop, size) is False
            ):
                raise IndexError(f"slice: [{start}:{stop}] is outside of an axis of size {size} of {x}")
        return (x.with_shape(_lengths(starts, stops, strides)),)

    @classmethod
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        for start, stop, size in zip(attrs["starts"], attrs["stops"], types[0].shape, strict=True):
            yield start, ">="
            yield stop - start, ">="
            yield size - stop, ">="

    @classmethod
    def pieces(cls, attrs: Attrs, types: Types, result: TensorType, index: Index) -> Pieces:
        at = tuple(
            start + i * k for i, start, k in zip(index, attrs["starts"], attrs["strides"], strict=True)
        )
        return [(0, at, ())]

    @classmethod
    def write_through(cls, b: Any, attrs: Attrs, base: Any, update: Any) -> Any:
        return b.update_slice(base, update, starts=attrs["starts"], strides=attrs["strides"])

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        x = self.operands[0]
        return [
            b.update_slice(
                b.zeros_like(x), cotangents[0], starts=self.attrs["starts"], strides=self.attrs["strides"]
            )
        ]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return arrays[0][tuple(map(slice, attrs["starts"], attrs["stops"], attrs["strides"]))]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, starts, stops, strides in SLICED:
                yield Sample(
                    (TensorType(DTYPES[name], shape),),
                    {"starts": starts, "stops": stops, "strides": strides},
                    ("any",),
                )

    def simplify(self, b: Any) -> Value | None:
        x = self.operands[0]
        whole = self.results[0].type == x.type and all(k == 1 for k in self.attrs["strides"])
        return x if whole and all(s == 0 for s in self.attrs["starts"]) else None


class UpdateSlice(View):
    """base with the elements start, start + stride, … of every axis replaced by those of update.

    `starts` and `strides` have one entry per axis. Raises IndexError where the update is not inside,
    RuntimeError for other dtypes or ranks.
    """

    name = "update_slice"
    leading: ClassVar[Mapping[str, Leading] | None] = {"starts": "zero", "strides": "one"}
    operand_names = ("base", "update")
    attributes = {"starts": ..., "strides": ...}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        base, update = types
        if base.dtype is not update.dtype:
            raise RuntimeError(f"update_slice: expected one dtype, got {base} and {update}")
        if not base.rank == update.rank == len(attrs["starts"]) == len(attrs["strides"]):
            raise RuntimeError(
                f"update_slice: ranks of {base}, {update}, {attrs['starts']} and {attrs['strides']} differ"
            )
        for size, n, start, k in zip(
            base.shape, update.shape, attrs["starts"], attrs["strides"], strict=True
        ):
            if k < 1:
                raise ValueError(f"slice step must be positive, got {k}")
            last = start + (n - 1) * k
            if n != 0 and (less_equal(0, start) is False or less_equal(last, size - 1) is False):
                raise IndexError(
                    f"update_slice: {update} at {attrs['starts']} by {attrs['strides']} is not inside {base}"
                )
        return (base,)

    @classmethod
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        shapes = zip(types[0].shape, types[1].shape, attrs["starts"], attrs["strides"], strict=True)
        for size, n, start, k in shapes:
            some = minimum(n, 1)  # nothing has a place anywhere
            yield start * some, ">="
            yield (size - 1 - start - (n - 1) * k) * some, ">="

    @classmethod
    def pieces(cls, attrs: Attrs, types: Types, result: TensorType, index: Index) -> Pieces:
        at: list[Dim] = []
        guards: list[Guard] = []
        shapes = zip(index, types[1].shape, types[0].shape, attrs["starts"], attrs["strides"], strict=True)
        for i, n, size, start, k in shapes:
            at.append(floor_div(i - start, k))
            if k != 1:
                guards.append((mod(i - start, k), 0, 1))
            if start != 0 or n != ceil_div(size, k):
                guards.append((at[-1], 0, n))
        if not guards:
            return [(1, tuple(at), ())]
        return [(1, tuple(at), tuple(guards)), (0, index, ())]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        g, update = cotangents[0], self.operands[1].type
        starts, strides = self.attrs["starts"], self.attrs["strides"]
        # One past the last element, so that an empty update stops where it starts.
        stops = tuple(
            start if n == 0 else start + (n - 1) * k + 1
            for start, n, k in zip(starts, update.shape, strides, strict=True)
        )
        return [
            b.update_slice(g, b.zeros_like(update), starts=starts, strides=strides),
            b.slice(g, starts=starts, stops=stops, strides=strides),
        ]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        result = np.array(arrays[0])
        places = zip(attrs["starts"], arrays[1].shape, attrs["strides"], strict=True)
        result[tuple(slice(start, start + n * k, k) for start, n, k in places)] = arrays[1]
        return result

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, starts, stops, strides in SLICED:
                base = TensorType(DTYPES[name], shape)
                yield Sample(
                    (base, base.with_shape(_lengths(starts, stops, strides))),
                    {"starts": starts, "strides": strides},
                    ("any", "any"),
                )

    def simplify(self, b: Any) -> Value | None:
        base, update = self.operands
        if update.type == base.type:
            return update
        return base if any(n == 0 for n in update.type.shape) else None


class Flip(View):
    """x with the order of elements along `axes` reversed."""

    name = "flip"
    leading: ClassVar[Mapping[str, Leading] | None] = {"axes": "axis"}
    operand_names = ("x",)
    attributes = {"axes": ...}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, axes = types[0], attrs["axes"]
        if len(set(axes)) != len(axes):
            raise RuntimeError(f"flip: an axis appears twice in {list(axes)}")
        for a in axes:
            if not 0 <= a < x.rank:
                raise IndexError(
                    f"Dimension out of range (expected to be in range of [0, {x.rank - 1}], but got {a}) in flip"
                )
        return (x,)

    @classmethod
    def pieces(cls, attrs: Attrs, types: Types, result: TensorType, index: Index) -> Pieces:
        at = tuple(
            d - 1 - i if a in attrs["axes"] else i
            for a, (i, d) in enumerate(zip(index, result.shape, strict=True))
        )
        return [(0, at, ())]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.flip(cotangents[0], axes=self.attrs["axes"])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.flip(arrays[0], attrs["axes"])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, axes in (
                ((3, 4), (0,)),
                ((3, 4), (0, 1)),
                ((1,), (0,)),
                ((0, 2), (1,)),
                ((), ()),
                ((67,), (0,)),
            ):
                yield Sample((TensorType(DTYPES[name], shape),), {"axes": axes}, ("any",))

    def simplify(self, b: Any) -> Value | None:
        x = self.operands[0]
        if all(x.type.shape[a] == 1 for a in self.attrs["axes"]):
            return x
        twice = isinstance(x.op, Flip) and set(x.op.attrs["axes"]) == set(self.attrs["axes"])
        return x.op.operands[0] if twice and x.op is not None else None
