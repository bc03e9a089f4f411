"""Dropout of elements and of whole channels."""

from __future__ import annotations

from graphc.core import next_random
from graphc.functions import pointwise
from graphc.functions.promotion import as_operand, expanded
from graphc.functions.recording import record, scalar
from graphc.ir.dims import product
from graphc.nn.functional.activations import finished, floats
from graphc.tensor_class import Tensor

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, each element is 0 with probability p and divided by 1 - p otherwise."""
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    x = as_operand(input, "dropout")
    if not training or p == 0:
        return x
    state, offset = next_random(product(x.tensor_type.shape))  # type: ignore[arg-type]
    return finished(input, record("dropout", floats(x, "dropout"), state, p=float(p), offset=offset), inplace)


def _channel_dropout(input: Tensor, p: float, training: bool, inplace: bool, rank: int, name: str) -> Tensor:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    sizes = input.tensor_type.shape
    lead = sizes[: len(sizes) - rank]
    ones = expanded(scalar(1, input.tensor_type.dtype), (*lead, *(1,) * rank))
    state, offset = next_random(product(lead))  # type: ignore[arg-type]
    mask = record("dropout", floats(ones, name), state, p=float(p), offset=offset)
    return finished(input, pointwise.mul(input, mask), inplace)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [N, C, L]."""
    return _channel_dropout(input, p, training, inplace, 1, "dropout1d")


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [N, C, H, W]."""
    return _channel_dropout(input, p, training, inplace, 2, "dropout2d")


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [N, C, D, H, W]."""
    return _channel_dropout(input, p, training, inplace, 3, "dropout3d")


ALPHA = 1.7580993408473766
"""-λα of SELU: what a unit saturates at (Klambauer, Unterthiner, Mayr and Hochreiter 2017)."""


def _alpha_dropout(
    input: Tensor, p: float, training: bool, inplace: bool, lead: int | None, name: str
) -> Tensor:
    """Dropped elements become -ALPHA, and all are scaled so that mean 0 and variance 1 stay."""
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    x = floats(input, name)
    if p == 1:
        return finished(input, pointwise.mul(x, 0), inplace)
    sizes = x.tensor_type.shape
    drawn_for = sizes if lead is None else (*sizes[:lead], *(1,) * (len(sizes) - lead))
    state, offset = next_random(product(drawn_for))  # type: ignore[arg-type]
    ones = expanded(scalar(1, x.tensor_type.dtype), drawn_for)
    kept = pointwise.mul(record("dropout", ones, state, p=float(p), offset=offset), 1 - p)
    scale = ((ALPHA**2 * p + 1) * (1 - p)) ** -0.5
    shift = pointwise.mul(pointwise.sub(kept, 1), ALPHA * scale)
    result = pointwise.add(
        pointwise.add(pointwise.mul(pointwise.mul(x, kept), scale), shift), ALPHA * scale * p
    )
    return finished(input, result, inplace)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps mean 0 and variance 1: dropped elements take SELU's negative saturation value."""
    return _alpha_dropout(input, p, training, inplace, None, "alpha_dropout")


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """`alpha_dropout` of whole channels of [N, C, …]."""
    return _alpha_dropout(input, p, training, inplace, 2, "feature_alpha_dropout")
