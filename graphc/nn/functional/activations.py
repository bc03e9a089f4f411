"""Activation functions, softmax and its relatives."""

from __future__ import annotations

import warnings
from typing import Any

from graphc.functions import pointwise, reduction
from graphc.functions.inplace import write
from graphc.functions.pointwise import tanh
from graphc.functions.promotion import as_operand
from graphc.functions.recording import record
from graphc.tensor_class import Tensor

__all__ = [
    "celu",
    "elu",
    "finished",
    "floats",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "mish",
    "relu",
    "relu6",
    "relu_",
    "selu",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "threshold",
]


def finished(input: Tensor, result: Tensor, inplace: bool) -> Tensor:
    return write(input, result) if inplace else result


def floats(input: Any, name: str) -> Tensor:
    x = as_operand(input, name)
    if x.tensor_type.dtype.kind != "float":
        raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{x.tensor_type.dtype.torch_name}'")
    return x


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return write(input, pointwise.relu(input)) if inplace else pointwise.relu(input)


def relu_(input: Tensor) -> Tensor:
    """As `relu`, in place."""
    return relu(input, True)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope · x."""
    return finished(
        input, record("leaky_relu", floats(input, "leaky_relu"), slope=float(negative_slope)), inplace
    )


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x · Φ(x), with Φ exact or its tanh approximation."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    return record("gelu", floats(input, "gelu"), approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x · sigmoid(x)."""
    return finished(input, record("silu", floats(input, "silu")), inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha · (exp(x) - 1)."""
    x = floats(input, "elu")
    below = pointwise.mul(record("expm1", pointwise.clamp(x, max=0)), alpha)
    return finished(input, pointwise.chosen(pointwise.gt(x, 0), x, below), inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha · (exp(x / alpha) - 1)."""
    x = floats(input, "celu")
    below = pointwise.mul(record("expm1", pointwise.div(pointwise.clamp(x, max=0), alpha)), alpha)
    return finished(input, pointwise.chosen(pointwise.gt(x, 0), x, below), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Scaled elu with the constants of Klambauer et al. (2017)."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return finished(input, pointwise.mul(elu(input, alpha), scale), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x limited to [0, 6]."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to [min_val, max_val]; no gradient at the limits."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    x = as_operand(input, "hardtanh")
    inside = pointwise.logical_and(pointwise.gt(x, min_val), pointwise.lt(x, max_val))
    limited = pointwise.clamp(record("detach", x), min_val, max_val)
    return finished(input, pointwise.chosen(inside, x, limited), inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6."""
    return finished(input, pointwise.div(relu6(pointwise.add(input, 3)), 6), inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · relu6(x + 3) / 6."""
    return finished(input, pointwise.mul(input, hardsigmoid(input)), inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta · x)) / beta, and x itself where beta · x is above `threshold`."""
    x = floats(input, "softplus")
    scaled = pointwise.mul(x, beta) if beta != 1 else x
    linear_part = pointwise.gt(scaled, threshold)
    safe = pointwise.chosen(linear_part, 0, scaled)
    curve = record("log1p", record("exp", safe))
    return pointwise.chosen(linear_part, x, pointwise.div(curve, beta) if beta != 1 else curve)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return pointwise.div(input, pointwise.add(pointwise.abs(input), 1))


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)), without overflow."""
    x = floats(input, "log_sigmoid")
    return pointwise.sub(
        pointwise.clamp(x, max=0), record("log1p", record("exp", record("neg", record("abs", x))))
    )


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · tanh(softplus(x))."""
    return finished(input, pointwise.mul(input, tanh(softplus(input))), inplace)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where above `threshold`, else `value`."""
    return finished(input, pointwise.chosen(pointwise.gt(input, threshold), input, value), inplace)


def _implicit_dim(name: str, input: Tensor) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        stacklevel=3,
    )
    return 0 if len(input.tensor_type.shape) in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`."""
    return reduction.softmax(input, _implicit_dim("softmax", input) if dim is None else dim, dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """log(softmax(x)) along `dim`."""
    return reduction.log_softmax(input, _implicit_dim("log_softmax", input) if dim is None else dim, dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(-x)."""
    return softmax(pointwise.neg(input), dim, dtype=dtype)
