"""Two-dimensional max- and average-pooling of [N, C, H, W] and their gradients, all in gather form.

Gradients sum, for each input element, over the windows that contain it, so nothing is scattered.
kernel, stride, padding, dilation are (height, width) pairs; see `graphc.ir.ops.window`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim, less_equal, maximum, minimum
from graphc.ir.families import FLOATS, Access, Attrs, Index, Sample, Types, Window
from graphc.ir.graph import Value
from graphc.ir.ops.arg_reduce import prefer
from graphc.ir.ops.reduce import highest
from graphc.ir.ops.window import gather_position, output_size, scatter_position, window_guard
from graphc.ir.scalar import Guard, ScalarBuilder, Term
from graphc.ir.types import DTYPES, DType, TensorType, int64

__all__ = ["AvgPool2d", "AvgPool2dGrad", "MaxPool2d", "MaxPool2dGrad"]

MAX_GEOMETRY: dict[str, Any] = {"kernel": ..., "stride": ..., "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
AVG_GEOMETRY: dict[str, Any] = {
    "kernel": ...,
    "stride": ...,
    "padding": (0, 0),
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
}
MAX_CASES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 6, 8), {"kernel": (2, 2), "stride": (2, 2)}),
    ((1, 2, 7, 9), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((1, 1, 7, 8), {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "ceil_mode": True}),
    ((1, 2, 9, 9), {"kernel": (3, 3), "stride": (1, 2), "dilation": (2, 1)}),
    ((1, 1, 1, 1), {"kernel": (1, 1), "stride": (1, 1)}),
    ((0, 2, 4, 4), {"kernel": (2, 2), "stride": (2, 2)}),
)
AVG_CASES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 6, 8), {"kernel": (2, 2), "stride": (2, 2)}),
    ((1, 2, 7, 9), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((1, 2, 7, 9), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "count_include_pad": False}),
    ((1, 1, 8, 8), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True}),
    ((1, 1, 8, 8), {"kernel": (3, 3), "stride": (3, 2), "ceil_mode": True, "count_include_pad": False}),
    ((1, 1, 6, 6), {"kernel": (3, 2), "stride": (1, 1), "divisor_override": 4}),
    ((1, 1, 1, 1), {"kernel": (1, 1), "stride": (1, 1)}),
    ((0, 2, 4, 4), {"kernel": (2, 2), "stride": (2, 2)}),
)


class Pooling(Window):
    """Base: window geometry, and the reads of an op that looks at windows of x."""

    dtypes = FLOATS

    @classmethod
    def axes(cls, attrs: Attrs) -> list[tuple[int, int, int]]:
        """(stride, padding, dilation) of each axis."""
        return list(zip(attrs["stride"], attrs["padding"], attrs.get("dilation", (1, 1)), strict=True))

    @classmethod
    def pooled(cls, x: TensorType, attrs: Attrs) -> TensorType:
        """The type of the pooled tensor. Raises RuntimeError for a bad rank or geometry."""
        if x.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {x.dtype}')
        if x.rank != 4:
            raise RuntimeError(f"{cls.name}: expected a tensor of rank 4 [N, C, H, W], got {x}")
        if min(*attrs["kernel"], *attrs["stride"]) < 1:
            raise RuntimeError(f"{cls.name}: kernel size and stride should be greater than zero, got {dict(attrs)}")
        sizes = []
        for size, k, (stride, p, d) in zip(x.shape[2:], attrs["kernel"], cls.axes(attrs), strict=True):
            if p < 0 or 2 * p > d * (k - 1) + 1:
                raise RuntimeError(
                    f"{cls.name}: pad should be at most half of effective kernel size, but got pad={p}, "
                    f"kernel_size={k} and dilation={d}"
                )
            sizes.append(output_size(size, k, stride, p, d, attrs["ceil_mode"]))
        if any(less_equal(1, n) is False for n in sizes):
            raise RuntimeError(
                f"Given input size: {list(x.shape)}. Calculated output size: {[*x.shape[:2], *sizes]}. "
                f"Output size is too small ({cls.name})"
            )
        return x.with_shape((*x.shape[:2], *sizes))

    @classmethod
    def domain(cls, attrs: Attrs, types: Types, result: TensorType) -> tuple[Dim, ...]:
        return tuple(attrs["kernel"])

    @classmethod
    def window_read(cls, attrs: Attrs, size: Sequence[Dim], index: Index, reduced: Index) -> tuple[Index, tuple[Guard, ...]]:
        """The input position that result `index` reads at window offset `reduced`, and its guards."""
        rows, columns = cls.axes(attrs)
        i, j = gather_position(index[2], reduced[0], *rows), gather_position(index[3], reduced[1], *columns)
        return (*index[:2], i, j), (*window_guard(i, size[0]), *window_guard(j, size[1]))

    @classmethod
    def window_write(cls, attrs: Attrs, outputs: Sequence[Dim], index: Index, reduced: Index) -> tuple[Index, tuple[Guard, ...]]:
        """The output position whose window holds input `index` at offset `reduced`, and its guards."""
        rows, columns = cls.axes(attrs)
        p, p_guards = scatter_position(index[2], reduced[0], *rows, outputs[0])
        q, q_guards = scatter_position(index[3], reduced[1], *columns, outputs[1])
        return (*index[:2], p, q), (*p_guards, *q_guards)


class MaxPool2d(Pooling):
    """Largest element of each window, and where it is: int64 row-major position in the H x W plane.

    Of equal elements the first; NaN is larger than any number, and of several the last. Padding is
    never chosen.
    """

    name = "max_pool2d"
    operand_names = ("x",)
    attributes: ClassVar[dict[str, Any]] = MAX_GEOMETRY

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
        return [(types[0].dtype.accumulator, float("-inf")), (int64, highest(int64))]

    @classmethod
    def element(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[Any]
    ) -> Sequence[Any]:
        at, guards = cls.window_read(attrs, types[0].shape[2:], index, reduced)
        position = at[2] * types[0].shape[3] + at[3]
        wide = types[0].dtype.accumulator
        none = s.const(int64, highest(int64))
        where = s.guarded(guards, lambda: s.index(position, int64), none) if guards else s.index(position, int64)
        return [x[0] if wide is types[0].dtype else s.cast(x[0], wide), where]

    @classmethod
    def combine(cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]) -> Sequence[Any]:
        return prefer(s, "gt", a, b, last_nan=True)

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
        for at, i, j, read in _positions(attrs, out.sizes, x.shape):
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
            for shape, given in MAX_CASES:
                for draw in ("normal", "special"):
                    yield Sample((TensorType(DTYPES[name], shape),), {**MAX_GEOMETRY, **given}, (draw,))


def _positions(attrs: Attrs, out: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[tuple[int, int], int, int, bool]]:
    """(output position, input row, input column, whether inside) of every window element."""
    (sh, ph, dh), (sw, pw, dw) = Pooling.axes(attrs)
    for p in range(out[2]):
        for q in range(out[3]):
            for r in range(attrs["kernel"][0]):
                for s in range(attrs["kernel"][1]):
                    i, j = p * sh + r * dh - ph, q * sw + s * dw - pw
                    inside = 0 <= i < shape[2] and 0 <= j < shape[3]
                    yield (p, q), i if inside else 0, j if inside else 0, inside


class MaxPool2dGrad(Pooling):
    """The transpose of max_pool2d: each of g [N, C, P, Q] added where `indices` says it came from.

    The result is [N, C, H, W], (H, W) = `size`.
    """

    name = "max_pool2d_grad"
    operand_names = ("g", "indices")
    attributes: ClassVar[dict[str, Any]] = {**MAX_GEOMETRY, "size": ...}
    ulp = {"f16": 1, "bf16": 1, "f32": 2, "f64": 2}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        g, indices = types
        if g.rank != 4:
            raise RuntimeError(f"max_pool2d_grad: expected g of rank 4 [N, C, P, Q], got {g}")
        x = g.with_shape((*g.shape[:2], *attrs["size"]))
        if cls.pooled(x, attrs) != g or indices != g.with_dtype(int64):
            raise RuntimeError(f"max_pool2d_grad: expected g and indices of the pooled type of {x}, got {g} and {indices}")
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
        here = s.index(index[2] * attrs["size"][1] + index[3], int64)
        g = Term(s, s.cast(x[0], types[0].dtype.accumulator))
        return [Term(s, s.apply("eq", x[1], here)).select(g, 0).value]

    @classmethod
    def combine(cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]) -> Sequence[Any]:
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
        inside &= (dy // dh < attrs["kernel"][0]) & (dx // dw < attrs["kernel"][1]) & (places < h * w) & (places >= 0)
        a, d = np.indices((n, c))
        for k in range(places.shape[2]):
            np.add.at(result, (a, d, np.where(inside, places, 0)[:, :, k]), np.where(inside, g.reshape(n, c, -1).astype(np.float64), 0)[:, :, k])
        return result.reshape(n, c, h, w).astype(g.dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, given in MAX_CASES:
                attrs = {**MAX_GEOMETRY, **given}
                values, indices = MaxPool2d.infer((TensorType(DTYPES[name], shape),), attrs)
                draw = ("normal", f"index:{shape[2] * shape[3]}")
                yield Sample((values, indices), {**attrs, "size": shape[2:]}, draw)


def pool_count(attrs: Attrs, size: Sequence[Dim], position: Sequence[Dim]) -> Dim:
    """The divisor of the window at an output position, as PyTorch counts it; at least 1."""
    if attrs["divisor_override"] is not None:
        return attrs["divisor_override"]  # type: ignore[no-any-return]
    count: Dim = 1
    for p, h, k, stride, pad in zip(position, size, attrs["kernel"], attrs["stride"], attrs["padding"], strict=True):
        start = p * stride - pad
        if attrs["count_include_pad"]:
            count = count * (minimum(start + k, h + pad) - start)
        else:
            count = count * (minimum(start + k, h) - maximum(start, 0))
    return maximum(count, 1)


def fixed_count(attrs: Attrs, size: Sequence[Dim], outputs: Sequence[Dim]) -> int | None:
    """The divisor where it is the same of every window."""
    if attrs["divisor_override"] is not None:
        return int(attrs["divisor_override"])
    for p, h, k, stride, pad in zip(outputs, size, attrs["kernel"], attrs["stride"], attrs["padding"], strict=True):
        beyond = pad if attrs["count_include_pad"] else 0
        if pad != beyond or less_equal((p - 1) * stride - pad + k, h + beyond) is not True:
            return None
    return int(attrs["kernel"][0] * attrs["kernel"][1])


class AvgPool2d(Pooling):
    """Mean of each window, rounded once. The divisor is `divisor_override`, or the window's size with
    the padding (and without what `ceil_mode` adds beyond it), or without it where `count_include_pad` is
    False.
    """

    name = "avg_pool2d"
    operand_names = ("x",)
    attributes: ClassVar[dict[str, Any]] = AVG_GEOMETRY
    ulp = {"f16": 1, "bf16": 1, "f32": 4, "f64": 4}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if attrs["divisor_override"] == 0:
            raise RuntimeError("avg_pool2d: divisor must be not zero")
        return (cls.pooled(types[0], attrs),)

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        return [Access(*cls.window_read(attrs, types[0].shape[2:], index, reduced))]

    @classmethod
    def count(cls, attrs: Attrs, types: Types) -> int | None:
        """The divisor where it does not depend on the position."""
        return fixed_count(attrs, types[0].shape[2:], cls.pooled(types[0], attrs).shape[2:])

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        wide = types[0].dtype.accumulator
        return [(wide, 0)] if cls.count(attrs, types) is not None else [(wide, 0), (wide, 0)]

    @classmethod
    def element(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[Any]
    ) -> Sequence[Any]:
        wide = types[0].dtype.accumulator
        value = x[0] if wide is types[0].dtype else s.cast(x[0], wide)
        if cls.count(attrs, types) is not None:
            return [value]
        # The second accumulator counts the elements that the divisor counts.
        guards: list[Guard] = []
        at, _ = cls.window_read(attrs, types[0].shape[2:], index, reduced)
        for i, h, pad in zip(at[2:], types[0].shape[2:], attrs["padding"], strict=True):
            beyond = pad if attrs["count_include_pad"] else 0
            guards += window_guard(i + beyond, h + 2 * beyond)
        one, zero = s.const(wide, 1), s.const(wide, 0)
        return [value, s.guarded(guards, lambda: one, zero) if guards else one]

    @classmethod
    def combine(cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]) -> Sequence[Any]:
        return [s.apply("add", p, q) for p, q in zip(a, b, strict=True)]

    @classmethod
    def finish(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, results: Types, acc: Sequence[Any]
    ) -> Sequence[Any]:
        count, total = cls.count(attrs, types), Term(s, acc[0])
        mean = total / count if count is not None else total / Term(s, acc[1]).max(1)
        wide = types[0].dtype.accumulator
        return [mean.value if wide is results[0].dtype else s.cast(mean.value, results[0].dtype)]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.avg_pool2d_grad(cotangents[0], **self.attrs, size=self.operands[0].type.shape[2:])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x = arrays[0].astype(np.longdouble if arrays[0].dtype == np.float64 else np.float64)
        (out,) = cls.infer((TensorType(DTYPES["f64"], x.shape),), attrs)
        total = np.zeros(out.sizes, x.dtype)
        for at, i, j, read in _positions(attrs, out.sizes, x.shape):
            if read:
                total[(..., *at)] += x[:, :, i, j]
        return (total / _counts(attrs, x.shape, out.sizes)).astype(arrays[0].dtype)

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.abs(cls.reference({**attrs}, np.abs(arrays[0].astype(np.float64))))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, given in AVG_CASES:
                yield Sample((TensorType(DTYPES[name], shape),), {**AVG_GEOMETRY, **given})


def _counts(attrs: Attrs, shape: Sequence[int], out: Sequence[int]) -> Any:
    """The divisor of every window, [P, Q], counted element by element."""
    if attrs["divisor_override"] is not None:
        return np.full(out[2:], attrs["divisor_override"])
    counts = np.zeros(out[2:])
    ph, pw = attrs["padding"] if attrs["count_include_pad"] else (0, 0)
    for p in range(out[2]):
        for q in range(out[3]):
            for r in range(attrs["kernel"][0]):
                for s in range(attrs["kernel"][1]):
                    i = p * attrs["stride"][0] + r - attrs["padding"][0]
                    j = q * attrs["stride"][1] + s - attrs["padding"][1]
                    counts[p, q] += -ph <= i < shape[2] + ph and -pw <= j < shape[3] + pw
    return np.maximum(counts, 1)


class AvgPool2dGrad(Pooling):
    """The transpose of avg_pool2d: each of g [N, C, P, Q] shared evenly by the elements of its window.

    The result is [N, C, H, W], (H, W) = `size`.
    """

    name = "avg_pool2d_grad"
    operand_names = ("g",)
    attributes: ClassVar[dict[str, Any]] = {**AVG_GEOMETRY, "size": ...}
    ulp = {"f16": 1, "bf16": 1, "f32": 4, "f64": 4}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        g = types[0]
        if g.rank != 4:
            raise RuntimeError(f"avg_pool2d_grad: expected g of rank 4 [N, C, P, Q], got {g}")
        x = g.with_shape((*g.shape[:2], *attrs["size"]))
        if cls.pooled(x, attrs) != g:
            raise RuntimeError(f"avg_pool2d_grad: expected g of the pooled type of {x}, got {g}")
        return (x,)

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        return [Access(*cls.window_write(attrs, types[0].shape[2:], index, reduced))]

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        return [(types[0].dtype.accumulator, 0)]

    @classmethod
    def element(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[Any]
    ) -> Sequence[Any]:
        wide, outputs = types[0].dtype.accumulator, types[0].shape[2:]
        g = Term(s, x[0] if wide is types[0].dtype else s.cast(x[0], wide))
        fixed = fixed_count(attrs, attrs["size"], outputs)
        if fixed is not None:
            return [(g / fixed).value]
        at, _ = cls.window_write(attrs, outputs, index, reduced)
        return [(g / Term(s, s.index(pool_count(attrs, attrs["size"], at[2:]), wide))).value]

    @classmethod
    def combine(cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]) -> Sequence[Any]:
        return [s.apply("add", a[0], b[0])]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.avg_pool2d(cotangents[0], **{k: self.attrs[k] for k in AVG_GEOMETRY})]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        g = arrays[0].astype(np.longdouble if arrays[0].dtype == np.float64 else np.float64)
        shape = (*g.shape[:2], *attrs["size"])
        shared = g / _counts(attrs, shape, g.shape)
        result = np.zeros(shape, g.dtype)
        for at, i, j, read in _positions(attrs, g.shape, shape):
            if read:
                result[:, :, i, j] += shared[(..., *at)]
        return result.astype(arrays[0].dtype)

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return cls.reference(attrs, np.abs(arrays[0].astype(np.float64)))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, given in AVG_CASES:
                attrs = {**AVG_GEOMETRY, **given}
                (pooled,) = AvgPool2d.infer((TensorType(DTYPES[name], shape),), attrs)
                yield Sample((pooled,), {**attrs, "size": shape[2:]})
