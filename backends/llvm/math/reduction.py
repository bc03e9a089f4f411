"""Reduction of arguments modulo π/2, for sine and cosine.

Ordinary arguments are reduced in line, subtracting a multiple of π/2 in parts (Cody and
Waite). Arguments beyond `LIMITS` take a branch that is entered when any lane needs it; it
calls, lane by lane, a scalar function that multiplies the argument by the bits of 2/π that
matter to it (Payne and Hanek) in integer arithmetic. Which way a lane goes depends on that
lane alone.
"""

from __future__ import annotations

import math

from graphc.backends.llvm.math.numeric import (
    FLOAT,
    any_lane,
    format_of,
    nearest,
    subtract_multiple,
    to_bits,
    to_float,
)
from graphc.backends.llvm.text import Builder, ModuleText, Val, element, lanes, vector

__all__ = ["LIMITS", "TWO_OVER_PI_BITS", "reduce_to_quadrant"]

LIMITS = {"float": 2.0**15, "double": 2.0**21}
"""Largest argument that is reduced in line."""

_HALF_PI_FUSED = {
    "float": tuple(map(float.fromhex, ("0x1.921fb6p+0", "-0x1.777a5cp-25", "-0x1.ee59dap-50"))),
    "double": tuple(
        map(float.fromhex, ("0x1.921fb54442d18p+0", "0x1.1a62633145c07p-54", "-0x1.f1976b7ed8fbcp-110"))
    ),
}
"""π/2 in full-length parts, for targets whose multiply-add does not round the product."""

_HALF_PI_SHORT = tuple(
    map(
        float.fromhex,
        ("0x1.921fb544p+0", "0x1.0b4611a6p-34", "0x1.3198a2ep-69", "0x1.b839a252049c1p-104"),
    )
)
"""π/2 in parts of 33 bits (the last of 53): products with up to 20 bits are exact."""

_HALF_PI_PAIR = (float.fromhex("0x1.921fb5444p+0"), float.fromhex("0x1.68c234c4c6629p-39"))
"""π/2 in 36 and 53 bits: enough in double for float arguments."""

_TWO_OVER_PI = float.fromhex("0x1.45f306dc9c883p-1")

TWO_OVER_PI_BITS = (
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424dd2e0"
    "06492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639835339f4"
    "9c845f8bbdf9283b1ff897ffde05980fef2f118b5a0a6d1f6d367ecf27cb09b74f463f669e5fea2d"
    "7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d0856033046fc7b6bab"
)
"""The first 1216 bits of 2/π behind the point: as many as the largest double needs."""

_PI_FIXED = 0xC90FDAA22168C234
"""π·2^62."""


def reduce_to_quadrant(b: Builder, size: Val) -> tuple[Val, Val]:
    """r and an integer q with size = q·π/2 + r, |r| <= π/4 + 0.0012; only q's lowest two bits count.

    `size` is not negative. r is NaN for infinity and NaN.
    """
    form = format_of(size)
    n, raw = nearest(b, size, _TWO_OVER_PI)
    near = _subtract_quadrants(b, size, n), to_bits(b, raw)
    huge = b.fcmp("ogt", size, b.const(size.type, LIMITS[form.scalar]))

    def far() -> list[Val]:
        return [b.select(huge, x, y) for x, y in zip(_reduce_lanes(b, size, huge), near, strict=True)]

    r, q = b.rarely(any_lane(b, huge), near, far, "huge")
    return r, q


def _subtract_quadrants(b: Builder, size: Val, n: Val) -> Val:
    """size - n·π/2 for n up to 21 bits, within about one rounding of the result."""
    if b.target.has_fma:
        return subtract_multiple(b, size, n, _HALF_PI_FUSED[element(size.type)])
    if format_of(size) is FLOAT:
        wide = vector("double", lanes(size.type))
        r = subtract_multiple(b, b.cast("fpext", size, wide), b.cast("fpext", n, wide), _HALF_PI_PAIR)
        return b.cast("fptrunc", r, size.type)
    first, second, third, fourth = (b.fmul(n, b.const(size.type, p)) for p in _HALF_PI_SHORT)
    exact = b.fsub(size, first)
    high = b.fsub(exact, second)
    low = b.fsub(b.fsub(b.fsub(exact, high), second), third)
    return b.fsub(b.fadd(high, low), fourth)


