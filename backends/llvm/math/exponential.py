"""exp, expm1, sigmoid and tanh.

All four write x (or a multiple of it) as n·ln 2 + r, approximate e^r by a polynomial and
scale by a power of two made from n's bits. They differ in how they keep the scaling inside
the exponent range and in where they round:

* `exp` adds n to the exponent of e^r where every result is a normal number. A branch that is hardly
  ever taken multiplies by two powers instead, so that every result is reached, the subnormal ones
  (rounded once) and infinity included. Both give the same bits where both apply.
* `sigmoid` and `tanh` add the scaled e^r to exact constants in one rounding and divide once.
* `expm1` scales by 2^(n-1), so that n = 128 is still finite, and doubles the sum.

A NaN stays a NaN, because the clamps let it pass and it then reaches every sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.math import coefficients as table
from graphc.backends.llvm.math.numeric import (
    absolute,
    any_lane_beyond,
    clamp_above,
    clamp_below,
    copy_sign,
    format_of,
    horner,
    nearest,
    power_of_two,
    subtract_multiple,
    to_bits,
    to_float,
)
from graphc.backends.llvm.text import Builder, Val
from graphc.ir.records import dataclass

__all__ = ["LN2", "LOG2_E", "exp", "exp_reduced", "expm1", "sigmoid", "tanh"]

LOG2_E = float.fromhex("0x1.71547652b82fep+0")

LN2 = {
    "float": (0.693359375, float.fromhex("-0x1.bd0106p-13")),
    "double": (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")),
}
"""ln 2 in two parts; the first is so short that its product with any exponent is exact."""


@dataclass(frozen=True)
class _Constants:
    """What depends on the format. The limits lie where the result no longer changes."""

    exp: Sequence[float]
    """(e^r - 1 - r)/r² for |r| <= ln(2)/2."""
    tanh: Sequence[float]
    """(tanh(x)/x - 1)/x² in x²."""
    exp_limits: tuple[float, float]
    exp_normal: float
    """Up to this magnitude e^x is a normal number."""
    expm1_limits: tuple[float, float]
    sigmoid_limits: tuple[float, float]
    sigmoid_scale: int
    """Exponent that brings every 2^n of sigmoid into the normal range."""
    tanh_limit: float


_CONSTANTS = {
    "float": _Constants(
        table.EXP_F32, table.TANH_F32,
        (-104.0, 89.0), 87.0, (-18.0, 89.0), (-104.0, 70.0), 24, 9.25,
    ),
    "double": _Constants(
        table.EXP_F64, table.TANH_F64,
        (-746.0, 710.0), 708.0, (-38.0, 710.0), (-746.0, 600.0), 64, 19.5,
    ),
}  # fmt: skip


def exp_reduced(b: Builder, x: Val, low: Val | None = None) -> Val:
    """e^(x + low) for x within the limits of `exp`; `low` is at most 2^-30 in magnitude."""
    bias = format_of(x).bias
    power, raw = _reduced(b, x, low, 2 * bias)
    bits = to_bits(b, raw)
    half = b.binary("lshr", bits, b.const(bits.type, 1))
    for part in (half, b.sub(bits, half)):
        power = b.fmul(power, power_of_two(b, to_float(b, part)))
    return power


def _reduced(b: Builder, x: Val, low: Val | None, bias: int) -> tuple[Val, Val]:
    """e^r where x + low = n·ln 2 + r and |r| <= ln(2)/2, and a value whose low bits are n + bias."""
    form = format_of(x)
    high, rest = LN2[form.scalar]
    n, raw = nearest(b, x, LOG2_E, bias)
    r = subtract_multiple(b, x, n, [high])
    if low is None:
        r = subtract_multiple(b, r, n, [rest])
    else:
        r = b.fadd(r, subtract_multiple(b, low, n, [rest]))
    return _power(b, r), raw


def _power(b: Builder, r: Val) -> Val:
    """e^r for |r| <= ln(2)/2."""
    terms = _CONSTANTS[format_of(r).scalar].exp
    if b.target.has_fma:
        return horner(b, (1.0, 1.0, *terms), r)
    # Where products round, Horner's last two steps would cost a quarter ULP more than this.
    tail = b.fmul(b.fmul(r, r), horner(b, terms, r))
    return b.fadd(b.const(r.type, 1.0), b.fadd(r, tail))


def exp(b: Builder, x: Val, opposite: Val | None = None) -> Val:
    """e^x. With `opposite`, which is -x, positive arguments are correct but slow."""
    if opposite is not None:
        x = b.fneg(opposite)
    form = format_of(x)
    constants = _CONSTANTS[form.scalar]
    least, most = constants.exp_limits
    power, raw = _reduced(b, x, None, 0)
    n = b.binary("shl", to_bits(b, raw), b.const(to_bits(b, raw).type, form.mantissa))
    usual = to_float(b, b.add(to_bits(b, power), n))

    def everywhere() -> list[Val]:
        return [exp_reduced(b, clamp_below(b, clamp_above(b, x, most), least))]

    beyond = any_lane_beyond(b, x, constants.exp_normal, opposite)
    return b.rarely(beyond, [usual], everywhere, "beyond")[0]


def _expm1_parts(b: Builder, x: Val, factor: int, shift: int) -> tuple[Val, Val, Val]:
    """2^(n+shift), r and e^r - 1 - r where factor·x = n·ln 2 + r and |r| <= ln(2)/2; factor is ±1 or 2."""
    form = format_of(x)
    n, raw = nearest(b, x, factor * LOG2_E, form.bias + shift)
    high, low = LN2[form.scalar]
    r = subtract_multiple(b, x, n, [high / factor, low / factor])
    # The polynomial is in factor·r; multiplying coefficients by powers of ±2 is exact.
    inner = [c * float(factor) ** (j + 2) for j, c in enumerate(_CONSTANTS[form.scalar].exp)]
    tail = b.fmul(b.fmul(r, r), horner(b, inner, r))
    return power_of_two(b, raw), b.fmul(r, b.const(x.type, float(factor))), tail


def expm1(b: Builder, x: Val) -> Val:
    """e^x - 1, accurate near 0."""
    least, most = _CONSTANTS[format_of(x).scalar].expm1_limits
    inside = clamp_below(b, clamp_above(b, x, most), least)
    scale, r, tail = _expm1_parts(b, inside, 1, -1)
    # Where n is ±1 this first sum cancels, and is (nearly) exact.
    half = b.fma(scale, r, b.fsub(scale, b.const(x.type, 0.5)))
    half = b.fma(scale, tail, half)
    # Halving a subnormal would round, and adding 0.5 - 0.5 would lose the sign of -0.
    tiny = b.fcmp("olt", absolute(b, x), b.const(x.type, 2.0 ** -(format_of(x).mantissa + 3)))
    return b.select(tiny, x, b.fadd(half, half))


def sigmoid(b: Builder, x: Val) -> Val:
    """1/(1 + e^-x), with full relative accuracy also where it is subnormal."""
    constants = _CONSTANTS[format_of(x).scalar]
    least, most = constants.sigmoid_limits
    inside = clamp_below(b, clamp_above(b, x, most), least)
    shift = constants.sigmoid_scale
    scale, r, tail = _expm1_parts(b, inside, -1, -shift)
    one = b.const(x.type, 2.0**-shift)
    # scale + 1 is inexact from 2^24 (2^53) on; its error joins the small product, so that
    # the denominator is rounded once there as everywhere else.
    whole = b.fadd(scale, one)
    lost = b.fsub(one, b.fsub(whole, scale))
    return b.fdiv(one, b.fadd(whole, b.fma(scale, b.fadd(r, tail), lost)))


def tanh(b: Builder, x: Val) -> Val:
    """tanh x: a polynomial up to 0.55 (where tanh is 0.5), 1 - 2/(e^2x + 1) beyond."""
    constants = _CONSTANTS[format_of(x).scalar]
    size = absolute(b, x)
    square = b.fmul(size, size)
    near = b.fma(b.fmul(square, horner(b, constants.tanh, square)), size, size)
    scale, r, tail = _expm1_parts(b, clamp_above(b, size, constants.tanh_limit), 2, 0)
    one = b.const(x.type, 1.0)
    below = b.fma(scale, b.fadd(r, tail), b.fadd(scale, one))
    far = b.fsub(one, b.fdiv(b.const(x.type, 2.0), below))
    large = b.fcmp("ogt", size, b.const(x.type, 0.55))
    return copy_sign(b, b.select(large, far, near), x)
