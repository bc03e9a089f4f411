"""log and log1p.

x = 2^k·m with m in [3/4, 3/2), f = m - 1 exactly, and log x = k·ln 2 + log(1 + f). For
floats log(1 + f) is f + f²·p(f). For doubles it is 2·atanh(s) with s = f/(2 + f), written as
f - (f²/2 - s·(f²/2 + s²·p(s²))) so that the rounding of s only touches small terms. k·ln 2
is added last and in two parts, the first product being exact; near x = 1 (k = 0) the
relative accuracy is that of the polynomial.
"""

from __future__ import annotations

import math

from graphc.backends.llvm.math import coefficients as table
from graphc.backends.llvm.math.exponential import LN2
from graphc.backends.llvm.math.numeric import format_of, horner, to_bits, to_float
from graphc.backends.llvm.text import Builder, Val

__all__ = ["exponent_part", "log", "log1p"]

_THREE_QUARTERS = {"float": 0x3F400000, "double": 0x3FE8000000000000}
"""Bits of 3/4: the least m. With it 1 + x has an exact f in log1p wherever k is ±1."""


def exponent_part(b: Builder, x: Val, lowest_bits: int) -> tuple[Val, Val]:
    """k·2^mantissa as an integer and k as a float, where x = 2^k·m, for normal x > 0.

    `lowest_bits` are those of the least m, between 1/2 and 1.
    """
    form = format_of(x)
    bits = to_bits(b, x)
    shifted = b.sub(bits, b.const(bits.type, lowest_bits))
    mask = -(1 << form.mantissa)
    exponent = b.and_(shifted, b.const(bits.type, mask))
    if form.scalar == "float":
        k = b.binary("ashr", shifted, b.const(bits.type, form.mantissa))
        return exponent, b.cast("sitofp", k, x.type)
    # Neither arithmetic shifts nor conversions of 64-bit integers are vector instructions
    # below AVX-512: shift k + 1024 logically into the mantissa of 2^52.
    raised = b.add(shifted, b.const(bits.type, 1024 << form.mantissa))
    low = b.binary("lshr", raised, b.const(bits.type, form.mantissa))
    wide = to_float(b, b.or_(low, b.const(bits.type, 0x433 << form.mantissa)))
    return exponent, b.fsub(wide, b.const(x.type, 2.0**52 + 1024))


def _combine(b: Builder, f: Val, k: Val) -> Val:
    """k·ln 2 + log(1 + f)."""
    form = format_of(f)
    high, low = LN2[form.scalar]
    small = b.fmul(f, f)
    correction = b.fmul(k, b.const(f.type, low))
    if form.scalar == "float":
        rest = b.fma(small, horner(b, table.LOG_F32, f), correction)
    else:
        s = b.fdiv(f, b.fadd(f, b.const(f.type, 2.0)))
        z = b.fmul(s, s)
        half = b.fmul(small, b.const(f.type, 0.5))
        tail = b.fmul(z, horner(b, table.LOG_F64, z))
        rest = b.fma(s, b.fadd(half, tail), b.fsub(correction, half))
    return b.fma(k, b.const(f.type, high), b.fadd(f, rest))


def _special(b: Builder, x: Val, argument: Val, y: Val) -> Val:
    """`y` with log's special values for `argument` (x or 1 + x): inf, NaN, 0 and negative."""
    y = b.select(b.fcmp("olt", x, b.const(x.type, math.inf)), y, x)
    zero = b.const(x.type, 0.0)
    pole = b.select(b.fcmp("oeq", argument, zero), b.const(x.type, -math.inf), b.const(x.type, math.nan))
    return b.select(b.fcmp("ole", argument, zero), pole, y)


def log(b: Builder, x: Val) -> Val:
    """The natural logarithm; -inf at ±0, NaN below."""
    form = format_of(x)
    tiny = b.fcmp("olt", x, b.const(x.type, 2.0 ** (1 - form.bias)))
    lift = form.mantissa + 2
    normal = b.select(tiny, b.fmul(x, b.const(x.type, 2.0**lift)), x)
    exponent, k = exponent_part(b, normal, _THREE_QUARTERS[form.scalar])
    k = b.fsub(k, b.select(tiny, b.const(x.type, float(lift)), b.const(x.type, 0.0)))
    m = to_float(b, b.sub(to_bits(b, normal), exponent))
    y = _combine(b, b.fsub(m, b.const(x.type, 1.0)), k)
    return _special(b, x, x, y)


def log1p(b: Builder, x: Val) -> Val:
    """log(1 + x), accurate near 0; -inf at -1, NaN below."""
    one = b.const(x.type, 1.0)
    zero = b.const(x.type, 0.0)
    sum_ = b.fadd(x, one)
    exponent, k = exponent_part(b, sum_, _THREE_QUARTERS[format_of(x).scalar])
    # f = (1 + x)·2^-k - 1 from the exact x·2^-k and 2^-k, not from the rounded 1 + x. The
    # scale's bits run below zero for the largest k only, where 2^-k does not matter.
    down = to_float(b, b.sub(to_bits(b, one), exponent))
    down = b.select(b.fcmp("olt", down, zero), zero, down)
    part = to_float(b, b.sub(to_bits(b, x), exponent))
    y = _combine(b, b.fadd(part, b.fsub(down, one)), k)
    y = b.select(b.fcmp("oeq", x, zero), x, y)
    return _special(b, x, sum_, y)
