"""erf: an odd polynomial up to 0.9, one minus a power of two beyond.

Beyond 0.9, erfc(x) = 2^q(x) with a polynomial q; its error shrinks with erfc/erf <= 1/4, so
the sum 1 - 2^q is as accurate as the small branch.
"""

from __future__ import annotations

from graphc.backends.llvm.math import coefficients as table
from graphc.backends.llvm.math.numeric import (
    absolute,
    clamp_above,
    copy_sign,
    format_of,
    horner,
    nearest,
    power_of_two,
)
from graphc.backends.llvm.text import Builder, Val

__all__ = ["erf"]

_TABLES = {
    "float": (table.ERF_F32, table.ERFC_F32, table.EXP2_F32, 4.0),
    "double": (table.ERF_F64, table.ERFC_F64, table.EXP2_F64, 6.0),
}
"""Small branch, log2 of erfc, 2^f, and where erf has become 1."""


def erf(b: Builder, x: Val) -> Val:
    """2/√π · ∫ e^(-t²) dt from 0 to x."""
    form = format_of(x)
    small, tail, power, limit = _TABLES[form.scalar]
    size = absolute(b, x)
    near = b.fma(size, horner(b, small, b.fmul(size, size)), size)
    inside = clamp_above(b, size, limit)
    q = horner(b, tail, inside)
    n, raw = nearest(b, q, 1.0, form.bias)
    f = b.fsub(q, n)
    scale = power_of_two(b, raw)
    one = b.const(x.type, 1.0)
    complement = b.fma(b.fmul(f, scale), horner(b, power, f), scale)
    far = b.fsub(one, complement)
    large = b.fcmp("ogt", size, b.const(x.type, 0.9))
    return copy_sign(b, b.select(large, far, near), x)
