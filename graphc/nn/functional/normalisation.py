"""Layer and batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.core import TensorBase, assign, no_grad
from graphc.functions import pointwise
from graphc.functions.promotion import as_operand, converted
from graphc.functions.recording import record
from graphc.ir.dims import product
from graphc.tensor_class import Tensor

__all__ = ["batch_norm", "layer_norm"]


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) · weight + bias over the trailing dimensions `normalized_shape`."""
    x = as_operand(input, "layer_norm")
    wanted = tuple(normalized_shape)
    rank = len(wanted)
    if rank < 1:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element"
        )
    have = x.tensor_type.shape
    if have[len(have) - rank :] != wanted or len(have) < rank:
        raise RuntimeError(
            f"Given normalized_shape={list(wanted)}, expected input with shape [*, "
            f"{', '.join(map(str, wanted))}], but got input of size{list(have)}"
        )
    if weight is None and bias is not None:
        return pointwise.add(record("layer_norm", x, rank=rank, eps=float(eps)), bias)
    affine = [t for t in (weight, bias) if t is not None]
    return record("layer_norm", x, *affine, rank=rank, eps=float(eps))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises each channel (dimension 1) by the batch's statistics in training, else by the running ones.

    In training the running statistics, where given, move toward the batch's by `momentum`.
    """
    x = as_operand(input, "batch_norm")
    sizes = x.tensor_type.shape
    if training:
        count = product([d for i, d in enumerate(sizes) if i != 1])
        if count == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {input.shape}"
            )
    elif running_mean is None or running_var is None:
        raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
    for label, t in (
        ("running_mean", running_mean),
        ("running_var", running_var),
        ("weight", weight),
        ("bias", bias),
    ):
        if t is not None and t.tensor_type.shape != sizes[1:2]:
            raise RuntimeError(
                f"{label} should contain {sizes[1]} elements not {product(t.tensor_type.shape)}"
            )
    late = bias if weight is None else None
    affine = [t for t in (weight, bias) if t is not None] if weight is not None else []
    y: Tensor
    if training:
        y, mean, var = record("batch_norm", x, *affine, eps=float(eps))
        if running_mean is not None and running_var is not None:
            _move_statistics(running_mean, running_var, mean, var, count, momentum)
    else:
        y = record("batch_norm_inference", x, running_mean, running_var, *affine, eps=float(eps))
    if late is not None:
        y = pointwise.add(y, record("reshape", late, shape=(1, sizes[1], *(1,) * (len(sizes) - 2))))
    return y


def _move_statistics(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, count: Any, momentum: Any
) -> None:
    with no_grad():
        ratio = count / (count - 1) if isinstance(count, int) else pointwise.div(count, count - 1)
        unbiased = pointwise.mul(record("detach", var), ratio)
        for running, batch in ((running_mean, record("detach", mean)), (running_var, unbiased)):
            batch = converted(batch, running.tensor_type.dtype)
            moved = pointwise.add(
                pointwise.mul(
                    running, pointwise.rsub(momentum, 1) if isinstance(momentum, TensorBase) else 1 - momentum
                ),
                pointwise.mul(batch, momentum),
            )
            assign(running, converted(moved, running.tensor_type.dtype))
