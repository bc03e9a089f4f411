"""Choice between values: `where`, `masked_fill`, `clamp`, `nan_to_num`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from graphc.core import TensorBase
from graphc.functions.pointwise.arithmetic import record_copy
from graphc.functions.pointwise.comparison import as_bool, eq, isnan
from graphc.functions.promotion import (
    Number,
    as_operand,
    broadcast_pair,
    category,
    converted,
    expanded,
    operands,
    plain_number,
    result_type,
    shapes_broadcast,
)
from graphc.functions.recording import record, scalar
from graphc.ir.types import DType, bool_

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = [
    "chosen",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "largest_finite",
    "limits",
    "masked_fill",
    "nan_to_num",
    "where",
]


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """`input` where condition is true, `other` elsewhere; with the condition alone, the indices of
    true elements (whose number is data: not while tracing)."""
    c = as_operand(condition, "where", "condition")
    if input is None and other is None:
        return c.nonzero(as_tuple=True)
    if c.tensor_type.dtype is not bool_:
        if c.tensor_type.dtype.name != "u8":
            raise RuntimeError(
                f"where expected condition to be a boolean tensor, but got a tensor with dtype {c.tensor_type.dtype}"
            )
        c = as_bool(c)
    return chosen(c, input, other)


def chosen(c: Tensor, input: Any, other: Any) -> Tensor:
    """`input` where the bool tensor `c` is true, `other` elsewhere."""
    x, y = operands(input, other, "where")
    shape = x.tensor_type.shape
    if shape != c.tensor_type.shape:
        shape = shapes_broadcast(c.tensor_type.shape, shape)
        c, x, y = expanded(c, shape), expanded(x, shape), expanded(y, shape)
    return record("where", c, x, y)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`input` with `value` (a number or rank-0 tensor) where `mask` is true."""
    if mask.tensor_type.dtype is not bool_:
        raise RuntimeError(
            f"masked_fill_ only supports boolean masks, but got mask with dtype {mask.tensor_type.dtype}"
        )
    dtype = input.tensor_type.dtype
    if isinstance(value, TensorBase):
        if value.tensor_type.shape:
            raise RuntimeError(
                f"masked_fill_ only supports a 0-dimensional value tensor, but got tensor with {value.tensor_type.rank} dimension(s)."
            )
        filler = converted(value, dtype)  # type: ignore[arg-type]
    else:
        number = plain_number(value)
        if category(result_type(number)) > category(dtype):
            raise RuntimeError(f"value cannot be converted to type {dtype.torch_name} without overflow")
        filler = scalar(number, dtype)
    shape = shapes_broadcast(input.tensor_type.shape, mask.tensor_type.shape)
    return record("where", expanded(mask, shape), expanded(filler, shape), expanded(input, shape))


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """`input` limited to [min, max]; each may be a number, a tensor or None (not both None)."""
    x = as_operand(input, "clamp")
    if min is None and max is None:
        raise RuntimeError("clamp: at least one of 'min' or 'max' must not be None")
    dtype = result_type(x, *[v for v in (min, max) if v is not None])
    if dtype is bool_:
        raise NotImplementedError("\"clamp\" not implemented for 'Bool'")
    # A bound that is not given is the dtype's own limit, so that the gradient is clamp's everywhere.
    least, greatest = limits(dtype)
    x, low = broadcast_pair(x, least if min is None else min, "clamp", dtype)
    x, high = broadcast_pair(x, greatest if max is None else max, "clamp", dtype)
    return record("clamp", x, expanded(low, x.tensor_type.shape), high)


def limits(dtype: DType) -> tuple[Number, Number]:
    """The least and the greatest value of a dtype (infinities for floats)."""
    if dtype.is_floating_point:
        return -math.inf, math.inf
    bits = dtype.bits
    return (0, 2**bits - 1) if dtype.kind == "uint" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def clamp_min(input: Tensor, min: Any) -> Tensor:
    """`input` not below `min`."""
    return clamp(input, min=min)


def clamp_max(input: Tensor, max: Any) -> Tensor:
    """`input` not above `max`."""
    return clamp(input, max=max)


def nan_to_num(
    input: Tensor, nan: float | None = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """NaN and infinities replaced; by default by 0 and the dtype's largest finite values."""
    x = as_operand(input, "nan_to_num")
    dtype = x.tensor_type.dtype
    if not dtype.is_floating_point:
        return record_copy(x)
    largest = largest_finite(dtype)
    y = chosen(isnan(x), nan or 0.0, x)
    y = chosen(eq(x, math.inf), largest if posinf is None else posinf, y)
    return chosen(eq(x, -math.inf), -largest if neginf is None else neginf, y)


_LARGEST = {
    "f16": 65504.0,
    "bf16": float.fromhex("0x1.fep127"),
    "f32": float.fromhex("0x1.fffffep127"),
    "f64": float.fromhex("0x1.fffffffffffffp1023"),
}


def largest_finite(dtype: DType) -> float:
    """The largest finite value of a floating dtype."""
    return _LARGEST[dtype.name]


clip = clamp
