"""Scatter kernels as one loop nest a stage.

A scatter kernel copies a base and then adds to it, for each of its outer points. Where those run in
lanes and the stages share no scalar, a stage may as well go over all lanes of a partition at each of
its own points: memory is then written in long runs. Each element gets the same values in the same order.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.ir.dims import symbols
from graphc.ir.kernel import Instruction, Kernel, Schedule, Stage

__all__ = ["stages_apart"]


def stages_apart(kernel: Kernel) -> tuple[Kernel, ...]:
    """A kernel for each stage, with its inner axes between the partitioned axes and the lanes; else the kernel."""
    plan = kernel.schedule
    if plan is None or not plan.loops or plan.loops[-1].role != "vector":
        return (kernel,)
    if not any(s.kind == "scatter" for s in kernel.stages) or not all(map(_stands_alone, kernel.stages)):
        return (kernel,)
    count = sum(x.role == "parallel" for x in plan.loops)
    made = []
    for stage, inner in zip(kernel.stages, plan.stages, strict=True):
        if any(x.role == "vector" for x in inner):
            return (kernel,)
        loops = (*plan.loops[:count], *inner, *plan.loops[count:])
        made.append(
            replace(
                kernel,
                axes=(*kernel.axes, *stage.axes),
                stages=(Stage("map", (), stage.body),),
                schedule=Schedule(loops, ((),), plan.parts),
            )
        )
    return tuple(made)


def _stands_alone(stage: Stage) -> bool:
    """True of a stage that uses its own scalars only and folds nothing."""
    own = {i.id for i in stage.body}
    return stage.kind != "reduce" and all(n in own for i in stage.body for n in (*i.operands, *_indices(i)))


def _indices(i: Instruction) -> list[int]:
    """Numbers of the `to_index` results that an instruction's places depend on."""
    places = [*i.index, *(x for guard in i.guards for x in guard)]
    return [int(s.name[1:]) for x in places for s in symbols(x) if s.name.startswith("%")]
