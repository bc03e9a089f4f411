"""Bit-level pieces that every mathematical function is made of.

Everything here works on a scalar or a vector of float or double, lane by lane: a lane's
result never depends on the width of the vector or on the other lanes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from graphc.backends.llvm.text import Builder, Val, element, lanes, vector
from graphc.ir.records import dataclass

__all__ = [
    "Format",
    "absolute",
    "any_lane",
    "any_lane_beyond",
    "clamp_above",
    "clamp_below",
    "copy_sign",
    "format_of",
    "horner",
    "nearest",
    "power_of_two",
    "subtract_multiple",
    "to_bits",
    "to_float",
]


@dataclass(frozen=True)
class Format:
    """An IEEE binary format as LLVM spells it, and the constants its bit tricks need."""

    scalar: str
    integer: str
    bits: int
    mantissa: int
    bias: int
    """Exponent bias."""

    @property
    def magic(self) -> float:
        """1.5·2^mantissa: adding it rounds a small number to an integer in the low bits."""
        return 1.5 * 2.0**self.mantissa


FLOAT = Format("float", "i32", 32, 23, 127)
DOUBLE = Format("double", "i64", 64, 52, 1023)


def format_of(x: Val) -> Format:
    """The format of a value's lanes; raises `TypeError` for anything but float and double."""
    match element(x.type):
        case "float":
            return FLOAT
        case "double":
            return DOUBLE
    raise TypeError(f"float or double expected, got {x.type}")


def to_bits(b: Builder, x: Val) -> Val:
    """The bits of a float value as integers of the same width."""
    return b.cast("bitcast", x, vector(format_of(x).integer, lanes(x.type)))


def to_float(b: Builder, bits: Val) -> Val:
    """Integers of 32 or 64 bits read as float or double."""
    scalar = "float" if element(bits.type) == "i32" else "double"
    return b.cast("bitcast", bits, vector(scalar, lanes(bits.type)))


def absolute(b: Builder, x: Val) -> Val:
    """|x|, the sign bit cleared (of a NaN too)."""
    return b.intrinsic("fabs", x.type, [x])


def copy_sign(b: Builder, magnitude: Val, sign: Val) -> Val:
    """`magnitude` with the sign bit of `sign`."""
    return b.intrinsic("copysign", magnitude.type, [magnitude, sign])


def clamp_above(b: Builder, x: Val, limit: float) -> Val:
    """min(x, limit); a NaN stays."""
    c = b.const(x.type, limit)
    return b.select(b.fcmp("ogt", x, c), c, x)


def clamp_below(b: Builder, x: Val, limit: float) -> Val:
    """max(x, limit); a NaN stays."""
    c = b.const(x.type, limit)
    return b.select(b.fcmp("olt", x, c), c, x)


def horner(b: Builder, coefficients: Sequence[float], x: Val) -> Val:
    """Σ coefficients[j]·x^j, lowest power first.

    The tail of a long polynomial is evaluated as two independent chains, of even and of odd
    powers: a chain of dependent multiply-adds would leave the processor waiting.
    """
    if len(coefficients) < _LONG:
        return _chain(b, coefficients, x)
    head, tail = coefficients[:_HEAD], coefficients[_HEAD:]
    square = b.fmul(x, x)
    total = b.fma(x, _chain(b, tail[1::2], square), _chain(b, tail[::2], square))
    for c in reversed(head):
        total = b.fma(total, x, b.const(x.type, c))
    return total


_LONG = 10
"""From this many coefficients on, a polynomial's tail is split."""

_HEAD = 3
"""Leading coefficients that stay in one chain, so that splitting costs no accuracy."""


def _chain(b: Builder, coefficients: Sequence[float], x: Val) -> Val:
    total = b.const(x.type, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = b.fma(total, x, b.const(x.type, c))
    return total


def nearest(b: Builder, x: Val, factor: float, bias: int = 0) -> tuple[Val, Val]:
    """The integer n nearest to x·factor, for |x·factor| < 2^(mantissa-2).

    Returns n as a float and the raw sum, whose low bits are n + bias.
    """
    magic = b.const(x.type, format_of(x).magic + bias)
    raw = b.fma(x, b.const(x.type, factor), magic)
    return b.fsub(raw, magic), raw


def power_of_two(b: Builder, raw: Val) -> Val:
    """2^n where the low bits of `raw` (from `nearest`) are n + exponent bias, 0 < that < 255 or 2047."""
    bits = to_bits(b, raw)
    return to_float(b, b.binary("shl", bits, b.const(bits.type, format_of(raw).mantissa)))


def subtract_multiple(b: Builder, x: Val, k: Val, parts: Sequence[float]) -> Val:
    """x - k·(parts[0] + parts[1] + …), subtracting the parts in order."""
    for part in parts:
        x = b.fma(k, b.const(x.type, -part), x)
    return x


def any_lane(b: Builder, condition: Val) -> Val:
    """i1: whether any lane of an i1 vector is set."""
    if lanes(condition.type) == 1:
        return condition
    return b.intrinsic("vector.reduce.or", "i1", [condition], overload=condition.type)


def any_lane_beyond(b: Builder, x: Val, limit: float, opposite: Val | None = None) -> Val:
    """i1: whether any lane of a float vector is greater than `limit` > 0 in magnitude, or NaN.

    Compared as integers, which have the order of magnitudes, in units that floating-point arithmetic leaves idle.
    With `opposite`, which is -x, true of positive lanes too: as an unsigned integer it is large there, and where it is a NaN.
    """
    form = format_of(x)
    # Lanes that nobody asked for may be poison, on which no branch may depend.
    bits = to_bits(b, b.op(x.type, f"freeze {x if opposite is None else opposite}"))
    if opposite is None:
        size, sign = b.and_(bits, b.const(bits.type, (1 << (form.bits - 1)) - 1)), "s"
    else:
        size, sign = bits, "u"
    while lanes(size.type) > b.target.width(form.bits) and lanes(size.type) % 2 == 0:
        half = lanes(size.type) // 2
        parts = [b.shuffle(size, None, range(at, at + half)) for at in (0, half)]
        size = b.intrinsic(f"{sign}max", parts[0].type, parts)
    return any_lane(b, b.icmp(f"{sign}gt", size, b.const(size.type, _integer_of(form, limit))))


def _integer_of(form: Format, value: float) -> int:
    """The bits of a number in a format, as an integer."""
    code = "fi" if form is FLOAT else "dq"
    number: int = struct.unpack(f"<{code[1]}", struct.pack(f"<{code[0]}", value))[0]
    return number
