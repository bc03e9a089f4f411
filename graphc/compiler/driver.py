"""From a graph to an executable: runs the stages, and keeps each for those who look.

    graph -> differentiate -> optimise -> fuse -> schedule -> plan -> lower -> emit -> link

Differentiation happens while a trace becomes a graph (`backward` is expanded there), so the stage
of that name shows the joint graph and `trace` shows what was recorded up to it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import graphc.backends.llvm.host  # noqa: F401 - installs the native run time
from graphc.backends import reference
from graphc.backends.llvm.codegen import LlvmBackend, compile_kernels, kernel_modules
from graphc.backends.llvm.compile import assembly_text, host_target, missing_here, resolve_target
from graphc.core.evaluate import on_compile
from graphc.core.storage import Memory
from graphc.ir.errors import CompileError, located
from graphc.ir.graph import Graph
from graphc.ir.program import Program
from graphc.ir.target import Target
from graphc.passes.context import CompileContext, Options
from graphc.passes.decompose import Decompose
from graphc.passes.fuse import fuse
from graphc.passes.gradients import ExpandGradients
from graphc.passes.lower import kernels_of, lower
from graphc.passes.manager import run_pipeline
from graphc.passes.pipeline import OPTIMISE
from graphc.passes.plan import plan
from graphc.passes.schedule import schedule
from graphc.passes.schedule.cost import work
from graphc.runtime.code import CodeGroup
from graphc.runtime.executable import Executable

__all__ = ["CompiledGraph", "Stages", "compile_graph", "lower_graph", "make_context"]

_EXCEPTIONS: dict[str, type[Exception]] = {
    e.__name__: e for e in (IndexError, RuntimeError, ValueError, ZeroDivisionError, TypeError)
}

_LONG = 200_000
"""Element operations of about 20 µs on one core."""


@functools.cache
def make_context(target: str = "host") -> CompileContext:
    """The context of compilations for a named target or `"host"`."""
    resolved = host_target() if target == "host" else resolve_target(target)
    return CompileContext(target=resolved, backend=LlvmBackend(), evaluate=reference.run, options=Options())


class KernelList(tuple[Any, ...]):
    """Scheduled kernels in program order; `str` is their text one after another."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} kernels>"

    def __str__(self) -> str:
        return "\n\n".join(map(str, self))


@dataclass
class Stages:
    """Every stage of one compilation; each has a text."""

    joint: Graph
    optimised: Graph
    fused: Any
    kernels: KernelList
    program: Program
    context: CompileContext = field(repr=False)

    @property
    def target(self) -> Target:
        return self.context.target

    def llvm_ir(self) -> dict[str, str]:
        """LLVM text of every distinct kernel, by symbol."""
        return kernel_modules(self.program, self.target)

    def assembly(self) -> dict[str, str]:
        """Assembly of every distinct kernel, by symbol."""
        return {name: assembly_text(text, self.target) for name, text in self.llvm_ir().items()}


def lower_graph(graph: Graph, context: CompileContext, passes: str | None = None) -> Stages:
    """Runs every stage up to the planned program. `graph` is changed by the optimising passes.

    Raises CompileError where an op or shape cannot be compiled.
    """
    for value in [*graph.inputs, *graph.outputs]:
        if not value.type.is_static:
            raise CompileError(f"symbolic dimensions cannot be compiled yet: {value!r}")
    ExpandGradients().run(graph, context)
    joint = graph.copy()
    run_pipeline(graph, OPTIMISE if passes is None else passes, context)
    Decompose().run(graph, context)  # kernels are made of what composites stand for, whatever the pipeline
    fused = fuse(graph, context)
    scheduled = [low for group in fused.groups for low in schedule(lower(fused, group), context)]
    kernels = KernelList(kernel for low in scheduled for kernel in kernels_of(low))
    return Stages(joint, graph, fused, kernels, plan(fused, scheduled, context), context)


class CompiledGraph:
    """An executable graph over memory. Immutable; calls from several threads are fine."""

    def __init__(self, graph: Graph, stages: Stages) -> None:
        self.stages = stages
        self.program = stages.program
        self.aliases = dict(graph.aliases)
        kernels = compile_kernels(self.program, stages.target)
        self.from_disk = kernels.from_disk
        self.code = CodeGroup(kernels.codes)
        self.executable = Executable(self.program, self.code, kernels.symbols, release=_is_long(self.program))
        # The planner numbers arguments and states separately, each in the order of the graph's inputs.
        self.argument_positions = [i for i, v in enumerate(graph.inputs) if not v.is_state]
        self.state_positions = [i for i, v in enumerate(graph.inputs) if v.is_state]

    def run(self, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> None:
        """Runs on all graph inputs and on the outputs that alias none.

        Raises the exception of a failed check; then nothing was written.
        """
        error = self.executable.run(
            [inputs[i].address for i in self.argument_positions],
            [m.address for m in outputs],
            [inputs[i].address for i in self.state_positions],
        )
        if error:
            self.fail(error)

    def fail(self, error: int) -> None:
        """Raises the exception of check number `error` - 1."""
        check = self.program.checks[error - 1]
        raise located(
            _EXCEPTIONS.get(check.exception, RuntimeError), check.message, check.filename, check.lineno
        )


def _is_long(program: Program) -> bool:
    """True of a program that should let other Python threads run meanwhile."""
    phases = enumerate(program.phases)
    return sum(program.times(n) * work(call.kernel) for n, phase in phases for call in phase.calls) > _LONG


def compile_graph(graph: Graph, *, target: str = "host", passes: str | None = None) -> CompiledGraph:
    """Compiles a graph to be run here. The graph is optimised in place.

    Raises CompileError for a target whose code this machine cannot run.
    """
    context = make_context(target)
    lacking = missing_here(context.target)
    if lacking:
        raise CompileError(
            f"target {target!r} does not run on this machine, which lacks {', '.join(lacking)}; look at its "
            "assembly, or export a library for it"
        )
    return CompiledGraph(graph, lower_graph(graph, context, passes))


on_compile(compile_graph)
