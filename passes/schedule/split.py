"""Cuts a large reduction with few results in two kernels: partial folds of chunks, then the rest.

The first kernel folds each chunk of the outermost reduced axis into partial accumulators in
memory, and makes all stores of the reduction's own stage; the second folds the partials in order
and goes on as the kernel did. Of contractions `reductions.product_chunks` says which are cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from graphc.ir.dims import Dim, Symbol, symbols
from graphc.ir.graph import Value
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer, Stage, extent, replace_symbols
from graphc.ir.types import TensorType, bool_, int64, row_major_strides
from graphc.passes.lower.group import Lowered
from graphc.passes.reductions import chunk_count
from graphc.passes.schedule.cost import points

__all__ = ["split_contraction", "split_reduction"]


def split_reduction(lowered: Lowered) -> tuple[Lowered, ...]:
    """A kernel with flat buffers as it is, or as the kernel of partial folds and the one that finishes."""
    kernel = lowered.kernel
    inner = [k for k, s in enumerate(kernel.stages) if s.axes]
    if len(inner) != 1 or kernel.stages[inner[0]].kind != "reduce" or not lowered.along:
        return (lowered,)
    stage = kernel.stages[inner[0]]
    if any(a.size is not None for a in (*kernel.axes, *stage.axes)):
        return (lowered,)
    counted = chunk_count(points(kernel.axes), points(stage.axes), lowered.along[0])
    chunks = _divisor_near(extent(stage.axes[0]), max(counted, lowered.chunks))
    if chunks < 2:
        return (lowered,)
    return _Splitter(lowered, inner[0], chunks).run()


def split_contraction(lowered: Lowered) -> tuple[Lowered, ...]:
    """A contraction kernel as it is, or as the contraction of chunks of images and the kernel that adds them up."""
    if not lowered.contraction or lowered.chunks < 2:
        return (lowered,)
    first, rest = _Splitter(lowered, 0, lowered.chunks).run()
    return dataclasses.replace(first, contraction=True), rest


def _divisor_near(size: int, wanted: int) -> int:
    """`wanted`, or a divisor of `size` not much smaller, so that all chunks are equal."""
    wanted = min(wanted, size)
    for n in range(wanted, wanted // 2, -1):
        if size % n == 0:
            return n
    return wanted


class _Splitter:
    def __init__(self, lowered: Lowered, at: int, chunks: int) -> None:
        self.lowered = lowered
        self.kernel = lowered.kernel
        self.at = at
        self.stage = self.kernel.stages[at]
        self.chunks = chunks
        self.next_id = 1 + max(
            (i.id for s in self.kernel.stages for i in (*s.body, *(s.combine.body if s.combine else ()))),
            default=0,
        )
        self.next_id = max(self.next_id, 1 + max(self.stage.results))
        self.chunk = Symbol("c", 0, chunks - 1)
        count = points(self.kernel.axes)
        owner = next(v.op for v in lowered.values if v.op is not None)
        extents = tuple(extent(a) for a in self.kernel.axes)
        shape: tuple[int, ...] = (chunks, *extents)
        self.place: tuple[Dim, ...] = (self.chunk.expr, *(a.expr for a in self.kernel.axes))
        if not lowered.contraction:
            strides = row_major_strides(shape)
            shape = (chunks * count,)
            self.place = (sum((x * n for x, n in zip(self.place, strides, strict=True)), start=0),)
        self.partial_buffers = [KernelBuffer(TensorType(d, shape), "out") for d, _ in self.stage.init]
        self.partials = [Value(b.type, owner, -1 - k) for k, b in enumerate(self.partial_buffers)]

    def run(self) -> tuple[Lowered, ...]:
        return self._fold_chunks(), self._finish()

    def _fresh(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    # -- the first kernel -----------------------------------------------------------------

    def _fold_chunks(self) -> Lowered:
        axis = self.stage.axes[0]
        size = extent(axis)
        length = -(-size // self.chunks)
        local = Symbol(axis.name, 0, length - 1)
        whole = self.chunk.expr * length + local.expr
        body = [replace_symbols(i, {axis: whole}) for i in self.stage.body]
        if length * self.chunks != size:
            body = self._masked(body, whole, size)
        fold = dataclasses.replace(self.stage, axes=(local, *self.stage.axes[1:]), body=tuple(body))
        first = len(self.kernel.buffers)
        keep = tuple(
            Instruction(-1, "store", d, (r,), None, first + k, self.place)
            for k, (r, (d, _)) in enumerate(zip(self.stage.results, self.stage.init, strict=True))
        )
        stages = (*self.kernel.stages[: self.at], fold, Stage("map", (), keep))
        kernel = dataclasses.replace(self.kernel, axes=(self.chunk, *self.kernel.axes), stages=stages)
        return self._pruned(kernel, self.partial_buffers, self.lowered.checks)

    def _masked(self, body: Sequence[Instruction], whole: Dim, size: int) -> list[Instruction]:
        """The body of chunks of which the last is shorter: outside, the fold gets its initial values."""
        guard = (whole, 0, size)
        made: list[Instruction] = []
        inside = self._fresh()
        limit = self._fresh()
        position = self._fresh()
        made.append(Instruction(position, "index", int64, index=(whole,)))
        made.append(Instruction(limit, "const", int64, value=size))
        made.append(Instruction(inside, "lt", bool_, (position, limit)))
        for i in body:
            if i.opcode == "load":
                operands = i.operands
                if not operands:
                    fill = self._fresh()
                    made.append(
                        Instruction(
                            fill,
                            "const",
                            i.dtype,
                            value=0.0 if i.dtype.is_floating_point else i.dtype is not bool_ and 0,
                        )
                    )
                    operands = (fill,)
                made.append(dataclasses.replace(i, operands=operands, guards=(*i.guards, guard)))
            elif i.opcode == "store":
                made.append(dataclasses.replace(i, guards=(*i.guards, guard)))
            elif i.opcode == "yield":
                made.append(dataclasses.replace(i, operands=tuple(self._or_init(made, inside, i))))
            else:
                made.append(i)
        return made

    def _or_init(self, made: list[Instruction], inside: int, i: Instruction) -> Iterable[int]:
        for operand, (dtype, value) in zip(i.operands, self.stage.init, strict=True):
            start, chosen = self._fresh(), self._fresh()
            made.append(Instruction(start, "const", dtype, value=value))
            made.append(Instruction(chosen, "select", dtype, (inside, operand, start)))
            yield chosen

    # -- the second kernel ----------------------------------------------------------------

    def _finish(self) -> Lowered:
        first = len(self.kernel.buffers)
        loads = [
            Instruction(self._fresh(), "load", d, (), None, first + k, self.place)
            for k, (d, _) in enumerate(self.stage.init)
        ]
        given = Instruction(-1, "yield", self.stage.init[0][0], tuple(i.id for i in loads))
        fold = dataclasses.replace(self.stage, axes=(self.chunk,), body=(*loads, given))
        rest = self.kernel.stages[self.at + 1 :]
        before = _needed(self.kernel.stages[: self.at], rest)
        kernel = dataclasses.replace(self.kernel, stages=(*before, fold, *rest), checks=0)
        buffers = [dataclasses.replace(b, access="in") for b in self.partial_buffers]
        return self._pruned(kernel, buffers, ())

    def _pruned(self, kernel: Kernel, partials: Sequence[KernelBuffer], checks: tuple[Any, ...]) -> Lowered:
        """The kernel without the buffers that it does not use."""
        buffers = (*self.kernel.buffers, *partials)
        values = (*self.lowered.values, *self.partials)
        used = sorted({i.buffer for i in kernel.instructions() if i.opcode in ("load", "store")})
        number = {old: new for new, old in enumerate(used)}

        def change(i: Instruction) -> Instruction:
            if i.opcode not in ("load", "store"):
                return i
            return dataclasses.replace(i, buffer=number[i.buffer])

        stages = tuple(dataclasses.replace(s, body=tuple(change(i) for i in s.body)) for s in kernel.stages)
        kernel = dataclasses.replace(kernel, buffers=tuple(buffers[n] for n in used), stages=stages)
        along = self.lowered.along if kernel.axes[:1] == (self.chunk,) else (False,)
        return Lowered(kernel, tuple(values[n] for n in used), checks, along)


def _dims(i: Instruction) -> set[int]:
    """Numbers of the `to_index` results in an instruction's index and guards."""
    parts = [*i.index, *(x for g in i.guards for x in g)]
    return {int(s.name[1:]) for x in parts for s in symbols(x) if s.name.startswith("%")}


def _needed(stages: Sequence[Stage], later: Sequence[Stage]) -> list[Stage]:
    """What later stages need of earlier outer stages. Checks stay where they were made."""
    wanted = {o for s in later for i in s.body for o in i.operands}
    wanted |= {n for s in later for i in s.body for n in _dims(i)}
    kept: list[Stage] = []
    for stage in reversed(stages):
        body: list[Instruction] = []
        for i in reversed(stage.body):
            if i.id in wanted:
                wanted.update(i.operands)
                wanted.update(_dims(i))
                body.append(dataclasses.replace(i, value=None) if i.opcode == "to_index" else i)
        if body:
            kept.append(dataclasses.replace(stage, body=tuple(reversed(body))))
    return kept[::-1]
