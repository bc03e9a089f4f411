"""Layers that draw random numbers: dropout of elements and of whole channels, `rrelu`, `gumbel_softmax`."""

from __future__ import annotations

from graphc.core import next_random
from graphc.functions import creation, indexing, pointwise, reduction
from graphc.functions.distributions import exponential_values
from graphc.functions.promotion import as_operand, expanded
from graphc.functions.random import uniform_values
from graphc.functions.recording import record, scalar
from graphc.ir.dims import product
from graphc.nn.functional.activations import finished, floats
from graphc.tensor_class import Tensor

__all__ = [
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "gumbel_softmax",
    "rrelu",
]


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


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """x where positive, else x times a slope: drawn from [lower, upper) for each element in training, else the mean.

    Raises RuntimeError where lower is above upper.
    """
    if lower > upper:
        raise RuntimeError(
            f"Lower bound should be less than or equal to the upper bound, got {lower} and {upper}"
        )
    x = floats(input, "rrelu_with_noise")
    slope: Tensor | float = (lower + upper) / 2
    if training:
        drawn = uniform_values(x.tensor_type.shape, x.tensor_type.dtype)
        slope = pointwise.add(pointwise.mul(drawn, upper - lower), lower)
    result = pointwise.chosen(pointwise.gt(x, 0), x, pointwise.mul(x, slope))
    return finished(input, result, inplace)


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """softmax((logits + g) / tau) along `dim` with g of a Gumbel distribution: samples that gradients pass.

    With `hard` the value is one at the greatest and zero elsewhere, and the gradient that of the soft one. `eps` has no
    effect, as in PyTorch.
    """
    x = floats(logits, "gumbel_softmax")
    drawn = exponential_values(x.tensor_type.shape, x.tensor_type.dtype, 1, None)
    soft = reduction.softmax(pointwise.div(pointwise.sub(x, pointwise.log(drawn)), tau), dim)
    if not hard:
        return soft
    fixed = soft.detach()
    positions = reduction.argmax(fixed, dim, keepdim=True)
    one_hot = indexing.scatter(creation.zeros_like(fixed), dim, positions, 1.0)
    return pointwise.add(pointwise.sub(one_hot, fixed), soft)
