"""floor, ceil, trunc and round to even, square root and its reciprocal.

Targets without rounding instructions get their own sequence (LLVM would call `floorf`,
`rintf` and the like): adding and subtracting 2^mantissa rounds |x| to an integer, which is
then corrected by one where it went the wrong way. The bits are the same on every target.
"""

from __future__ import annotations

from graphc.backends.llvm.math.numeric import absolute, copy_sign, format_of
from graphc.backends.llvm.text import Builder, Val

__all__ = ["ceil", "floor", "round_even", "rsqrt", "sqrt", "trunc"]


def _round_size(b: Builder, size: Val) -> Val:
    """|x| rounded to the nearest integer, ties to even; `size` itself where it has no fraction or is NaN."""
    whole = b.const(size.type, 2.0 ** format_of(size).mantissa)
    rounded = b.fsub(b.fadd(size, whole), whole)
    return b.select(b.fcmp("olt", size, whole), rounded, size)


def _minus_one_where(b: Builder, condition: Val, x: Val) -> Val:
    one, zero = b.const(x.type, 1.0), b.const(x.type, 0.0)
    return b.fsub(x, b.select(condition, one, zero))


def floor(b: Builder, x: Val) -> Val:
    """The largest integer not above x; keeps the sign of zero."""
    if b.target.has_rounding:
        return b.intrinsic("floor", x.type, [x])
    rounded = copy_sign(b, _round_size(b, absolute(b, x)), x)
    return _minus_one_where(b, b.fcmp("ogt", rounded, x), rounded)


def ceil(b: Builder, x: Val) -> Val:
    """The smallest integer not below x; -0 for -1 < x < 0."""
    if b.target.has_rounding:
        return b.intrinsic("ceil", x.type, [x])
    return b.fneg(floor(b, b.fneg(x)))


def trunc(b: Builder, x: Val) -> Val:
    """x without its fraction; keeps the sign."""
    if b.target.has_rounding:
        return b.intrinsic("trunc", x.type, [x])
    size = absolute(b, x)
    rounded = _round_size(b, size)
    return copy_sign(b, _minus_one_where(b, b.fcmp("ogt", rounded, size), rounded), x)


def round_even(b: Builder, x: Val) -> Val:
    """The nearest integer, ties to even (PyTorch's `round`); keeps the sign."""
    if b.target.has_rounding:
        return b.intrinsic("roundeven", x.type, [x])
    return copy_sign(b, _round_size(b, absolute(b, x)), x)


def sqrt(b: Builder, x: Val) -> Val:
    """√x, correctly rounded."""
    return b.intrinsic("sqrt", x.type, [x])


def rsqrt(b: Builder, x: Val) -> Val:
    """1/√x from the two correctly rounded operations.

    The processors' own estimates differ between makers, and a result may depend on the
    target only.
    """
    return b.fdiv(b.const(x.type, 1.0), sqrt(b, x))
