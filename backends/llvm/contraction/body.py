"""Scalar bodies of a contraction kernel as vector code along one lane axis.

An instruction list becomes straight-line code for `width` neighbouring points of one axis.
Each lane's value is what the scalar body means; inactive lanes read nothing and store nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.llvm.contraction.axes import Env, constant, index_value, plus
from graphc.backends.llvm.text import Builder, Val, element, lanes, vector
from graphc.ir.dims import Dim, Symbol, split_linear
from graphc.ir.errors import CompileError
from graphc.ir.kernel import Instruction, KernelBuffer
from graphc.ir.scalar import Guard
from graphc.ir.types import DType, row_major_strides

__all__ = ["Point", "emit_body", "linear_offset", "llvm_type"]

_TYPES = {"bool": "i1", "f16": "half", "bf16": "bfloat", "f32": "float", "f64": "double"}


def llvm_type(dtype: DType) -> str:
    """LLVM's scalar type of a value in a register."""
    return _TYPES.get(dtype.name) or f"i{dtype.bits}"


def memory_type(dtype: DType) -> str:
    """LLVM's scalar type of an element in memory: a bool is a byte, a 16-bit float its bits.

    LLVM would route selects and inserts of 16-bit floats through float32 and library calls.
    """
    if dtype.kind == "bool":
        return "i8"
    return "i16" if dtype.kind == "float" and dtype.bits == 16 else llvm_type(dtype)


def linear_offset(buffer: KernelBuffer, index: Sequence[Dim]) -> Dim:
    """The row-major element offset of an index."""
    total: Dim = 0
    for i, stride in zip(index, row_major_strides(buffer.type.sizes), strict=True):
        total = total + i * stride
    return total


@dataclass(frozen=True)
class Point:
    """Where a body runs: axis values, and the lanes along one axis.

    `env[lane]` is the value in lane 0; the others follow it. `mask` (one bit per lane) marks the
    active lanes, None for all. `pointers` are the addresses of the kernel's buffers.
    """

    pointers: Sequence[Val]
    env: Env
    lane: Symbol | None
    width: int
    mask: Val | None = None

    def at_lane(self, builder: Builder, i: int) -> Env:
        """Axis values of lane `i`."""
        if self.lane is None or i == 0:
            return self.env
        return self.env | {self.lane: plus(builder, self.env[self.lane], constant(i))}


def emit_body(
    builder: Builder,
    buffers: Sequence[KernelBuffer],
    body: Sequence[Instruction],
    point: Point,
    values: dict[int, Val],
) -> None:
    """Emits `body` at `point`; `values` (scalar number to value) is read and extended."""
    for instruction in body:
        match instruction.opcode:
            case "load":
                values[instruction.id] = _load(builder, buffers, instruction, point, values)
            case "store":
                _store(builder, buffers, instruction, point, values[instruction.operands[0]])
            case "const":
                type_ = vector(llvm_type(instruction.dtype), point.width)
                values[instruction.id] = builder.const(type_, instruction.value)
            case "cast":
                values[instruction.id] = _cast(builder, values[instruction.operands[0]], instruction.dtype)
            case _:
                operands = [values[o] for o in instruction.operands]
                values[instruction.id] = _apply(builder, instruction, operands)


def _stride(offset: Dim, lane: Symbol | None) -> int | None:
    """Elements between neighbouring lanes; None where it is not constant."""
    split = split_linear(offset, lane) if lane is not None else (0, offset)
    return None if split is None else split[0]


def _guard_mask(builder: Builder, guards: Sequence[Guard], point: Point) -> Val | None:
    result = point.mask
    for expression, lower, upper in guards:
        shifted = index_value(builder, expression - lower, point.env)
        size = index_value(builder, upper - lower, point.env)
        stride = _stride(expression - lower, point.lane)
        if point.width == 1 or (stride == 0):
            inside = builder.splat(builder.icmp("ult", shifted, size), point.width)
        elif stride is not None:
            start = builder.splat(builder.op("i32", f"trunc {shifted} to i32"), point.width)
            steps = builder.vector_literal("i32", [str(stride * i) for i in range(point.width)])
            limit = builder.splat(builder.op("i32", f"trunc {size} to i32"), point.width)
            inside = builder.icmp("ult", builder.add(start, steps), limit)
        else:
            bits = [
                builder.icmp("ult", index_value(builder, expression - lower, point.at_lane(builder, i)), size)
                for i in range(point.width)
            ]
            inside = _gather(builder, bits)
        result = inside if result is None else builder.and_(result, inside)
    return result


def _gather(builder: Builder, scalars: Sequence[Val]) -> Val:
    result = Val(vector(scalars[0].type, len(scalars)), "poison")
    for i, scalar in enumerate(scalars):
        result = builder.insert(result, scalar, i)
    return result


