"""Conversions between number formats, without library calls on any target.

16-bit floats are passed as integers of their bits (`i16`), because LLVM turns several
operations on `half` and `bfloat` into library calls, and `bfloat` even where AVX-512 is
there. A NaN stays a NaN and becomes quiet; its upper payload bits survive.
"""

from __future__ import annotations

from graphc.backends.llvm.text import Builder, Val, element, lanes, vector

__all__ = ["bf16_to_f32", "f16_to_f32", "f32_to_bf16", "f32_to_f16", "float_to_int", "int_to_float"]


def _i32(b: Builder, x: Val) -> Val:
    """The bits of a float or i16 value as 32-bit integers."""
    type_ = vector("i32", lanes(x.type))
    return b.cast("zext" if element(x.type) == "i16" else "bitcast", x, type_)


def _f32(b: Builder, bits: Val) -> Val:
    return b.cast("bitcast", bits, vector("float", lanes(bits.type)))


def _i16(b: Builder, bits: Val) -> Val:
    return b.cast("trunc", bits, vector("i16", lanes(bits.type)))


def bf16_to_f32(b: Builder, x: Val) -> Val:
    """bfloat16 bits (i16) to float: exact."""
    bits = _i32(b, x)
    return _f32(b, b.binary("shl", bits, b.const(bits.type, 16)))


def f32_to_bf16(b: Builder, x: Val) -> Val:
    """float to bfloat16 bits (i16), to nearest, ties to even."""
    bits = _i32(b, x)
    upper = b.binary("lshr", bits, b.const(bits.type, 16))
    odd = b.and_(upper, b.const(bits.type, 1))
    sum_ = b.add(bits, b.add(odd, b.const(bits.type, 0x7FFF)))
    rounded = b.binary("lshr", sum_, b.const(bits.type, 16))
    quiet = b.or_(upper, b.const(bits.type, 0x40))
    return _i16(b, b.select(b.fcmp("uno", x, x), quiet, rounded))


def f16_to_f32(b: Builder, x: Val) -> Val:
    """float16 bits (i16) to float: exact."""
    if b.target.has_f16:
        width = lanes(x.type)
        return b.cast("fpext", b.cast("bitcast", x, vector("half", width)), vector("float", width))
    bits = _i32(b, x)

    def number(value: int) -> Val:
        return b.const(bits.type, value)

    size = b.and_(bits, number(0x7FFF))
    sign = b.binary("shl", b.xor(bits, size), number(16))
    moved = b.binary("shl", size, number(13))
    # Multiplying by 2^112 corrects the exponent of normal and subnormal numbers alike.
    value = _f32(b, moved)
    finite = _i32(b, b.fmul(value, b.const(value.type, 2.0**112)))
    special = b.or_(moved, number(0x7F800000))
    is_nan = b.icmp("ugt", size, number(0x7C00))
    special = b.or_(special, b.select(is_nan, number(0x00400000), number(0)))
    chosen = b.select(b.icmp("uge", size, number(0x7C00)), special, finite)
    return _f32(b, b.or_(chosen, sign))


def f32_to_f16(b: Builder, x: Val) -> Val:
    """float to float16 bits (i16), to nearest, ties to even; overflow gives infinity."""
    if b.target.has_f16:
        width = lanes(x.type)
        return b.cast("bitcast", b.cast("fptrunc", x, vector("half", width)), vector("i16", width))
    bits = _i32(b, x)

    def number(value: int) -> Val:
        return b.const(bits.type, value)

    size = b.and_(bits, number(0x7FFFFFFF))
    sign = b.binary("lshr", b.xor(bits, size), number(16))
    odd = b.and_(b.binary("lshr", size, number(13)), number(1))
    # Rebias the exponent from 127 to 15 and round in one addition.
    moved = b.add(b.add(size, odd), number(0xFFF - (112 << 23)))
    normal = b.binary("lshr", moved, number(13))
    # Below 2^-14, adding 0.5 leaves the subnormal's bits, rounded, at the low end.
    value = _f32(b, size)
    lowered = _i32(b, b.fadd(value, b.const(value.type, 0.5)))
    subnormal = b.sub(lowered, number(0x3F000000))
    finite = b.select(b.icmp("ult", size, number(113 << 23)), subnormal, normal)
    payload = b.and_(b.binary("lshr", size, number(13)), number(0x3FF))
    nan = b.or_(payload, number(0x7E00))
    special = b.select(b.icmp("ugt", size, number(0x7F800000)), nan, number(0x7C00))
    chosen = b.select(b.icmp("uge", size, number(143 << 23)), special, finite)
    return _i16(b, b.or_(chosen, sign))


def float_to_int(b: Builder, x: Val, integer: str, *, signed: bool = True) -> Val:
    """float or double to integers of scalar type `integer` towards zero.

    Numbers out of range become the nearest integer in range and NaN becomes 0, on every
    target (LLVM leaves both undefined without this).
    """
    stem = "fptosi.sat" if signed else "fptoui.sat"
    result = vector(integer, lanes(x.type))
    suffix = _mangled(result) + "." + _mangled(x.type)
    name = f"llvm.{stem}.{suffix}"
    b.module.declare(name, result, [x.type])
    return b.call(result, name, [x])


def _mangled(type_: str) -> str:
    scalar = {"float": "f32", "double": "f64"}.get(element(type_), element(type_))
    return scalar if lanes(type_) == 1 else f"v{lanes(type_)}{scalar}"


def int_to_float(b: Builder, x: Val, scalar: str, *, signed: bool = True) -> Val:
    """Integers to `float` or `double`, to nearest, ties to even."""
    return b.cast("sitofp" if signed else "uitofp", x, vector(scalar, lanes(x.type)))
