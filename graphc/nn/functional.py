"""`graphc.nn.functional`: PyTorch's functions of neural-network layers and losses.

Longer than most files: it is one namespace of PyTorch. Losses stand in `losses.py` beside it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from graphc.core import TensorBase, assign, next_random, no_grad
from graphc.functions import linear_algebra, pointwise, reduction, shape
from graphc.functions.indexing import one_hot
from graphc.functions.inplace import write
from graphc.functions.pointwise import sigmoid, tanh
from graphc.functions.promotion import as_operand, converted, expanded
from graphc.functions.recording import record, scalar
from graphc.ir.dims import product
from graphc.ir.types import int64 as _int64
from graphc.nn.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from graphc.tensor_class import Tensor

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "conv1d",
    "conv2d",
    "cosine_similarity",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "elu",
    "embedding",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "max_pool1d",
    "max_pool2d",
    "mish",
    "mse_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "relu",
    "relu6",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "tanh",
    "threshold",
]


def _activation(input: Tensor, result: Tensor, inplace: bool) -> Tensor:
    return write(input, result) if inplace else result


def _floats(input: Any, name: str) -> Tensor:
    x = as_operand(input, name)
    if x.type.dtype.kind != "float":
        raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{x.type.dtype.torch_name}'")
    return x


# -- activations --------------------------------------------------------------------------------


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return write(input, pointwise.relu(input)) if inplace else pointwise.relu(input)


def relu_(input: Tensor) -> Tensor:
    """As `relu`, in place."""
    return relu(input, True)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope · x."""
    return _activation(
        input, record("leaky_relu", _floats(input, "leaky_relu"), slope=float(negative_slope)), inplace
    )


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x · Φ(x), with Φ exact or its tanh approximation."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    return record("gelu", _floats(input, "gelu"), approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x · sigmoid(x)."""
    return _activation(input, record("silu", _floats(input, "silu")), inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha · (exp(x) - 1)."""
    x = _floats(input, "elu")
    below = pointwise.mul(record("expm1", pointwise.clamp(x, max=0)), alpha)
    return _activation(input, pointwise.chosen(pointwise.gt(x, 0), x, below), inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha · (exp(x / alpha) - 1)."""
    x = _floats(input, "celu")
    below = pointwise.mul(record("expm1", pointwise.div(pointwise.clamp(x, max=0), alpha)), alpha)
    return _activation(input, pointwise.chosen(pointwise.gt(x, 0), x, below), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Scaled elu with the constants of Klambauer et al. (2017)."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return _activation(input, pointwise.mul(elu(input, alpha), scale), inplace)


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
    return _activation(input, pointwise.chosen(inside, x, limited), inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6."""
    return _activation(input, pointwise.div(relu6(pointwise.add(input, 3)), 6), inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · relu6(x + 3) / 6."""
    return _activation(input, pointwise.mul(input, hardsigmoid(input)), inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta · x)) / beta, and x itself where beta · x is above `threshold`."""
    x = _floats(input, "softplus")
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
    x = _floats(input, "log_sigmoid")
    return pointwise.sub(
        pointwise.clamp(x, max=0), record("log1p", record("exp", record("neg", record("abs", x))))
    )


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · tanh(softplus(x))."""
    return _activation(input, pointwise.mul(input, tanh(softplus(input))), inplace)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where above `threshold`, else `value`."""
    return _activation(input, pointwise.chosen(pointwise.gt(input, threshold), input, value), inplace)


def _implicit_dim(name: str, input: Tensor) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        stacklevel=3,
    )
    return 0 if len(input.type.shape) in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`."""
    return reduction.softmax(input, _implicit_dim("softmax", input) if dim is None else dim, dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """log(softmax(x)) along `dim`."""
    return reduction.log_softmax(input, _implicit_dim("log_softmax", input) if dim is None else dim, dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(-x)."""
    return softmax(pointwise.neg(input), dim, dtype=dtype)


# -- layers -------------------------------------------------------------------------------------


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias; weight is [out, in]."""
    if not isinstance(input, TensorBase):
        input = as_operand(input, "linear")
    if len(weight.type.shape) == 1:
        result = linear_algebra.matmul(input, weight)
        return result if bias is None else pointwise.add(result, bias)
    return record("linear", input, weight) if bias is None else record("linear", input, weight, bias)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of `weight` at integer positions; row `padding_idx` gets no gradient."""
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotImplementedError("embedding: max_norm, scale_grad_by_freq and sparse are not supported")
    if padding_idx is not None:
        rows: Any = weight.type.shape[0]
        if not -rows <= padding_idx < rows:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx = padding_idx % rows
    return record("embedding", weight, as_operand(input, "embedding", "indices"), padding_idx=padding_idx)


def _pair(value: Any, name: str) -> tuple[int, int]:
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
    rank = len(x.type.shape)
    if rank not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: {list(x.type.shape)}"
        )
    if rank == 3:
        y = conv2d(shape.unsqueeze(x, 0), weight, bias, stride, padding, dilation, groups)
        return shape.squeeze(y, 0)
    steps, spread = _pair(stride, "stride"), _pair(dilation, "dilation")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"Invalid padding string: '{padding}'")
        pads = (0, 0)
        if padding == "same":
            if steps != (1, 1):
                raise RuntimeError("padding='same' is not supported for strided convolutions")
            (top, bottom), (left, right) = _same_padding(weight.type.shape[2:], spread)
            if top == bottom and left == right:
                pads = (top, left)
            else:
                x = record("pad", x, low=(0, 0, top, left), high=(0, 0, bottom, right), value=0)
    else:
        pads = _pair(padding, "padding")
    if x.type.shape[1] != weight.type.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight.type.shape)}, expected input{list(x.type.shape)} to "
            f"have {weight.type.shape[1] * groups} channels, but got {x.type.shape[1]} channels instead"
        )
    y = record("conv2d", x, weight, stride=steps, padding=pads, dilation=spread, groups=groups)
    if bias is None:
        return y
    if bias.type.shape != weight.type.shape[:1]:
        raise RuntimeError(
            f"Given weight of size {list(weight.type.shape)}, expected bias to be 1-dimensional with "
            f"{weight.type.shape[0]} elements, but got bias of size {list(bias.type.shape)} instead"
        )
    return pointwise.add(y, record("reshape", bias, shape=(1, bias.type.shape[0], 1, 1)))


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


def _pooled(input: Tensor, name: str) -> tuple[Tensor, bool]:
    x = as_operand(input, name)
    rank = len(x.type.shape)
    if rank not in (3, 4):
        raise RuntimeError(f"{name}: expected a 3D or 4D input, got size {list(x.type.shape)}")
    return (shape.unsqueeze(x, 0), True) if rank == 3 else (x, False)


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest element of each window of [N, C, H, W] (and where it is, with `return_indices`)."""
    x, single = _pooled(input, "max_pool2d")
    kernel = _pair(kernel_size, "kernel_size")
    values, indices = record(
        "max_pool2d",
        x,
        kernel=kernel,
        stride=kernel if stride is None or stride == [] else _pair(stride, "stride"),
        padding=_pair(padding, "padding"),
        dilation=_pair(dilation, "dilation"),
        ceil_mode=bool(ceil_mode),
    )
    if single:
        values, indices = shape.squeeze(values, 0), shape.squeeze(indices, 0)
    return (values, indices) if return_indices else values


def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest element of each window of [N, C, L], as a max_pool2d of height 1."""
    k, s, p, d = (
        v if v is None or isinstance(v, int) else v[0] for v in (kernel_size, stride, padding, dilation)
    )
    found = max_pool2d(
        shape.unsqueeze(input, -2), (1, k), (1, k if s is None else s), (0, p), (1, d), ceil_mode, True
    )
    values, indices = (shape.squeeze(v, -2) for v in found)
    return (values, indices) if return_indices else values


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window of [N, C, H, W]."""
    x, single = _pooled(input, "avg_pool2d")
    kernel = _pair(kernel_size, "kernel_size")
    y = record(
        "avg_pool2d",
        x,
        kernel=kernel,
        stride=kernel if stride is None or stride == [] else _pair(stride, "stride"),
        padding=_pair(padding, "padding"),
        ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
        divisor_override=divisor_override,
    )
    return shape.squeeze(y, 0) if single else y


def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of each window of [N, C, L], as an avg_pool2d of height 1."""
    k, s, p = (v if v is None or isinstance(v, int) else v[0] for v in (kernel_size, stride, padding))
    y = avg_pool2d(
        shape.unsqueeze(input, -2), (1, k), (1, k if s is None else s), (0, p), ceil_mode, count_include_pad
    )
    return shape.squeeze(y, -2)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means of output_size windows that cover the input, whose sizes must be multiples of it."""
    pair = (
        (output_size, output_size)
        if isinstance(output_size, int) or output_size is None
        else tuple(output_size)
    )
    sizes: Any = input.type.shape[-2:]
    wanted = tuple(s if o is None else o for s, o in zip(sizes, pair, strict=True))
    if any(s % o for s, o in zip(sizes, wanted, strict=True)):
        raise NotImplementedError(
            f"adaptive_avg_pool2d: sizes {list(sizes)} must be multiples of output_size {list(wanted)}"
        )
    return avg_pool2d(input, tuple(s // o for s, o in zip(sizes, wanted, strict=True)))


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, each element is 0 with probability p and divided by 1 - p otherwise."""
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    x = as_operand(input, "dropout")
    if not training or p == 0:
        return x
    state, offset = next_random(product(x.type.shape))  # type: ignore[arg-type]
    return _activation(
        input, record("dropout", _floats(x, "dropout"), state, p=float(p), offset=offset), inplace
    )


def _channel_dropout(input: Tensor, p: float, training: bool, inplace: bool, rank: int, name: str) -> Tensor:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    sizes = input.type.shape
    lead = sizes[: len(sizes) - rank]
    ones = expanded(scalar(1, input.type.dtype), (*lead, *(1,) * rank))
    state, offset = next_random(product(lead))  # type: ignore[arg-type]
    mask = record("dropout", _floats(ones, name), state, p=float(p), offset=offset)
    return _activation(input, pointwise.mul(input, mask), inplace)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [N, C, L]."""
    return _channel_dropout(input, p, training, inplace, 1, "dropout1d")


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [N, C, H, W]."""
    return _channel_dropout(input, p, training, inplace, 2, "dropout2d")


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
    have = x.type.shape
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
    sizes = x.type.shape
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
        if t is not None and t.type.shape != sizes[1:2]:
            raise RuntimeError(f"{label} should contain {sizes[1]} elements not {product(t.type.shape)}")
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
            batch = converted(batch, running.type.dtype)
            moved = pointwise.add(
                pointwise.mul(
                    running, pointwise.rsub(momentum, 1) if isinstance(momentum, TensorBase) else 1 - momentum
                ),
                pointwise.mul(batch, momentum),
            )
            assign(running, converted(moved, running.type.dtype))


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """`input` with pad[0] and pad[1] elements before and after the last dimension, and so on inward.

    `mode` is `"constant"`, `"reflect"`, `"replicate"` or `"circular"`.
    """
    x = as_operand(input, "pad")
    rank = len(x.type.shape)
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
            size = x.type.shape[axis]
            if isinstance(size, int) and size + before + after < 0:
                raise RuntimeError(
                    f"The input size {x.type.shape[axis]}, plus negative padding {before} and {after}, is negative"
                )
        number = 0 if value is None else value
        filler: Any = float(number) if x.type.dtype.is_floating_point else int(number)
        return record("pad", x, low=tuple(low), high=tuple(high), value=filler)
    if value is not None:
        raise ValueError(f'Padding mode "{mode}" doesn\'t take in value argument')
    for axis, before, after in axes:
        x = _padded_by_reading(x, axis, before, after, mode)
    return x


def _padded_by_reading(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    size: Any = x.type.shape[axis]
    if mode == "reflect" and max(before, after) >= size:
        raise RuntimeError(
            f"Argument #4: Padding size should be less than the corresponding input dimension, but got: padding "
            f"({before}, {after}) at dimension {axis} of input {list(x.type.shape)}"
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


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
    """x over the larger of its p-norm along `dim` and eps."""
    size = pointwise.clamp(reduction.norm(input, p, dim, keepdim=True), min=eps)
    return pointwise.div(input, size)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 · x2 over the product of their norms along `dim`, each norm at least eps."""
    norms = [pointwise.clamp(reduction.norm(x, 2, dim, keepdim=True), min=eps) for x in (x1, x2)]
    return reduction.sum(pointwise.mul(pointwise.div(x1, norms[0]), pointwise.div(x2, norms[1])), dim)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ keyᵀ · scale + mask) @ value over the last two dimensions."""
    if enable_gqa:
        raise NotImplementedError("scaled_dot_product_attention: enable_gqa is not supported")
    width: Any = query.type.shape[-1]
    factor = 1.0 / math.sqrt(width) if scale is None else scale
    scores = linear_algebra.matmul(pointwise.mul(query, factor), shape.transpose(key, -2, -1))
    if is_causal:
        if attn_mask is not None:
            raise RuntimeError(
                "scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True"
            )
        grid = scores.type.shape[-2:]
        i, j = (record("iota", shape=grid, axis=k, dtype=_int64) for k in (0, 1))
        attn_mask = record("ge", i, j)
    if attn_mask is not None:
        if attn_mask.type.dtype.name == "bool":
            scores = pointwise.chosen(attn_mask, scores, -math.inf)
        else:
            scores = pointwise.add(scores, attn_mask)
    weights = dropout(reduction.softmax(scores, -1), dropout_p)
    return linear_algebra.matmul(weights, value)
