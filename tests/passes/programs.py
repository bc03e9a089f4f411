"""From a graph to a program and its results, for tests of the stages between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir import Graph
from graphc.ir.kernel_verifier import verify_kernel
from graphc.ir.program import Program
from graphc.passes.context import CompileContext, Options
from graphc.passes.fuse import Fused, fuse
from graphc.passes.lower import lower
from graphc.passes.plan import plan
from graphc.passes.schedule import schedule
from tests.passes.kernel_interpreter import run_program

__all__ = ["APART", "TOGETHER", "build", "execute", "kernel_count"]

TOGETHER = CompileContext()
APART = CompileContext(options=Options(fuse=False))
"""Every real op in a kernel of its own."""


def build(graph: Graph, context: CompileContext = TOGETHER) -> tuple[Fused, Program]:
    """All stages."""
    fused = fuse(graph, context)
    kernels = [k for group in fused.groups for k in schedule(lower(fused, group), context)]
    program = plan(fused, kernels, context)
    for phase in program.phases:
        for call in phase.calls:
            verify_kernel(call.kernel)
    return fused, program


def execute(graph: Graph, arrays: Sequence[Any], context: CompileContext = TOGETHER) -> list[Any]:
    """Every output of a graph by way of its program; `arrays` stay as they are."""
    _, program = build(graph, context)
    pairs = list(zip(graph.inputs, arrays, strict=True))
    states = {v: np.array(a) for v, a in pairs if v.is_state}
    inputs = [np.array(a) for v, a in pairs if not v.is_state]
    returned = iter(run_program(program, inputs, list(states.values())))
    return [
        states[graph.inputs[graph.aliases[i]]] if i in graph.aliases else next(returned)
        for i in range(len(graph.outputs))
    ]


def kernel_count(program: Program) -> int:
    """Kernel calls of a program."""
    return sum(len(phase.calls) for phase in program.phases)
