"""Loss functions: input and target to a number (or to elements, with `reduction="none"`)."""

from __future__ import annotations

import warnings
from typing import Any

from graphc.functions import pointwise
from graphc.functions import reduction as reductions
from graphc.functions.checks import checked
from graphc.functions.promotion import as_operand, converted, expanded, result_type, shapes_broadcast
from graphc.functions.recording import record
from graphc.ir.types import int64, uint8
from graphc.tensor_class import Tensor

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
]


def _reduction(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    """The reduction, with PyTorch's two old flags. Raises ValueError for an unknown one."""
    if size_average is not None or reduce is not None:
        warnings.warn(
            "size_average and reduce args will be deprecated, please use reduction instead.", stacklevel=3
        )
        if reduce is False:
            return "none"
        return "mean" if size_average is not False else "sum"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return reductions.mean(loss) if reduction == "mean" else reductions.sum(loss)


def _pair(input: Any, target: Any, name: str) -> tuple[Tensor, Tensor]:
    """Both operands in one dtype and shape; a warning where the shapes differ, as PyTorch gives."""
    x, y = as_operand(input, name), as_operand(target, name, "target")
    if x.tensor_type == y.tensor_type:
        return x, y
    if x.tensor_type.shape != y.tensor_type.shape:
        warnings.warn(
            f"Using a target size ({y.shape}) that is different to the input size ({x.shape}). This will likely lead "
            "to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )
    dtype = result_type(x, y)
    shape = shapes_broadcast(x.tensor_type.shape, y.tensor_type.shape)
    return expanded(converted(x, dtype), shape), expanded(converted(y, dtype), shape)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(input - target)², optionally weighted."""
    reduction = _reduction(reduction, size_average, reduce)
    x, y = _pair(input, target, "mse_loss")
    if weight is None:
        return record("mse_loss", x, y, reduction=reduction)
    losses = pointwise.mul(record("mse_loss", x, y, reduction="none"), weight)
    if reduction == "mean":
        return pointwise.div(reductions.sum(losses), reductions.sum(weight))
    return _reduced(losses, reduction)


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """|input - target|."""
    x, y = _pair(input, target, "l1_loss")
    return record("l1_loss", x, y, reduction=_reduction(reduction, size_average, reduce))


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """d²/(2·beta) where |d| < beta, else |d| - beta/2."""
    reduction = _reduction(reduction, size_average, reduce)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    x, y = _pair(input, target, "smooth_l1_loss")
    if beta == 0:
        return record("l1_loss", x, y, reduction=reduction)
    d = record("abs", record("sub", x, y))
    curve = pointwise.div(pointwise.mul(record("square", d), 0.5), beta)
    return _reduced(pointwise.chosen(pointwise.lt(d, beta), curve, pointwise.sub(d, 0.5 * beta)), reduction)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d²/2 where |d| <= delta, else delta · (|d| - delta/2)."""
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    x, y = _pair(input, target, "huber_loss")
    d = record("abs", record("sub", x, y))
    curve = pointwise.mul(record("square", d), 0.5)
    line = pointwise.mul(pointwise.sub(d, 0.5 * delta), delta)
    losses = pointwise.chosen(pointwise.le(d, delta), curve, line)
    if weight is not None:
        losses = pointwise.mul(losses, weight)
    return _reduced(losses, _reduction(reduction, None, None))


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log-probability (input [N, C, …]) of the target class, weighted by class."""
    operands = [as_operand(input, "nll_loss"), as_operand(target, "nll_loss", "target")]
    if weight is not None:
        operands.append(weight)
    return record(
        "nll_loss",
        *operands,
        reduction=_reduction(reduction, size_average, reduce),
        ignore_index=int(ignore_index),
    )


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of scores [N, C, …] against class numbers [N, …] or class probabilities [N, C, …].

    Raises RuntimeError for probabilities of an integer dtype and for shapes that do not fit, and
    (when run) IndexError for a class number outside of [0, C).
    """
    reduction = _reduction(reduction, size_average, reduce)
    x, y = as_operand(input, "cross_entropy"), as_operand(target, "cross_entropy", "target")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if x.tensor_type.shape == y.tensor_type.shape and x.tensor_type.shape:
        return _cross_entropy_of_probabilities(x, y, weight, reduction, label_smoothing)
    if x.tensor_type.rank > 1 and y.tensor_type.shape and x.tensor_type.shape[0] != y.tensor_type.shape[0]:
        raise ValueError(
            f"Expected input batch_size ({x.tensor_type.shape[0]}) to match target batch_size "
            f"({y.tensor_type.shape[0]})."
        )
    if y.tensor_type.dtype.is_floating_point:
        raise RuntimeError(f"expected scalar type Long but found {_scalar_name(y)}")
    if y.tensor_type.dtype is not int64 and y.tensor_type.dtype is not uint8:
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {_scalar_name(y)}")
    operands = (x, y) if weight is None else (x, y, weight)
    return record(
        "cross_entropy",
        *operands,
        reduction=reduction,
        ignore_index=int(ignore_index),
        label_smoothing=float(label_smoothing),
    )


_SCALAR_NAMES = {
    "bool": "Bool",
    "u8": "Byte",
    "i8": "Char",
    "i16": "Short",
    "i32": "Int",
    "i64": "Long",
    "f16": "Half",
    "bf16": "BFloat16",
    "f32": "Float",
    "f64": "Double",
}


def _scalar_name(x: Tensor) -> str:
    return _SCALAR_NAMES[x.tensor_type.dtype.name]


def _cross_entropy_of_probabilities(
    x: Tensor, y: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> Tensor:
    if not y.tensor_type.dtype.is_floating_point:
        raise RuntimeError(
            f"Expected floating point type for target with class probabilities, got {_scalar_name(y)}"
        )
    axis = 1 if len(x.tensor_type.shape) > 1 else 0
    classes: Any = x.tensor_type.shape[axis]
    if label_smoothing > 0:
        y = pointwise.add(pointwise.mul(y, 1 - label_smoothing), label_smoothing / classes)
    products = pointwise.mul(record("log_softmax", x, axis=axis), y)
    if weight is not None:
        lined = tuple(d if i == axis else 1 for i, d in enumerate(x.tensor_type.shape))
        products = pointwise.mul(products, record("reshape", weight, shape=lined))
    losses = pointwise.neg(reductions.sum(products, axis))
    return _reduced(losses, reduction)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-(t · log x + (1 - t) · log(1 - x)), each logarithm at least -100.

    Raises RuntimeError where values are computed and an element of `input` is outside of [0, 1].
    """
    reduction = _reduction(reduction, size_average, reduce)
    x, y = as_operand(input, "binary_cross_entropy"), as_operand(target, "binary_cross_entropy", "target")
    if x.tensor_type.shape != y.tensor_type.shape:
        raise ValueError(
            f"Using a target size ({y.shape}) that is different to the input size ({x.shape}) is deprecated. "
            "Please ensure they have the same size."
        )
    if x.tensor_type.dtype is not y.tensor_type.dtype:
        raise RuntimeError(f"Found dtype {_scalar_name(y)} but expected {_scalar_name(x)}")
    inside = pointwise.logical_and(pointwise.ge(x, 0), pointwise.le(x, 1))
    x = checked(x, inside, "all elements of input should be between 0 and 1")
    yes = pointwise.clamp(record("log", x), min=-100)
    no = pointwise.clamp(record("log1p", record("neg", x)), min=-100)
    losses = pointwise.sub(pointwise.mul(pointwise.sub(y, 1), no), pointwise.mul(y, yes))
    if weight is not None:
        losses = pointwise.mul(losses, weight)
    return _reduced(losses, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy of sigmoid(input), without overflow; `pos_weight` weighs positive targets."""
    reduction = _reduction(reduction, size_average, reduce)
    x = as_operand(input, "binary_cross_entropy_with_logits")
    y = as_operand(target, "binary_cross_entropy_with_logits", "target")
    if x.tensor_type.shape != y.tensor_type.shape:
        raise ValueError(f"Target size ({y.shape}) must be the same as input size ({x.shape})")
    dtype = result_type(x, y)
    x, y = converted(x, dtype), converted(y, dtype)
    operands = [x, y]
    if pos_weight is not None:
        operands.append(expanded(converted(pos_weight, dtype), x.tensor_type.shape))
    if weight is None:
        return record("bce_with_logits", *operands, reduction=reduction)
    losses = pointwise.mul(record("bce_with_logits", *operands, reduction="none"), weight)
    return _reduced(losses, reduction)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """target · (log target - input) for log-probabilities `input`; 0 where the target is 0."""
    if reduction != "batchmean":
        reduction = _reduction(reduction, size_average, reduce)
    if log_target:
        losses = pointwise.mul(pointwise.exp(target), pointwise.sub(target, input))
    else:
        zero = pointwise.eq(target, 0)
        entropy = pointwise.chosen(
            zero, 0, pointwise.mul(target, pointwise.log(pointwise.chosen(zero, 1, target)))
        )
        losses = pointwise.sub(entropy, pointwise.mul(target, input))
    if reduction == "batchmean":
        rows: Any = input.tensor_type.shape[0] if input.tensor_type.shape else 1
        return pointwise.div(reductions.sum(losses), rows)
    return _reduced(losses, reduction)
