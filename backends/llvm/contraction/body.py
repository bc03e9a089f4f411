"""Scalar bodies of a contraction kernel as vector code along one lane axis.

An instruction list becomes straight-line code for `width` neighbouring points of one axis.
Each lane's value is what the scalar body means; inactive lanes read nothing and store nothing.
Loads and stores hold one linear offset as their index.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.contraction.axes import Env, constant, index_value, plus
from graphc.backends.llvm.kernel.convert import convert
from graphc.backends.llvm.kernel.lanes import LaneAxis
from graphc.backends.llvm.kernel.scalar_ops import apply
from graphc.backends.llvm.kernel.values import constant as scalar_constant
from graphc.backends.llvm.kernel.values import from_memory, memory_type, to_memory
from graphc.backends.llvm.text import Builder, Val, element, lanes, vector
from graphc.ir.dims import Dim, Symbol
from graphc.ir.kernel import Instruction, KernelBuffer
from graphc.ir.records import dataclass
from graphc.ir.scalar import Guard
from graphc.ir.types import DType, int64, symbolic_strides

__all__ = [
    "Point",
    "Scalars",
    "emit_body",
    "emit_body_at_all",
    "gather",
    "guard_mask",
    "joined",
    "lane_step",
    "linear_offset",
]

Scalars = dict[int, tuple[DType, Val]]
"""Scalar number to its dtype and its value (one vector of lanes, in the dtype's carrier)."""


def lane_step(lanes: LaneAxis, expression: Dim) -> int | None:
    """By how much an expression grows from lane to lane; None where that is not constant."""
    offsets = lanes.offsets(expression)
    if offsets is None:
        return None
    step = offsets[1] if lanes.width > 1 else 0
    return step if offsets == tuple(step * i for i in range(lanes.width)) else None


def linear_offset(buffer: KernelBuffer, index: Sequence[Dim]) -> Dim:
    """The row-major element offset of an index."""
    total: Dim = 0
    for i, stride in zip(index, symbolic_strides(buffer.type.shape), strict=True):
        total = total + i * stride
    return total


@dataclass(frozen=True)
class Point:
    """Where a body runs: axis values, and the lanes along one axis.

    `env[lane]` is the value in lane 0, a multiple of `aligned`; the others follow it. `mask` (one bit per lane) marks the
    active lanes, None for all. `pointers` are the addresses of the kernel's buffers.
    """

    pointers: Sequence[Val]
    env: Env
    lane: Symbol | None
    width: int
    mask: Val | None = None
    aligned: int = 1

    def step(self, expression: Dim) -> int | None:
        """By how much an expression grows from lane to lane; None where that is not constant."""
        if self.lane is None or self.width == 1:
            return 0
        return lane_step(LaneAxis(self.lane.name, self.width, self.aligned), expression)

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
    scalars: Scalars,
) -> None:
    """Emits `body` at `point`; `scalars` is read and extended."""
    for instruction in body:
        dtype = instruction.dtype
        operands = [scalars[o] for o in instruction.operands]
        match instruction.opcode:
            case "load":
                fill = operands[0][1] if instruction.guards else None
                value = _load(builder, buffers, instruction, point, fill)
            case "store":
                _store(builder, buffers, instruction, point, operands[0][1])
                continue
            case "const":
                value = builder.splat(scalar_constant(builder, dtype, instruction.value), point.width)
            case "index":
                value = _index(builder, instruction.index[0], dtype, point)
            case "cast":
                value = convert(builder, operands[0][1], operands[0][0], dtype)
            case opcode:
                value = apply(builder, opcode, operands[-1][0], [v for _, v in operands])
        scalars[instruction.id] = (dtype, value)


def emit_body_at_all(
    builder: Builder,
    buffers: Sequence[KernelBuffer],
    body: Sequence[Instruction],
    points: Sequence[Point],
    scalars: Scalars,
) -> None:
    """Emits `body` at several points of one width, without masks, their number a power of two: each step of all
    of them before the next step. Values in `scalars` have the lanes of all points one after the other.
    """
    width = points[0].width
    total = width * len(points)
    for instruction in body:
        dtype = instruction.dtype
        operands = [scalars[o] for o in instruction.operands]
        match instruction.opcode:
            case "load":
                value = joined(builder, [_load(builder, buffers, instruction, p, None) for p in points])
            case "store":
                for i, p in enumerate(points):
                    value = operands[0][1]
                    part = (
                        builder.extract(value, i)
                        if width == 1
                        else builder.shuffle(value, None, range(i * width, (i + 1) * width))
                    )
                    _store(builder, buffers, instruction, p, part)
                continue
            case "const":
                value = builder.splat(scalar_constant(builder, dtype, instruction.value), total)
            case "index":
                value = joined(builder, [_index(builder, instruction.index[0], dtype, p) for p in points])
            case "cast":
                value = convert(builder, operands[0][1], operands[0][0], dtype)
            case opcode:
                value = apply(builder, opcode, operands[-1][0], [v for _, v in operands])
        scalars[instruction.id] = (dtype, value)


