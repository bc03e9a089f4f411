"""What two-dimensional max- and average-pooling of [N, C, H, W] share.

Gradients are in gather form: they sum, for each input element, over the windows that contain it, so
nothing is scattered. See `graphc.ir.ops.window` for the geometry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from graphc.ir.dims import Dim, less_equal
from graphc.ir.families import FLOATS, Attrs, Index, Requirement, Types, Window
from graphc.ir.graph import Value
from graphc.ir.ops.window import gather_position, output_size, scatter_position, window_guard
from graphc.ir.scalar import Guard
from graphc.ir.types import TensorType

__all__ = ["Pooling", "positions"]


class Pooling(Window):
    """Base: window geometry. kernel, stride, padding and dilation are (height, width) pairs; with `ceil_mode`
    the last window may hang over the end. Raises RuntimeError for a rank other than 4, a bad geometry or an
    output without elements, NotImplementedError for a dtype that is no float.
    """

    dtypes = FLOATS

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        """Instances are further images."""
        whole = [b.whole(v, on) for v, on in zip(operands, batched, strict=True)]
        folded = [b.reshape_to(v, (v.type.shape[0] * v.type.shape[1], *v.type.shape[2:])) for v in whole]
        found = b.create(type(self), folded, **self.attrs).results
        return [
            b.reshape_to(v, (b.instances, *r.type.shape)) for v, r in zip(found, self.results, strict=True)
        ]

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
            raise RuntimeError(
                f"{cls.name}: kernel size and stride should be greater than zero, got {dict(attrs)}"
            )
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
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        # Of a gradient the pooled sizes are those of its operand, which were required before.
        if "size" not in attrs:
            for n in cls.pooled(types[0], attrs).shape[2:]:
                yield n - 1, ">="

    @classmethod
    def domain(cls, attrs: Attrs, types: Types, result: TensorType) -> tuple[Dim, ...]:
        return tuple(attrs["kernel"])

    @classmethod
    def window_read(
        cls, attrs: Attrs, size: Sequence[Dim], index: Index, reduced: Index
    ) -> tuple[Index, tuple[Guard, ...]]:
        """The input position that result `index` reads at window offset `reduced`, and its guards."""
        rows, columns = cls.axes(attrs)
        i, j = gather_position(index[2], reduced[0], *rows), gather_position(index[3], reduced[1], *columns)
        return (*index[:2], i, j), (*window_guard(i, size[0]), *window_guard(j, size[1]))

    @classmethod
    def window_write(
        cls, attrs: Attrs, outputs: Sequence[Dim], index: Index, reduced: Index
    ) -> tuple[Index, tuple[Guard, ...]]:
        """The output position whose window holds input `index` at offset `reduced`, and its guards."""
        rows, columns = cls.axes(attrs)
        p, p_guards = scatter_position(index[2], reduced[0], *rows, outputs[0])
        q, q_guards = scatter_position(index[3], reduced[1], *columns, outputs[1])
        return (*index[:2], p, q), (*p_guards, *q_guards)


def positions(
    attrs: Attrs, out: Sequence[int], shape: Sequence[int]
) -> Iterator[tuple[tuple[int, int], int, int, bool]]:
    """(output position, input row, input column, whether inside) of every window element."""
    (sh, ph, dh), (sw, pw, dw) = Pooling.axes(attrs)
    for p in range(out[2]):
        for q in range(out[3]):
            for r in range(attrs["kernel"][0]):
                for s in range(attrs["kernel"][1]):
                    i, j = p * sh + r * dh - ph, q * sw + s * dw - pw
                    inside = 0 <= i < shape[2] and 0 <= j < shape[3]
                    yield (p, q), i if inside else 0, j if inside else 0, inside
