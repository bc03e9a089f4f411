"""Checks that a schedule fits its kernel."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.dims import Symbol
from graphc.ir.errors import VerifyError
from graphc.ir.kernel import Kernel, Loop

__all__ = ["verify_schedule"]


def verify_schedule(kernel: Kernel) -> None:
    """Raises VerifyError where loops name no axis, roles are out of order or lanes nest."""
    plan = kernel.schedule
    if plan is None or len(plan.stages) != len(kernel.stages) or plan.parts < 1:
        raise VerifyError("a scheduled kernel needs loops for every stage and at least one partition")
    _loops(plan.loops, kernel.axes)
    outer = any(x.role == "vector" for x in plan.loops)
    for loops, stage in zip(plan.stages, kernel.stages, strict=True):
        _loops(loops, stage.axes)
        if any(x.role == "parallel" for x in loops):
            raise VerifyError("only outer axes are partitioned")
        if outer and any(x.role == "vector" for x in loops):
            raise VerifyError("an inner and an outer axis are both run in lanes")


def _loops(loops: Sequence[Loop], axes: Sequence[Symbol]) -> None:
    names = {a.name for a in axes}
    for k, loop in enumerate(loops):
        if loop.axis not in names:
            raise VerifyError(f"a loop runs over {loop.axis}, which is no axis here")
        if loop.role == "parallel" and any(x.role != "parallel" for x in loops[:k]):
            raise VerifyError(f"the parallel loop over {loop.axis} is inside of another loop")
        if loop.role == "vector" and k + 1 != len(loops):
            raise VerifyError(f"the lanes along {loop.axis} are not innermost")
