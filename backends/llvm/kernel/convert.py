"""Conversion between dtypes on carried values: PyTorch's `to`, made total.

Float to integer truncates; what does not fit (and NaN) becomes the least integer of the type
that is converted through, which is int32 for the narrower integers and the type itself for
int32 and int64. That is what x86 processors do; it is spelt out so that every target and
every lane agrees. To and from a 16-bit float goes through float32.
"""

from __future__ import annotations

from graphc.backends.llvm.kernel.values import carrier, round_to
from graphc.backends.llvm.text import Builder, Val, element, lanes, vector
from graphc.ir.types import DType

__all__ = ["convert"]


def convert(b: Builder, value: Val, source: DType, to: DType) -> Val:
    """`value` of dtype `source` as `to`, both in their carriers; scalar or vector."""
    if source is to:
        return value
    type_ = vector(carrier(to), lanes(value.type))
    if to.kind == "bool":
        zero = b.const(value.type, 0)
        return b.fcmp("une", value, zero) if source.kind == "float" else b.icmp("ne", value, zero)
    if source.kind == "float":
        if to.kind == "float":
            return _float_to_float(b, value, to, type_)
        return _float_to_integer(b, value, to, type_)
    if to.kind == "float":
        signed = source.kind == "int"
        return round_to(b, to, b.cast("sitofp" if signed else "uitofp", value, type_))
    if lanes_bits(value) >= to.bits:
        return b.cast("trunc", value, type_)
    return b.cast("sext" if source.kind == "int" else "zext", value, type_)


def lanes_bits(value: Val) -> int:
    """Bits of one lane of an integer value."""
    return int(element(value.type)[1:])


def _float_to_float(b: Builder, value: Val, to: DType, type_: str) -> Val:
    if element(value.type) == "double" and element(type_) == "float":
        value = b.cast("fptrunc", value, type_)
    elif element(value.type) == "float" and element(type_) == "double":
        value = b.cast("fpext", value, type_)
    return round_to(b, to, value)


def _float_to_integer(b: Builder, value: Val, to: DType, type_: str) -> Val:
    bits = max(to.bits, 32)
    least = -(2.0 ** (bits - 1))
    low, high = b.const(value.type, least), b.const(value.type, -least)
    inside = b.and_(b.fcmp("oge", value, low), b.fcmp("olt", value, high))
    # The least value converts to the least integer exactly.
    safe = b.select(inside, value, low)
    whole = b.cast("fptosi", safe, vector(f"i{bits}", lanes(value.type)))
    return b.cast("trunc", whole, type_) if bits > to.bits else whole
