"""Elementwise functions: arithmetic, comparison, logic, transcendental functions, `where`, `clamp`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from graphc.core import TensorBase
from graphc.functions.promotion import (
    Number,
    as_operand,
    broadcast_pair,
    category,
    converted,
    expanded,
    float_operand,
    get_default_dtype,
    is_number,
    operands,
    plain_number,
    result_type,
    shapes_broadcast,
)
from graphc.functions.recording import record, scalar
from graphc.ir.types import DType, bool_, float32, int64

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

# -- one operand, floating result ------------------------------------------------------------


def exp(input: Tensor) -> Tensor:
    """e to the power of each element."""
    return record("exp", float_operand(input, "exp"))


def exp2(input: Tensor) -> Tensor:
    """2 to the power of each element."""
    x = float_operand(input, "exp2")
    return pow(2.0, x)


def expm1(input: Tensor) -> Tensor:
    """exp(x) - 1, accurate near 0."""
    return record("expm1", float_operand(input, "expm1"))


def log(input: Tensor) -> Tensor:
    """Natural logarithm."""
    return record("log", float_operand(input, "log"))


def log1p(input: Tensor) -> Tensor:
    """log(1 + x), accurate near 0."""
    return record("log1p", float_operand(input, "log1p"))


def log2(input: Tensor) -> Tensor:
    """Logarithm to base 2."""
    return record("log2", float_operand(input, "log2"))


def log10(input: Tensor) -> Tensor:
    """Logarithm to base 10."""
    return record("log10", float_operand(input, "log10"))


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return record("tanh", float_operand(input, "tanh"))


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return record("sigmoid", float_operand(input, "sigmoid"))


def erf(input: Tensor) -> Tensor:
    """The error function."""
    return record("erf", float_operand(input, "erf"))


def sqrt(input: Tensor) -> Tensor:
    """Square root."""
    return record("sqrt", float_operand(input, "sqrt"))


def rsqrt(input: Tensor) -> Tensor:
    """1 / sqrt(x)."""
    return record("rsqrt", float_operand(input, "rsqrt"))


def sin(input: Tensor) -> Tensor:
    """Sine of radians."""
    return record("sin", float_operand(input, "sin"))


def cos(input: Tensor) -> Tensor:
    """Cosine of radians."""
    return record("cos", float_operand(input, "cos"))


def tan(input: Tensor) -> Tensor:
    """Tangent of radians."""
    x = float_operand(input, "tan")
    return record("div", record("sin", x), record("cos", x))


def sinh(input: Tensor) -> Tensor:
    """Hyperbolic sine, (expm1(x) - expm1(-x)) / 2."""
    x = float_operand(input, "sinh")
    return mul(sub(record("expm1", x), record("expm1", record("neg", x))), 0.5)


def cosh(input: Tensor) -> Tensor:
    """Hyperbolic cosine, (exp(x) + exp(-x)) / 2."""
    x = float_operand(input, "cosh")
    return mul(add(record("exp", x), record("exp", record("neg", x))), 0.5)


def reciprocal(input: Tensor) -> Tensor:
    """1 / x."""
    return record("reciprocal", float_operand(input, "reciprocal"))


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)), with x clamped to [eps, 1 - eps] where eps is given."""
    x = float_operand(input, "logit")
    if eps is not None:
        x = clamp(x, eps, 1.0 - eps)
    return log(div(x, rsub(x, 1)))


# -- one operand, same dtype --------------------------------------------------------------------


def neg(input: Tensor) -> Tensor:
    """-x. Raises RuntimeError for bool."""
    x = as_operand(input, "neg")
    if x.type.dtype is bool_:
        raise RuntimeError(
            "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask, "
            "use the `~` or `logical_not()` operator instead."
        )
    return record("neg", x)


def positive(input: Tensor) -> Tensor:
    """`input` itself. Raises RuntimeError for bool."""
    if input.type.dtype is bool_:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


def abs(input: Tensor) -> Tensor:
    """Absolute value."""
    x = as_operand(input, "abs")
    if x.type.dtype is bool_:
        raise RuntimeError("\"abs_cpu\" not implemented for 'Bool'")
    return record("abs", x)


