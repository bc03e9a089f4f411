"""Functions of one operand: exponentials, roots, trigonometry, signs and rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.functions.pointwise.arithmetic import add, div, maximum, mul, pow, record_copy, rsub, sub
from graphc.functions.pointwise.selection import clamp
from graphc.functions.promotion import (
    as_operand,
    converted,
    float_operand,
)
from graphc.functions.recording import record
from graphc.ir.types import bool_, int64

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = [
    "abs",
    "absolute",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "fix",
    "floor",
    "frac",
    "log",
    "log1p",
    "log2",
    "log10",
    "logit",
    "neg",
    "negative",
    "positive",
    "reciprocal",
    "relu",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
]


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


def neg(input: Tensor) -> Tensor:
    """-x. Raises RuntimeError for bool."""
    x = as_operand(input, "neg")
    if x.tensor_type.dtype is bool_:
        raise RuntimeError(
            "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask, "
            "use the `~` or `logical_not()` operator instead."
        )
    return record("neg", x)


def positive(input: Tensor) -> Tensor:
    """`input` itself. Raises RuntimeError for bool."""
    if input.tensor_type.dtype is bool_:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


def abs(input: Tensor) -> Tensor:
    """Absolute value."""
    x = as_operand(input, "abs")
    if x.tensor_type.dtype is bool_:
        raise NotImplementedError("\"abs_cpu\" not implemented for 'Bool'")
    return record("abs", x)


def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1 (0 of NaN); a bool is its own sign."""
    x = as_operand(input, "sign")
    return x if x.tensor_type.dtype is bool_ else record("sign", x)


def square(input: Tensor) -> Tensor:
    """x · x."""
    x = as_operand(input, "square")
    return record("square", converted(x, int64) if x.tensor_type.dtype is bool_ else x)


def _rounding(name: str, input: Tensor) -> Tensor:
    x = as_operand(input, name)
    if x.tensor_type.dtype is bool_:
        raise NotImplementedError(f"\"{name}\" not implemented for 'Bool'")
    return record(name, x) if x.tensor_type.dtype.is_floating_point else record_copy(x)


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
    if x.tensor_type.dtype is bool_:
        raise RuntimeError("Boolean inputs not supported for relu")
    return record("relu", x) if x.tensor_type.dtype.is_floating_point else maximum(x, 0)


absolute = abs
negative = neg
fix = trunc
