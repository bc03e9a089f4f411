"""Comparison, logic, bits and tests of floating values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphc.functions.pointwise.arithmetic import add, mul, sub
from graphc.functions.promotion import (
    as_operand,
    broadcast_pair,
    converted,
    float_operand,
    operands,
)
from graphc.functions.recording import record
from graphc.ir.types import bool_

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = [
    "as_bool",
    "bitwise_and",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "eq",
    "ge",
    "greater",
    "greater_equal",
    "gt",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "lt",
    "ne",
    "not_equal",
]


def eq(input: Any, other: Any) -> Tensor:
    """input == other, elementwise."""
    return record("eq", *operands(input, other, "eq"))


def ne(input: Any, other: Any) -> Tensor:
    """input != other, elementwise."""
    return record("ne", *operands(input, other, "ne"))


def lt(input: Any, other: Any) -> Tensor:
    """input < other, elementwise."""
    return record("lt", *operands(input, other, "lt"))


def le(input: Any, other: Any) -> Tensor:
    """input <= other, elementwise."""
    return record("le", *operands(input, other, "le"))


def gt(input: Any, other: Any) -> Tensor:
    """input > other, elementwise."""
    return record("gt", *operands(input, other, "gt"))


def ge(input: Any, other: Any) -> Tensor:
    """input >= other, elementwise."""
    return record("ge", *operands(input, other, "ge"))


def as_bool(x: Tensor) -> Tensor:
    """True where an element is not 0 (NaN is True)."""
    return converted(x, bool_)


def logical_and(input: Tensor, other: Tensor) -> Tensor:
    """Both nonzero."""
    return record("logical_and", *broadcast_pair(as_bool(input), as_bool(other), "logical_and", bool_))


def logical_or(input: Tensor, other: Tensor) -> Tensor:
    """Either nonzero."""
    return record("logical_or", *broadcast_pair(as_bool(input), as_bool(other), "logical_or", bool_))


def logical_xor(input: Tensor, other: Tensor) -> Tensor:
    """Exactly one nonzero."""
    return record("logical_xor", *broadcast_pair(as_bool(input), as_bool(other), "logical_xor", bool_))


def logical_not(input: Tensor) -> Tensor:
    """Zero."""
    return record("logical_not", as_bool(as_operand(input, "logical_not")))


def _bitwise(name: str, input: Any, other: Any) -> Tensor:
    x, y = operands(input, other, f"bitwise_{name}")
    dtype = x.tensor_type.dtype
    if dtype.is_floating_point:
        raise NotImplementedError(f"\"bitwise_{name}_cpu\" not implemented for '{dtype.torch_name}'")
    return record(f"{'logical' if dtype is bool_ else 'bitwise'}_{name}", x, y)


def bitwise_and(input: Any, other: Any) -> Tensor:
    """Bitwise and; logical and of bools."""
    return _bitwise("and", input, other)


def bitwise_or(input: Any, other: Any) -> Tensor:
    """Bitwise or; logical or of bools."""
    return _bitwise("or", input, other)


def bitwise_xor(input: Any, other: Any) -> Tensor:
    """Bitwise exclusive or; logical of bools."""
    return _bitwise("xor", input, other)


def bitwise_not(input: Tensor) -> Tensor:
    """Bitwise complement; logical not of bools."""
    x = as_operand(input, "bitwise_not")
    if x.tensor_type.dtype.is_floating_point:
        raise NotImplementedError(
            f"\"bitwise_not_cpu\" not implemented for '{x.tensor_type.dtype.torch_name}'"
        )
    return record("logical_not" if x.tensor_type.dtype is bool_ else "bitwise_not", x)


def _shift(name: str, input: Any, other: Any) -> Tensor:
    x, y = operands(input, other, f"bitwise_{name}_shift")
    if not x.tensor_type.dtype.is_integral:
        raise NotImplementedError(
            f"\"bitwise_{name}_shift\" not implemented for '{x.tensor_type.dtype.torch_name}'"
        )
    return record(f"shift_{name}", x, y)


def bitwise_left_shift(input: Any, other: Any) -> Tensor:
    """input · 2^other of integers."""
    return _shift("left", input, other)


def bitwise_right_shift(input: Any, other: Any) -> Tensor:
    """input / 2^other of integers, rounded down."""
    return _shift("right", input, other)


def _float_test(name: str, input: Tensor, of_integers: str) -> Tensor:
    x = as_operand(input, name)
    return record(name, x) if x.tensor_type.dtype.is_floating_point else record(of_integers, x, x)


def isnan(input: Tensor) -> Tensor:
    """True where NaN."""
    return _float_test("is_nan", input, "ne")


def isfinite(input: Tensor) -> Tensor:
    """True where neither infinite nor NaN."""
    return _float_test("isfinite", input, "eq")


def isinf(input: Tensor) -> Tensor:
    """True where infinite."""
    return _float_test("isinf", input, "ne")


def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """|input - other| <= atol + rtol · |other|, elementwise; equal infinities are close."""
    if input.tensor_type.dtype is not other.tensor_type.dtype:
        raise RuntimeError(f"{input.tensor_type.dtype} did not match {other.tensor_type.dtype}")
    close = eq(input, other)
    if equal_nan and input.tensor_type.dtype.is_floating_point:
        close = logical_or(close, logical_and(isnan(input), isnan(other)))
    if rtol == 0 and atol == 0:
        return close
    gap = record("abs", sub(float_operand(input, "isclose"), float_operand(other, "isclose")))
    allowed = add(mul(record("abs", float_operand(other, "isclose")), rtol), atol)
    return logical_or(close, logical_and(isfinite(gap), le(gap, allowed)))


greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne
