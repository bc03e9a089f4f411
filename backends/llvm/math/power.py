"""pow: x^y with every special case of C99's annex F (which PyTorch follows).

|x|^y is 2^(y·log2|x|) in double for floats, so that one rounding remains. For doubles
log|x| and its product with y are kept as unevaluated sums of two doubles, good to 2^-70 of
the logarithm; e^(high + low) rounds once more.
"""

from __future__ import annotations

import math

from graphc.backends.llvm.math import coefficients as table
from graphc.backends.llvm.math.exponential import LN2, exp_reduced
from graphc.backends.llvm.math.logarithm import exponent_part
from graphc.backends.llvm.math.numeric import (
    DOUBLE,
    FLOAT,
    absolute,
    clamp_above,
    clamp_below,
    format_of,
    horner,
    nearest,
    power_of_two,
    to_bits,
    to_float,
)
from graphc.backends.llvm.math.rounding import round_even
from graphc.backends.llvm.text import Builder, Val, lanes, vector

__all__ = ["pow_"]

_ROOT_HALF = 0x3FE6A09E667F3BCD
"""Bits of the double √½: numbers are taken as 2^k·m with m in [√½, √2)."""


def pow_(b: Builder, x: Val, y: Val) -> Val:
    """x^y of two values of one type."""
    form = format_of(x)
    size = absolute(b, x)
    result = (_size_float if form is FLOAT else _size_double)(b, size, y)
    zero, one = b.const(x.type, 0.0), b.const(x.type, 1.0)
    infinity = b.const(x.type, math.inf)
    bits = to_bits(b, x)

    # Zero and infinity swap where y is negative: their bits differ by those of infinity.
    edge = b.or_(b.fcmp("oeq", size, zero), b.fcmp("oeq", size, infinity))
    swapped = to_float(b, b.xor(to_bits(b, size), to_bits(b, infinity)))
    result = b.select(edge, b.select(b.fcmp("olt", y, zero), swapped, size), result)

    whole = b.fcmp("oeq", round_even(b, y), y)
    half = b.fmul(y, b.const(y.type, 0.5))
    odd = b.and_(whole, b.fcmp("one", round_even(b, half), half))
    sign = b.and_(bits, b.const(bits.type, -(1 << (form.bits - 1))))
    signed = to_float(b, b.xor(to_bits(b, result), b.select(odd, sign, b.const(bits.type, 0))))

    # A negative number (but not -0 or -inf) to a power that is no integer.
    usual = b.or_(b.or_(whole, edge), b.icmp("sge", bits, b.const(bits.type, 0)))
    result = b.select(usual, signed, b.const(x.type, math.nan))
    result = b.select(b.fcmp("uno", x, y), b.fadd(x, y), result)
    unit = b.or_(b.fcmp("oeq", x, one), b.fcmp("oeq", y, zero))
    return b.select(unit, one, result)


def _size_float(b: Builder, size: Val, y: Val) -> Val:
    """size^y for finite size > 0; anything for 0, infinity and NaN."""
    wide = vector("double", lanes(size.type))
    x = b.cast("fpext", size, wide)
    # Beyond ±2^40 the result is 0, 1 or infinity; a finite exponent keeps 1^inf away from NaN.
    exponent = clamp_below(b, clamp_above(b, b.cast("fpext", y, wide), 2.0**40), -(2.0**40))
    whole, k = exponent_part(b, x, _ROOT_HALF)
    m = to_float(b, b.sub(to_bits(b, x), whole))
    one = b.const(wide, 1.0)
    s = b.fdiv(b.fsub(m, one), b.fadd(m, one))
    log2 = b.fma(s, horner(b, table.POW_LOG2_F32, b.fmul(s, s)), k)
    product = clamp_below(b, clamp_above(b, b.fmul(exponent, log2), 130.0), -160.0)
    n, raw = nearest(b, product, 1.0, DOUBLE.bias)
    power = horner(b, (1.0, *table.POW_EXP2_F32), b.fsub(product, n))
    return b.cast("fptrunc", b.fmul(power, power_of_two(b, raw)), size.type)


