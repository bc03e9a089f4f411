"""From a graph to a planned program: runs the stages, and keeps each for those who look.

    graph -> differentiate -> optimise -> fuse -> schedule -> plan

Differentiation happens while a trace becomes a graph (`backward` is expanded there), so the stage
of that name shows the joint graph and `trace` shows what was recorded up to it. Loaded only when
something is compiled or looked at: a program that is on disk needs none of this.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

from graphc.backends import reference
from graphc.backends.llvm.codegen import LlvmBackend, kernel_modules
from graphc.backends.llvm.compile import assembly_text, host_target, resolve_target
from graphc.backends.llvm.tuning import TuningBackend
from graphc.compiler.budget import within
from graphc.ir.dims import Symbol, size_symbols
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.kernel import Kernel
from graphc.ir.marks import is_clone
from graphc.ir.program import Program
from graphc.ir.records import dataclass
from graphc.ir.target import Target
from graphc.passes.base import nested_graphs
from graphc.passes.chain import chained, may_be_chained
from graphc.passes.context import CompileContext, Options
from graphc.passes.dce import Dce
from graphc.passes.decompose import Decompose
from graphc.passes.drop_checks import DropChecks
from graphc.passes.fuse import Fused, Group, fuse
from graphc.passes.gradients import ExpandGradients
from graphc.passes.kept import Keeper
from graphc.passes.lower import Lowered, LoweredControl, kernels_of, lower
from graphc.passes.manager import run_pipeline
from graphc.passes.pipeline import OPTIMISE
from graphc.passes.plan import plan
from graphc.passes.plan.in_place import shareable
from graphc.passes.plan.resolve import Resolver
from graphc.passes.remat import frugal_copy
from graphc.passes.schedule import schedule
from graphc.passes.schedule.cost import work

__all__ = [
    "KernelList",
    "Stages",
    "lower_graph",
    "make_context",
    "program_sizes",
    "resolver",
    "runs_long",
]

_LONG = 200_000
"""Element operations of about 20 µs on one core."""


@functools.cache
def make_context(target: str = "host", tune: bool = False) -> CompileContext:
    """The context of compilations for a named target or `"host"`; with `tune` plans of contractions are measured."""
    resolved = host_target() if target == "host" else resolve_target(target)
    backend = TuningBackend() if tune else LlvmBackend()
    return CompileContext(target=resolved, backend=backend, evaluate=reference.run, options=Options())


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


def lower_graph(
    graph: Graph,
    context: CompileContext,
    passes: str | None = None,
    on_kernel: Callable[[Any], None] | None = None,
    memory_budget: int | None = None,
    keep: bool = False,
) -> Stages:
    """Runs every stage up to the planned program. `graph` is changed by the optimising passes.

    With `keep` the program may keep packed copies of states that it does not write, where there is no budget.

    `on_kernel` is told at once of each scheduled kernel that the plan will hardly change. With a `memory_budget` values are computed again until the
    temporaries of a call fit in so many bytes. Raises CompileError where an op or shape cannot be compiled or the
    budget cannot be met.
    """
    keep = keep and memory_budget is None and not graph.aliases
    if keep:
        context = replace(context, options=replace(context.options, keep=True))
    ExpandGradients(keep=memory_budget is not None).run(graph, context)
    joint = graph.copy()
    run_pipeline(graph, OPTIMISE if passes is None else passes, context)
    Decompose().run(graph, context)  # kernels are made of what composites stand for, whatever the pipeline
    if passes is not None:
        Dce().run(graph, context)  # what nothing reads is in no kernel
    DropChecks().run(graph, context)
    if any(is_clone(op) for g in nested_graphs(graph) for op in g.ops):
        graph = frugal_copy(graph)  # what a checkpoint computes again is to come late
    if memory_budget is None:
        return _planned(joint, graph, context, on_kernel, keep)
    stages = within(graph, memory_budget, lambda g: _planned(joint, g, context, None))
    for kernel in stages.kernels if on_kernel is not None else ():
        on_kernel(kernel)  # type: ignore[misc]
    return stages


def _planned(
    joint: Graph,
    graph: Graph,
    context: CompileContext,
    on_kernel: Callable[[Any], None] | None,
    keep: bool = False,
) -> Stages:
    """The stages from an optimised graph on."""
    fused = fuse(graph, context)
    depth = _depths(fused)
    over = {(fused.graph.outputs[i], fused.graph.inputs[j]) for i, j in fused.graph.aliases.items()}
    known: dict[tuple[Any, ...], Kernel] = {}
    scheduled: list[Lowered | LoweredControl] = []
    keeper = Keeper(graph, context) if keep else None
    waiting: list[Kernel] = []
    """Kernels that may become links of a chain."""
    private: set[Value] = set()
    for group in fused.groups:
        lowered = lower(fused, group)
        if keeper is not None:
            if keeper.keeps(lowered):
                continue
            lowered = keeper.applied(lowered)
        for low in _scheduled(lowered, context, known):
            scheduled.append(low)
            if on_kernel is not None and _settled(low, group, depth, over):
                if may_be_chained(low) or (isinstance(low, Lowered) and private & set(low.values)):
                    waiting += kernels_of(low)
                    private.update(v for op in group.ops for v in op.results)
                    continue
                for kernel in kernels_of(low):
                    on_kernel(kernel)
    if context.options.fuse:
        scheduled = chained(fused, scheduled, context)
    found = [kernel for low in scheduled for kernel in kernels_of(low)]
    if on_kernel is not None and waiting:
        taken = set(map(id, waiting))
        for kernel in found:
            if kernel.links or id(kernel) in taken:
                on_kernel(kernel)
    kept = [] if keeper is None else keeper.finished()
    found += [k.filling.kernel for k in kept]
    kernels = KernelList(found)
    return Stages(joint, graph, fused, kernels, plan(fused, scheduled, context, kept), context)


def _scheduled(
    lowered: Lowered | LoweredControl, context: CompileContext, known: dict[tuple[Any, ...], Kernel]
) -> tuple[Lowered | LoweredControl, ...]:
    """As `schedule`, but equal kernels, as those of equal layers, are scheduled once and are one object. `known` has the
    scheduled ones by all that a schedule follows from."""
    if isinstance(lowered, LoweredControl):
        return schedule(lowered, context)
    key = (str(lowered.kernel), lowered.along, lowered.contraction, lowered.vector, lowered.chunks)
    kernel = known.get(key)
    if kernel is not None:
        return (dataclasses.replace(lowered, kernel=kernel),)
    found = schedule(lowered, context)
    if len(found) == 1 and dataclasses.replace(lowered, kernel=found[0].kernel) == found[0]:
        known[key] = found[0].kernel
    return found


def _depths(fused: Fused) -> dict[Op, int]:
    """For each op how many groups one after another lie before its own."""
    depth: dict[Op, int] = {}
    for group in fused.groups:
        mine = set(group.ops)
        before = [v.op for op in group.ops for v in op.operands if v.op is not None and v.op not in mine]
        depth.update(
            dict.fromkeys(group.ops, max((depth[op] + 1 for op in before if op in depth), default=0))
        )
    return depth


def _settled(
    low: Lowered | LoweredControl,
    group: Group,
    depth: Mapping[Op, int],
    over: Collection[tuple[Value, Value]],
) -> bool:
    """Whether the plan will most likely take the kernels of a group as they are: nothing that they make can take the
    memory of what they read, because that is read later. `over` has each new value of a state with the state."""
    if isinstance(low, LoweredControl):
        return True
    here = depth[group.ops[0]]
    values = low.values
    return all(
        (values[w], values[r]) not in over and any(depth[u.op] > here for u in values[r].uses)
        for r, w in shareable(low.kernel)
    )


def resolver(program: Program, context: CompileContext, names: Sequence[str]) -> Resolver:
    """What gives a program with symbolic sizes at given ones; see `graphc.passes.plan.resolve`."""
    return Resolver(program, context, names)


def program_sizes(program: Program) -> tuple[Symbol, ...]:
    """The symbolic sizes of a program, by name."""
    found: set[Symbol] = set()
    for b in program.buffers:
        if not b.type.is_static:
            for d in b.type.shape:
                found |= size_symbols(d)
    return tuple(sorted(found, key=lambda s: s.name))


def runs_long(program: Program) -> bool:
    """True of a program that should let other Python threads run meanwhile."""
    if any(r.count is None for r in program.repeats):
        return True
    phases = enumerate(program.phases)
    return sum(program.times(n) * work(call.kernel) for n, phase in phases for call in phase.calls) > _LONG
