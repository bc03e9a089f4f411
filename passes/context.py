"""What one compilation carries from pass to pass. Explicit: no pass reads ambient state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from graphc.ir.backend import BackendInfo
from graphc.ir.graph import Graph
from graphc.ir.target import TARGETS, Target

__all__ = ["CompileContext", "Evaluate"]


class Evaluate(Protocol):
    """Runs a graph on NumPy arrays and returns all its outputs; the reference interpreter is one."""

    def __call__(self, graph: Graph, *arrays: Any) -> Sequence[Any]: ...


@dataclass
class CompileContext:
    """Target and services of one compilation.

    `backend` answers the scheduler's questions and is None where no code is generated; `evaluate`
    runs graphs for validation and is None where nothing is validated.
    """

    target: Target = TARGETS["x86-64-v3"]
    backend: BackendInfo | None = None
    evaluate: Evaluate | None = None