def _reduce_lanes(b: Builder, size: Val, huge: Val) -> tuple[Val, Val]:
    """The scalar function in every lane of `huge`; unimportant values in the others."""
    form = format_of(size)
    name = _scalar_function(b.module)
    width = lanes(size.type)

    def one(x: Val) -> tuple[Val, Val]:
        pair = b.call("{ double, i64 }", name, [b.cast("fpext", x, "double")])
        r = b.op("double", f"extractvalue {pair}, 0")
        q = b.op("i64", f"extractvalue {pair}, 1")
        return b.cast("fptrunc", r, form.scalar), b.cast("trunc", q, form.integer)

    safe = b.select(huge, size, b.const(size.type, LIMITS[form.scalar]))
    if width == 1:
        return one(safe)
    integers = vector(form.integer, width)
    reduced, quadrants = b.alloca(size.type, align=16), b.alloca(integers, align=16)
    b.store(safe, reduced, 16)

    def body(index: Val, carried: tuple[Val, ...]) -> tuple[Val, ...]:
        address = b.gep(reduced, index, form.scalar)
        r, q = one(b.load(form.scalar, address))
        b.store(r, address)
        b.store(q, b.gep(quadrants, index, form.integer))
        return carried

    b.loop(0, width, 1, [], body, "lane")
    return b.load(size.type, reduced, 16), b.load(integers, quadrants, 16)


def _scalar_function(module: ModuleText) -> str:
    """The name of `{double r, i64 q} (double x)` for x >= 2^15, held once by a module.

    x = m·2^e with 53 bits of m. Bits of 2/π whose weight times 2^e is 4 or more add whole
    turns; the 192 bits behind them give x·2/π modulo 4 with 126 fraction bits, and no double
    is nearer to a multiple of π/2 than 2^-62.
    """
    name = "graphc.reduce_to_quadrant"
    if module.has_function(name):
        return name
    b = module.function(
        name, "{ double, i64 }", [("double", "x")], linkage="internal",
        attributes="nounwind noinline cold memory(none)",
    )  # fmt: skip
    (x,) = b.params

    def word(value: int) -> Val:
        return b.const("i64", value)

    def wide(value: int) -> Val:
        return b.const("i128", value)

    bits = to_bits(b, x)
    quarters = _times_two_over_pi(b, bits)
    q = b.binary("lshr", b.add(quarters, wide(1 << 125)), wide(126))
    # The signed distance to the nearest quadrant, in units of 2^-128 of one.
    distance = b.binary("shl", quarters, wide(2))
    negative = b.icmp("slt", distance, wide(0))
    size = b.select(negative, b.sub(wide(0), distance), distance)
    module.declare("llvm.ctlz.i128", "i128", ["i128", "i1 immarg"])
    zeros = b.op("i128", f"call i128 @llvm.ctlz.i128({size}, i1 false)")
    leading = b.binary("lshr", b.binary("shl", size, zeros), wide(64))
    scaled = b.binary("lshr", b.mul(leading, wide(_PI_FIXED)), wide(65))
    # |r| = scaled·2^(-62 - zeros)
    exponent = b.sub(word(1023 - 62), b.cast("trunc", zeros, "i64"))
    scale = to_float(b, b.binary("shl", exponent, word(52)))
    r = b.fmul(b.cast("sitofp", b.cast("trunc", scaled, "i64"), "double"), scale)
    r = b.select(negative, b.fneg(r), r)
    r = b.select(b.fcmp("olt", x, b.const("double", math.inf)), r, b.const("double", math.nan))
    pair = b.op("{ double, i64 }", f"insertvalue {{ double, i64 }} poison, {r}, 0")
    b.ret(b.op(pair.type, f"insertvalue {pair}, {b.cast('trunc', q, 'i64')}, 1"))
    return name


def _times_two_over_pi(b: Builder, bits: Val) -> Val:
    """x·2/π modulo 4 as i128 in units of 2^-126, from the bits of a double x >= 2^15."""

    def word(value: int) -> Val:
        return b.const("i64", value)

    mantissa = b.or_(b.and_(bits, word((1 << 52) - 1)), word(1 << 52))
    # Bit j of 2/π (weight 2^-j) stands at position j + 63 of the table; the first needed is
    # j = e - 1, and e is the exponent field less 1075.
    position = b.sub(b.binary("lshr", bits, word(52)), word(1075 - 62))
    words = [int(TWO_OVER_PI_BITS[i : i + 16], 16) for i in range(0, len(TWO_OVER_PI_BITS), 16)]
    table = b.module.table("i64", [str(w) for w in [0, *words]])
    start = b.gep(table, b.binary("lshr", position, word(6)), "i64")
    loaded = [b.load("i64", b.gep(start, i, "i64")) for i in range(4)]
    offset = b.and_(position, word(63))
    high, middle, low = (b.intrinsic("fshl", "i64", [loaded[i], loaded[i + 1], offset]) for i in range(3))
    factor = b.cast("zext", mantissa, "i128")
    shift = b.const("i128", 64)
    top = b.binary("shl", b.cast("zext", b.mul(mantissa, high), "i128"), shift)
    centre = b.mul(factor, b.cast("zext", middle, "i128"))
    bottom = b.binary("lshr", b.mul(factor, b.cast("zext", low, "i128")), shift)
    return b.add(b.add(top, centre), bottom)