def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1 (0 of NaN); a bool is its own sign."""
    x = as_operand(input, "sign")
    return x if x.type.dtype is bool_ else record("sign", x)


def square(input: Tensor) -> Tensor:
    """x · x."""
    x = as_operand(input, "square")
    return record("square", converted(x, int64) if x.type.dtype is bool_ else x)


def _rounding(name: str, input: Tensor) -> Tensor:
    x = as_operand(input, name)
    if x.type.dtype is bool_:
        raise RuntimeError(f"\"{name}\" not implemented for 'Bool'")
    return record(name, x) if x.type.dtype.is_floating_point else record_copy(x)


def record_copy(x: Tensor) -> Tensor:
    """The value of `x` as a fresh tensor with storage of its own."""
    return x.clone()


def floor(input: Tensor) -> Tensor:
    """The largest integer not above x."""
    return _rounding("floor", input)


def ceil(input: Tensor) -> Tensor:
    """The smallest integer not below x."""
    return _rounding("ceil", input)


def trunc(input: Tensor) -> Tensor:
    """x without its fraction."""
    return _rounding("trunc", input)


def frac(input: Tensor) -> Tensor:
    """The fraction of x, with its sign."""
    return sub(input, trunc(input))


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Nearest integer, halves to even; `decimals` digits after the point."""
    if decimals == 0:
        return _rounding("round", input)
    scale = 10.0**decimals
    return div(record("round", mul(float_operand(input, "round"), scale)), scale)


def relu(input: Tensor) -> Tensor:
    """max(x, 0)."""
    x = as_operand(input, "relu")
    if x.type.dtype is bool_:
        raise RuntimeError("Boolean inputs not supported for relu")
    return record("relu", x) if x.type.dtype.is_floating_point else maximum(x, 0)


# -- two operands -------------------------------------------------------------------------------


def _scaled(other: Any, alpha: Number, function: str) -> Any:
    if isinstance(other, TensorBase):
        if isinstance(alpha, float) and not other.type.dtype.is_floating_point:
            raise RuntimeError(
                "For integral input tensors, argument alpha must not be a floating point number."
            )
        return mul(other, alpha)
    return other * alpha


def _arithmetic(name: str, input: Any, other: Any, x: Tensor, y: Tensor) -> Tensor:
    """The op on operands `x` and `y` made of `input` and `other`.

    A number beside a 16-bit float is not rounded to 16 bits: the op is done in float32, as PyTorch does.
    """
    dtype = x.type.dtype
    if dtype.bits == 16 and dtype.kind == "float" and (is_number(input) or is_number(other)):
        return record("cast", record(name, *broadcast_pair(input, other, name, float32)), dtype=dtype)
    return record(name, x, y)


