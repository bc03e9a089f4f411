"""Products along an outer axis of symbolic size: blocks of fixed sizes, one behind the other.

Where every buffer is read and written at constant strides along such an axis, a block of it is a kernel of fixed
shape on other addresses. So one function for each of a few sizes of block serves every size, with the very code
of fixed shapes, and with its bits: an element's sum depends on the steps of k alone, not on how many rows there are.

Blocks of the largest size are divided among partitions where there are enough; every other block is divided itself.
Numbers that count along the axis (those of random draws, positions) begin at what stands in one more buffer, which the
kernel of a block reads.
What is left at the end is a block that begins in the one before where that costs less: its rows are made twice, alike.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import prod

from graphc.backends.llvm.contraction.axes import constant, size_value
from graphc.backends.llvm.contraction.body import linear_offset
from graphc.backends.llvm.contraction.tiling import block_steps
from graphc.backends.llvm.kernel.values import memory_type
from graphc.backends.llvm.text import Builder, Val
from graphc.ir.dims import Dim, Symbol, size_symbols, split_linear, substitute
from graphc.ir.dims import symbols as symbols_of
from graphc.ir.kernel import (
    Instruction,
    Kernel,
    KernelBuffer,
    Stage,
    extent,
    kernel_sizes,
    new_axis,
    replace_symbols,
    size_of,
)
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType, int64

__all__ = ["Blocks", "at_sizes", "blocks_of", "emit_blocks", "emit_sum", "parts_of_sum"]

_SIZES = (64, 32, 8, 4, 2, 1)
_FEW_SIZES = (8, 1)
_SMALL = 8
"""Blocks up to this size take about as long as one row: the operand that all rows share is read once for each."""
_ROWS = 64
"""Points of the other outer axes from which smaller blocks are large enough."""


@dataclass(frozen=True)
class Blocks:
    """A kernel as blocks of `sizes` (largest first, the last 1) of `count` units: of its only symbolic size, or of
    points of `axis`, where its buffers are lines.

    `strides` are the elements from one unit to the next, by buffer.
    """

    kernel: Kernel
    count: Dim
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    fold: int = 0
    """Of parts of a sum: the steps of its folds."""
    axis: Symbol | None = None
    starts: tuple[tuple[int, Dim], ...] = ()
    """Of numbers in the kernel that count along the axis: by how much they grow with a point of it, and what they begin
    at. A block has one more buffer with what its own numbers begin at."""

    @property
    def repeatable(self) -> bool:
        """True where a unit may be computed twice: nothing that is written is read."""
        buffers = zip(self.kernel.buffers, self.strides, strict=True)
        return all(b.access == "in" or (b.access == "out" and stride) for b, stride in buffers)

    def fixed(self, size: int) -> Kernel:
        """The kernel of a block."""
        kernel = self._counting() if self.starts else self.kernel
        if self.axis is None:
            (symbol,) = kernel_sizes(self.kernel)
            return at_sizes(kernel, {symbol: size})
        found = at_axis(kernel, self.axis, new_axis(self.axis.name, size))
        buffers = tuple(
            b
            if b.type.is_static
            else KernelBuffer(TensorType(b.type.dtype, (max(1, abs(stride)) * size,)), b.access)
            for b, stride in zip(found.buffers, (*self.strides, 0), strict=False)
        )
        return dataclasses.replace(found, buffers=buffers)

    def _counting(self) -> Kernel:
        """The kernel with what its numbers begin at in a last buffer."""
        (axis,) = [a for a in self.kernel.axes if a.size is not None]
        combined = [i for s in self.kernel.stages if s.combine for i in s.combine.body]
        fresh = itertools.count(1 + max(i.id for i in (*self.kernel.instructions(), *combined)))

        def body(stage: Stage) -> Iterator[Instruction]:
            for i in stage.body:
                start = _counted(i, axis)
                if start is None:
                    yield i
                    continue
                first, local = next(fresh), next(fresh)
                at = self.starts.index(start)
                yield Instruction(first, "load", int64, buffer=len(self.kernel.buffers), index=(at,))
                yield dataclasses.replace(i, id=local, index=(i.index[0] - start[1],))
                yield Instruction(i.id, "add", int64, (first, local))

        return dataclasses.replace(
            self.kernel,
            buffers=(*self.kernel.buffers, KernelBuffer(TensorType(int64, (len(self.starts),)), "in")),
            stages=tuple(dataclasses.replace(s, body=tuple(body(s))) for s in self.kernel.stages),
        )

    @property
    def points(self) -> int:
        """Points of the axis of symbolic size in a unit."""
        if self.axis is not None:
            return 1
        (axis,) = [a for a in self.kernel.axes if a.size is not None]
        split = split_linear(size_of(axis), kernel_sizes(self.kernel)[0])
        assert split is not None
        return split[0]

    def count_at(self, sizes: Mapping[Symbol, int]) -> int:
        """The number of units at given sizes."""
        return int(substitute(self.count, dict(sizes)))


def at_axis(kernel: Kernel, old: Symbol, new: Symbol) -> Kernel:
    """The kernel with another axis in the place of one, without a schedule."""
    stages = tuple(
        dataclasses.replace(s, body=tuple(replace_symbols(i, {old: new.expr}) for i in s.body))
        for s in kernel.stages
    )
    return Kernel(kernel.buffers, tuple(new if a == old else a for a in kernel.axes), stages, kernel.checks)


def at_sizes(kernel: Kernel, sizes: Mapping[Symbol, Dim]) -> Kernel:
    """The kernel at given sizes, without a schedule."""
    axes = {
        a: new_axis(a.name, substitute(size_of(a), sizes)) for a in _all_axes(kernel) if a.size is not None
    }
    values: dict[Symbol, Dim] = {**sizes, **{a: b.expr for a, b in axes.items()}}

    stages = tuple(
        dataclasses.replace(
            s,
            axes=tuple(axes.get(a, a) for a in s.axes),
            body=tuple(replace_symbols(i, values) for i in s.body),
        )
        for s in kernel.stages
    )
    buffers = tuple(
        KernelBuffer(TensorType(b.type.dtype, tuple(substitute(d, sizes) for d in b.type.shape)), b.access)
        for b in kernel.buffers
    )
    return Kernel(buffers, tuple(axes.get(a, a) for a in kernel.axes), stages, kernel.checks)


def _all_axes(kernel: Kernel) -> tuple[Symbol, ...]:
    return (*kernel.axes, *(a for s in kernel.stages for a in s.axes))


def blocks_of(kernel: Kernel) -> Blocks | None:
    """The blocks of a kernel; None where not just one outer axis has a symbolic size, or its places are not
    at constant strides."""
    symbols = kernel_sizes(kernel)
    axes = [a for a in _all_axes(kernel) if a.size is not None]
    if len(axes) != 1 or axes[0] not in kernel.axes:
        return None
    (axis,) = axes
    counting = [(i, start) for i in kernel.instructions() if (start := _counted(i, axis)) is not None]
    strides = _strides(kernel, axis, [i for i, _ in counting])
    if strides is None:
        return None
    starts = tuple(dict.fromkeys(start for _, start in counting))
    others = 1
    for a in kernel.axes:
        others *= 1 if a is axis else size_of(a)  # type: ignore[assignment]
    lengths = _FEW_SIZES if others >= _ROWS * 16 else _SIZES
    split = split_linear(size_of(axis), symbols[0])
    if len(symbols) == 1 and split is not None and split[1] == 0:
        steps = tuple(stride * split[0] for stride in strides)
        return Blocks(kernel, symbols[0].expr, lengths, steps, starts=starts)
    if any(b.type.rank > 1 and not b.type.is_static for b in kernel.buffers):
        return None
    return Blocks(kernel, size_of(axis), lengths, strides, axis=axis, starts=starts)


def _counted(i: Instruction, axis: Symbol) -> tuple[int, Dim] | None:
    """By how much a number grows with each point of an axis, and its part that depends on sizes alone; None of what
    depends on neither, or otherwise."""
    if i.opcode != "index" or i.dtype is not int64:
        return None
    along = split_linear(i.index[0], axis)
    if along is None:
        return None
    sizes = size_symbols(along[1])
    start = substitute(along[1], dict.fromkeys(symbols_of(along[1]) - sizes, 0)) if sizes else 0
    return None if (along[0] == 0 and not sizes) or size_symbols(along[1] - start) else (along[0], start)


def _strides(kernel: Kernel, axis: Symbol, apart: Collection[Instruction] = ()) -> tuple[int, ...] | None:
    """By how many elements the places in each buffer move along an axis; None where that is not constant, or
    something else but the numbers `apart` depends on the axis or on a symbolic size."""
    strides: dict[int, int] = {}
    for i in kernel.instructions():
        if any(i is number for number in apart):
            continue
        places = [e for g in i.guards for e in g]
        if i.opcode in ("load", "store"):
            offset = linear_offset(kernel.buffers[i.buffer], i.index)
            along = split_linear(offset, axis)
            if along is None or size_symbols(offset) or strides.setdefault(i.buffer, along[0]) != along[0]:
                return None
        else:
            places += i.index
        if any(size_symbols(x) or split_linear(x, axis) != (0, x) for x in places):
            return None
    return tuple(strides.get(n, 0) for n in range(len(kernel.buffers)))


def parts_of_sum(kernel: Kernel) -> Blocks | None:
    """The blocks of one along an outermost k axis of symbolic size, where a sum's folds never cross from one to
    the next and are the same for any number of them; None of any other kernel."""
    symbols, steps = kernel_sizes(kernel), kernel.stages[0].axes
    inner = [a for a in steps[1:] if size_of(a) != 1]
    if len(symbols) != 1 or not inner or any(a.size is not None for a in (*kernel.axes, *inner)):
        return None
    if size_of(steps[0]) != symbols[0].expr:
        return None
    extents = [extent(a) for a in inner]
    folds = {block_steps(n, *extents) for n in (2, 3, 64, 1000)}
    if len(folds) != 1 or prod(extents) % (fold := folds.pop()):
        return None
    strides = _strides(kernel, steps[0])
    return None if strides is None else Blocks(kernel, symbols[0].expr, (1,), strides, fold)


def emit_sum(found: Blocks, builder: Builder, function: str, scratch: bool) -> None:
    """Emits the body of the kernel function, which adds up the sums of all parts in order."""
    kernel = found.kernel
    count = len(kernel.buffers)
    pointers, size, table = _opened(found, builder)
    part, parts, error = builder.params[1:]
    flag = builder.alloca("i64", 2)
    last = builder.sub(size, constant(1))
    builder.store(flag, builder.gep(table, count, "ptr"), 8)
    if scratch:
        place = builder.load("ptr", builder.gep(builder.params[0], count + 1, "ptr"), 8)
        builder.store(place, builder.gep(table, count + 1, "ptr"), 8)

    def one(i: Val, _: tuple[Val, ...]) -> list[Val]:
        builder.store(i, flag, 8)
        completes = builder.select(builder.icmp("eq", i, last), constant(1), constant(0))
        builder.store(completes, builder.gep(flag, 1, "i64"), 8)
        _place(found, builder, pointers, table, i)
        builder.call_void(function, [table, part, parts, error])
        return []

    builder.loop(constant(0), size, 1, (), one, "part")
    # A sum of nothing is +0, which the results of such a kernel hold as they are.
    nothing = builder.and_(builder.icmp("eq", size, constant(0)), builder.icmp("eq", part, constant(0)))
    with builder.if_(nothing):
        for n, b in enumerate(kernel.buffers):
            if b.access == "out":
                scalar = memory_type(b.type.dtype)

                def clear(i: Val, _: tuple[Val, ...], n: int = n, scalar: str = scalar) -> list[Val]:
                    builder.store(builder.const(scalar, 0), builder.gep(pointers[n], i, scalar))
                    return []

                builder.loop(0, b.type.numel, 1, (), clear, "clear")


def _opened(found: Blocks, builder: Builder) -> tuple[list[Val], Val, Val]:
    """The addresses of buffers, the number of units, and room for a table of addresses."""
    buffers, count = builder.params[0], len(found.kernel.buffers)
    pointers = [builder.load("ptr", builder.gep(buffers, n, "ptr"), 8) for n in range(count)]
    array = builder.load("ptr", builder.gep(buffers, count, "ptr"), 8)
    for n, symbol in enumerate(kernel_sizes(found.kernel)):
        builder.sizes[symbol.name] = builder.load("i64", builder.gep(array, n, "i64"), 8)
    return pointers, size_value(builder, found.count), builder.alloca("ptr", count + 3)


def _place(found: Blocks, builder: Builder, pointers: Sequence[Val], table: Val, first: Val) -> None:
    """Writes the addresses of the block that begins at `first`."""
    for n, (pointer, stride) in enumerate(zip(pointers, found.strides, strict=True)):
        at = pointer
        if stride:
            step = stride * found.kernel.buffers[n].type.dtype.itemsize
            at = builder.gep(pointer, builder.mul(first, constant(step)), "i8")
        builder.store(at, builder.gep(table, n, "ptr"), 8)


def emit_blocks(
    found: Blocks, builder: Builder, functions: Mapping[int, str], alone: str | None, scratch: bool
) -> None:
    """Emits the body of the kernel function, which calls a function for each size of block, or that for a single
    unit `alone`."""
    count = len(found.kernel.buffers)
    part, parts, error = builder.params[1:]
    pointers, size, table = _opened(found, builder)
    numbers = builder.alloca("i64", max(1, len(found.starts)))
    if found.starts:
        builder.store(numbers, builder.gep(table, count, "ptr"), 8)
    if scratch:
        place = builder.load("ptr", builder.gep(builder.params[0], count + 1, "ptr"), 8)
        builder.store(place, builder.gep(table, count + bool(found.starts), "ptr"), 8)

    def place_block(first: Val) -> None:
        _place(found, builder, pointers, table, first)
        for n, (step, start) in enumerate(found.starts):
            begin = builder.add(size_value(builder, start), builder.mul(first, constant(step * found.points)))
            builder.store(begin, builder.gep(numbers, n, "i64"), 8)

    def call(first: Val, length: int, number: Val, of: Val) -> None:
        place_block(first)
        builder.call_void(functions[length], [table, number, of, error])

    def all_blocks() -> None:
        _walk(builder, found, size, call)

    if alone is None:
        all_blocks()
        return
    single = builder.icmp("eq", size, constant(1))
    with builder.if_(single):
        place_block(constant(0))
        builder.call_void(alone, [table, part, parts, error])
    with builder.if_(builder.icmp("ne", size, constant(1))):
        all_blocks()


def _walk(builder: Builder, found: Blocks, size: Val, call: Callable[[Val, int, Val, Val], None]) -> None:
    """Calls for all blocks: `call(first unit, length, partition, partitions)`."""
    part, parts = builder.params[1:3]
    zero, one = constant(0), constant(1)

    def run(begin: Val, end: Val, length: int, number: Val, of: Val) -> None:
        def block(i: Val, _: tuple[Val, ...]) -> list[Val]:
            call(i, length, number, of)
            return []

        builder.loop(begin, end, length, (), block, "block")

    at = zero
    for length in found.sizes:
        left = builder.sub(size, at)
        blocks = builder.binary("udiv", left, constant(length))
        following = builder.add(at, builder.mul(blocks, constant(length)))
        if length == found.sizes[0]:
            many = builder.icmp("sge", blocks, parts)
            edges = [
                builder.mul(builder.binary("udiv", builder.mul(n, blocks), parts), constant(length))
                for n in (part, builder.add(part, one))
            ]
            begin, end = builder.select(many, edges[0], zero), builder.select(many, edges[1], following)
            run(begin, end, length, builder.select(many, zero, part), builder.select(many, one, parts))
        else:
            run(at, following, length, part, parts)
        at = following
        if found.repeatable and length > 1:
            left = builder.sub(size, at)
            least = 1 if length <= _SMALL else length * 3 // 4
            again = builder.icmp("sge", left, constant(least))
            again = builder.and_(again, builder.icmp("sge", size, constant(length)))
            with builder.if_(again):
                call(builder.sub(size, constant(length)), length, part, parts)
            at = builder.select(again, size, at)
