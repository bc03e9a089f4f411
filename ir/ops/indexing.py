"""Reading and adding at positions that an integer operand holds.

Positions are not negative: the caller wraps negative ones. One outside of the axis fails the call
with `check` (`"ExceptionClass: message"`), or counts as position 0 where `check` is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.failure import check_text, raise_failure
from graphc.ir.families import ALL_DTYPES, NUMERIC, Attrs, Gather, Index, Read, Sample, Scatter, Types
from graphc.ir.graph import Value
from graphc.ir.scalar import ScalarBuilder
from graphc.ir.types import DTYPES, TensorType, int32, int64

__all__ = ["GatherAxis", "ScatterAdd", "Take", "TakeAdd"]

TAKE_CHECK = "IndexError: index out of range in self"
GATHER_CHECK = "RuntimeError: index {index} is out of bounds for dimension {axis} with size {size}"


def _check_indices(name: str, indices: TensorType) -> None:
    if indices.dtype not in (int32, int64):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index, got {indices.dtype}")


def _check_axis(name: str, x: TensorType, axis: int) -> None:
    if not 0 <= axis < x.rank:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [0, {x.rank - 1}], but got {axis}) in {name}"
        )


def _stated(attrs: Attrs, x: TensorType) -> str | None:
    """The check of an index into x's axis."""
    return check_text(attrs["check"], attrs["axis"], x.shape[attrs["axis"]])


def _bounded(indices: Any, axis: int, extent: int, check: str | None, elements: int) -> Any:
    """Positions in NumPy, with the check done; out of range becomes 0 where there is none.

    Every one of `elements` moves checks its position, so where there are none nothing is checked.
    """
    outside = (indices < 0) | (indices >= extent)
    text = check_text(check, axis, extent)
    if text is not None and elements and outside.any():
        raise_failure(text, int(indices[outside].min()))
    return np.where(outside, 0, indices).astype(np.int64)


def _further(attrs: Attrs) -> dict[str, Any]:
    """Attributes for the axis after; the message names the axis that it was."""
    check = attrs["check"]
    named = check if check is None else check.replace("{axis}", str(attrs["axis"]))
    return {"axis": attrs["axis"] + 1, "check": named}


class GatherAxis(Gather):
    """x[…, indices[…], …]: the result has the shape of `indices`, whose every entry picks along `axis`
    of x at its own place in the other axes (which may be shorter than those of x).
    """

    name = "gather"
    operand_names = ("x", "indices")
    attributes = {"axis": ..., "check": GATHER_CHECK}
    dtypes = ALL_DTYPES

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        values = [b.whole(v, on) for v, on in zip(operands, batched, strict=True)]
        return [b.gather(*values, **_further(self.attrs))]

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, indices = types
        _check_indices("gather", indices)
        _check_axis("gather", x, attrs["axis"])
        _check_inside("gather", indices, x, attrs["axis"])
        return (x.with_shape(indices.shape),)

    @classmethod
    def point(
        cls,
        s: ScalarBuilder[Any],
        attrs: Attrs,
        types: Types,
        result: TensorType,
        index: Index,
        reads: Sequence[Read[Any]],
    ) -> Any:
        axis = attrs["axis"]
        at = s.to_index(reads[1](index), types[0].shape[axis], _stated(attrs, types[0]))
        return reads[0]((*index[:axis], at, *index[axis + 1 :]))

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        x, indices = self.operands
        return [
            b.scatter_add(
                b.zeros_like(x), indices, cotangents[0], axis=self.attrs["axis"], check=self.attrs["check"]
            ),
            None,
        ]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, indices = arrays
        axis = attrs["axis"]
        indices = _bounded(indices, axis, x.shape[axis], attrs["check"], indices.size)
        part = x[tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(indices.shape))]
        return np.take_along_axis(part, indices, axis)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for dtype in (int64, int32):
                for x, indices, axis in GATHERED:
                    types = TensorType(DTYPES[name], x), TensorType(dtype, indices)
                    yield Sample(types, {**cls.attributes, "axis": axis}, ("any", f"index:{x[axis]}"))


