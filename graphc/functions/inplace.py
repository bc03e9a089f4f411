"""In-place variants: the function's value, checked and converted, written through `assign`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graphc.core import TensorBase, assign
from graphc.functions import indexing, pointwise
from graphc.functions.promotion import (
    Number,
    as_operand,
    can_cast,
    converted,
    expanded,
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


def masked_fill_(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """A number where `mask` is true. Returns the tensor."""
    return write(self, pointwise.masked_fill(self, mask, value))


def index_put_(self: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """`values` written (or added) at the positions that index tensors give. Returns the tensor."""
    if accumulate:
        return write(self, indexing.index_put(self, indices, values, True))
    indexing.setitem(self, tuple(indices), values)
    return self
