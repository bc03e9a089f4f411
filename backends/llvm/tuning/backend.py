"""A code generator that measures: of the plans that a contraction kernel may have it schedules the fastest.

Invariant: results keep their bits, since all plans of a kernel give the same ones. What was found is kept on
disk by the kernel's text, so that another program with the same kernel, and another process, measure nothing.
"""

from __future__ import annotations

import dataclasses

from graphc.backends.llvm.codegen import LlvmBackend
from graphc.backends.llvm.compile import COMPILER_VERSION
from graphc.backends.llvm.contraction import base_names, can_be_tuned, merged, named_schedule, variations
from graphc.backends.llvm.tuning.contest import Contest
from graphc.ir.errors import CompileError
from graphc.ir.kernel import Kernel, Schedule
from graphc.ir.target import Target
from graphc.runtime.cache import cache_key, default_cache

__all__ = ["TuningBackend"]

_DEFAULT = "0"
"""The plan with the least estimated time."""


class TuningBackend(LlvmBackend):
    """The LLVM backend with measured plans. Only for targets whose code this machine can run."""

    def __init__(self) -> None:
        self._chosen: dict[str, str] = {}

    def contraction_schedule(self, kernel: Kernel, target: Target, vector: bool) -> Schedule | None:
        estimated = super().contraction_schedule(kernel, target, vector)
        if estimated is None or not can_be_tuned(kernel, estimated):
            return estimated
        name = self._plan_of(dataclasses.replace(kernel, schedule=None), target, vector)
        return estimated if name == _DEFAULT else named_schedule(name, kernel, target, vector)

    def _plan_of(self, kernel: Kernel, target: Target, vector: bool) -> str:
        """The fastest plan's name; measured where neither this process nor the disk knows it."""
        key = cache_key("tuned", COMPILER_VERSION, str(kernel), str(target), str(vector))
        if key not in self._chosen:
            kept = default_cache().get(key)
            name = None if kept is None else _known(kept, kernel, target, vector)
            if name is None:
                name = fastest(kernel, target, vector)
                default_cache().put(key, name.encode())
            self._chosen[key] = name
        return self._chosen[key]


def _known(kept: bytes, kernel: Kernel, target: Target, vector: bool) -> str | None:
    """A name from disk; None where it names no plan of the kernel."""
    try:
        name = kept.decode()
        named_schedule(name, kernel, target, vector)
    except (UnicodeDecodeError, CompileError):
        return None
    return name


def fastest(kernel: Kernel, target: Target, vector: bool) -> str:
    """The fastest plan's name: all plans against each other, then the best one against what differs from it in one
    respect, respect by respect. The estimate's choice where none is clearly faster."""
    contest = Contest(kernel, target, vector)
    best = contest.best(base_names(kernel, target, vector))
    for names in variations(best, kernel, target, vector):
        best = contest.best([best, *(merged(best, n) for n in names)])
    # The winner of many contests had luck: it has to win once more, against the estimate's choice alone.
    return contest.best([_DEFAULT, best], again=3)
