"""sin and cos: reduction modulo π, then one odd polynomial on [-π/2, π/2].

One polynomial serves both: cos(x) = sin(x + π/2), with the half turn taken into the
reduction, and the parity of the number of turns into the sign of the reduced argument.
"""

from __future__ import annotations

from graphc.backends.llvm.math import coefficients as table
from graphc.backends.llvm.math.numeric import absolute, format_of, horner, to_bits, to_float
from graphc.backends.llvm.math.reduction import reduce_modulo_pi
from graphc.backends.llvm.text import Builder, Val

__all__ = ["cos", "sin"]

_TABLES = {"float": table.SIN_F32, "double": table.SIN_F64}


def _sine(b: Builder, r: Val) -> Val:
    """sin r for |r| <= 1.5732 (the sign of -0 is lost)."""
    square = b.fmul(r, r)
    tail = horner(b, _TABLES[format_of(r).float], square)
    return b.fma(b.fmul(square, tail), r, r)


def sin(b: Builder, x: Val) -> Val:
    """sin x for every finite x; NaN for infinities."""
    form = format_of(x)
    y = _sine(b, reduce_modulo_pi(b, absolute(b, x), cosine=False))
    bits = to_bits(b, x)
    sign = b.and_(bits, b.const(bits.type, -(1 << (form.bits - 1))))
    return to_float(b, b.xor(to_bits(b, y), sign))


def cos(b: Builder, x: Val) -> Val:
    """cos x for every finite x; NaN for infinities."""
    return _sine(b, reduce_modulo_pi(b, absolute(b, x), cosine=True))
