"""Gives a kernel its schedule: which axes are partitioned, which one is run in lanes.

The order in which a reduction folds depends on its own op alone: in lanes where the op's last
reduced axis is its operand's last and long enough, else in order. Everything else here is free
to depend on the whole kernel, because it changes no bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import overload

from graphc.ir.chains import interleaved
from graphc.ir.columns import walks_rows
from graphc.ir.dims import Symbol, split_linear
from graphc.ir.kernel import (
    FOLD_IN_LANES,
    Instruction,
    Kernel,
    Loop,
    Schedule,
    Stage,
    kernel_sizes,
    typical_size,
)
from graphc.ir.kernel_verifier import verify_kernel
from graphc.ir.types import bool_
from graphc.passes.context import CompileContext
from graphc.passes.lower import Lowered, LoweredControl
from graphc.passes.schedule.cost import lanes, partitions, points, stride_cost
from graphc.passes.schedule.flatten import flatten, join_outer_axes
from graphc.passes.schedule.instances import divide
from graphc.passes.schedule.split import split_contraction, split_reduction
from graphc.passes.schedule.verify import verify_schedule

__all__ = ["schedule"]

MAP_IN_LANES = 4
LINE_BYTES = 64
SHORT_FOLD = 6
"""Instructions up to which columns are folded eight vectors wide, to use whole rows of cache lines."""
SHORT_STAGE = 10
"""Instructions up to which an inner map takes two vectors at once, and half as many for four."""
TILE = 16
"""Points along each side of a tile where an access crosses the lanes."""
TILED_POINTS = 1 << 14


@overload
def schedule(lowered: Lowered, context: CompileContext) -> tuple[Lowered, ...]: ...


@overload
def schedule(
    lowered: Lowered | LoweredControl, context: CompileContext
) -> tuple[Lowered, ...] | tuple[LoweredControl]: ...


def schedule(
    lowered: Lowered | LoweredControl, context: CompileContext
) -> tuple[Lowered, ...] | tuple[LoweredControl]:
    """The scheduled kernels of a group in order: one, or two where a large reduction is cut in chunks.

    An op with regions stays one, with the kernels of its regions scheduled.
    """
    if isinstance(lowered, LoweredControl):
        whole = divide(lowered, context)
        steps = [[k for step in r.steps for k in schedule(step, context)] for r in whole.regions]
        return (whole.with_steps(steps),)
    return _schedule_kernel(lowered, context)


def _schedule_kernel(lowered: Lowered, context: CompileContext) -> tuple[Lowered, ...]:
    chosen = None
    if lowered.contraction:
        first, *rest = split_contraction(lowered)
        if rest:
            return (
                *_schedule_kernel(first, context),
                *(k for r in rest for k in _schedule_kernel(r, context)),
            )
        chosen = context.backend.contraction_schedule(lowered.kernel, context.target, lowered.vector)
        if chosen is None and kernel_sizes(lowered.kernel):
            # Axes next to each other have strides of symbolic size, which one axis in their place has not.
            joined = join_outer_axes(flatten(lowered.kernel))
            chosen = context.backend.contraction_schedule(joined, context.target, lowered.vector)
            lowered = lowered if chosen is None else dataclasses.replace(lowered, kernel=joined)
    if chosen is not None:
        return (_checked(dataclasses.replace(lowered, kernel=_with(lowered.kernel, chosen)), context),)
    found = []
    for part in split_reduction(dataclasses.replace(lowered, kernel=flatten(lowered.kernel))):
        kernel = join_outer_axes(part.kernel)
        kernel = _with(kernel, _Scheduler(kernel, part.along, context).run())
        found.append(_checked(dataclasses.replace(part, kernel=kernel), context))
    return tuple(found)


def _with(kernel: Kernel, chosen: Schedule) -> Kernel:
    return dataclasses.replace(kernel, schedule=chosen)


def _checked(lowered: Lowered, context: CompileContext) -> Lowered:
    if context.options.verify:
        verify_kernel(lowered.kernel)
        verify_schedule(lowered.kernel)
    return lowered


class _Scheduler:
    def __init__(self, kernel: Kernel, along: Sequence[bool], context: CompileContext) -> None:
        self.kernel = kernel
        self.context = context
        self.width = lanes(kernel, context.target)
        hints = iter(along)
        self.along = [next(hints) if s.kind == "reduce" else False for s in kernel.stages]

    def run(self) -> Schedule:
        stages = [self._stage_axis(s, along) for s, along in zip(self.kernel.stages, self.along, strict=True)]
        folds = any(
            a is not None and s.kind == "reduce" for s, a in zip(self.kernel.stages, stages, strict=True)
        )
        outer = None if folds else self._outer_axis()
        if outer is not None:
            stages = [None] * len(stages)
        return self._schedule(outer, stages)

    def _schedule(self, outer: Symbol | None, stages: Sequence[Symbol | None]) -> Schedule:
        loops, parts = self._outer_loops(outer)
        inner = tuple(self._stage_loops(s, a) for s, a in zip(self.kernel.stages, stages, strict=True))
        return Schedule(loops, inner, parts)

    # -- which axis is run in lanes -------------------------------------------------------

    def _stage_axis(self, stage: Stage, along: bool) -> Symbol | None:
        """The inner axis that a stage would run in lanes."""
        if not stage.axes or stage.kind == "scatter":
            return None
        if stage.kind == "reduce":
            last = stage.axes[-1]
            return last if along and typical_size(last) >= FOLD_IN_LANES else None
        return self._best(stage.axes, stage.body)

    def _outer_axis(self) -> Symbol | None:
        body = [i for s in self.kernel.stages for i in s.body]
        return self._best(self.kernel.axes, body)

    def _best(self, axes: Sequence[Symbol], body: Sequence[Instruction]) -> Symbol | None:
        """The axis along which accesses are most contiguous; the last of equals."""
        long = [a for a in axes if typical_size(a) >= MAP_IN_LANES]
        if not long:
            return None
        return min(reversed(long), key=lambda a: (stride_cost(body, a), typical_size(a) < self.width))

    # -- loops ----------------------------------------------------------------------------

    def _outer_loops(self, vector: Symbol | None) -> tuple[tuple[Loop, ...], int]:
        axes = [a for a in self.kernel.axes if a is not vector]
        options = self.context.options
        parts = partitions(self.kernel, options.grain, options.max_parts)
        if any(s.kind == "scatter" for s in self.kernel.stages) or walks_rows(
            self.kernel, self.context.target
        ):
            # Each looks at all positions, or reads a part of each row.
            parts = min(parts, self.context.target.cores)
        loops: list[Loop] = []
        items = 1
        for a in axes:
            if parts > 1 and items < parts:
                loops.append(Loop(a.name, "parallel"))
                items *= typical_size(a)
            else:
                loops.append(Loop(a.name, "sequential"))
        if vector is None:
            return tuple(loops), min(parts, max(1, items))
        return self._with_vector(loops, items, parts, vector)

    def _with_vector(
        self, loops: list[Loop], items: int, parts: int, vector: Symbol
    ) -> tuple[tuple[Loop, ...], int]:
        crossing = self._crossing_axis(vector)
        if crossing is not None:
            return self._tiled(loops, parts, vector, crossing)
        size = typical_size(vector)
        unroll = self._unroll(vector)
        width = self.width
        if all(s.kind == "map" for s in self.kernel.stages):
            width = self._wide(vector, list(self.kernel.instructions()))
            unroll = 1 if width > self.width else unroll
        if parts > 1 and items < parts:
            granule = max(width * unroll, LINE_BYTES)
            last_parallel = sum(x.role == "parallel" for x in loops)
            loops.insert(last_parallel, Loop(vector.name, "parallel", granule))
            items *= -(-size // granule)
        if unroll > 1:
            loops.append(Loop(vector.name, "unroll", unroll))
        loops.append(Loop(vector.name, "vector", width))
        return tuple(loops), min(parts, max(1, items))

    def _crossing_axis(self, vector: Symbol) -> Symbol | None:
        """The axis along which some access is contiguous that strides along the lanes: a transposition."""
        if any(s.axes for s in self.kernel.stages) or points(self.kernel.axes) < TILED_POINTS:
            return None
        for i in self.kernel.instructions():
            if i.opcode not in ("load", "store"):
                continue
            strides = {a: (split_linear(i.index[0], a) or (2, 0))[0] for a in self.kernel.axes}
            if abs(strides[vector]) > 1:
                for a, stride in strides.items():
                    if stride == 1 and typical_size(a) >= TILE and typical_size(vector) >= TILE:
                        return a
        return None

    def _tiled(
        self, loops: list[Loop], parts: int, vector: Symbol, crossing: Symbol
    ) -> tuple[tuple[Loop, ...], int]:
        """Square tiles of the two axes, so that every cache line fetched is used up."""
        around = [x for x in loops if x.axis != crossing.name]
        items = 1
        for x in around:
            if x.role == "parallel":
                items *= next(typical_size(a) for a in self.kernel.axes if a.name == x.axis)
        parallel = [x for x in around if x.role == "parallel"]
        if parts > 1 and items < parts:
            parallel.append(Loop(crossing.name, "parallel", TILE))
            items *= -(-typical_size(crossing) // TILE)
        tiled = [
            *parallel,
            *(x for x in around if x.role != "parallel"),
            Loop(crossing.name, "tile", TILE),
            Loop(vector.name, "tile", TILE),
            Loop(crossing.name, "sequential"),
            Loop(vector.name, "vector", min(self.width, TILE)),
        ]
        return tuple(tiled), min(parts, max(1, items))

    def _unroll(self, vector: Symbol) -> int:
        """Vectors per iteration: more where the body is short, or where each carries a running fold."""
        folds = any(s.kind == "reduce" for s in self.kernel.stages)
        # What is done once for many points of an inner axis hardly counts.
        inner = [s for s in self.kernel.stages if points(s.axes) > 1] or self.kernel.stages
        length = sum(i.opcode not in ("const", "yield") for s in inner for i in s.body)
        if folds and length <= SHORT_FOLD and stride_cost(self.kernel.instructions(), vector) == 0:
            wanted = 8
        else:
            wanted = 4 if length <= (16 if folds else 8) else 2 if length <= 24 else 1
        while wanted > 1 and wanted * self.width > typical_size(vector):
            wanted //= 2
        return wanted

    def _wide(self, vector: Symbol, body: Sequence[Instruction]) -> int:
        """Vector length along an axis: several registers where the body's chains are long, and no more lanes
        than points."""
        if vector.size is not None:
            return self._wide_fold(vector, body)
        width = self.width * interleaved(body)
        while self.width < width and typical_size(vector) < width:
            width //= 2
        return width

    def _wide_fold(self, vector: Symbol, body: Sequence[Instruction]) -> int:
        """The same along a folded axis, or one whose length is not known. A short one is not given more lanes than
        divide it, since there a last vector costs as much as a full one."""
        size, width = typical_size(vector), self.width * interleaved(body)
        while width > self.width and size % width and size < 4 * width:
            width //= 2
        return width

    def _stage_loops(self, stage: Stage, vector: Symbol | None) -> tuple[Loop, ...]:
        loops = [Loop(a.name, "sequential") for a in stage.axes if a is not vector]
        if vector is not None:
            if stage.kind == "map":
                width = max(self._wide(vector, stage.body), self._several(vector, stage.body))
            else:
                width = self._wide_fold(vector, stage.body)
            loops.append(Loop(vector.name, "vector", width))
        return tuple(loops)

    def _several(self, vector: Symbol, body: Sequence[Instruction]) -> int:
        """Vector length of a stage that does little at each point: several registers, so that the loop itself costs little.

        Masks of several registers are slow, so a body with masks gets one.
        """
        masked = any(i.guards or i.dtype is bool_ for i in body)
        length = sum(i.opcode not in ("const", "yield") for i in body)
        count = 1 if masked or length > SHORT_STAGE else 4 if length <= SHORT_STAGE // 2 else 2
        while count > 1 and (vector.size is not None or typical_size(vector) < 4 * count * self.width):
            count //= 2
        return self.width * count
