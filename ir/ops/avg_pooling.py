"""Two-dimensional average-pooling, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim, less_equal, maximum, minimum
from graphc.ir.families import Access, Attrs, Index, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.pooling import Pooling, positions
from graphc.ir.ops.window import window_guard
from graphc.ir.scalar import Guard, ScalarBuilder, Term
from graphc.ir.types import DTYPES, DType, TensorType

__all__ = ["AvgPool2d", "AvgPool2dGrad"]

GEOMETRY: dict[str, Any] = {
    "kernel": ...,
    "stride": ...,
    "padding": (0, 0),
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
}
CASES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 6, 8), {"kernel": (2, 2), "stride": (2, 2)}),
    ((1, 2, 7, 9), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
    ((1, 2, 7, 9), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "count_include_pad": False}),
    ((1, 1, 8, 8), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True}),
    ((1, 1, 8, 8), {"kernel": (3, 3), "stride": (3, 2), "ceil_mode": True, "count_include_pad": False}),
    ((1, 1, 6, 6), {"kernel": (3, 2), "stride": (1, 1), "divisor_override": 4}),
    ((1, 1, 1, 1), {"kernel": (1, 1), "stride": (1, 1)}),
    ((0, 2, 4, 4), {"kernel": (2, 2), "stride": (2, 2)}),
)


def pool_count(attrs: Attrs, size: Sequence[Dim], position: Sequence[Dim]) -> Dim:
    """The divisor of the window at an output position, as PyTorch counts it; at least 1."""
    if attrs["divisor_override"] is not None:
        return attrs["divisor_override"]  # type: ignore[no-any-return]
    count: Dim = 1
    for p, h, k, stride, pad in zip(
        position, size, attrs["kernel"], attrs["stride"], attrs["padding"], strict=True
    ):
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
    for p, h, k, stride, pad in zip(
        outputs, size, attrs["kernel"], attrs["stride"], attrs["padding"], strict=True
    ):
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
    attributes: ClassVar[dict[str, Any]] = GEOMETRY
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
    def combine(
        cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]
    ) -> Sequence[Any]:
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
        for at, i, j, read in positions(attrs, out.sizes, x.shape):
            if read:
                total[(..., *at)] += x[:, :, i, j]
        return (total / _counts(attrs, x.shape, out.sizes)).astype(arrays[0].dtype)

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.abs(cls.reference({**attrs}, np.abs(arrays[0].astype(np.float64))))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, given in CASES:
                yield Sample((TensorType(DTYPES[name], shape),), {**GEOMETRY, **given})


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

    The result is [N, C, H, W], (H, W) = `size`; `divisor_override` and `count_include_pad` are those of
    avg_pool2d.
    """

    name = "avg_pool2d_grad"
    operand_names = ("g",)
    attributes: ClassVar[dict[str, Any]] = {**GEOMETRY, "size": ...}
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
    def combine(
        cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]
    ) -> Sequence[Any]:
        return [s.apply("add", a[0], b[0])]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.avg_pool2d(cotangents[0], **{k: self.attrs[k] for k in GEOMETRY})]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        g = arrays[0].astype(np.longdouble if arrays[0].dtype == np.float64 else np.float64)
        shape = (*g.shape[:2], *attrs["size"])
        shared = g / _counts(attrs, shape, g.shape)
        result = np.zeros(shape, g.dtype)
        for at, i, j, read in positions(attrs, g.shape, shape):
            if read:
                result[:, :, i, j] += shared[(..., *at)]
        return result.astype(arrays[0].dtype)

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return cls.reference(attrs, np.abs(arrays[0].astype(np.float64)))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, given in CASES:
                attrs = {**GEOMETRY, **given}
                (pooled,) = AvgPool2d.infer((TensorType(DTYPES[name], shape),), attrs)
                yield Sample((pooled,), {**attrs, "size": shape[2:]})
