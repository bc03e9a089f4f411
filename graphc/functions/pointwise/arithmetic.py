"""Arithmetic on two operands, with PyTorch's promotion of dtypes and broadcasting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.core import TensorBase
from graphc.functions.promotion import (
    Number,
    broadcast_pair,
    converted,
    get_default_dtype,
    is_number,
    operands,
    plain_number,
    result_type,
)
from graphc.functions.recording import record
from graphc.ir.dims import Expr
from graphc.ir.types import bool_, float32

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = [
    "add",
    "addcdiv",
    "addcmul",
    "div",
    "divide",
    "floor_divide",
    "fmod",
    "lerp",
    "maximum",
    "minimum",
    "mul",
    "multiply",
    "pow",
    "record_copy",
    "remainder",
    "rsub",
    "sub",
    "subtract",
    "true_divide",
]


def record_copy(x: Tensor) -> Tensor:
    """The value of `x` as a fresh tensor with storage of its own."""
    return x.clone()


def _scaled(other: Any, alpha: Number, function: str) -> Any:
    if isinstance(other, TensorBase):
        if isinstance(alpha, float) and not other.tensor_type.dtype.is_floating_point:
            raise RuntimeError(
                "For integral input tensors, argument alpha must not be a floating point number."
            )
        return mul(other, alpha)
    return other * alpha


def _is_bool(x: Any) -> bool:
    return x.tensor_type.dtype is bool_ if isinstance(x, TensorBase) else isinstance(x, (bool, np.bool_))


def _is_weak(x: Any) -> bool:
    """True of numbers, and of sizes that stand for one."""
    return is_number(x) or isinstance(x, Expr)


def _arithmetic(name: str, input: Any, other: Any, x: Tensor, y: Tensor) -> Tensor:
    """The op on operands `x` and `y` made of `input` and `other`.

    A number beside a 16-bit float is not rounded to 16 bits: the op is done in float32, as PyTorch does.
    """
    dtype = x.tensor_type.dtype
    if dtype.bits == 16 and dtype.kind == "float" and (_is_weak(input) or _is_weak(other)):
        return record("cast", record(name, *broadcast_pair(input, other, name, float32)), dtype=dtype)
    return record(name, x, y)


def add(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input + alpha · other. On bools it is logical or."""
    if alpha != 1:
        other = _scaled(other, alpha, "add")
    x, y = operands(input, other, "add")
    if x.tensor_type.dtype is bool_:
        return record("logical_or", x, y)
    return _arithmetic("add", input, other, x, y)


