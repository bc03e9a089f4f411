"""Reduction of arguments modulo π, for sine and cosine.

Ordinary arguments are reduced in line, subtracting a multiple of π in parts (Cody and
Waite). Arguments beyond `LIMITS` take a branch that is entered when any lane needs it; it
calls, lane by lane, a scalar function that multiplies the argument by the bits of 1/π that
matter to it (Payne and Hanek) in integer arithmetic. Which way a lane goes depends on that
lane alone.
"""

from __future__ import annotations

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

__all__ = ["INVERSE_PI_BITS", "LIMITS", "reduce_modulo_pi"]

LIMITS = {"float": 2.0**15, "double": 2.0**21}
"""Largest argument that is reduced in line."""

_PI_FUSED = {
    "float": tuple(map(float.fromhex, ("0x1.921fb6p+1", "-0x1.777a5cp-24", "-0x1.ee59dap-49"))),
    "double": tuple(
        map(float.fromhex, ("0x1.921fb54442d18p+1", "0x1.1a62633145c07p-53", "-0x1.f1976b7ed8fbcp-109"))
    ),
}
"""π in full-length parts, for targets whose multiply-add does not round the product."""

_PI_SHORT = tuple(
    map(
        float.fromhex,
        ("0x1.921fb544p+1", "0x1.0b4611a6p-33", "0x1.3198a2ep-68", "0x1.b839a252049c1p-103"),
    )
)
"""π in parts of 33 bits (the last of 53): products with up to 20 bits are exact."""

_PI_PAIR = (float.fromhex("0x1.921fb5444p+1"), float.fromhex("0x1.68c234c4c6629p-38"))
"""π in 36 and 53 bits: enough in double for float arguments."""

_INVERSE_PI = float.fromhex("0x1.45f306dc9c883p-2")

INVERSE_PI_BITS = (
    "517cc1b727220a94fe13abe8fa9a6ee06db14acc9e21c820ff28b1d5ef5de2b0db92371d2126e970"
    "0324977504e8c90e7f0ef58e5894d39f74411afa975da24274ce38135a2fbf209cc8eb1cc1a99cfa"
    "4e422fc5defc941d8ffc4bffef02cc07f79788c5ad05368fb69b3f6793e584dba7a31fb34f2ff516"
    "ba93dd63f5f2f8bd9e839cfbc529497535fdafd88fc6ae842b0198237e3db5d5"
)
"""The first 1216 bits of 1/π behind the point: as many as the largest double needs."""

_PI_FIXED = 0xC90FDAA22168C234
"""π·2^62."""


def reduce_modulo_pi(b: Builder, size: Val, *, cosine: bool) -> Val:
    """±r with sin(±r) = sin(size), or cos(size) where `cosine`; |r| <= π/2 + 0.0012.

    `size` is not negative. NaN for infinity and NaN.
    """
    form = format_of(size)
    if cosine:
        # size = (n + ½)·π + r, and cos(size) = (-1)^(n+1)·sin(r): the low bit is that of n + 1.
        turns = b.fma(size, b.const(size.type, _INVERSE_PI), b.const(size.type, -0.5))
        n, raw = nearest(b, turns, 1.0, 1)
        n = b.fadd(n, b.const(size.type, 0.5))
    else:
        n, raw = nearest(b, size, _INVERSE_PI)
    r = _subtract_turns(b, size, n)
    bits = to_bits(b, raw)
    sign = b.binary("shl", bits, b.const(bits.type, form.bits - 1))
    near = to_float(b, b.xor(to_bits(b, r), sign))
    huge = b.fcmp("ogt", size, b.const(size.type, LIMITS[form.float]))
    return _replace_huge(b, size, near, huge, cosine)


def _subtract_turns(b: Builder, size: Val, n: Val) -> Val:
    """size - n·π for n up to 20 bits, within about one rounding of the result."""
    if b.target.has_fma:
        return subtract_multiple(b, size, n, _PI_FUSED[element(size.type)])
    if format_of(size) is FLOAT:
        wide = vector("double", lanes(size.type))
        r = subtract_multiple(b, b.cast("fpext", size, wide), b.cast("fpext", n, wide), _PI_PAIR)
        return b.cast("fptrunc", r, size.type)
    first, second, third, fourth = (b.fmul(n, b.const(size.type, p)) for p in _PI_SHORT)
    exact = b.fsub(size, first)
    high = b.fsub(exact, second)
    low = b.fsub(b.fsub(b.fsub(exact, high), second), third)
    return b.fsub(b.fadd(high, low), fourth)


def _replace_huge(b: Builder, size: Val, near: Val, huge: Val, cosine: bool) -> Val:
    """`near`, and in the lanes of `huge` the result of the scalar function."""
    rare, done = b.label("huge"), b.label("reduced")
    before = b.current
    b.branch_if(any_lane(b, huge), rare, done)
    b.block(rare)
    far = _reduce_lanes(b, size, huge, cosine)
    chosen = b.select(huge, far, near)
    after = b.current
    b.branch(done)
    b.block(done)
    text = f"phi {near.type} [ {near.text}, %{before} ], [ {chosen.text}, %{after} ]"
    return b.op(near.type, text)


