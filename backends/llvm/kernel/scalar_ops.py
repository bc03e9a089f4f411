"""Every scalar opcode on carried values, one emission for scalars and vectors alike.

Meanings are those of `graphc.ir.scalar`, made total: integer division by zero gives 0, a shift
by the width or more gives 0, and the equal-operands case of `min` and `max` returns the first
operand. Results of 16-bit dtypes are rounded once, except where they are on the grid already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.backends.llvm.kernel.remainder import remainder
from graphc.backends.llvm.kernel.values import round_to
from graphc.backends.llvm.math import FUNCTIONS
from graphc.backends.llvm.text import Builder, Val, lanes, vector
from graphc.ir.errors import CompileError
from graphc.ir.types import DType

__all__ = ["apply", "extremum_of_numbers"]

_EXACT = frozenset(
    ("neg", "abs", "min", "max", "select", "floor", "ceil", "trunc", "round", "rem", "not", "is_nan")
)
"""Opcodes whose float result is on the operands' grid, so that rounding would change nothing."""

_ORDERED = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_BITWISE = {"and": "and", "or": "or", "xor": "xor"}
_BOOL = {**_BITWISE, "add": "or", "max": "or", "mul": "and", "min": "and"}


def apply(b: Builder, opcode: str, dtype: DType, operands: Sequence[Val]) -> Val:
    """`opcode` of operands of `dtype` (the last two operands' dtype for `select`) with equal lanes.

    Comparisons and `is_nan` give bool, everything else `dtype`.
    """
    if opcode == "select":
        return b.select(*operands)
    if opcode in _ORDERED:
        return _compare(b, opcode, dtype, *operands)
    if dtype.kind == "float":
        result = _float(b, opcode, operands)
        return result if opcode in _EXACT else round_to(b, dtype, result)
    if opcode == "is_nan":
        return Val(
            vector("i1", lanes(operands[0].type)), b.const(vector("i1", lanes(operands[0].type)), False).text
        )
    if dtype.kind == "bool":
        return _bool(b, opcode, operands)
    return _integer(b, opcode, dtype, operands)


def _unsupported(opcode: str, dtype: str) -> CompileError:
    return CompileError(f"scalar opcode {opcode!r} is not defined for {dtype}")


def _compare(b: Builder, opcode: str, dtype: DType, x: Val, y: Val) -> Val:
    if dtype.kind == "float":
        return b.fcmp(_ORDERED[opcode], x, y)
    if opcode in ("eq", "ne"):
        return b.icmp(opcode, x, y)
    return b.icmp(("s" if dtype.kind == "int" else "u") + opcode, x, y)


def _float(b: Builder, opcode: str, x: Sequence[Val]) -> Val:
    if opcode in _FLOAT:
        return b.binary(_FLOAT[opcode], x[0], x[1])
    match opcode:
        case "neg":
            return b.fneg(x[0])
        case "abs":
            return b.intrinsic("fabs", x[0].type, [x[0]])
        case "is_nan":
            return b.fcmp("uno", x[0], x[0])
        case "min" | "max":
            return _float_extremum(b, "olt" if opcode == "min" else "ogt", x[0], x[1])
        case "fma":
            return b.fma(x[0], x[1], x[2])
        case "rem":
            return remainder(b, x[0], x[1])
    if opcode in FUNCTIONS:
        return FUNCTIONS[opcode](b, *x)
    raise _unsupported(opcode, "floats")


def _float_extremum(b: Builder, beats: str, x: Val, y: Val) -> Val:
    """y where it beats x, else x (so NaN in x stays); and y where it is NaN itself."""
    better = b.select(b.fcmp(beats, y, x), y, x)
    return b.select(b.fcmp("uno", y, y), y, better)


def extremum_of_numbers(b: Builder, opcode: str, x: Val, y: Val) -> Val:
    """`min` or `max` of floats where y is no NaN; x where it is one."""
    return b.select(b.fcmp("olt" if opcode == "min" else "ogt", y, x), y, x)


def _bool(b: Builder, opcode: str, x: Sequence[Val]) -> Val:
    if opcode in _BOOL:
        return b.binary(_BOOL[opcode], x[0], x[1])
    if opcode == "not":
        return b.xor(x[0], b.const(x[0].type, True))
    if opcode == "abs":
        return x[0]
    raise _unsupported(opcode, "bool")


def _integer(b: Builder, opcode: str, dtype: DType, x: Sequence[Val]) -> Val:
    if opcode in ("add", "sub", "mul", "and", "or", "xor"):
        return b.binary(opcode, x[0], x[1])
    emitter = _INTEGER.get(opcode)
    if emitter is None:
        raise _unsupported(opcode, dtype.name)
    return emitter(b, dtype, x)