def _two_product(b: Builder, x: Val, y: Val) -> tuple[Val, Val]:
    """x·y as high + low exactly (Dekker's product where there is no fused multiply-add)."""
    high = b.fmul(x, y)
    if b.target.has_fma:
        return high, b.fma(x, y, b.fneg(high))
    (a, c), (d, e) = _split(b, x), _split(b, y)
    rest = b.fsub(b.fmul(a, d), high)
    rest = b.fadd(b.fadd(rest, b.fmul(a, e)), b.fmul(c, d))
    return high, b.fadd(rest, b.fmul(c, e))


def _split(b: Builder, x: Val) -> tuple[Val, Val]:
    """x as a sum of two halves of 26 bits (Veltkamp)."""
    scaled = b.fmul(x, b.const(x.type, 2.0**27 + 1))
    high = b.fsub(scaled, b.fsub(scaled, x))
    return high, b.fsub(x, high)


def _fast_two_sum(b: Builder, x: Val, y: Val) -> tuple[Val, Val]:
    """x + y as high + low exactly, for |x| >= |y| or x = 0."""
    high = b.fadd(x, y)
    return high, b.fadd(b.fsub(x, high), y)


def _log_double(b: Builder, size: Val) -> tuple[Val, Val]:
    """log(size) as high + low for finite size > 0."""
    type_ = size.type

    def number(value: float) -> Val:
        return b.const(type_, value)

    tiny = b.fcmp("olt", size, number(2.0**-1022))
    normal = b.select(tiny, b.fmul(size, number(2.0**54)), size)
    whole, k = exponent_part(b, normal, _ROOT_HALF)
    k = b.fsub(k, b.select(tiny, number(54.0), number(0.0)))
    m = to_float(b, b.sub(to_bits(b, normal), whole))
    # s + sl = (m - 1)/(m + 1); m + 1 = d + dl exactly.
    f = b.fsub(m, number(1.0))
    d = b.fadd(m, number(1.0))
    dl = b.fsub(m, b.fsub(d, number(1.0)))
    inverse = b.fdiv(number(1.0), d)
    s = b.fmul(f, inverse)
    p, pl = _two_product(b, s, d)
    rest = b.fsub(b.fsub(b.fsub(f, p), pl), b.fmul(s, dl))
    sl = b.fmul(rest, inverse)
    # log m = 2s + s·(z·(2/3 + z·P(z))) with z + zl = s²
    z, zl = _two_product(b, s, s)
    zl = b.fma(b.fadd(s, s), sl, zl)
    q, ql = _fast_two_sum(b, number(2.0 / 3.0), b.fmul(z, horner(b, table.POW_LOG_F64, z)))
    ql = b.fadd(ql, number(2.0 / 3.0 * 2.0**-54))
    g, gl = _two_product(b, z, q)
    gl = b.fma(zl, q, b.fma(z, ql, gl))
    w, wl = _two_product(b, s, g)
    wl = b.fma(sl, g, b.fma(s, gl, wl))
    high, low = _fast_two_sum(b, b.fadd(s, s), w)
    low = b.fadd(low, b.fadd(b.fadd(sl, sl), wl))
    ln2, rest_of_ln2 = LN2["double"]
    total, error = _fast_two_sum(b, b.fmul(k, number(ln2)), high)
    # k times the rest of ln 2 reaches 2^-32 of the total: normalise.
    return _fast_two_sum(b, total, b.fadd(error, b.fma(k, number(rest_of_ln2), low)))


def _size_double(b: Builder, size: Val, y: Val) -> Val:
    """size^y for finite size > 0; anything for 0, infinity and NaN."""
    high, low = _log_double(b, size)
    # Beyond ±2^70 the result is 0, 1 or infinity; a finite exponent keeps 1^inf away from NaN.
    exponent = clamp_below(b, clamp_above(b, y, 2.0**70), -(2.0**70))
    product, rest = _two_product(b, exponent, high)
    rest = b.fma(exponent, low, rest)
    # Where the product is clamped the rest means nothing, and may be large.
    rest = clamp_below(b, clamp_above(b, rest, 2.0**-40), -(2.0**-40))
    product = clamp_below(b, clamp_above(b, product, 710.0), -746.0)
    return exp_reduced(b, product, rest)