def _reduce_lanes(b: Builder, size: Val, huge: Val, cosine: bool) -> Val:
    """The scalar function in every lane of `huge`; an unimportant value in the others."""
    name = _scalar_function(b.module)
    half = Val("i64", str(1 << 62 if cosine else 0))
    scalar = element(size.type)

    def one(x: Val) -> Val:
        return b.cast("fptrunc", b.call("double", name, [b.cast("fpext", x, "double"), half]), scalar)

    safe = b.select(huge, size, b.const(size.type, LIMITS[scalar]))
    if lanes(size.type) == 1:
        return one(safe)
    stack = b.alloca(size.type, align=16)
    b.store(safe, stack, 16)

    def body(index: Val, carried: tuple[Val, ...]) -> tuple[Val, ...]:
        address = b.gep(stack, index, scalar)
        b.store(one(b.load(scalar, address)), address)
        return carried

    b.loop(0, lanes(size.type), 1, [], body, "lane")
    return b.load(size.type, stack, 16)


def _scalar_function(module: ModuleText) -> str:
    """The name of `double (double x, i64 half)`, 2^15 <= x: ±r modulo π, held once by a module.

    `half` is 0 for sine and 2^62 for cosine (half a turn of π in the fixed-point format
    below). x = m·2^e with 53 bits of m. Bits of 1/π whose weight times 2^e is 2 or more add
    even multiples of π; the 192 bits behind them give x/π modulo 2 with 127 fraction bits,
    and no double is nearer to a multiple of π/2 than 2^-62.
    """
    name = "graphc.reduce_modulo_pi"
    if module.has_function(name):
        return name
    b = module.function(
        name, "double", [("double", "x"), ("i64", "half")], linkage="internal",
        attributes="nounwind noinline cold memory(none)",
    )  # fmt: skip
    x, half = b.params
    bits = to_bits(b, x)

    def number(value: int, type_: str = "i64") -> Val:
        return b.const(type_, value)

    exponent = b.binary("lshr", bits, number(52))
    mantissa = b.or_(b.and_(bits, number((1 << 52) - 1)), number(1 << 52))
    # Bit j of 1/π (weight 2^-j) stands at position j + 63 of the table; the first needed is j = e.
    position = b.sub(exponent, number(1075 - 63))
    words = [int(INVERSE_PI_BITS[i : i + 16], 16) for i in range(0, len(INVERSE_PI_BITS), 16)]
    bits_table = module.table("i64", [str(w) for w in [0, *words]])
    start = b.gep(bits_table, b.binary("lshr", position, number(6)), "i64")
    loaded = [b.load("i64", b.gep(start, i, "i64")) for i in range(4)]
    offset = b.and_(position, number(63))
    window = [b.intrinsic("fshl", "i64", [loaded[i], loaded[i + 1], offset]) for i in range(3)]
    wide = b.cast("zext", mantissa, "i128")

    def product(word: Val) -> Val:
        return b.mul(wide, b.cast("zext", word, "i128"))

    shift = number(64, "i128")
    top = b.binary("shl", b.cast("zext", b.add(b.mul(mantissa, window[0]), half), "i128"), shift)
    turns = b.add(b.add(top, product(window[1])), b.binary("lshr", product(window[2]), shift))
    # turns = x/π (+ ½) modulo 2 in units of 2^-127. The nearest integer's parity, then the
    # signed distance to it in units of 2^-128.
    parity = b.binary("lshr", b.add(turns, number(1 << 126, "i128")), number(127, "i128"))
    distance = b.binary("shl", turns, number(1, "i128"))
    negative = b.icmp("slt", distance, number(0, "i128"))
    size = b.select(negative, b.sub(number(0, "i128"), distance), distance)
    zeros = b.op("i128", f"call i128 @llvm.ctlz.i128({size}, i1 false)")
    module.declare("llvm.ctlz.i128", "i128", ["i128", "i1 immarg"])
    leading = b.cast("trunc", b.binary("lshr", b.binary("shl", size, zeros), shift), "i64")
    scaled = b.mul(b.cast("zext", leading, "i128"), number(_PI_FIXED, "i128"))
    result = b.cast("trunc", b.binary("lshr", scaled, number(65, "i128")), "i64")
    # |r| = result·2^(-61 - zeros)
    down = b.sub(number(1023 - 61), b.cast("trunc", zeros, "i64"))
    scale = to_float(b, b.binary("shl", down, number(52)))
    r = b.fmul(b.cast("sitofp", result, "double"), scale)
    odd = b.cast("trunc", parity, "i1")
    flipped = b.select(b.xor(odd, negative), b.fneg(r), r)
    finite = b.fcmp("olt", x, b.const("double", float("inf")))
    b.ret(b.select(finite, flipped, b.const("double", float("nan"))))
    return name
