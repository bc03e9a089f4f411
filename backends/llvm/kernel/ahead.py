"""Prefetches of the next row while a row is worked on, and of the lines that a row will be stored to.

A kernel of several stages reads a row, reads it again from the first-level cache, and only then
comes to the next one: memory would idle meanwhile. The last stage that reads a row asks for the
lines of the next. A stage that stores a row waits for its lines, which have to be fetched before they are
written; a stage before that computes much asks for them. Prefetches change no result and never fault.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.kernel.loops import Step
from graphc.ir.chains import interleaved
from graphc.ir.dims import Symbol, split_linear, symbols
from graphc.ir.kernel import Instruction, Kernel, replace_symbols, size_of, typical_size
from graphc.ir.target import Target

__all__ = ["Ahead", "reads_ahead"]

Ahead = dict[int, tuple[tuple[Instruction, int], ...]]
"""For each stage, loads and how many elements further the next row's elements stand, and stores of a later stage."""

_LEAST_ROW_BYTES = 512
"""Rows shorter than that are fetched early enough by the processor itself."""


def reads_ahead(
    kernel: Kernel, outer: Sequence[Step], stages: Sequence[Sequence[Step]], target: Target
) -> Ahead:
    """Which loads of a kernel are worth asking for a row ahead."""
    if not outer or any(s.role == "vector" for s in outer):
        return {}
    row = next((a for a in kernel.axes if a.name == outer[-1].axis), None)
    if row is None or typical_size(row) < 2:
        return {}
    found = _stored(kernel, row, stages, target)
    last: dict[int, tuple[int, Instruction, int]] = {}
    seen: dict[int, set[int]] = {}
    for number, (stage, steps) in enumerate(zip(kernel.stages, stages, strict=True)):
        if not steps or steps[-1].role != "vector":
            continue
        inner = next(a for a in stage.axes if a.name == steps[-1].axis)
        for i in stage.body:
            if i.opcode != "load" or i.guards or len(i.index) != 1:
                continue
            buffer = kernel.buffers[i.buffer]
            stride = _row_stride(i, inner, row)
            if stride is None or any(s.name.startswith("%") for s in symbols(i.index[0])):
                continue
            large = buffer.access == "in" and buffer.type.typical_bytes > target.l2_bytes
            if large and typical_size(inner) * buffer.type.dtype.itemsize >= _LEAST_ROW_BYTES:
                last[i.buffer] = number, i, stride
                seen.setdefault(i.buffer, set()).add(number)
    for buffer_number, (number, i, stride) in last.items():
        row_bytes = abs(stride) * i.dtype.itemsize
        if len(seen[buffer_number]) > 1 and row_bytes * 2 <= target.l2_bytes:
            found.setdefault(number, []).append((i, stride))
    return {number: tuple(loads) for number, loads in found.items()}


def _row_stride(i: Instruction, inner: Symbol, row: Symbol) -> int | None:
    """Elements from row to row of a load or store that is contiguous along `inner`; None of any other."""
    along, across = split_linear(i.index[0], inner), split_linear(i.index[0], row)
    return across[0] if along is not None and along[0] == 1 and across is not None and across[0] else None


def _stored(
    kernel: Kernel, row: Symbol, stages: Sequence[Sequence[Step]], target: Target
) -> dict[int, list[tuple[Instruction, int]]]:
    """Stores of whole rows to large results, by the number of the last stage before that computes long enough at as
    many points to hide what it asks for."""
    axes = [
        next(a for a in stage.axes if a.name == steps[-1].axis)
        if steps and steps[-1].role == "vector"
        else None
        for stage, steps in zip(kernel.stages, stages, strict=True)
    ]
    found: dict[int, list[tuple[Instruction, int]]] = {}
    for number, (stage, inner) in enumerate(zip(kernel.stages, axes, strict=True)):
        if inner is None:
            continue
        alike = [
            n
            for n, a in enumerate(axes[:number])
            if a is not None and size_of(a) == size_of(inner) and interleaved(kernel.stages[n].body) > 1
        ]
        if not alike:
            continue
        before = axes[alike[-1]]
        assert before is not None
        for i in stage.body:
            if i.opcode != "store" or i.guards or len(i.index) != 1:
                continue
            buffer = kernel.buffers[i.buffer]
            if _row_stride(i, inner, row) is None:
                continue
            row_bytes = typical_size(inner) * buffer.type.dtype.itemsize
            if row_bytes < _LEAST_ROW_BYTES or row_bytes * 4 > target.l2_bytes:
                continue
            if buffer.access == "out" and buffer.type.typical_bytes > target.l2_bytes:
                found.setdefault(alike[-1], []).append((replace_symbols(i, {inner: before.expr}), 0))
    return found
