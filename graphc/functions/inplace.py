"""In-place variants: the function's value, checked and converted, written through `assign`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphc.core import Generator, TensorBase, assign, no_grad
from graphc.functions import indexing, pointwise, random
from graphc.functions.promotion import (
    Number,
    as_operand,
    can_cast,
    converted,
    expanded,
    get_default_dtype,
    plain_number,
)
from graphc.functions.recording import record, scalar
from graphc.ir.types import int64

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor


def write(x: Tensor, value: Tensor) -> Tensor:
    """`value` written into `x`; its dtype may not have a higher category, its shape must be x's.

    Raises RuntimeError otherwise.
    """
    to, have = x.tensor_type, value.tensor_type
    if have.shape != to.shape:
        raise RuntimeError(
            f"output with shape {list(to.shape)} doesn't match the broadcast shape {list(have.shape)}"
        )
    if have.dtype is not to.dtype:
        if not can_cast(have.dtype, to.dtype):
            raise RuntimeError(
                f"result type {have.dtype.torch_name} can't be cast to the desired output type {to.dtype.torch_name}"
            )
        value = converted(value, to.dtype)
    assign(x, value)
    return x


def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """The in-place variant of a function whose first argument is the tensor."""
    name = function.__name__ + "_"

    def variant(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return write(self, function(self, *args, **kwargs))

    functools.update_wrapper(variant, function)
    variant.__name__ = variant.__qualname__ = name
    variant.__doc__ = f"As `{function.__name__}`, written into the tensor. Returns it."
    return variant


def seen_as(function: Callable[..., Any]) -> Callable[..., Any]:
    """The in-place variant of a view function: the tensor itself becomes that view of its storage."""

    def variant(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._leaf:
            raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
        view = function(self, *args, **kwargs)
        self._chain, self._type = view._chain, view.tensor_type
        self._cache = self._record = self._owner = None
        return self

    functools.update_wrapper(variant, function)
    variant.__name__ = variant.__qualname__ = function.__name__ + "_"
    variant.__doc__ = f"As `{function.__name__}`, of the tensor itself. Returns it."
    return variant


def fill_diagonal_(self: Tensor, fill_value: Number, wrap: bool = False) -> Tensor:
    """A number where all positions are equal. Returns the tensor.

    Raises RuntimeError for fewer than two dimensions, and for more where they are not all equal.
    """
    shape = self.tensor_type.shape
    if wrap:
        raise NotImplementedError("fill_diagonal_: wrap is not supported")
    if len(shape) < 2:
        raise RuntimeError("dimensions must larger than 1")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    lines = [record("iota", shape=shape, axis=k, dtype=int64) for k in range(len(shape))]
    on = functools.reduce(
        lambda a, b: record("logical_and", a, b), [record("eq", lines[0], line) for line in lines[1:]]
    )
    return write(self, pointwise.masked_fill(self, on, fill_value))


def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Elements of `src`, broadcast and converted to this tensor's dtype. Returns it."""
    value = as_operand(src, "copy_", "other")
    fitted = indexing.fitted(converted(value, self.tensor_type.dtype), self.tensor_type.shape)
    assign(self, fitted)
    return self


def fill_(self: Tensor, value: Any) -> Tensor:
    """One number everywhere. Returns the tensor."""
    if isinstance(value, TensorBase):
        if value.tensor_type.shape:
            raise RuntimeError(
                f"fill_ only supports 0-dimension value tensor but got tensor with {value.tensor_type.rank} dimensions."
            )
        splat = converted(value, self.tensor_type.dtype)  # type: ignore[arg-type]
    else:
        splat = scalar(plain_number(value), self.tensor_type.dtype)
    assign(self, expanded(splat, self.tensor_type.shape) if self.tensor_type.shape else splat.clone())
    return self


def zero_(self: Tensor) -> Tensor:
    """0 everywhere. Returns the tensor."""
    return fill_(self, 0)


def _drawn(self: Tensor, value: Tensor) -> Tensor:
    with no_grad():
        value = converted(value, self.tensor_type.dtype)
    assign(self, value)
    return self