def joined(builder: Builder, parts: Sequence[Val]) -> Val:
    """The lanes of all parts one after the other."""
    if lanes(parts[0].type) == 1:
        return parts[0] if len(parts) == 1 else gather(builder, parts)
    while len(parts) > 1:
        size = 2 * lanes(parts[0].type)
        parts = [builder.shuffle(a, b, range(size)) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def guard_mask(builder: Builder, guards: Sequence[Guard], point: Point) -> Val | None:
    """The point's lanes at which all guards hold; None for all lanes."""
    result = point.mask
    for expression, lower, upper in guards:
        shifted = index_value(builder, expression - lower, point.env)
        size = index_value(builder, upper - lower, point.env)
        stride = point.step(expression - lower)
        if point.width == 1 or stride == 0:
            inside = builder.splat(builder.icmp("ult", shifted, size), point.width)
        elif stride is not None:
            start = builder.splat(_narrow(builder, shifted), point.width)
            steps = builder.vector_literal("i32", [str(stride * i) for i in range(point.width)])
            limit = builder.splat(_narrow(builder, size), point.width)
            inside = builder.icmp("ult", builder.add(start, steps), limit)
        else:
            bits = [
                builder.icmp("ult", index_value(builder, expression - lower, point.at_lane(builder, i)), size)
                for i in range(point.width)
            ]
            inside = gather(builder, bits)
        result = inside if result is None else builder.and_(result, inside)
    return result


def _narrow(builder: Builder, x: Val) -> Val:
    """An i64 as an i32."""
    if x.text.lstrip("-").isdigit():
        return Val("i32", x.text)
    return builder.op("i32", f"trunc {x} to i32")


def gather(builder: Builder, scalars: Sequence[Val]) -> Val:
    """A vector of the scalars."""
    result = Val(vector(scalars[0].type, len(scalars)), "poison")
    for i, scalar in enumerate(scalars):
        result = builder.insert(result, scalar, i)
    return result


def _index(builder: Builder, expression: Dim, dtype: DType, point: Point) -> Val:
    stride = point.step(expression)
    if stride is None:
        lanes = [index_value(builder, expression, point.at_lane(builder, i)) for i in range(point.width)]
        return convert(builder, gather(builder, lanes), int64, dtype)
    value = builder.splat(index_value(builder, expression, point.env), point.width)
    if stride and point.width > 1:
        steps = builder.vector_literal("i64", [str(stride * i) for i in range(point.width)])
        value = builder.add(value, steps)
    return convert(builder, value, int64, dtype)


def _load(
    builder: Builder,
    buffers: Sequence[KernelBuffer],
    load: Instruction,
    point: Point,
    fill: Val | None,
) -> Val:
    dtype = load.dtype
    scalar = memory_type(dtype)
    type_ = vector(scalar, point.width)
    offset = load.index[0]
    base = point.pointers[load.buffer]
    mask = guard_mask(builder, load.guards, point)
    stride = point.step(offset)
    align = dtype.itemsize
    if point.width > 1 and stride == 1:
        place = builder.gep(base, index_value(builder, offset, point.env), scalar)
        if mask is None:
            raw = builder.load(type_, place, align)
        else:
            raw = builder.masked_load(type_, place, mask, builder.const(type_, 0), align)
    elif point.width == 1 or (stride == 0 and not load.guards):
        at = index_value(builder, offset, point.env)
        if point.width == 1 and mask is not None:
            at = builder.select(mask, at, constant(0))
        raw = builder.splat(builder.load(scalar, builder.gep(base, at, scalar), align), point.width)
    elif stride == 2 and point.width >= 4:
        raw = _every_other(
            builder, type_, builder.gep(base, index_value(builder, offset, point.env), scalar), mask, align
        )
    else:
        parts = []
        for i in range(point.width):
            at = index_value(builder, offset, point.at_lane(builder, i))
            if mask is not None:
                at = builder.select(builder.extract(mask, i), at, constant(0))
            parts.append(builder.load(scalar, builder.gep(base, at, scalar), align))
        raw = gather(builder, parts)
    value = from_memory(builder, dtype, raw)
    if fill is not None:
        assert mask is not None
        value = builder.select(mask, value, fill)
    return value


def _every_other(builder: Builder, type_: str, place: Val, mask: Val | None, align: int) -> Val:
    """Lane i from element 2·i after `place`: two vectors, of which the second ends with the last lane's element."""
    width = lanes(type_)
    half = width // 2
    taken = (range(0, width, 2), range(1, width, 2))
    vectors = []
    for part, chosen in enumerate(taken):
        at = builder.gep(place, part * (width - 1), element(type_))
        if mask is None:
            vectors.append(builder.load(type_, at, align))
            continue
        spread = [width] * width
        for i, lane in enumerate(chosen):
            spread[lane] = part * half + i
        inside = builder.shuffle(mask, builder.const(mask.type, False), spread)
        vectors.append(builder.masked_load(type_, at, inside, builder.const(type_, 0), align))
    even, odd = vectors
    return builder.shuffle(even, odd, [*taken[0], *(width + i for i in taken[1])])


def _store(
    builder: Builder, buffers: Sequence[KernelBuffer], store: Instruction, point: Point, value: Val
) -> None:
    dtype = buffers[store.buffer].type.dtype
    scalar = memory_type(dtype)
    value = to_memory(builder, dtype, value)
    offset = store.index[0]
    base = point.pointers[store.buffer]
    mask = guard_mask(builder, store.guards, point)
    if point.width > 1 and point.step(offset) == 1:
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