def _negate(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
    return b.sub(b.const(x[0].type, 0), x[0])


def _invert(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
    return b.xor(x[0], b.const(x[0].type, -1))


def _absolute(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
    if dtype.kind == "uint":
        return x[0]
    return b.select(b.icmp("slt", x[0], b.const(x[0].type, 0)), _negate(b, dtype, x), x[0])


def _same(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
    return x[0]


def _extremum(predicate: str) -> Callable[[Builder, DType, Sequence[Val]], Val]:
    def emit(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
        sign = "s" if dtype.kind == "int" else "u"
        return b.select(b.icmp(sign + predicate, x[1], x[0]), x[1], x[0])

    return emit


def _literal(x: Val) -> int | None:
    """The value of an integer constant (each lane the same), or None."""
    text = x.text.removeprefix("splat (").removesuffix(")").split(" ")[-1]
    return int(text) if text.lstrip("-").isdigit() else None


def _divide(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
    return _quotient(b, dtype, "div", x[0], x[1])


def _remainder(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
    return _quotient(b, dtype, "rem", x[0], x[1])


def _quotient(b: Builder, dtype: DType, stem: str, x: Val, y: Val) -> Val:
    """Division without the cases LLVM leaves undefined: by 0, and the least integer by -1."""
    opcode = ("s" if dtype.kind == "int" else "u") + stem
    zero, one = b.const(x.type, 0), b.const(x.type, 1)
    divisor = _literal(y)
    if divisor == 0:
        return zero
    if divisor is not None and divisor != -1:
        return b.binary(opcode, x, y)
    none = b.icmp("eq", y, zero)
    if dtype.kind == "uint":
        return b.select(none, zero, b.binary(opcode, x, b.select(none, one, y)))
    minus = b.icmp("eq", y, b.const(y.type, -1))
    whole = b.binary(opcode, x, b.select(b.or_(none, minus), one, y))
    opposite = b.sub(zero, x) if stem == "div" else zero
    return b.select(none, zero, b.select(minus, opposite, whole))


def _shift(opcode: str) -> Callable[[Builder, DType, Sequence[Val]], Val]:
    def emit(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
        amount = _literal(x[1])
        zero = b.const(x[0].type, 0)
        if amount is not None:
            return b.binary(opcode, x[0], x[1]) if 0 <= amount < dtype.bits else zero
        fits = b.icmp("ult", x[1], b.const(x[1].type, dtype.bits))
        return b.select(fits, b.binary(opcode, x[0], b.select(fits, x[1], zero)), zero)

    return emit


def _high_product(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
    """High half of the unsigned product of the operands' bits."""
    wide = vector(f"i{2 * dtype.bits}", lanes(x[0].type))
    product = b.mul(b.cast("zext", x[0], wide), b.cast("zext", x[1], wide))
    return b.cast("trunc", b.binary("lshr", product, b.const(wide, dtype.bits)), x[0].type)


def _power(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
    """x^y by squaring, wrapping. A negative exponent gives 1/x^|y| truncated: 0 unless x is 1 or -1."""
    base, exponent = x
    zero, one = b.const(base.type, 0), b.const(base.type, 1)

    def step(_: Val, carried: tuple[Val, ...]) -> Sequence[Val]:
        result, square, left = carried
        odd = b.icmp("ne", b.and_(left, one), zero)
        return (
            b.select(odd, b.mul(result, square), result),
            b.mul(square, square),
            b.binary("lshr", left, one),
        )

    result = b.loop(0, dtype.bits, 1, (one, base, exponent), step, "power")[0]
    if dtype.kind == "uint":
        return result
    parity = b.select(b.icmp("ne", b.and_(exponent, one), zero), base, one)
    unit = b.or_(b.icmp("eq", base, one), b.icmp("eq", base, b.const(base.type, -1)))
    inverse = b.select(unit, parity, zero)
    return b.select(b.icmp("slt", exponent, zero), inverse, result)


def _multiply_add(b: Builder, dtype: DType, x: Sequence[Val]) -> Val:
    return b.add(b.mul(x[0], x[1]), x[2])


_INTEGER: dict[str, Callable[[Builder, DType, Sequence[Val]], Val]] = {
    "neg": _negate,
    "not": _invert,
    "abs": _absolute,
    "floor": _same,
    "ceil": _same,
    "trunc": _same,
    "round": _same,
    "min": _extremum("lt"),
    "max": _extremum("gt"),
    "div": _divide,
    "rem": _remainder,
    "shl": _shift("shl"),
    "shr": _shift("lshr"),
    "mulhi": _high_product,
    "pow": _power,
    "fma": _multiply_add,
}
