"""Padding with a constant or with the input's own elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.functions import pointwise
from graphc.functions.promotion import as_operand
from graphc.functions.recording import record
from graphc.ir.types import int64 as _int64
from graphc.tensor_class import Tensor

__all__ = ["pad"]


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """`input` with pad[0] and pad[1] elements before and after the last dimension, and so on inward.

    `mode` is `"constant"`, `"reflect"`, `"replicate"` or `"circular"`.
    """
    x = as_operand(input, "pad")
    rank = len(x.tensor_type.shape)
    amounts = tuple(pad)
    if len(amounts) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if len(amounts) // 2 > rank:
        raise RuntimeError(
            f"Padding length should be less than or equal to two times the input dimension but got {len(amounts)}"
        )
    axes = [(rank - 1 - i, amounts[2 * i], amounts[2 * i + 1]) for i in range(len(amounts) // 2)]
    if mode == "constant":
        low, high = [0] * rank, [0] * rank
        for axis, before, after in axes:
            low[axis], high[axis] = before, after
            size = x.tensor_type.shape[axis]
            if isinstance(size, int) and size + before + after < 0:
                raise RuntimeError(
                    f"The input size {x.tensor_type.shape[axis]}, plus negative padding {before} and {after}, is negative"
                )
        number = 0 if value is None else value
        filler: Any = float(number) if x.tensor_type.dtype.is_floating_point else int(number)
        return record("pad", x, low=tuple(low), high=tuple(high), value=filler)
    if value is not None:
        raise ValueError(f'Padding mode "{mode}" doesn\'t take in value argument')
    for axis, before, after in axes:
        x = _padded_by_reading(x, axis, before, after, mode)
    return x


def _padded_by_reading(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    size: Any = x.tensor_type.shape[axis]
    if mode == "reflect" and max(before, after) >= size:
        raise RuntimeError(
            f"Argument #4: Padding size should be less than the corresponding input dimension, but got: padding "
            f"({before}, {after}) at dimension {axis} of input {list(x.tensor_type.shape)}"
        )
    line = pointwise.sub(record("iota", shape=(size + before + after,), axis=0, dtype=_int64), before)
    if mode == "reflect":
        line = pointwise.sub(size - 1, pointwise.abs(pointwise.sub(size - 1, pointwise.abs(line))))
    elif mode == "replicate":
        line = pointwise.clamp(line, 0, size - 1)
    elif mode == "circular":
        line = pointwise.remainder(line, size)
    else:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    return record("take", x, line, axis=axis)
