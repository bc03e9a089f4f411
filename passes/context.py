"""What one compilation carries from stage to stage. Explicit: no pass reads ambient state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

from graphc.ir.backend import BackendInfo
from graphc.ir.dims import Symbol
from graphc.ir.graph import Graph
from graphc.ir.kernel import Kernel, Schedule
from graphc.ir.records import dataclass
from graphc.ir.target import TARGETS, Target

__all__ = ["CompileContext", "Evaluate", "Options", "PlainBackend"]


class Evaluate(Protocol):
    """Runs a graph on NumPy arrays and returns all its outputs; the reference interpreter is one."""

    def __call__(self, graph: Graph, *arrays: Any) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Options:
    """Switches of the stages from graph to program."""

    verify: bool = True
    """Check each stage's result."""
    fuse: bool = True
    """False gives one kernel per op (views and scalars are still inlined), for debugging."""
    max_parts: int = 16
    """Most partitions of one kernel. Shapes the splits of reductions, so it is part of a program's key."""
    keep: bool = False
    """True where a map of a state may be kept from call to call: the program writes no state."""
    grain: int = 256 * 1024
    """Least work of one partition, in element operations."""


class PlainBackend:
    """A backend without a contraction engine: every kernel gets the general schedule."""

    def contraction_schedule(self, kernel: Kernel, target: Target, vector: bool) -> Schedule | None:
        return None

    def contraction_cycles(self, kernel: Kernel, target: Target, vector: bool) -> float | None:
        return None

    def chain_schedule(self, kernel: Kernel, target: Target) -> Schedule | None:
        return None

    def kept_operand(self, kernel: Kernel, target: Target) -> tuple[int, int] | None:
        return None

    def scratch_bytes(self, kernel: Kernel, target: Target) -> int:
        return 0

    def division(self, kernel: Kernel, target: Target) -> Callable[[Mapping[Symbol, int]], int]:
        return lambda sizes: 1

    def numbers_at(self, kernel: Kernel, sizes: Mapping[Symbol, int]) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class CompileContext:
    """Target, services and options of one compilation.

    `backend` answers the scheduler's questions; `evaluate` runs graphs for validation and is None
    where nothing is validated.
    """

    target: Target = TARGETS["x86-64-v3"]
    backend: BackendInfo = field(default_factory=PlainBackend)
    evaluate: Evaluate | None = None
    options: Options = field(default_factory=Options)