GATHERED: tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...] = (
    ((3, 5), (3, 4), 1),
    ((3, 5), (2, 5), 0),
    ((5,), (7,), 0),
    ((2, 3, 4), (2, 6, 3), 1),
    ((1,), (1,), 0),
    ((3, 5), (0, 5), 0),
    ((3, 5), (3, 1), 1),
)


def _check_inside(name: str, indices: TensorType, x: TensorType, axis: int) -> None:
    fits = indices.rank == x.rank and all(
        i == axis or m == n or (isinstance(m, int) and isinstance(n, int) and m <= n)
        for i, (m, n) in enumerate(zip(indices.shape, x.shape, strict=True))
    )
    if not fits:
        raise RuntimeError(
            f"Size does not match in {name}: expected index {list(indices.shape)} to be no larger than "
            f"self {list(x.shape)} apart from dimension {axis}"
        )


class ScatterAdd(Scatter):
    """base with source[j] added at j whose place along `axis` is indices[j]: the transpose of gather.

    `indices` and `source` have one shape, not larger than base apart from `axis`.
    """

    name = "scatter_add"
    attributes = {"axis": ..., "check": GATHER_CHECK}
    dtypes = NUMERIC
    ulp = {"f16": 4, "bf16": 4, "f32": 8, "f64": 8}

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        values = [b.whole(v, on) for v, on in zip(operands, batched, strict=True)]
        return [b.scatter_add(*values, **_further(self.attrs))]

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        base, indices, source = types
        _check_indices("scatter_add", indices)
        _check_axis("scatter_add", base, attrs["axis"])
        _check_inside("scatter_add", indices, base, attrs["axis"])
        if source.dtype is not base.dtype:
            raise RuntimeError(
                f"scatter(): Expected self.dtype to be equal to src.dtype, got {base} and {source}"
            )
        if source.shape != indices.shape:
            raise RuntimeError(f"scatter_add: expected source of shape {list(indices.shape)}, got {source}")
        if base.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {base.dtype}')
        return (base,)

    @classmethod
    def target(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, indices: Read[Any]
    ) -> Index:
        axis = attrs["axis"]
        at = s.to_index(indices(index), types[0].shape[axis], _stated(attrs, types[0]))
        return (*index[:axis], at, *index[axis + 1 :])

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        g, indices = cotangents[0], self.operands[1]
        return [g, None, b.gather(g, indices, axis=self.attrs["axis"], check=self.attrs["check"])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        base, indices, source = arrays
        axis = attrs["axis"]
        at = list(np.indices(indices.shape))
        at[axis] = _bounded(indices, axis, base.shape[axis], attrs["check"], source.size)
        return _added(base, tuple(at), source)

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        base, indices, source = arrays
        return cls.reference(
            attrs, np.abs(base.astype(np.float64)), indices, np.abs(source.astype(np.float64))
        )

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for base, indices, axis in GATHERED:
                d = DTYPES[name]
                types = TensorType(d, base), TensorType(int64, indices), TensorType(d, indices)
                yield Sample(
                    types, {**cls.attributes, "axis": axis}, ("normal", f"index:{base[axis]}", "normal")
                )


def _added(base: Any, at: Any, source: Any) -> Any:
    """`base` with `source` added at `at`; floats are accumulated wide and rounded once."""
    wide = base.dtype if base.dtype.kind in "iu" else np.float64
    result = base.astype(wide)
    np.add.at(result, at, source.astype(wide))
    return result.astype(base.dtype)


class Take(Gather):
    """x with `axis` replaced by the axes of `indices`, whose entries pick along it (rows of a table)."""

    name = "take"
    operand_names = ("x", "indices")
    attributes = {"axis": 0, "check": TAKE_CHECK}
    dtypes = ALL_DTYPES

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        if all(batched):
            return b.each(self, operands, batched)  # type: ignore[no-any-return]
        if batched[0]:
            return [b.take(*operands, **_further(self.attrs))]
        found, axis = b.take(*operands, **self.attrs), self.attrs["axis"]
        order = (axis, *(i for i in range(found.type.rank) if i != axis))
        return [b.permute(found, axes=order) if axis else found]

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, indices = types
        axis = attrs["axis"]
        _check_indices("take", indices)
        _check_axis("take", x, axis)
        return (x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])),)

    @classmethod
    def point(
        cls,
        s: ScalarBuilder[Any],
        attrs: Attrs,
        types: Types,
        result: TensorType,
        index: Index,
        reads: Sequence[Read[Any]],
    ) -> Any:
        axis, rank = attrs["axis"], types[1].rank
        at = s.to_index(reads[1](index[axis : axis + rank]), types[0].shape[axis], _stated(attrs, types[0]))
        return reads[0]((*index[:axis], at, *index[axis + rank :]))

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        x, indices = self.operands
        return [
            b.take_add(
                b.zeros_like(x), indices, cotangents[0], axis=self.attrs["axis"], check=self.attrs["check"]
            ),
            None,
        ]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, indices = arrays
        axis = attrs["axis"]
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        if 0 in shape:
            return np.empty(shape, x.dtype)
        return np.take(x, _bounded(indices, axis, x.shape[axis], attrs["check"], indices.size), axis)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for dtype in (int64, int32):
                for x, indices, axis in TAKEN:
                    types = TensorType(DTYPES[name], x), TensorType(dtype, indices)
                    yield Sample(types, {**cls.attributes, "axis": axis}, ("any", f"index:{x[axis]}"))