def sub(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input - alpha · other. Raises RuntimeError where either is bool."""
    if alpha != 1:
        other = _scaled(other, alpha, "sub")
    if _is_bool(input) or _is_bool(other):
        raise RuntimeError(
            "Subtraction, the `-` operator, with a bool tensor is not supported. Use the `^` or `logical_xor()` "
            "operator on two bool tensors, `~` or `logical_not()` to invert a mask."
        )
    x, y = operands(input, other, "sub")
    return _arithmetic("sub", input, other, x, y)


def rsub(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """other - alpha · input."""
    return sub(other, input, alpha=alpha)


def mul(input: Any, other: Any) -> Tensor:
    """input · other. On bools it is logical and."""
    x, y = operands(input, other, "mul")
    if x.tensor_type.dtype is bool_:
        return record("logical_and", x, y)
    return _arithmetic("mul", input, other, x, y)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other: true division, or rounded `"trunc"` or `"floor"`."""
    x, y = operands(input, other, "div")
    if rounding_mode is None:
        if x.tensor_type.dtype.kind != "float":
            # From the operands themselves: a number need not have a value in the integers' dtype.
            x, y = broadcast_pair(input, other, "div", get_default_dtype())
        return _arithmetic("div", input, other, x, y)
    if rounding_mode == "floor":
        return _floor_divide(x, y)
    if rounding_mode != "trunc":
        raise RuntimeError(
            f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{rounding_mode}'"
        )
    if x.tensor_type.dtype.is_floating_point:
        return record("trunc", record("div", x, y))
    if x.tensor_type.dtype is bool_:
        raise NotImplementedError("\"div_trunc\" not implemented for 'Bool'")
    return record("trunc_div", x, y)


def _floor_divide(x: Tensor, y: Tensor) -> Tensor:
    if x.tensor_type.dtype is bool_:
        raise NotImplementedError("\"div_floor\" not implemented for 'Bool'")
    return record("floor_div", x, y)


def floor_divide(input: Any, other: Any) -> Tensor:
    """The largest integer not above input / other."""
    return _floor_divide(*operands(input, other, "floor_divide"))


def remainder(input: Any, other: Any) -> Tensor:
    """The remainder with the sign of the divisor (Python's %)."""
    x, y = operands(input, other, "remainder")
    if x.tensor_type.dtype is bool_:
        raise NotImplementedError("\"remainder\" not implemented for 'Bool'")
    return record("remainder", x, y)


def fmod(input: Any, other: Any) -> Tensor:
    """The remainder with the sign of the dividend (C's fmod)."""
    x, y = operands(input, other, "fmod")
    if x.tensor_type.dtype is bool_:
        raise NotImplementedError("\"fmod\" not implemented for 'Bool'")
    return record("rem", x, y)


def minimum(input: Any, other: Any) -> Tensor:
    """The smaller of two; NaN where either is NaN."""
    x, y = operands(input, other, "minimum")
    return record("logical_and" if x.tensor_type.dtype is bool_ else "minimum", x, y)


def maximum(input: Any, other: Any) -> Tensor:
    """The larger of two; NaN where either is NaN."""
    x, y = operands(input, other, "maximum")
    return record("logical_or" if x.tensor_type.dtype is bool_ else "maximum", x, y)


def pow(input: Any, exponent: Any) -> Tensor:
    """input to the power of exponent.

    Exponents 0.5, 2, 3, -0.5, -1 and -2 given as numbers are computed as roots and products, as
    PyTorch does. Raises RuntimeError for integers to a negative integer power.
    """
    if is_number(exponent) and isinstance(input, TensorBase):
        return _power_of_number(input, plain_number(exponent))  # type: ignore[arg-type]
    x, y = operands(input, exponent, "pow")
    if x.tensor_type.dtype is bool_:
        raise NotImplementedError("\"pow\" not implemented for 'Bool'")
    return record("pow", x, y)


def _power_of_number(x: Tensor, exponent: Number) -> Tensor:
    dtype = result_type(x, exponent)
    if not dtype.is_floating_point and exponent < 0:
        raise RuntimeError("Integers to negative integer powers are not allowed.")
    x = converted(x, dtype)
    if exponent == 1:
        return record_copy(x)
    if dtype is bool_:
        raise NotImplementedError("\"pow\" not implemented for 'Bool'")
    if exponent == 2:
        return record("square", x)
    if exponent == 3:
        return record("mul", record("square", x), x)
    if dtype.is_floating_point:
        if exponent == 0.5:
            return record("sqrt", x)
        if exponent == -0.5:
            return record("rsqrt", x)
        if exponent == -1:
            return record("reciprocal", x)
        if exponent == -2:
            return record("reciprocal", record("square", x))
    return record("pow", *broadcast_pair(x, exponent, "pow", dtype))


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """input + weight · (end - input)."""
    return add(input, mul(weight, sub(end, input)))


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """input + value · tensor1 · tensor2."""
    product = mul(tensor1, tensor2)
    return add(input, product if value == 1 else mul(product, value))


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """input + value · tensor1 / tensor2."""
    top = tensor1 if value == 1 else mul(tensor1, value)
    return add(input, div(top, tensor2))


multiply, subtract, divide, true_divide = mul, sub, div, div
