"""Convolutions (cross-correlations, as in PyTorch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.functions import pointwise, shape
from graphc.functions.promotion import as_operand
from graphc.functions.recording import record
from graphc.tensor_class import Tensor

__all__ = ["conv1d", "conv2d", "pair_of"]


def pair_of(value: Any, name: str) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    pair = tuple(int(v) for v in value)
    if len(pair) == 1:
        return pair[0], pair[0]
    if len(pair) != 2:
        raise RuntimeError(f"{name} must be an int or a pair of ints, got {value}")
    return pair[0], pair[1]


def _same_padding(
    kernel: Sequence[Any], dilation: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(low, high) padding of each axis that keeps its size at stride 1."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return (totals[0] // 2, totals[0] - totals[0] // 2), (totals[1] // 2, totals[1] - totals[1] // 2)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of [N, C, H, W] (or [C, H, W]) with weight [K, C/groups, R, S].

    `padding` may be `"valid"` or `"same"` (stride 1 only).
    """
    x = as_operand(input, "conv2d")
    rank = len(x.tensor_type.shape)
    if rank not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: {list(x.tensor_type.shape)}"
        )
    if rank == 3:
        y = conv2d(shape.unsqueeze(x, 0), weight, bias, stride, padding, dilation, groups)
        return shape.squeeze(y, 0)
    steps, spread = pair_of(stride, "stride"), pair_of(dilation, "dilation")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"Invalid padding string: '{padding}'")
        pads = (0, 0)
        if padding == "same":
            if steps != (1, 1):
                raise RuntimeError("padding='same' is not supported for strided convolutions")
            (top, bottom), (left, right) = _same_padding(weight.tensor_type.shape[2:], spread)
            if top == bottom and left == right:
                pads = (top, left)
            else:
                x = record("pad", x, low=(0, 0, top, left), high=(0, 0, bottom, right), value=0)
    else:
        pads = pair_of(padding, "padding")
    if x.tensor_type.shape[1] != weight.tensor_type.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.tensor_type.shape)}, expected input{list(x.tensor_type.shape)} to "
            f"have {weight.tensor_type.shape[1] * groups} channels, but got {x.tensor_type.shape[1]} channels instead"
        )
    y = record("conv2d", x, weight, stride=steps, padding=pads, dilation=spread, groups=groups)
    if bias is None:
        return y
    if bias.tensor_type.shape != weight.tensor_type.shape[:1]:
        raise RuntimeError(
            f"Given weight of size {list(weight.tensor_type.shape)}, expected bias to be 1-dimensional with "
            f"{weight.tensor_type.shape[0]} elements, but got bias of size {list(bias.tensor_type.shape)} instead"
        )
    return pointwise.add(y, record("reshape", bias, shape=(1, bias.tensor_type.shape[0], 1, 1)))


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of [N, C, L] (or [C, L]) with weight [K, C/groups, R], as a conv2d of height 1."""
    first = [v if isinstance(v, int) else v[0] for v in (stride, dilation)]
    pads: Any = (
        padding if isinstance(padding, str) else (0, padding if isinstance(padding, int) else padding[0])
    )
    y = conv2d(
        shape.unsqueeze(input, -2),
        shape.unsqueeze(weight, -2),
        bias,
        (1, first[0]),
        pads,
        (1, first[1]),
        groups,
    )
    return shape.squeeze(y, -2)
