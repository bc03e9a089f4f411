"""Dropout of elements and of whole channels."""

from __future__ import annotations

from graphc.core import next_random
from graphc.functions import pointwise
from graphc.functions.promotion import as_operand, expanded
from graphc.functions.recording import record, scalar
from graphc.ir.dims import product
from graphc.nn.functional.activations import finished, floats
from graphc.tensor_class import Tensor

__all__ = ["dropout", "dropout1d", "dropout2d"]


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
