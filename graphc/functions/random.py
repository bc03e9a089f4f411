"""Random tensors and draws from the counter-based generator.

The numbers are not PyTorch's; the distributions are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.core import Generator, TensorBase, default_generator, is_tracing, next_random
from graphc.devices import check_device
from graphc.functions import pointwise
from graphc.functions.axes import checked_size, shape_argument
from graphc.functions.promotion import as_dtype, converted, get_default_dtype, shapes_broadcast
from graphc.functions.recording import from_array, record
from graphc.ir.dims import product
from graphc.ir.types import DType, Shape, float64, int64

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor


def _floating(dtype: DType | None, function: str) -> DType:
    d = as_dtype(dtype) or get_default_dtype()
    if not d.is_floating_point:
        raise NotImplementedError(f"\"{function}\" not implemented for '{d.torch_name}'")
    return d


def uniform_values(shape: Shape, dtype: DType, generator: Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1)."""
    state, offset = next_random(_count(shape), generator)
    return record("random_uniform", state, shape=shape, dtype=dtype, offset=offset)


def normal_values(shape: Shape, dtype: DType, generator: Generator | None = None) -> Tensor:
    """Standard normal numbers."""
    state, offset = next_random(_count(shape), generator)
    return record("random_normal", state, shape=shape, dtype=dtype, offset=offset)


def _count(shape: Shape) -> int:
    return product(shape)  # type: ignore[return-value]


def _finished(x: Tensor, requires_grad: bool) -> Tensor:
    # Drawn numbers are data, not the result of something to differentiate.
    return x.requires_grad_(True) if requires_grad else x


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    check_device(device)
    shape = checked_size(shape_argument(size, "rand"))
    return _finished(uniform_values(shape, _floating(dtype, "rand"), generator), requires_grad)


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Tensor:
    """Standard normal numbers."""
    check_device(device)
    shape = checked_size(shape_argument(size, "randn"))
    return _finished(normal_values(shape, _floating(dtype, "randn"), generator), requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high), int64 unless `dtype` is given. `randint(high, size)` starts at 0."""
    check_device(device)
    if size is None:
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    if size is None:
        raise TypeError("randint(): missing argument 'size'")
    low, high = int(low), int(high)
    if low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    shape = checked_size(shape_argument((size,), "randint"))
    return _finished(integers(shape, low, high, as_dtype(dtype) or int64, generator), requires_grad)


def integers(shape: Shape, low: int, high: int, dtype: DType, generator: Generator | None) -> Tensor:
    """Uniform integers in [low, high) converted to `dtype`."""
    state, offset = next_random(_count(shape), generator)
    drawn = record("random_int", state, shape=shape, dtype=int64, low=low, high=high, offset=offset)
    return converted(drawn, dtype)


def rand_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Uniform numbers in [0, 1) of the shape and dtype of another tensor."""
    check_device(device)
    d = _floating(dtype or input.tensor_type.dtype, "rand_like")
    return _finished(uniform_values(input.tensor_type.shape, d, generator), requires_grad)


def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Standard normal numbers of the shape and dtype of another tensor."""
    check_device(device)
    d = _floating(dtype or input.tensor_type.dtype, "randn_like")
    return _finished(normal_values(input.tensor_type.shape, d, generator), requires_grad)


def randint_like(
    input: Tensor,
    low: int,
    high: int | None = None,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high) of the shape and dtype of another tensor."""
    low, high = (0, low) if high is None else (low, high)
    return randint(
        low,
        high,
        input.tensor_type.shape,
        dtype=dtype or input.tensor_type.dtype,
        device=device,
        requires_grad=requires_grad,
    )


def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
) -> Tensor:
    """Normal numbers of a mean and a standard deviation, either of which may be a tensor."""
    check_device(device)
    if size is None:
        tensors = [x for x in (mean, std) if isinstance(x, TensorBase)]
        if not tensors:
            raise TypeError("normal(): missing argument 'size'")
        shape, d = shapes_broadcast(*[x.tensor_type.shape for x in tensors]), tensors[0].tensor_type.dtype
    else:
        shape, d = checked_size(shape_argument((size,), "normal")), _floating(dtype, "normal")
    if not isinstance(std, TensorBase) and std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    return pointwise.add(pointwise.mul(normal_values(shape, d, generator), std), mean)


def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that each element gives, else 0."""
    _floating(input.tensor_type.dtype, "bernoulli")
    state, offset = next_random(_count(input.tensor_type.shape), generator)
    return record("bernoulli", input, state, offset=offset)


def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A random permutation of 0 … n - 1. Evaluates, so it is not for traced code."""
    check_device(device)
    if n < 0:
        raise RuntimeError(f"n must be non-negative, got {n}")
    if is_tracing():
        uniform_values((n,), float64, generator).realize()
    keys = integers((n,), -(2**62), 2**62, int64, generator)._values()
    order = np.argsort(keys, kind="stable").astype((dtype or int64).numpy)
    return _finished(from_array(order, share=True), requires_grad)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Indices drawn with probability proportional to each row of `input`. Evaluates `input`."""
    weights = np.asarray(input._values(), np.float64)
    if weights.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    rows = np.atleast_2d(weights)
    if not replacement and num_samples > rows.shape[1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    if replacement:
        drawn = uniform_values((rows.shape[0], num_samples), float64, generator)._values()
        sums = np.cumsum(rows, 1)
        picks = np.stack(
            [np.searchsorted(s, u * s[-1], side="right") for s, u in zip(sums, drawn, strict=True)]
        )
    else:
        drawn = uniform_values(tuple(rows.shape), float64, generator)._values()
        # The largest of log(u)/w are a sample without replacement (Efraimidis and Spirakis 2006).
        with np.errstate(divide="ignore"):
            keys = np.where(rows > 0, np.log(drawn) / rows, -math.inf)
        picks = np.argsort(-keys, 1, kind="stable")[:, :num_samples]
    return from_array(picks.reshape(*weights.shape[:-1], num_samples).astype(np.int64), share=True)


def exponential_values(shape: Shape, dtype: DType, rate: float, generator: Generator | None) -> Tensor:
    """Exponential numbers of a rate: -log(1 - u) / rate."""
    drawn = uniform_values(shape, dtype, generator)
    return pointwise.div(pointwise.neg(record("log1p", pointwise.neg(drawn))), rate)


def get_rng_state() -> Tensor:
    """The default generator's state (seed and position) as an int64 tensor."""
    return from_array(np.array(default_generator._state._values()), share=False)


def set_rng_state(new_state: Tensor) -> None:
    """Puts the default generator into a state that `get_rng_state` gave."""
    values = new_state._values()
    if values.shape != (2,) or values.dtype != np.int64:
        raise TypeError(f"expected a state of get_rng_state, got {new_state.tensor_type}")
    default_generator.manual_seed(int(values[0]))
    default_generator._state._values()[...] = values
