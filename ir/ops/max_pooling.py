"""Two-dimensional max-pooling with positions, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim, product
from graphc.ir.families import Access, Attrs, Index, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.pooling import Pooling, positions
from graphc.ir.ops.reduce import highest
from graphc.ir.scalar import ScalarBuilder, Term
from graphc.ir.types import DTYPES, DType, TensorType, int32, int64

__all__ = ["MaxPool2d", "MaxPool2dGrad", "MaxPool2dValues"]

GEOMETRY: dict[str, Any] = {
    "kernel": ...,
    "stride": ...,
    "padding": (0, 0),
    "dilation": (1, 1),
    "ceil_mode": False,
}
CASES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 6, 8), {"kernel": (2, 2), "stride": (2, 2)}),
    ((1, 2, 7, 9), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((1, 1, 7, 8), {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "ceil_mode": True}),
    ((1, 2, 9, 9), {"kernel": (3, 3), "stride": (1, 2), "dilation": (2, 1)}),
    ((1, 1, 1, 1), {"kernel": (1, 1), "stride": (1, 1)}),
    ((0, 2, 4, 4), {"kernel": (2, 2), "stride": (2, 2)}),
)


def _place_dtype(plane: Sequence[Dim]) -> DType:
    """What holds a position in an H x W plane: as many bits as a float32 where they do, so that both have the same lanes."""
    size = product(tuple(plane))
    return int32 if isinstance(size, int) and size < 1 << 31 else int64


class MaxPool2d(Pooling):
    """Largest element of each window, and where it is: int64 row-major position in the H x W plane.

    Of equal elements the first; NaN is larger than any number, and of several the last. Padding is
    never chosen.
    """

    name = "max_pool2d"
    operand_names = ("x",)
    attributes: ClassVar[dict[str, Any]] = GEOMETRY

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        values = cls.pooled(types[0], attrs)
        return (values, values.with_dtype(int64))

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        at, guards = cls.window_read(attrs, types[0].shape[2:], index, reduced)
        return [Access(at, guards, float("-inf"))]

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        place = _place_dtype(types[0].shape[2:])
        return [(types[0].dtype.accumulator, float("-inf")), (place, highest(place))]

    @classmethod
    def element(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[Any]
    ) -> Sequence[Any]:
        at, guards = cls.window_read(attrs, types[0].shape[2:], index, reduced)
        position = at[2] * types[0].shape[3] + at[3]
        wide, place = types[0].dtype.accumulator, _place_dtype(types[0].shape[2:])
        none = s.const(place, highest(place))
        where = (
            s.guarded(guards, lambda: s.index(position, place), none) if guards else s.index(position, place)
        )
        return [x[0] if wide is types[0].dtype else s.cast(x[0], wide), where]

    @classmethod
    def combine(
        cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]
    ) -> Sequence[Any]:
        # Windows are folded in row-major order, so b is the later one: it wins where it is larger, where it is NaN,
        # and where there was nothing before.
        (av, ai), (bv, bi) = ((Term(s, p[0]), Term(s, p[1])) for p in (a, b))
        take = bv.gt(av) | Term(s, s.apply("is_nan", bv.value)) | bi.lt(ai)
        return [take.select(bv, av).value, take.select(bi, ai).value]

    def simplify(self, b: Any) -> Sequence[Value] | None:
        """Values alone where nothing asks for the positions."""
        indices = self.results[1]
        assert self.graph is not None
        if indices.uses or indices in self.graph.outputs:
            return None
        return (b.max_pool2d_values(self.operands[0], **self.attrs), indices)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        if cotangents[0] is None:
            return [None]
        size = self.operands[0].type.shape[2:]
        return [b.max_pool2d_grad(cotangents[0], self.results[1], **self.attrs, size=size)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x = arrays[0]
        wide = x if x.dtype == np.float64 else x.astype(np.float64)
        (out, indices) = cls.infer((TensorType(DTYPES["f64"], x.shape),), attrs)
        values = np.full(out.sizes, -np.inf)
        places = np.full(indices.sizes, np.iinfo(np.int64).max)
        for at, i, j, read in positions(attrs, out.sizes, x.shape):
            v = wide[:, :, i, j]
            if read:
                # Row-major order: a later equal element does not win, a later NaN does.
                take = (v > values[(..., *at)]) | np.isnan(v) | (places[(..., *at)] == np.iinfo(np.int64).max)
                values[(..., *at)] = np.where(take, v, values[(..., *at)])
                places[(..., *at)] = np.where(take, i * x.shape[3] + j, places[(..., *at)])
        return values.astype(x.dtype), places

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, given in CASES:
                for draw in ("normal", "special"):
                    yield Sample((TensorType(DTYPES[name], shape),), {**GEOMETRY, **given}, (draw,))


class MaxPool2dValues(Pooling):
    """The values of max_pool2d, bit for bit; windows are folded in row-major order."""

    name = "max_pool2d_values"
    operand_names = ("x",)
    attributes: ClassVar[dict[str, Any]] = GEOMETRY

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        return (cls.pooled(types[0], attrs),)

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        return MaxPool2d.accesses(attrs, types, result, index, reduced)

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        return MaxPool2d.init(attrs, types)[:1]

    @classmethod
    def element(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[Any]
    ) -> Sequence[Any]:
        wide = types[0].dtype.accumulator
        return [x[0] if wide is types[0].dtype else s.cast(x[0], wide)]

    @classmethod
    def combine(
        cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]
    ) -> Sequence[Any]:
        # The later value is b: it wins where it is larger, and where it is NaN.
        (x,), (y,) = ([Term(s, p[0])] for p in (a, b))
        take = Term(s, s.apply("gt", y.value, x.value)) | Term(s, s.apply("is_nan", y.value))
        return [take.select(y, x).value]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        (x,) = self.operands
        _, indices = b.max_pool2d(x, **self.attrs)
        return [b.max_pool2d_grad(cotangents[0], indices, **self.attrs, size=x.type.shape[2:])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return MaxPool2d.reference(attrs, *arrays)[0]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield from MaxPool2d.samples()


class MaxPool2dGrad(Pooling):
    """The transpose of max_pool2d: each of g [N, C, P, Q] added where `indices` says it came from.

    The result is [N, C, H, W], (H, W) = `size`.
    """

    name = "max_pool2d_grad"
    operand_names = ("g", "indices")
    attributes: ClassVar[dict[str, Any]] = {**GEOMETRY, "size": ...}
    ulp = {"f16": 1, "bf16": 1, "f32": 2, "f64": 2}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        g, indices = types
        if g.rank != 4:
            raise RuntimeError(f"max_pool2d_grad: expected g of rank 4 [N, C, P, Q], got {g}")
        x = g.with_shape((*g.shape[:2], *attrs["size"]))
        if cls.pooled(x, attrs) != g or indices != g.with_dtype(int64):
            raise RuntimeError(
                f"max_pool2d_grad: expected g and indices of the pooled type of {x}, got {g} and {indices}"
            )
        return (x,)

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        at, guards = cls.window_write(attrs, types[0].shape[2:], index, reduced)
        return [Access(at, guards), Access(at, guards, -1)]

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        return [(types[0].dtype.accumulator, 0)]

    @classmethod
    def element(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[Any]
    ) -> Sequence[Any]:
        place = _place_dtype(attrs["size"])
        here = s.index(index[2] * attrs["size"][1] + index[3], place)
        g = Term(s, s.cast(x[0], types[0].dtype.accumulator))
        return [Term(s, s.apply("eq", s.cast(x[1], place), here)).select(g, 0).value]

    @classmethod
    def combine(
        cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]
    ) -> Sequence[Any]:
        return [s.apply("add", a[0], b[0])]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        indices, z = self.operands[1], cotangents[0]
        assert z is not None
        n, c, h, w = z.type.shape
        p, q = indices.type.shape[2:]
        flat = b.reshape_to(indices, (n, c, p * q))
        picked = b.gather(b.reshape_to(z, (n, c, h * w)), flat, axis=2, check=None)
        return [b.reshape_to(picked, indices.type.shape), None]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        g, indices = arrays
        n, c = g.shape[:2]
        h, w = attrs["size"]
        result = np.zeros((n, c, h * w))
        (sh, ph, dh), (sw, pw, dw) = cls.axes(attrs)
        places = indices.reshape(n, c, math.prod(g.shape[2:]))
        rows, columns = np.divmod(places, w)
        # Only a position that its own window can hold counts.
        p, q = (a.reshape(-1) for a in np.indices(g.shape[2:]))
        dy, dx = rows + ph - p * sh, columns + pw - q * sw
        inside = (dy % dh == 0) & (dx % dw == 0) & (dy >= 0) & (dx >= 0)
        inside &= (
            (dy // dh < attrs["kernel"][0])
            & (dx // dw < attrs["kernel"][1])
            & (places < h * w)
            & (places >= 0)
        )
        source = np.where(inside, g.reshape(places.shape).astype(np.float64), 0)
        image, channel, _ = np.indices(places.shape)
        np.add.at(result, (image, channel, np.where(inside, places, 0)), source)
        return result.reshape(n, c, h, w).astype(g.dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, given in CASES:
                attrs = {**GEOMETRY, **given}
                values, indices = MaxPool2d.infer((TensorType(DTYPES[name], shape),), attrs)
                make = _pooled_draw(TensorType(DTYPES[name], shape), attrs)
                yield Sample((values, indices), {**attrs, "size": shape[2:]}, make=make)


def _pooled_draw(x: TensorType, attrs: Attrs) -> Callable[[Any], Sequence[Any]]:
    """Draws a cotangent, and the positions that max_pool2d finds in random numbers."""

    def make(rng: Any) -> Sequence[Any]:
        values, indices = MaxPool2d.reference(attrs, rng.standard_normal(x.sizes).astype(x.dtype.numpy))
        return rng.standard_normal(values.shape).astype(values.dtype), indices

    return make
