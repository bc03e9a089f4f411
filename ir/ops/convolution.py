"""Two-dimensional convolution and its two gradients: three bilinear contractions, each other's derivatives.

With y = conv2d(x, w): x is [N, C, H, W], w is [K, C/groups, R, S], y is [N, K, P, Q]. No op here
materialises windows: operands are read through index maps with guards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim, floor_div, less_equal, mod
from graphc.ir.families import FLOATS, Access, Attrs, Contraction, Index, Requirement, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.window import gather_position, output_size, scatter_position, window_guard
from graphc.ir.types import DTYPES, TensorType

__all__ = ["Conv2d", "Conv2dInputGrad", "Conv2dWeightGrad"]

GEOMETRY: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}

# (x shape, w shape, geometry)
CASES: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 6, 7), (4, 3, 3, 3), {}),
    ((2, 3, 6, 7), (4, 3, 3, 3), {"padding": (1, 1)}),
    ((1, 2, 7, 8), (3, 2, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    ((1, 4, 6, 6), (6, 2, 3, 3), {"groups": 2, "padding": (1, 1)}),
    ((1, 3, 5, 5), (3, 1, 3, 3), {"groups": 3}),
    ((1, 2, 9, 9), (2, 2, 3, 3), {"dilation": (2, 3), "padding": (2, 2)}),
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((0, 2, 4, 4), (3, 2, 3, 3), {}),
    ((2, 5, 4, 4), (17, 5, 1, 1), {"stride": (2, 2)}),
)


def geometry(attrs: Attrs) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(stride, padding, dilation) of each axis."""
    return tuple(zip(attrs["stride"], attrs["padding"], attrs["dilation"], strict=True))  # type: ignore[return-value]


class Convolution(Contraction):
    """Base of the three. stride, padding and dilation are (height, width) pairs; groups divides the channels.

    Raises RuntimeError for ranks, sizes or dtypes that do not fit, NotImplementedError for dtypes that are no floats.
    """

    dtypes = FLOATS
    attributes: ClassVar[dict[str, Any]] = GEOMETRY
    images: ClassVar[tuple[bool, bool, bool]] = (True, False, True)
    """Whether operands and result are images [N, C, H, W]; else weights."""
    ulp = {"f16": 1, "bf16": 1, "f32": 16, "f64": 16}

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        """Instances are further images where these alone have them, otherwise further groups of channels."""
        images, n = type(self).images, b.instances
        if batched == [True, False] and images == (True, False, True):
            (x, w), result = operands, self.results[0].type
            folded = b.reshape_to(x, (x.type.shape[0] * x.type.shape[1], *x.type.shape[2:]))
            (found,) = b.create(type(self), [folded, w], **self.attrs).results
            return [b.reshape_to(found, (n, *result.shape))]
        grouped = []
        for v, on, image in zip(operands, batched, images, strict=False):
            v = b.whole(v, on)
            shape = v.type.shape
            if image:
                v, shape = b.permute(v, axes=(1, 0, 2, 3, 4)), (shape[1], shape[0], *shape[2:])
                grouped.append(b.reshape_to(v, (shape[0], shape[1] * shape[2], *shape[3:])))
            else:
                grouped.append(b.reshape_to(v, (shape[0] * shape[1], *shape[2:])))
        attrs = {**self.attrs, "groups": self.attrs["groups"] * n}
        (found,) = b.create(type(self), grouped, **attrs).results
        shape = self.results[0].type.shape
        if not images[2]:
            return [b.reshape_to(found, (n, *shape))]
        apart = b.reshape_to(found, (shape[0], n, *shape[1:]))
        return [b.permute(apart, axes=(1, 0, 2, 3, 4))]

    @classmethod
    def checked(cls, types: Types, attrs: Attrs, expected_dtype: str) -> None:
        """Raises for operands that are not two rank-4 tensors of one float dtype, or bad geometry."""
        a, c = types
        if a.dtype is not c.dtype:
            raise RuntimeError(f"{cls.name}: expected both operands to have one dtype, got {a} and {c}")
        if a.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {a.dtype}')
        if a.rank != 4 or c.rank != 4:
            raise RuntimeError(f"{cls.name}: expected {expected_dtype} of rank 4, got {a} and {c}")
        if (
            min(attrs["stride"]) < 1
            or min(attrs["dilation"]) < 1
            or min(attrs["padding"]) < 0
            or attrs["groups"] < 1
        ):
            raise RuntimeError(
                f"{cls.name}: non-positive stride, dilation or groups, or negative padding: {dict(attrs)}"
            )

    @classmethod
    def cases(cls) -> Iterator[tuple[TensorType, TensorType, TensorType, dict[str, Any]]]:
        """Types of x, w and y, and the geometry."""
        for name in cls.dtypes:
            for xs, ws, given in CASES:
                x, w = TensorType(DTYPES[name], xs), TensorType(DTYPES[name], ws)
                attrs = {**GEOMETRY, **given}
                yield x, w, Conv2d.infer((x, w), attrs)[0], attrs