def normal_(self: Tensor, mean: float = 0, std: float = 1, *, generator: Generator | None = None) -> Tensor:
    """Normal numbers. Returns the tensor. Raises RuntimeError for a negative std."""
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    if not self.tensor_type.dtype.is_floating_point:
        raise NotImplementedError(
            f"\"normal_kernel_cpu\" not implemented for '{self.tensor_type.dtype.torch_name}'"
        )
    drawn = random.normal_values(self.tensor_type.shape, self.tensor_type.dtype, generator)
    return _drawn(self, pointwise.add(pointwise.mul(drawn, float(std)), float(mean)))


def uniform_(
    self: Tensor, a: float = 0, b: float = 1, *, generator: Generator | None = None, **ends: float
) -> Tensor:
    """Uniform numbers in [a, b) (PyTorch's `from` and `to`). Returns the tensor."""
    low, high = float(ends.get("from", a)), float(ends.get("to", b))
    if low > high:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low} > to={high}")
    if not self.tensor_type.dtype.is_floating_point:
        raise NotImplementedError(
            f"\"check_uniform_bounds\" not implemented for '{self.tensor_type.dtype.torch_name}'"
        )
    drawn = random.uniform_values(self.tensor_type.shape, self.tensor_type.dtype, generator)
    return _drawn(self, pointwise.add(pointwise.mul(drawn, high - low), low))


def random_(
    self: Tensor, low: int = 0, high: int | None = None, *, generator: Generator | None = None
) -> Tensor:
    """Integers in [low, high), or [0, low) with one number. Returns the tensor."""
    if high is None:
        largest = (
            2**24 if self.tensor_type.dtype.is_floating_point else pointwise.limits(self.tensor_type.dtype)[1]
        )
        low, high = 0, int(low or largest)
    return _drawn(self, random.integers(self.tensor_type.shape, low, high, self.tensor_type.dtype, generator))


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """1 with probability `p` (a number or tensor), else 0. Returns the tensor."""
    if isinstance(p, (int, float)) and not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    drawn = random.uniform_values(self.tensor_type.shape, get_default_dtype(), generator)
    return _drawn(self, pointwise.lt(drawn, p))


def exponential_(self: Tensor, lambd: float = 1, *, generator: Generator | None = None) -> Tensor:
    """Exponential numbers of a rate. Returns the tensor."""
    return _drawn(
        self, random.exponential_values(self.tensor_type.shape, self.tensor_type.dtype, lambd, generator)
    )


def log_normal_(
    self: Tensor, mean: float = 1, std: float = 2, *, generator: Generator | None = None
) -> Tensor:
    """Numbers whose logarithms are normal. Returns the tensor. Raises RuntimeError unless std is positive."""
    if std <= 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std}")
    drawn = random.normal_values(self.tensor_type.shape, self.tensor_type.dtype, generator)
    return _drawn(self, pointwise.exp(pointwise.add(pointwise.mul(drawn, float(std)), float(mean))))


def cauchy_(
    self: Tensor, median: float = 0, sigma: float = 1, *, generator: Generator | None = None
) -> Tensor:
    """Numbers of a Cauchy distribution. Returns the tensor. Raises RuntimeError unless sigma is positive."""
    if sigma <= 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma}")
    # tan π(u - ½) is -cos πu / sin πu.
    angle = pointwise.mul(
        random.uniform_values(self.tensor_type.shape, self.tensor_type.dtype, generator), math.pi
    )
    drawn = pointwise.neg(pointwise.div(pointwise.cos(angle), pointwise.sin(angle)))
    return _drawn(self, pointwise.add(pointwise.mul(drawn, float(sigma)), float(median)))


def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """The number of the first success, from 1 on, of trials with probability `p`. Returns the tensor.

    Raises RuntimeError unless 0 < p < 1.
    """
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p}")
    drawn = random.exponential_values(self.tensor_type.shape, get_default_dtype(), -math.log1p(-p), generator)
    return _drawn(self, pointwise.add(pointwise.floor(drawn), 1))


def masked_fill_(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """A number where `mask` is true. Returns the tensor."""
    return write(self, pointwise.masked_fill(self, mask, value))


def index_put_(self: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """`values` written (or added) at the positions that index tensors give. Returns the tensor."""
    if accumulate:
        return write(self, indexing.index_put(self, indices, values, True))
    indexing.setitem(self, tuple(indices), values)
    return self
