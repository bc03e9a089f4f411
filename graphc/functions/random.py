"""Random tensors and draws from the counter-based generator.

The numbers are not PyTorch's; the distributions are.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from graphc.core import Generator, TensorBase, default_generator, next_random, no_grad
from graphc.devices import check_device
from graphc.functions import pointwise
from graphc.functions.axes import checked_size, shape_argument
from graphc.functions.checks import checked
from graphc.functions.ordering import order_of
from graphc.functions.promotion import as_dtype, converted, get_default_dtype, shapes_broadcast
from graphc.functions.recording import record
from graphc.ir.dims import product
from graphc.ir.types import DType, Shape, TensorType, bool_, int64

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
    *args: Any,
    low: Any = None,
    high: Any = None,
    size: Any = None,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high), int64 unless `dtype` is given. `randint(high, size)` starts at 0.

    Raises RuntimeError for an empty range and for one that the dtype does not hold, TypeError for bounds that are
    no integers.
    """
    check_device(device)
    names = (
        ["high", "size"]
        if len(args) + (high is not None) + (size is not None) < 3
        else ["low", "high", "size"]
    )
    if low is not None and "low" in names:
        names.remove("low")
    given = {"low": low, "high": high, "size": size}
    for name, value in zip([n for n in names if given[n] is None], args, strict=False):
        given[name] = value
    if len(args) > 3 or given["high"] is None or given["size"] is None:
        raise TypeError(
            "randint() expects (high, size) or (low, high, size); "
            f"got {len(args)} positional arguments, missing {[k for k in ('high', 'size') if given[k] is None]}"
        )
    first, last = (_integer(given[n] or 0, "randint", n) for n in ("low", "high"))
    d = as_dtype(dtype) or int64
    check_range(first, last, d)
    shape = checked_size(shape_argument((given["size"],), "randint"))
    return _finished(integers(shape, first, last, d, generator), requires_grad)


def _integer(value: Any, function: str, name: str) -> int:
    """A whole number, of whatever type that is one. Raises TypeError."""
    try:
        return int(operator.index(value))
    except TypeError:
        raise TypeError(f"{function}(): argument '{name}' must be int, not {type(value).__name__}") from None


def largest(dtype: DType) -> int:
    """The largest number of an integer dtype, or of bool."""
    return 1 if dtype is bool_ else int(pointwise.limits(dtype)[1])


def check_range(low: int, high: int, dtype: DType) -> None:
    """Raises RuntimeError unless [low, high) has elements and the dtype holds them."""
    if low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    if not dtype.is_floating_point:
        least, most = 0 if dtype is bool_ else pointwise.limits(dtype)[0], largest(dtype)
        for what, value in (("from", low), ("to - 1", high - 1)):
            if not least <= value <= most:
                raise RuntimeError(f"{what} is out of bounds for {dtype.torch_name}")


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
    like = _like(input, "rand_like")
    d = _floating(dtype or like.dtype, "rand_like")
    return _finished(uniform_values(like.shape, d, generator), requires_grad)


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
    like = _like(input, "randn_like")
    d = _floating(dtype or like.dtype, "randn_like")
    return _finished(normal_values(like.shape, d, generator), requires_grad)


def randint_like(
    input: Tensor,
    low: int,
    high: int | None = None,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high) of the shape and dtype of another tensor."""
    like = _like(input, "randint_like")
    low, high = (0, low) if high is None else (low, high)
    return randint(
        low=low,
        high=high,
        size=like.shape,
        generator=generator,
        dtype=dtype or like.dtype,
        device=device,
        requires_grad=requires_grad,
    )


def _like(input: Any, function: str) -> TensorType:
    """The type of a tensor. Raises TypeError for what is none."""
    if not isinstance(input, TensorBase):
        raise TypeError(
            f"{function}(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}"
        )
    return input.tensor_type


def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of a mean and a standard deviation: of `size` where both are numbers, else like the tensors.

    Raises RuntimeError for a negative deviation (of a tensor where values are computed), TypeError for a size
    beside tensors or none without.
    """
    check_device(device)
    tensors = [x for x in (mean, std) if isinstance(x, TensorBase)]
    if bool(tensors) == (size is not None):
        what = "takes no 'size' beside tensors" if tensors else "missing argument 'size'"
        raise TypeError(f"normal(): {what}; expected (mean, std) with a Tensor, or two numbers and a size")
    if isinstance(std, TensorBase):
        std = checked(std, pointwise.ge(std, 0), "normal expects all elements of std >= 0.0")  # type: ignore[arg-type]
    elif std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    if tensors:
        shape, d = shapes_broadcast(*[x.tensor_type.shape for x in tensors]), tensors[0].tensor_type.dtype
    else:
        shape, d = checked_size(shape_argument((size,), "normal")), _floating(dtype, "normal")
    with no_grad():
        drawn = pointwise.add(pointwise.mul(normal_values(shape, d, generator), std), mean)
    return _finished(drawn, requires_grad)


def probabilities(p: Tensor) -> Tensor:
    """A tensor of probabilities, checked where values are computed."""
    inside = pointwise.logical_and(pointwise.ge(p, 0), pointwise.le(p, 1))
    return checked(p, inside, "Expected p_in >= 0 && p_in <= 1 to be true, but got false.")


def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that each element gives (or `p`, for all), else 0."""
    if p is not None:
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
        drawn = uniform_values(input.tensor_type.shape, get_default_dtype(), generator)
        return converted(pointwise.lt(drawn, p), input.tensor_type.dtype)
    _floating(input.tensor_type.dtype, "bernoulli")
    state, offset = next_random(_count(input.tensor_type.shape), generator)
    return record("bernoulli", probabilities(input), state, offset=offset)


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
    count, d = _integer(n, "randperm", "n"), as_dtype(dtype) or int64
    if count < 0:
        raise RuntimeError(f"n must be non-negative, got {count}")
    if not d.is_floating_point and count - 1 > pointwise.limits(d)[1]:
        raise RuntimeError(f"value cannot be converted to type {d.torch_name} without overflow")
    keys = integers((count,), -(2**62), 2**62, int64, generator)
    order = converted(order_of(keys), d)
    return _finished(order, requires_grad)


def get_rng_state() -> Tensor:
    """The default generator's state (seed and position) as an int64 tensor."""
    state: Tensor = default_generator.get_state()
    return state


def set_rng_state(new_state: Tensor) -> None:
    """Puts the default generator into a state that `get_rng_state` gave."""
    default_generator.set_state(new_state)
