"""The transforms of F(2×2, 3×3): a 2×2 tile of outputs from a 4×4 tile of inputs by 16 products instead of 36.

With Bᵀ = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1], G = ½·[2 0 0; 1 1 1; 1 -1 1; 0 0 2] and
Aᵀ = [1 1 1 0; 0 1 -1 -1], y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A (A. Lavin, S. Gray, "Fast algorithms for
convolutional neural networks", 2015, after S. Winograd). Each function works on vectors, one lane a tile
or channel, and adds in one fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.backends.llvm.text import Builder, Val

__all__ = ["transform_data", "transform_result", "transform_weights"]

Line = Callable[[Builder, Sequence[Val]], list[Val]]


def transform_data(builder: Builder, tile: Sequence[Sequence[Val]]) -> list[list[Val]]:
    """Bᵀ d B of a 4×4 tile."""
    return _both(builder, tile, _data_line)


def transform_weights(builder: Builder, taps: Sequence[Sequence[Val]]) -> list[list[Val]]:
    """G g Gᵀ of 3×3 taps."""
    return _both(builder, taps, _weights_line)


def transform_result(builder: Builder, products: Sequence[Sequence[Val]]) -> list[list[Val]]:
    """Aᵀ m A of 4×4 summed products."""
    return _both(builder, products, _result_line)


def _both(builder: Builder, square: Sequence[Sequence[Val]], line: Line) -> list[list[Val]]:
    """`line` along each column, then along each row of what that gives."""
    columns = [line(builder, [row[j] for row in square]) for j in range(len(square[0]))]
    return [line(builder, [column[i] for column in columns]) for i in range(len(columns[0]))]


def _data_line(b: Builder, d: Sequence[Val]) -> list[Val]:
    return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[1], d[3])]


def _weights_line(b: Builder, g: Sequence[Val]) -> list[Val]:
    half = b.const(g[0].type, 0.5)
    ends, middle = b.fmul(b.fadd(g[0], g[2]), half), b.fmul(g[1], half)
    return [g[0], b.fadd(ends, middle), b.fsub(ends, middle), g[2]]


def _result_line(b: Builder, m: Sequence[Val]) -> list[Val]:
    return [b.fadd(b.fadd(m[0], m[1]), m[2]), b.fsub(b.fsub(m[1], m[2]), m[3])]