class Conv2d(Convolution):
    """y[n, k, p, q] = Σ_{c, r, s} x[n, c, p·stride + r·dilation - padding, …] · w[k, c, r, s].

    Cross-correlation, as in PyTorch; outside of x is 0. Channel k reads the input channels of its group.
    """

    name = "conv2d"

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        cls.checked(types, attrs, "x [N, C, H, W] and w [K, C/groups, R, S]")
        x, w = types
        groups = attrs["groups"]
        if x.shape[1] != w.shape[1] * groups:
            raise RuntimeError(
                f"Given groups={groups}, weight of size {list(w.shape)}, expected input{list(x.shape)} to have "
                f"{w.shape[1] * groups} channels, but got {x.shape[1]} channels instead"
            )
        if mod(w.shape[0], groups) != 0:
            raise RuntimeError(
                f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got {list(w.shape)}"
            )
        for size, kernel, (_, p, d) in zip(x.shape[2:], w.shape[2:], geometry(attrs), strict=True):
            if less_equal(d * (kernel - 1) + 1, size + 2 * p) is False:
                raise RuntimeError(
                    f"Calculated padded input size per channel: {list(x.shape[2:])} padded by {attrs['padding']}. "
                    f"Kernel size: {list(w.shape[2:])} dilated by {attrs['dilation']}. "
                    "Kernel size can't be greater than actual input size"
                )
        sizes = [
            output_size(h, r, *g) for h, r, g in zip(x.shape[2:], w.shape[2:], geometry(attrs), strict=True)
        ]
        return (x.with_shape((x.shape[0], w.shape[0], *sizes)),)

    @classmethod
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        for size, kernel, (_, p, d) in zip(
            types[0].shape[2:], types[1].shape[2:], geometry(attrs), strict=True
        ):
            yield size + 2 * p - d * (kernel - 1) - 1, ">="

    @classmethod
    def domain(cls, attrs: Attrs, types: Types, result: TensorType) -> tuple[Dim, ...]:
        return types[1].shape[1:]

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        (n, k, p, q), (c, r, s) = index, reduced
        x, w = types
        group = floor_div(k, floor_div(w.shape[0], attrs["groups"]))
        rows, columns = geometry(attrs)
        i, j = gather_position(p, r, *rows), gather_position(q, s, *columns)
        guards = (*window_guard(i, x.shape[2]), *window_guard(j, x.shape[3]))
        return [Access((n, group * w.shape[1] + c, i, j), guards), Access((k, c, r, s))]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        (x, w), g = self.operands, cotangents[0]
        return [
            b.conv2d_input_grad(g, w, **self.attrs, size=x.type.shape[2:]),
            b.conv2d_weight_grad(x, g, **self.attrs, size=w.type.shape[2:]),
        ]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, w = (a.astype(np.longdouble if a.dtype == np.float64 else np.float64) for a in arrays)
        types = TensorType(DTYPES["f64"], x.shape), TensorType(DTYPES["f64"], w.shape)
        n, k, p, q = cls.infer(types, attrs)[0].sizes
        groups = attrs["groups"]
        y = np.zeros((n, groups, k // groups, p, q), x.dtype)
        grouped = w.reshape(groups, k // groups, *w.shape[1:])
        for r, s, part in windows(x, w.shape[2:], (p, q), attrs):
            split = part.reshape(n, groups, w.shape[1], p, q)
            y += np.einsum("ngcpq,gkc->ngkpq", split, grouped[..., r, s])
        return y.reshape(n, k, p, q).astype(arrays[0].dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for x, w, _, attrs in cls.cases():
            yield Sample((x, w), attrs)


def windows(x: Any, kernel: Any, outputs: tuple[int, int], attrs: Attrs) -> Iterator[tuple[int, int, Any]]:
    """For each offset (r, s) the elements of x that it meets, [N, C, P, Q], 0 outside; each is a view of
    one padded copy."""
    padded = pad_for(x, attrs, kernel, outputs)
    yield from window_views(padded, kernel, outputs, attrs)


def pad_for(x: Any, attrs: Attrs, kernel: Any, outputs: tuple[int, int]) -> Any:
    """x with zeros around it wide enough for every window."""
    sides = []
    for size, k, o, (stride, p, d) in zip(x.shape[2:], kernel, outputs, geometry(attrs), strict=True):
        sides.append((p, max(0, (o - 1) * stride + d * (k - 1) + 1 - size - p)))
    return np.pad(x, [(0, 0), (0, 0), *sides])


def window_views(
    padded: Any, kernel: Any, outputs: tuple[int, int], attrs: Attrs
) -> Iterator[tuple[int, int, Any]]:
    """Views of `padded` met by each offset."""
    (sh, _, dh), (sw, _, dw) = geometry(attrs)
    p, q = outputs
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            yield (
                r,
                s,
                padded[:, :, r * dh : r * dh + p * sh : sh, s * dw : s * dw + q * sw : sw][:, :, :p, :q],
            )


class Conv2dInputGrad(Convolution):
    """The transpose of conv2d in x: from g [N, K, P, Q] and w to [N, C, H, W], (H, W) = `size`.

    Also the transposed convolution. Element (h, w) sums over the offsets and the output positions
    that read it: those where stride divides h + padding - r·dilation.
    """

    name = "conv2d_input_grad"
    attributes: ClassVar[dict[str, Any]] = {**GEOMETRY, "size": ...}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        cls.checked(types, attrs, "g [N, K, P, Q] and w [K, C/groups, R, S]")
        g, w = types
        x = g.with_shape((g.shape[0], w.shape[1] * attrs["groups"], *attrs["size"]))
        (y,) = Conv2d.infer((x, w), forward(attrs))
        if y != g:
            raise RuntimeError(
                f"conv2d_input_grad: expected a cotangent {y} for w {w} and size {attrs['size']}, got {g}"
            )
        return (x,)

    @classmethod
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        g, w = types
        x = g.with_shape((g.shape[0], w.shape[1] * attrs["groups"], *attrs["size"]))
        return Conv2d.requirements((x, w), forward(attrs))

    @classmethod
    def domain(cls, attrs: Attrs, types: Types, result: TensorType) -> tuple[Dim, ...]:
        w = types[1].shape
        return (floor_div(w[0], attrs["groups"]), w[2], w[3])

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        (n, c, h, v), (k, r, s) = index, reduced
        g, w = types
        group = floor_div(c, w.shape[1])
        channel = group * floor_div(w.shape[0], attrs["groups"]) + k
        rows, columns = geometry(attrs)
        p, row_guards = scatter_position(h, r, *rows, g.shape[2])
        q, column_guards = scatter_position(v, s, *columns, g.shape[3])
        return [
            Access((n, channel, p, q), (*row_guards, *column_guards)),
            Access((channel, mod(c, w.shape[1]), r, s)),
        ]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        (g, w), z, attrs = self.operands, cotangents[0], forward(self.attrs)
        return [b.conv2d(z, w, **attrs), b.conv2d_weight_grad(z, g, **attrs, size=w.type.shape[2:])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        g, w = (a.astype(np.longdouble if a.dtype == np.float64 else np.float64) for a in arrays)
        groups, (n, k, p, q) = attrs["groups"], g.shape
        x = np.zeros((n, w.shape[1] * groups, *attrs["size"]), g.dtype)
        padded = pad_for(x, attrs, w.shape[2:], (p, q))
        split = g.reshape(n, groups, k // groups, p, q)
        grouped = w.reshape(groups, k // groups, *w.shape[1:])
        for r, s, part in window_views(padded, w.shape[2:], (p, q), attrs):
            part += np.einsum("ngkpq,gkc->ngcpq", split, grouped[..., r, s]).reshape(part.shape)
        ph, pw = attrs["padding"]
        return padded[:, :, ph : ph + x.shape[2], pw : pw + x.shape[3]].astype(arrays[0].dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for x, w, y, attrs in cls.cases():
            yield Sample((y, w), {**attrs, "size": x.shape[2:]})


class Conv2dWeightGrad(Convolution):
    """The transpose of conv2d in w: from x [N, C, H, W] and g [N, K, P, Q] to [K, C/groups, R, S],
    (R, S) = `size`. Sums over images and output positions.
    """

    name = "conv2d_weight_grad"
    images = (True, True, False)
    attributes: ClassVar[dict[str, Any]] = {**GEOMETRY, "size": ...}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        cls.checked(types, attrs, "x [N, C, H, W] and g [N, K, P, Q]")
        x, g = types
        w = x.with_shape((g.shape[1], floor_div(x.shape[1], attrs["groups"]), *attrs["size"]))
        (y,) = Conv2d.infer((x, w), forward(attrs))
        if y != g:
            raise RuntimeError(
                f"conv2d_weight_grad: expected a cotangent {y} for x {x} and size {attrs['size']}, got {g}"
            )
        return (w,)

    @classmethod
    def domain(cls, attrs: Attrs, types: Types, result: TensorType) -> tuple[Dim, ...]:
        g = types[1].shape
        return (g[0], g[2], g[3])

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        (k, c, r, s), (n, p, q) = index, reduced
        x = types[0].shape
        group = floor_div(k, floor_div(result.shape[0], attrs["groups"]))
        rows, columns = geometry(attrs)
        i, j = gather_position(p, r, *rows), gather_position(q, s, *columns)
        guards = (*window_guard(i, x[2]), *window_guard(j, x[3]))
        return [Access((n, group * result.shape[1] + c, i, j), guards), Access((n, k, p, q))]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        (x, g), z, attrs = self.operands, cotangents[0], forward(self.attrs)
        return [b.conv2d_input_grad(g, z, **attrs, size=x.type.shape[2:]), b.conv2d(x, z, **attrs)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, g = (a.astype(np.longdouble if a.dtype == np.float64 else np.float64) for a in arrays)
        groups, (n, k, p, q) = attrs["groups"], g.shape
        channels = x.shape[1] // groups
        w = np.zeros((groups, k // groups, channels, *attrs["size"]), x.dtype)
        split = g.reshape(n, groups, k // groups, p, q)
        for r, s, part in windows(x, attrs["size"], (p, q), attrs):
            w[..., r, s] = np.einsum("ngcpq,ngkpq->gkc", part.reshape(n, groups, channels, p, q), split)
        return w.reshape(k, channels, *attrs["size"]).astype(arrays[0].dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for x, w, y, attrs in cls.cases():
            yield Sample((x, y), {**attrs, "size": w.shape[2:]})


def forward(attrs: Attrs) -> dict[str, Any]:
    """The attributes of the convolution that a gradient belongs to."""
    return {k: attrs[k] for k in GEOMETRY}
