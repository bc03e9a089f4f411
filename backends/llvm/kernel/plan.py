"""The loops of a scheduled kernel as steps, and where its instructions go: what the code of a kernel is emitted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.backends.llvm.kernel.ahead import Ahead, reads_ahead
from graphc.backends.llvm.kernel.apart import stages_apart
from graphc.backends.llvm.kernel.blocks import row_blocks
from graphc.backends.llvm.kernel.columns import sums_along_rows, with_sums
from graphc.backends.llvm.kernel.loops import Step, bound_after, steps_of
from graphc.backends.llvm.kernel.placement import Placement, place
from graphc.ir.dims import product, typical
from graphc.ir.kernel import Kernel, Loop, Schedule, Stage
from graphc.ir.records import dataclass
from graphc.ir.target import Target

__all__ = ["STACK_BYTES", "LoopPlan", "plan_of", "plans_of", "scratch_bytes", "sequential_schedule"]

STACK_BYTES = 32 * 1024
"""Local buffers up to this many bytes together stand on the stack, larger ones in scratch memory."""

_UNROLLED_POINTS = 25
_UNROLLED_INSTRUCTIONS = 256
_COPIED_INSTRUCTIONS = 64
"""A stage of so few points and instructions becomes straight-line code; vectors around it are copied up
to so many instructions."""


def sequential_schedule(kernel: Kernel) -> Schedule:
    """Outer axes parallel in one partition, no vectors, everything else in order."""
    return Schedule(
        tuple(Loop(a.name, "parallel") for a in kernel.axes),
        tuple(tuple(Loop(a.name, "sequential") for a in stage.axes) for stage in kernel.stages),
    )


@dataclass(frozen=True)
class LoopPlan:
    """A kernel's loops as steps, and where its instructions go."""

    kernel: Kernel
    outer: tuple[Step, ...]
    stages: tuple[tuple[Step, ...], ...]
    placement: Placement
    ahead: Ahead
    along_rows: bool = False
    """True of sums of columns that are made row by row."""
    in_blocks: bool = False
    """True of a part of a kernel that is run for each block of rows."""

    @property
    def local_lanes(self) -> int:
        """Copies of every local buffer: one for each lane of an outer vector axis."""
        if self.in_blocks:
            return 1
        return next((s.size for s in self.outer if s.role == "vector"), 1)

    def local_bytes(self) -> dict[int, int]:
        """Bytes of every local buffer by its number, rounded to whole cache lines."""
        return {
            i: -(-b.type.nbytes * self.local_lanes // 64) * 64
            for i, b in enumerate(self.kernel.buffers)
            if b.access == "local"
        }


def plan_of(kernel: Kernel, target: Target) -> LoopPlan:
    """The plan of a kernel by its schedule, or in order where it has none."""
    schedule = kernel.schedule if kernel.schedule is not None else sequential_schedule(kernel)
    outer = steps_of(schedule.loops, kernel.axes)
    stages = tuple(_stage_steps(loops, s) for loops, s in zip(schedule.stages, kernel.stages, strict=True))
    if any(stages):
        outer = tuple(_around_stages(s, kernel, stages) if s.role == "vector" else s for s in outer)
    where = place(kernel, bound_after(outer), [bound_after(s) for s in stages])
    ahead = reads_ahead(kernel, outer, stages, target)
    along_rows = sums_along_rows(kernel, outer, target)
    if along_rows:
        kernel = with_sums(kernel, outer[-1].size)
    return LoopPlan(kernel, outer, stages, where, ahead, along_rows)


def plans_of(kernel: Kernel, target: Target) -> list[LoopPlan]:
    """A kernel's plan, or those of the kernels that take its place."""
    blocks = row_blocks(kernel, target)
    if blocks:
        return [replace(plan_of(k, target), in_blocks=True) for k in blocks]
    return [plan_of(k, target) for k in stages_apart(kernel)]


def _power_of_two(n: int) -> int:
    """The largest power of two up to n."""
    return 1 << (n.bit_length() - 1)


def _stage_steps(loops: Sequence[Loop], stage: Stage) -> tuple[Step, ...]:
    steps = steps_of(loops, stage.axes)
    if stage.kind == "reduce" and steps and steps[-1].role == "vector":
        # The order of a vector reduction is fixed, so tiles of its axis would change nothing.
        return tuple(s for s in steps if s.axis != steps[-1].axis or s.last)
    points = product([s.extent for s in steps])
    small = (
        isinstance(points, int)
        and points <= _UNROLLED_POINTS
        and points * len(stage.body) <= _UNROLLED_INSTRUCTIONS
    )
    if small and all(s.role == "sequential" for s in steps):
        # Straight-line code knows every index as a constant, which decides guards and strides.
        return tuple(replace(s, role="unroll", size=max(1, typical(s.extent))) for s in steps)
    return steps


def _repeats(steps: Sequence[Step]) -> bool:
    """True where a stage has loops that are left as loops."""
    return any(s.role != "unroll" or s.size < typical(s.extent) for s in steps)


def _around_stages(step: Step, kernel: Kernel, stages: Sequence[Sequence[Step]]) -> Step:
    """An outer vector loop around inner ones. Copies of the vector would run inner loops again for each,
    so they become one long vector, or one alone where masks of several registers would be slow. Around
    straight-line stages they stay while the code is short."""
    if any(_repeats(steps) for steps in stages):
        masks = any(i.guards or i.dtype.kind == "bool" for i in kernel.instructions())
        return replace(step, size=step.size * (1 if masks else _power_of_two(step.unroll)), unroll=1)
    length = sum(
        len(k.body) * typical(product([s.extent for s in steps]))
        for k, steps in zip(kernel.stages, stages, strict=True)
    )
    return replace(step, unroll=max(1, min(step.unroll, _COPIED_INSTRUCTIONS // max(1, length))))


def scratch_bytes(kernel: Kernel, target: Target) -> int:
    """Bytes of scratch memory that a partition takes as its last buffer; 0 for none."""
    total = sum(plans_of(kernel, target)[0].local_bytes().values())
    return total if total > STACK_BYTES else 0