TAKEN: tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...] = (
    ((7, 5), (4,), 0),
    ((7, 5), (2, 3), 0),
    ((7, 5), (), 0),
    ((7, 5), (4,), 1),
    ((1,), (1,), 0),
    ((7, 5), (0,), 0),
    ((2, 3, 4), (5,), 1),
)


class TakeAdd(Scatter):
    """base with source added at the rows that `indices` name along `axis`: the transpose of take.

    source has the shape of take(base, indices).
    """

    name = "take_add"
    attributes = {"axis": 0, "check": TAKE_CHECK}
    dtypes = NUMERIC
    ulp = {"f16": 4, "bf16": 4, "f32": 8, "f64": 8}

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        if batched[1]:
            return b.each(self, operands, batched)  # type: ignore[no-any-return]
        base, indices, source = operands
        return [
            b.take_add(
                b.whole(base, batched[0]), indices, b.whole(source, batched[2]), **_further(self.attrs)
            )
        ]

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        base, indices, source = types
        (expected,) = Take.infer(types[:2], attrs)
        if source != expected:
            raise RuntimeError(
                f"take_add: expected source {expected} for base {base} and indices {indices}, got {source}"
            )
        if base.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {base.dtype}')
        return (base,)

    @classmethod
    def target(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, indices: Read[Any]
    ) -> Index:
        axis, rank = attrs["axis"], types[1].rank
        at = s.to_index(indices(index[axis : axis + rank]), types[0].shape[axis], _stated(attrs, types[0]))
        return (*index[:axis], at, *index[axis + rank :])

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        g, indices = cotangents[0], self.operands[1]
        return [g, None, b.take(g, indices, axis=self.attrs["axis"], check=self.attrs["check"])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        base, indices, source = arrays
        axis, rank = attrs["axis"], indices.ndim
        at = list(np.indices(source.shape))
        places = _bounded(indices, axis, base.shape[axis], attrs["check"], source.size)
        lined = places.reshape([*(1,) * axis, *indices.shape, *(1,) * (source.ndim - axis - rank)])
        return _added(base, (*at[:axis], np.broadcast_to(lined, source.shape), *at[axis + rank :]), source)

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        base, indices, source = arrays
        return cls.reference(
            attrs, np.abs(base.astype(np.float64)), indices, np.abs(source.astype(np.float64))
        )

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for base, indices, axis in TAKEN:
                d = DTYPES[name]
                source = (*base[:axis], *indices, *base[axis + 1 :])
                types = TensorType(d, base), TensorType(int64, indices), TensorType(d, source)
                yield Sample(
                    types, {**cls.attributes, "axis": axis}, ("normal", f"index:{base[axis]}", "normal")
                )