def _load(
    builder: Builder,
    buffers: Sequence[KernelBuffer],
    load: Instruction,
    point: Point,
    values: dict[int, Val],
) -> Val:
    dtype = load.dtype
    scalar = memory_type(dtype)
    type_ = vector(scalar, point.width)
    offset = linear_offset(buffers[load.buffer], load.index)
    base = point.pointers[load.buffer]
    mask = _guard_mask(builder, load.guards, point)
    stride = _stride(offset, point.lane)
    align = dtype.itemsize
    if point.width > 1 and stride == 1:
        place = builder.gep(base, index_value(builder, offset, point.env), scalar)
        if mask is None:
            value = builder.load(type_, place, align)
        else:
            value = builder.masked_load(type_, place, mask, builder.const(type_, 0), align)
    elif point.width == 1 or (stride == 0 and not load.guards):
        at = index_value(builder, offset, point.env)
        if point.width == 1 and mask is not None:
            at = builder.select(mask, at, constant(0))
        value = builder.splat(builder.load(scalar, builder.gep(base, at, scalar), align), point.width)
    else:
        parts = []
        for i in range(point.width):
            at = index_value(builder, offset, point.at_lane(builder, i))
            if mask is not None:
                at = builder.select(builder.extract(mask, i), at, constant(0))
            parts.append(builder.load(scalar, builder.gep(base, at, scalar), align))
        value = _gather(builder, parts)
    held = vector(llvm_type(dtype), point.width)
    fill = values[load.operands[0]] if load.guards else None
    if dtype.kind == "bool":
        value = builder.icmp("ne", value, builder.const(type_, 0))
    elif fill is not None and held != type_:
        fill = builder.cast("bitcast", fill, type_)
    if fill is not None:
        assert mask is not None
        value = builder.select(mask, value, fill)
    return value if dtype.kind == "bool" else builder.cast("bitcast", value, held)


def _store(
    builder: Builder, buffers: Sequence[KernelBuffer], store: Instruction, point: Point, value: Val
) -> None:
    dtype = buffers[store.buffer].type.dtype
    scalar = memory_type(dtype)
    if dtype.kind == "bool":
        value = builder.cast("zext", value, vector(scalar, point.width))
    else:
        value = builder.cast("bitcast", value, vector(scalar, point.width))
    offset = linear_offset(buffers[store.buffer], store.index)
    base = point.pointers[store.buffer]
    mask = _guard_mask(builder, store.guards, point)
    if point.width > 1 and _stride(offset, point.lane) == 1:
        place = builder.gep(base, index_value(builder, offset, point.env), scalar)
        if mask is None:
            builder.store(value, place, dtype.itemsize)
        else:
            builder.masked_store(value, place, mask, dtype.itemsize)
        return
    for i in range(point.width):
        place = builder.gep(base, index_value(builder, offset, point.at_lane(builder, i)), scalar)
        if mask is None:
            builder.store(builder.extract(value, i), place, dtype.itemsize)
        else:
            with builder.if_(builder.extract(mask, i)):
                builder.store(builder.extract(value, i), place, dtype.itemsize)


def _cast(builder: Builder, x: Val, to: DType) -> Val:
    source, target = element(x.type), llvm_type(to)
    width = lanes(x.type)
    if source == target:
        return x
    if source == "bfloat" and target == "float":
        bits = builder.cast("bitcast", x, vector("i16", width))
        wide = builder.cast("zext", bits, vector("i32", width))
        shifted = builder.binary("shl", wide, builder.const(wide.type, 16))
        return builder.cast("bitcast", shifted, vector("float", width))
    if source == "float" and target == "bfloat":
        return _round_to_bfloat(builder, x, width)
    ranks = {"half": 0, "float": 1, "double": 2}
    if source in ranks and target in ranks:
        opcode = "fpext" if ranks[target] > ranks[source] else "fptrunc"
        return builder.cast(opcode, x, vector(target, width))
    if source == "i1" and target in ranks:
        return builder.cast("uitofp", x, vector(target, width))
    raise CompileError(f"contraction body: no cast from {source} to {to.name}")


def _round_to_bfloat(builder: Builder, x: Val, width: int) -> Val:
    """Round to nearest, ties to even, on the bits; NaN stays quiet NaN."""
    wide = vector("i32", width)
    bits = builder.cast("bitcast", x, wide)
    high = builder.binary("lshr", bits, builder.const(wide, 16))
    odd = builder.and_(high, builder.const(wide, 1))
    rounded = builder.add(bits, builder.add(odd, builder.const(wide, 0x7FFF)))
    nan = builder.fcmp("uno", x, x)
    quiet = builder.or_(bits, builder.const(wide, 0x400000))
    chosen = builder.select(nan, quiet, rounded)
    half = builder.cast("trunc", builder.binary("lshr", chosen, builder.const(wide, 16)), vector("i16", width))
    return builder.cast("bitcast", half, vector("bfloat", width))


_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_COMPARE = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}


def _apply(builder: Builder, instruction: Instruction, x: list[Val]) -> Val:
    opcode = instruction.opcode
    if opcode == "select":
        return builder.select(x[0], x[1], x[2])
    if element(x[0].type) in ("float", "double"):
        if opcode in _FLOAT:
            return builder.binary(_FLOAT[opcode], x[0], x[1])
        if opcode in _COMPARE:
            return builder.fcmp(_COMPARE[opcode], x[0], x[1])
        if opcode == "fma":
            return builder.fma(x[0], x[1], x[2])
        if opcode == "neg":
            return builder.fneg(x[0])
        if opcode in ("max", "min"):
            # x > y ? x : y with NaN from either side.
            better = builder.fcmp("ogt" if opcode == "max" else "olt", x[0], x[1])
            keep = builder.or_(better, builder.fcmp("uno", x[0], x[0]))
            return builder.select(keep, x[0], x[1])
    raise CompileError(f"contraction body: no {opcode} of {element(x[0].type)}")
