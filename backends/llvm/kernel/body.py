"""Emits scalar instructions in a scope: one call for a stage body, a combine body, an epilogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.backends.llvm.kernel import memory
from graphc.backends.llvm.kernel.convert import convert
from graphc.backends.llvm.kernel.scalar_ops import apply
from graphc.backends.llvm.kernel.scope import Scope
from graphc.backends.llvm.kernel.values import carrier, constant, round_to
from graphc.backends.llvm.math.exponential import exp
from graphc.backends.llvm.text import Builder, Val, lanes, vector
from graphc.ir.failure import BIAS, error_word
from graphc.ir.kernel import Combine, Instruction
from graphc.ir.types import int64

__all__ = ["combine", "run", "run_point"]


def run(scope: Scope, body: Iterable[Instruction]) -> None:
    """Emits every instruction whose result `scope` does not hold yet; a `yield` sets `scope.yields`."""
    for instruction in body:
        if instruction.id < 0 or instruction.id not in scope.values:
            _emit(scope, instruction)


def run_point(scope: Scope, body: Sequence[Instruction], varies: bool) -> None:
    """`run` for the whole body of a reduce stage, whose yields differ between lanes or not (`varies`).

    Where all its loads share a condition that is one for all lanes, it becomes a branch: windows and
    padding have points at which nothing is read, and those then cost next to nothing.
    """
    guards = {i.guards for i in body if i.opcode == "load" and i.id not in scope.values}
    common = next(iter(guards)) if len(guards) == 1 else ()
    condition = scope.guard(common).uniform if varies and common else None
    if condition is None:
        run(scope, body)
        return
    b = scope.builder
    labels = b.label("read"), b.label("skip")
    done = b.label("point")
    b.branch_if(condition, *labels)
    ends: list[tuple[str, tuple[Val, ...]]] = []
    for label, holds in zip(labels, (True, False), strict=True):
        b.block(label)
        inner = scope.assuming(common, holds)
        run(inner, body)
        yields = tuple(b.splat(v, scope.width) for v in inner.yields)
        ends.append((b.current, yields))
        b.branch(done)
    b.block(done)
    (first, yes), (second, no) = ends
    scope.yields = tuple(
        b.op(x.type, f"phi {x.type} [ {x.text}, %{first} ], [ {y.text}, %{second} ]")
        for x, y in zip(yes, no, strict=True)
    )


def combine(scope: Scope, how: Combine, left: tuple[Val, ...], right: tuple[Val, ...]) -> tuple[Val, ...]:
    """Folds two tuples of accumulators (left is the earlier one); widths of each pair agree."""
    width = max(lanes(v.type) for v in left)
    inner = scope.with_lanes(width)
    for number, value in zip((*how.left, *how.right), (*left, *right), strict=True):
        inner.set(number, value)
    run(inner, how.body)
    return tuple(inner.builder.splat(inner.value(r), width) for r in how.results)


def _emit(scope: Scope, i: Instruction) -> None:
    b = scope.builder
    match i.opcode:
        case "const":
            scope.set(i.id, constant(b, i.dtype, i.value))
        case "load":
            scope.set(i.id, memory.load(scope, i))
        case "store":
            memory.store(scope, i)
        case "yield":
            scope.yields = tuple(scope.value(o) for o in i.operands)
        case "index":
            scope.set(i.id, _index(scope, i))
        case "to_index":
            _to_index(scope, i)
        case "cast":
            source = scope.space.types[i.operands[0]]
            scope.set(i.id, convert(b, scope.value(i.operands[0]), source, i.dtype))
        case _:
            dtype = scope.space.types[i.operands[-1]]
            if i.opcode in ("eq", "ne") and (narrow := _with_position(scope, i)) is not None:
                scope.set(i.id, b.icmp(i.opcode, *narrow))
                return
            below = scope.space.below.get(i.operands[0]) if i.opcode == "exp" else None
            if below is not None:
                wide = max(lanes(scope.value(o).type) for o in below)
                least, most = (b.splat(scope.value(o), wide) for o in below)
                scope.set(i.id, exp(b, scope.value(i.operands[0]), b.fsub(most, least)))
                return
            scope.set(i.id, apply(b, i.opcode, dtype, scope.operands(i)))


def _index(scope: Scope, i: Instruction) -> Val:
    """An index expression as a number of the instruction's dtype."""
    b, expression = scope.builder, i.index[0]
    uniform = scope.offsets(expression)
    value = scope.dim(expression) if uniform is not None and not any(uniform) else scope.lane_dims(expression)
    width = lanes(value.type)
    if i.dtype.is_integral:
        return _resize(b, value, vector(carrier(i.dtype), width))
    if i.dtype.kind == "bool":
        return b.icmp("ne", value, b.const(value.type, 0))
    return round_to(b, i.dtype, b.cast("sitofp", value, vector(carrier(i.dtype), width)))


