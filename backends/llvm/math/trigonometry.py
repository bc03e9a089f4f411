"""sin and cos: reduction modulo π/2, then a polynomial for each on [-π/4, π/4].

The quadrant's low bit chooses between the two polynomials, its second bit is the sign;
cos(x) = sin(x + π/2) is the next quadrant.
"""

from __future__ import annotations

from graphc.backends.llvm.math import coefficients as table
from graphc.backends.llvm.math.numeric import absolute, format_of, horner, to_bits, to_float
from graphc.backends.llvm.math.reduction import reduce_to_quadrant
from graphc.backends.llvm.text import Builder, Val

__all__ = ["cos", "sin"]

_TABLES = {"float": (table.SIN_F32, table.COS_F32), "double": (table.SIN_F64, table.COS_F64)}


def _wave(b: Builder, r: Val, q: Val) -> tuple[Val, Val]:
    """|sin| (but for sign) of q·π/2 + r, and its sign bit in place (not for r = ±0)."""
    form = format_of(r)
    odd_table, even_table = _TABLES[form.scalar]
    square = b.fmul(r, r)
    sine = b.fma(b.fmul(square, horner(b, odd_table, square)), r, r)
    cosine = horner(b, (1.0, -0.5, *even_table), square)
    odd = b.icmp("slt", b.binary("shl", q, b.const(q.type, form.bits - 1)), b.const(q.type, 0))
    second = b.binary("shl", q, b.const(q.type, form.bits - 2))
    return b.select(odd, cosine, sine), second


def _with_sign(b: Builder, y: Val, sign: Val) -> Val:
    """y, negated where the top bit of `sign` is set."""
    top = b.const(sign.type, -(1 << (format_of(y).bits - 1)))
    return to_float(b, b.xor(to_bits(b, y), b.and_(sign, top)))


def sin(b: Builder, x: Val) -> Val:
    """sin x for every finite x; NaN for infinities."""
    r, q = reduce_to_quadrant(b, absolute(b, x))
    y, sign = _wave(b, r, q)
    return _with_sign(b, y, b.xor(sign, to_bits(b, x)))


def cos(b: Builder, x: Val) -> Val:
    """cos x for every finite x; NaN for infinities."""
    r, q = reduce_to_quadrant(b, absolute(b, x))
    y, sign = _wave(b, r, b.add(q, b.const(q.type, 1)))
    return _with_sign(b, y, sign)
