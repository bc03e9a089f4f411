"""The geometry of sliding windows over two trailing axes, shared by convolution and pooling.

Output position p and window offset r read input position p · stride - padding + r · dilation.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.dims import Dim, floor_div, less_equal, minimum, mod
from graphc.ir.scalar import Guard

__all__ = ["Pair", "gather_position", "output_size", "scatter_position", "window_guard"]

Pair = tuple[int, int]


def output_size(
    size: Dim, kernel: Dim, stride: int, padding: int, dilation: int, ceil_mode: bool = False
) -> Dim:
    """Number of window positions along one axis.

    With `ceil_mode` a window may hang over the end, but starts inside the input or its left padding.
    """
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return floor_div(span, stride) + 1
    # (out - 1) · stride < size + padding
    return minimum(floor_div(span + stride - 1, stride), floor_div(size + padding - 1, stride)) + 1


def gather_position(p: Dim, r: Dim, stride: int, padding: int, dilation: int) -> Dim:
    """The input position that output position p reads at offset r."""
    return p * stride + r * dilation - padding


def window_guard(position: Dim, size: Dim) -> tuple[Guard, ...]:
    """The guard that `position` is in [0, size); none where its bounds say so."""
    if less_equal(0, position) and less_equal(position, size - 1):
        return ()
    return ((position, 0, size),)


def scatter_position(
    h: Dim, r: Dim, stride: int, padding: int, dilation: int, outputs: Dim
) -> tuple[Dim, Sequence[Guard]]:
    """The output position that reads input position h at offset r, and the guards that there is one."""
    distance = h + padding - r * dilation
    position = floor_div(distance, stride)
    guards = window_guard(position, outputs)
    return position, ((mod(distance, stride), 0, 1), *guards) if stride != 1 else guards