def _with_position(scope: Scope, i: Instruction) -> tuple[Val, Val] | None:
    """The operands of a comparison for equality in 32 bits, where one is a position in each lane and the other one
    a 64-bit number for all of them: one that is no position is -1 then."""
    b, space = scope.builder, scope.space
    for place, other in (i.operands, i.operands[::-1]):
        found, number = space.positions.get(place), scope.value(other)
        if found is None or space.types[other] is not int64 or lanes(number.type) > 1:
            continue
        positions = scope.lane_dims(found) if scope.width > 1 else number
        if positions.type != vector("i32", scope.width) or scope.width == 1:
            continue
        inside = b.icmp("ult", number, b.const("i64", 1 << 31))
        small = b.select(inside, b.cast("trunc", number, "i32"), b.const("i32", -1))
        return positions, b.splat(small, scope.width)
    return None


def _bits(value: Val) -> int:
    return int(value.type.rstrip(">").rpartition("i")[2])


def _resize(b: Builder, value: Val, type_: str) -> Val:
    """A signed integer with more or fewer bits."""
    if not value.text.startswith("%") and lanes(value.type) == 1:
        return b.const(type_, int(value.text))
    wanted = _bits(Val(type_, ""))
    return (
        b.cast("sext" if wanted > _bits(value) else "trunc", value, type_)
        if wanted != _bits(value)
        else value
    )


def _to_index(scope: Scope, i: Instruction) -> None:
    """Clamps an integer into [0, extent): 0 where it is outside, and the check's number reported."""
    b, number = scope.builder, i.operands[0]
    value = scope.value(number)
    width = lanes(value.type)
    wide = vector("i64", width)
    if value.type != wide:
        value = b.cast("zext" if scope.space.types[number].kind != "int" else "sext", value, wide)
    extent = b.splat(scope.dim(i.index[0]), width)
    inside = b.icmp("ult", value, extent)
    scope.set_symbol(f"%{i.id}", b.select(inside, value, b.const(wide, 0)))
    scope.set(i.id, value)
    if i.value is not None:
        _report(scope, value, inside, int(i.value) + 1)


def _report(scope: Scope, value: Val, inside: Val, code: int) -> None:
    """Lowers the error word to that of check `code` and the least `value` of a real lane outside."""
    b = scope.builder
    outside = found = b.xor(inside, b.const(inside.type, True))
    mask = scope.lane_mask()
    several = lanes(inside.type) > 1
    if several:
        if mask is not None:
            outside = b.and_(outside, mask)
        found = b.intrinsic("vector.reduce.or", "i1", [outside], overload=outside.type)
    with b.if_(found):
        wide = value.type
        clamped = b.intrinsic("smax", wide, [value, b.const(wide, -BIAS)])
        clamped = b.intrinsic("smin", wide, [clamped, b.const(wide, BIAS - 1)])
        word = b.add(clamped, b.const(wide, error_word(code, 0)))
        if several:
            word = b.select(outside, word, b.const(wide, -1))
            word = b.intrinsic("vector.reduce.umin", "i64", [word], overload=wide)
        b.emit(f"{_unused(b)} = atomicrmw umin {scope.space.error}, {word} monotonic")


def _unused(b: Builder) -> str:
    return f"%{b.label('old')}"
