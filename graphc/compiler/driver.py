"""From a graph to an executable: taken from the cache on disk, or made by every stage.

A program's entry on disk is found by what the graph computes (`ir/fingerprint.py`), the options and
the target; its kernels by their symbols. So a process that runs what another has compiled runs no
pass, and imports neither the passes nor the code generator.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from graphc.backends.llvm.host import begin_host
from graphc.compiler.collection import collection_paused
from graphc.core.evaluate import on_compile
from graphc.core.storage import Memory
from graphc.ir.errors import CompileError, located
from graphc.ir.failure import failed_check, failure_text
from graphc.ir.fingerprint import Fingerprint, fingerprint
from graphc.ir.graph import Graph
from graphc.ir.lazy import lazy_module
from graphc.ir.program import Program
from graphc.ir.symbolic import graph_sizes
from graphc.ir.target import Target
from graphc.runtime.binding import Binding
from graphc.runtime.cache import cache_key, default_cache
from graphc.runtime.code import CodeGroup
from graphc.runtime.executable import Executable
from graphc.runtime.stored import StoredProgram, program_from_bytes, program_to_bytes

if TYPE_CHECKING:
    from graphc.backends.llvm import codegen, kernels
    from graphc.backends.llvm import compile as native
    from graphc.compiler import lowering
    from graphc.compiler.lowering import Stages
    from graphc.passes.context import CompileContext
    from graphc.passes.plan.resolve import Resolver
else:
    native = lazy_module("graphc.backends.llvm.compile")
    kernels = lazy_module("graphc.backends.llvm.kernels")
    codegen = lazy_module("graphc.backends.llvm.codegen")
    lowering = lazy_module("graphc.compiler.lowering")

__all__ = ["CompiledGraph", "compile_graph", "lower_graph", "make_context"]

_EXCEPTIONS: dict[str, type[Exception]] = {
    e.__name__: e for e in (IndexError, RuntimeError, ValueError, ZeroDivisionError, TypeError)
}

_KEPT_SIZES = 256
"""Tuples of symbolic sizes whose executables are kept."""

_MANY_OPS = 40
"""Ops of a graph from which its kernels are enough for compile workers."""


def make_context(target: str = "host", tune: bool = False) -> CompileContext:
    """The context of compilations for a named target or `"host"`; with `tune` plans of contractions are measured."""
    return lowering.make_context(target, tune)


def lower_graph(
    graph: Graph,
    context: CompileContext,
    passes: str | None = None,
    memory_budget: int | None = None,
    *,
    keep: bool = False,
) -> Stages:
    """Runs every stage up to the planned program; see `graphc.compiler.lowering`."""
    return lowering.lower_graph(graph, context, passes, memory_budget=memory_budget, keep=keep)


class CompiledGraph:
    """An executable graph over memory. Immutable; calls from several threads are fine."""

    def __init__(self, graph: Graph, stages: Stages, compiler: codegen.KernelCompiler | None = None) -> None:
        code = codegen.compile_kernels(stages.program, stages.target, compiler)
        self._context = stages.context
        self._make(graph, stages.program, code, release=lowering.runs_long(stages.program))

    @staticmethod
    def from_stored(graph: Graph, stored: StoredProgram, code: kernels.CompiledKernels) -> CompiledGraph:
        """The executable of a program from disk."""
        self = CompiledGraph.__new__(CompiledGraph)
        self._make(graph, stored.program, code, release=stored.release)
        return self

    def _make(self, graph: Graph, program: Program, code: kernels.CompiledKernels, *, release: bool) -> None:
        self.program = program
        self.symbols = code.symbols
        self.release = release
        self.aliases = dict(graph.aliases)
        self.from_disk = code.from_disk
        self.code = CodeGroup(code.codes)
        self.dims = tuple(s.name for s in graph_sizes(graph))
        """Names of the symbolic sizes."""
        self._by_sizes: dict[tuple[int, ...], Executable] = {}
        self._resolver: Resolver | None = None
        if not self.dims:
            self.executable = Executable(program, self.code, code.symbols, release=release)
        # The planner numbers arguments and states separately, each in the order of the graph's inputs.
        self.argument_positions = [i for i, v in enumerate(graph.inputs) if not v.is_state]
        self.state_positions = [i for i, v in enumerate(graph.inputs) if v.is_state]

    def resolved(self, dims: Mapping[str, int]) -> Executable:
        """The executable at a size for each of `dims`; kept, and made without compiling anything."""
        if not self.dims:
            return self.executable
        sizes = tuple([dims[name] for name in self.dims])
        found = self._by_sizes.get(sizes)
        if found is None:
            if len(self._by_sizes) >= _KEPT_SIZES:
                self._by_sizes.pop(next(iter(self._by_sizes)))
            if self._resolver is None:
                self._resolver = lowering.resolver(self.program, self._context, self.symbols)
                self._sizes = lowering.program_sizes(self.program)
            program = self._resolver.at({s: dims[s.name[1:]] for s in self._sizes})
            release = self.release or (bool(program.repeats) and lowering.runs_long(program))
            found = self._by_sizes[sizes] = Executable(program, self.code, self.symbols, release=release)
        return found

    def run(
        self,
        inputs: Sequence[Memory],
        outputs: Sequence[Memory],
        dims: Mapping[str, int] | None = None,
        binding: Binding | None = None,
    ) -> None:
        """Runs on all graph inputs and on the outputs that alias none, with a value for each of `dims`.

        `binding` is one of the states among the inputs, where there is one. Raises the exception of a failed check; then nothing was written.
        """
        error = self.resolved(dims or {}).run(
            [inputs[i].address for i in self.argument_positions],
            [m.address for m in outputs],
            [inputs[i].address for i in self.state_positions] if binding is None else binding,
        )
        if error:
            self.fail(error)

    def fail(self, error: int) -> None:
        """Raises the exception that an error word stands for."""
        code, number = failed_check(error)
        check = self.program.checks[code - 1]
        message = failure_text(check.message, number)
        raise located(_EXCEPTIONS.get(check.exception, RuntimeError), message, check.filename, check.lineno)


def compile_graph(
    graph: Graph,
    *,
    target: str = "host",
    passes: str | None = None,
    memory_budget: int | None = None,
    tune: bool = False,
    keep: bool = False,
) -> CompiledGraph:
    """Compiles a graph to be run here, or takes its program from disk. The graph may be optimised in place.

    With `tune` plans of contractions are measured, where it is not known yet which is fastest. With `keep` the program may
    keep packed copies of states that it does not write. Raises CompileError for a target whose code this machine cannot run.
    """
    resolved = native.resolve_target(target)
    lacking = native.missing_here(resolved)
    if lacking:
        raise CompileError(
            f"target {target!r} does not run on this machine, which lacks {', '.join(lacking)}; look at its "
            "assembly, or export a library for it"
        )
    print_ = _cacheable(graph, passes)
    key = "" if print_ is None else _key(print_, resolved, memory_budget, tune, keep)
    if print_ is not None:
        found = _find(graph, print_, key, resolved)
        if found is not None:
            return found
    begin_host()
    with collection_paused():
        compiler = codegen.KernelCompiler(resolved, large=len(graph) >= _MANY_OPS)
        stages = lowering.lower_graph(
            graph, make_context(target, tune), passes, compiler.add, memory_budget, keep
        )
        made = CompiledGraph(graph, stages, compiler)
    if print_ is not None:
        lines = [(x.filename, x.lineno) for x in print_.locations]
        content = program_to_bytes(made.program, made.symbols, lines, release=made.release)
        if content is not None:
            default_cache().put(key, content)
    return made


def _cacheable(graph: Graph, passes: str | None) -> Fingerprint | None:
    """The graph's fingerprint; None where its program depends on more, or passes are to be run."""
    validating = os.environ.get("GRAPHC_VALIDATE", "0") not in ("", "0")
    if passes is not None or validating or not default_cache().enabled or graph_sizes(graph):
        return None
    return fingerprint(graph)


def _key(print_: Fingerprint, target: Target, memory_budget: int | None, tune: bool, keep: bool) -> str:
    how = [word for word, on in (("tuned", tune), ("keeps", keep)) if on]
    return cache_key("program", native.COMPILER_VERSION, print_.digest, str(target), str(memory_budget), *how)


def _find(graph: Graph, print_: Fingerprint, key: str, target: Target) -> CompiledGraph | None:
    content = default_cache().get(key)
    if content is None:
        return None
    try:
        stored = program_from_bytes(content, graph.name, [(x.filename, x.lineno) for x in print_.locations])
    except ValueError:
        return None
    code = kernels.find_kernels(stored.symbols, target)
    return None if code is None else CompiledGraph.from_stored(graph, stored, code)


on_compile(compile_graph)