def add(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input + alpha · other. On bools it is logical or."""
    if alpha != 1:
        other = _scaled(other, alpha, "add")
    x, y = operands(input, other, "add")
    if x.type.dtype is bool_:
        return record("logical_or", x, y)
    return _arithmetic("add", input, other, x, y)


def sub(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input - alpha · other. Raises RuntimeError for bools."""
    if alpha != 1:
        other = _scaled(other, alpha, "sub")
    x, y = operands(input, other, "sub")
    if x.type.dtype is bool_:
        raise RuntimeError(
            "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or `logical_xor()` "
            "operator instead."
        )
    return _arithmetic("sub", input, other, x, y)


def rsub(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """other - alpha · input."""
    return sub(other, input, alpha=alpha)


def mul(input: Any, other: Any) -> Tensor:
    """input · other. On bools it is logical and."""
    x, y = operands(input, other, "mul")
    if x.type.dtype is bool_:
        return record("logical_and", x, y)
    return _arithmetic("mul", input, other, x, y)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other: true division, or rounded `"trunc"` or `"floor"`."""
    x, y = operands(input, other, "div")
    if rounding_mode is None:
        if x.type.dtype.kind != "float":
            to = get_default_dtype()
            x, y = converted(x, to), converted(y, to)
        return _arithmetic("div", input, other, x, y)
    if rounding_mode == "floor":
        return _floor_divide(x, y)
    if rounding_mode != "trunc":
        raise RuntimeError(
            f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '{rounding_mode}'"
        )
    if x.type.dtype.is_floating_point:
        return record("trunc", record("div", x, y))
    if x.type.dtype is bool_:
        raise RuntimeError("\"div_trunc\" not implemented for 'Bool'")
    return record("trunc_div", x, y)


def _floor_divide(x: Tensor, y: Tensor) -> Tensor:
    if x.type.dtype is bool_:
        raise RuntimeError("\"div_floor\" not implemented for 'Bool'")
    return record("floor_div", x, y)


def floor_divide(input: Any, other: Any) -> Tensor:
    """The largest integer not above input / other."""
    return _floor_divide(*operands(input, other, "floor_divide"))


def remainder(input: Any, other: Any) -> Tensor:
    """The remainder with the sign of the divisor (Python's %)."""
    x, y = operands(input, other, "remainder")
    if x.type.dtype is bool_:
        raise RuntimeError("\"remainder\" not implemented for 'Bool'")
    return record("remainder", x, y)


def fmod(input: Any, other: Any) -> Tensor:
    """The remainder with the sign of the dividend (C's fmod)."""
    x, y = operands(input, other, "fmod")
    if x.type.dtype is bool_:
        raise RuntimeError("\"fmod\" not implemented for 'Bool'")
    return record("rem", x, y)


def minimum(input: Any, other: Any) -> Tensor:
    """The smaller of two; NaN where either is NaN."""
    x, y = operands(input, other, "minimum")
    return record("logical_and" if x.type.dtype is bool_ else "minimum", x, y)


def maximum(input: Any, other: Any) -> Tensor:
    """The larger of two; NaN where either is NaN."""
    x, y = operands(input, other, "maximum")
    return record("logical_or" if x.type.dtype is bool_ else "maximum", x, y)


def pow(input: Any, exponent: Any) -> Tensor:
    """input to the power of exponent.

    Exponents 0.5, 2, 3, -0.5, -1 and -2 given as numbers are computed as roots and products, as
    PyTorch does. Raises RuntimeError for integers to a negative integer power.
    """
    if is_number(exponent) and isinstance(input, TensorBase):
        return _power_of_number(input, plain_number(exponent))  # type: ignore[arg-type]
    x, y = operands(input, exponent, "pow")
    if x.type.dtype is bool_:
        raise RuntimeError("\"pow\" not implemented for 'Bool'")
    return record("pow", x, y)


def _power_of_number(x: Tensor, exponent: Number) -> Tensor:
    dtype = result_type(x, exponent)
    if not dtype.is_floating_point and exponent < 0:
        raise RuntimeError("Integers to negative integer powers are not allowed.")
    if dtype is bool_:
        raise RuntimeError("\"pow\" not implemented for 'Bool'")
    x = converted(x, dtype)
    if exponent == 2:
        return record("square", x)
    if exponent == 1:
        return record_copy(x)
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


# -- comparison and logic --------------------------------------------------------------------------


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
    dtype = x.type.dtype
    if dtype.is_floating_point:
        raise RuntimeError(f"\"bitwise_{name}_cpu\" not implemented for '{dtype.torch_name}'")
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
    if x.type.dtype.is_floating_point:
        raise RuntimeError(f"\"bitwise_not_cpu\" not implemented for '{x.type.dtype.torch_name}'")
    return record("logical_not" if x.type.dtype is bool_ else "bitwise_not", x)


def _shift(name: str, input: Any, other: Any) -> Tensor:
    x, y = operands(input, other, f"bitwise_{name}_shift")
    if not x.type.dtype.is_integral:
        raise NotImplementedError(f"\"bitwise_{name}_shift\" not implemented for '{x.type.dtype.torch_name}'")
    return record(f"shift_{name}", x, y)


def bitwise_left_shift(input: Any, other: Any) -> Tensor:
    """input · 2^other of integers."""
    return _shift("left", input, other)


def bitwise_right_shift(input: Any, other: Any) -> Tensor:
    """input / 2^other of integers, rounded down."""
    return _shift("right", input, other)


def _float_test(name: str, input: Tensor, of_integers: str) -> Tensor:
    x = as_operand(input, name)
    return record(name, x) if x.type.dtype.is_floating_point else record(of_integers, x, x)


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
    if input.type.dtype is not other.type.dtype:
        raise RuntimeError(f"{input.type.dtype} did not match {other.type.dtype}")
    close = eq(input, other)
    if equal_nan and input.type.dtype.is_floating_point:
        close = logical_or(close, logical_and(isnan(input), isnan(other)))
    if rtol == 0 and atol == 0:
        return close
    gap = abs(sub(float_operand(input, "isclose"), float_operand(other, "isclose")))
    allowed = add(mul(abs(float_operand(other, "isclose")), rtol), atol)
    return logical_or(close, logical_and(isfinite(gap), le(gap, allowed)))


def nan_to_num(
    input: Tensor, nan: float | None = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """NaN and infinities replaced; by default by 0 and the dtype's largest finite values."""
    x = as_operand(input, "nan_to_num")
    dtype = x.type.dtype
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


# -- selection ----------------------------------------------------------------------------------------


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """`input` where condition is true, `other` elsewhere; with the condition alone, the indices of
    true elements (whose number is data: not while tracing)."""
    c = as_operand(condition, "where", "condition")
    if input is None and other is None:
        return c.nonzero(as_tuple=True)
    if c.type.dtype is not bool_:
        if c.type.dtype.name != "u8":
            raise RuntimeError(
                f"where expected condition to be a boolean tensor, but got a tensor with dtype {c.type.dtype}"
            )
        c = as_bool(c)
    return chosen(c, input, other)


def chosen(c: Tensor, input: Any, other: Any) -> Tensor:
    """`input` where the bool tensor `c` is true, `other` elsewhere."""
    x, y = operands(input, other, "where")
    shape = x.type.shape
    if shape != c.type.shape:
        shape = shapes_broadcast(c.type.shape, shape)
        c, x, y = expanded(c, shape), expanded(x, shape), expanded(y, shape)
    return record("where", c, x, y)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`input` with `value` (a number or rank-0 tensor) where `mask` is true."""
    if mask.type.dtype is not bool_:
        raise RuntimeError(
            f"masked_fill_ only supports boolean masks, but got mask with dtype {mask.type.dtype}"
        )
    dtype = input.type.dtype
    if isinstance(value, TensorBase):
        if value.type.shape:
            raise RuntimeError(
                f"masked_fill_ only supports a 0-dimensional value tensor, but got tensor with {value.type.rank} dimension(s)."
            )
        filler = converted(value, dtype)  # type: ignore[arg-type]
    else:
        number = plain_number(value)
        if category(result_type(number)) > category(dtype):
            raise RuntimeError(f"value cannot be converted to type {dtype.torch_name} without overflow")
        filler = scalar(number, dtype)
    shape = shapes_broadcast(input.type.shape, mask.type.shape)
    return record("where", expanded(mask, shape), expanded(filler, shape), expanded(input, shape))


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """`input` limited to [min, max]; each may be a number, a tensor or None (not both None)."""
    x = as_operand(input, "clamp")
    if min is None and max is None:
        raise RuntimeError("clamp: at least one of 'min' or 'max' must not be None")
    dtype = result_type(x, *[v for v in (min, max) if v is not None])
    if dtype is bool_:
        raise RuntimeError("\"clamp\" not implemented for 'Bool'")
    # A bound that is not given is the dtype's own limit, so that the gradient is clamp's everywhere.
    least, greatest = limits(dtype)
    x, low = broadcast_pair(x, least if min is None else min, "clamp", dtype)
    x, high = broadcast_pair(x, greatest if max is None else max, "clamp", dtype)
    return record("clamp", x, expanded(low, x.type.shape), high)


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


# Second names of the same functions.
absolute, negative, clip = abs, neg, clamp
multiply, subtract, divide, true_divide = mul, sub, div, div
greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne
fix = trunc
