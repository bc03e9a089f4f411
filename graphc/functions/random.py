"""Random tensors and draws from the counter-based generator.

The numbers are not PyTorch's; the distributions are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.core import Generator, TensorBase, default_generator, is_tracing, next_random, no_grad
from graphc.devices import check_device
from graphc.functions import pointwise, reduction
from graphc.functions.axes import checked_size, shape_argument
from graphc.functions.ordering import order_of
from graphc.functions.promotion import as_dtype, converted, get_default_dtype, shapes_broadcast
from graphc.functions.recording import record
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


def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that each element gives (or `p`, for all), else 0."""
    if p is not None:
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
        drawn = uniform_values(input.tensor_type.shape, get_default_dtype(), generator)
        return converted(pointwise.lt(drawn, p), input.tensor_type.dtype)
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
    """A random permutation of 0 … n - 1: the order of random keys."""
    check_device(device)
    if n < 0:
        raise RuntimeError(f"n must be non-negative, got {n}")
    keys = integers((n,), -(2**62), 2**62, int64, generator)
    order = converted(order_of(keys), as_dtype(dtype) or int64)
    return _finished(order, requires_grad)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Indices drawn with probability proportional to each row of `input`, [..., num_samples] in int64.

    Raises RuntimeError for an input that has not 1 or 2 dimensions, for more samples than there are without
    replacement, and, where values are known (not while a function is compiled), for weights that are negative or
    not finite or whose sum is zero.
    """
    sizes = input.tensor_type.sizes
    if len(sizes) not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    _floating(input.tensor_type.dtype, "multinomial")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > sizes[-1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    if not is_tracing():
        weights = input._values()
        if not np.isfinite(weights.astype(np.float64)).all() or (weights < 0).any():
            raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
        if (weights.astype(np.float64).sum(-1) <= 0).any():
            raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    with no_grad():
        rows = converted(input, float64).reshape(-1, sizes[-1])
        count = rows.tensor_type.sizes[0]
        if replacement:
            sums = reduction.cumsum(rows, 1)
            drawn = pointwise.mul(uniform_values((count, num_samples), float64, generator), sums[:, -1:])
            picks = reduction.sum(pointwise.le(sums[:, None, :], drawn[:, :, None]), 2)
        else:
            # The largest of log(u)/w are a sample without replacement (Efraimidis and Spirakis 2006).
            logs = pointwise.log(uniform_values((count, sizes[-1]), float64, generator))
            keys = pointwise.where(pointwise.gt(rows, 0), pointwise.div(pointwise.neg(logs), rows), math.inf)
            picks = order_of(keys)[:, :num_samples]
        return picks.reshape(*sizes[:-1], num_samples)


def exponential_values(shape: Shape, dtype: DType, rate: float, generator: Generator | None) -> Tensor:
    """Exponential numbers of a rate: -log(1 - u) / rate."""
    if rate <= 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={rate}")
    drawn = uniform_values(shape, dtype, generator)
    return pointwise.div(pointwise.neg(record("log1p", pointwise.neg(drawn))), rate)


def get_rng_state() -> Tensor:
    """The default generator's state (seed and position) as an int64 tensor."""
    state: Tensor = default_generator.get_state()
    return state


def set_rng_state(new_state: Tensor) -> None:
    """Puts the default generator into a state that `get_rng_state` gave."""
    default_generator.set_state(new_state)
