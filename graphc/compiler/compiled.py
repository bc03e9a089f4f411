"""`Compiled`: a function with one native program per signature.

A call that was seen before is one native call: the builtin that stands as `__call__` of a
per-function subclass compares the mutation epoch, the grad mode and the arguments' records, and
runs the program. Every other call comes to `_slow`, which finds or makes the specialisation, runs
it, and makes it known to the builtin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graphc.compiler.arguments import apart, argument, is_copy, placed, write_back
from graphc.compiler.collection import collection_paused
from graphc.compiler.cost import Cost, program_cost
from graphc.compiler.driver import compile_graph, lower_graph, make_context
from graphc.compiler.dynamic import Axes, ShapeWatch, SizeChecks
from graphc.compiler.grad_state import owned, zero_gradient
from graphc.compiler.native import bind_states, native_variant
from graphc.compiler.outer import with_way_back
from graphc.compiler.program import CompiledProgram, SizedProgram, is_exposed
from graphc.compiler.tracing import Traced, trace_function
from graphc.compiler.tree import argument_names, flatten, unflatten
from graphc.core.evaluate import evaluate
from graphc.core.location import warn_user
from graphc.core.modes import is_grad_enabled
from graphc.core.recording import current
from graphc.core.tensor import TensorBase, from_array
from graphc.ir.dims import Symbol
from graphc.ir.graph import Graph
from graphc.ir.records import dataclass
from graphc.ir.specialise import specialised
from graphc.ir.types import TensorType
from graphc.runtime import entry
from graphc.runtime.state import epoch, same_guards

if TYPE_CHECKING:
    from graphc.compiler.lowering import Stages

__all__ = ["CacheInfo", "CompileOptions", "Compiled"]

_MOST_NATIVE_VARIANTS = 8
_PLAIN = frozenset((int, float, bool, str, bytes, type(None)))


class CacheInfo(NamedTuple):
    """Counts of calls and programs.

    `hits` are calls that a known program served; `misses` programs that were made, of which for
    `disk_hits` no kernel had to be compiled because all were on disk, and `recompiles` were made for a
    signature that had one already. `size` is the number of programs held.
    """

    hits: int
    misses: int
    disk_hits: int
    recompiles: int
    size: int


@dataclass(frozen=True)
class CompileOptions:
    """What `graphc.compile` was asked for."""

    target: str = "host"
    passes: str | None = None
    keep_grads: bool = False
    memory_budget: int | None = None
    tune: bool = False


class _Call(NamedTuple):
    """The arguments of one call, arrays as tensors, and their realised tensor leaves; the leaves' types, with
    dynamic dimensions symbolic, and the sizes of these; the signature; of which leaves (by position) the tensor is a copy."""

    args: Any
    kwargs: Any
    tensors: list[Any]
    types: list[TensorType]
    sizes: dict[Symbol, int]
    key: Any
    copies: dict[int, Any]


class Compiled:
    """A compiled function; see `graphc.compile`."""

    _function: Callable[..., Any]
    _options: CompileOptions
    _name: str
    _axes: Axes | None
    _shapes: ShapeWatch
    _programs: dict[Any, list[CompiledProgram]]
    _dispatcher: entry.Dispatcher
    _installed: list[SizedProgram]
    """What the dispatcher's variants run, in their order."""
    _hits: int
    _misses: int
    _disk_hits: int
    _recompiles: int

    @staticmethod
    def make(function: Callable[..., Any], options: CompileOptions, axes: Axes | None = None) -> Compiled:
        """A Compiled whose class has the native entry as `__call__` once there is a program for it; `axes` are
        the dynamic ones."""
        name = getattr(function, "__name__", type(function).__name__)
        kind = type(f"Compiled_{name}" if name.isidentifier() else "Compiled_function", (Compiled,), {})
        self: Compiled = object.__new__(kind)
        self._function = function
        self._options = options
        self._axes = axes
        self._shapes = ShapeWatch()
        self._name = name if name.isidentifier() else "function"
        self._programs = {}
        self._installed = []
        self._hits = self._misses = self._disk_hits = self._recompiles = 0
        self._dispatcher = entry.Dispatcher(self._slow, self._name)
        kind.__call__ = self._dispatcher.slow  # type: ignore[method-assign]
        functools.update_wrapper(self, function, updated=())
        return self

    @property
    def is_dynamic(self) -> bool:
        """True where `compile(dynamic=…)` named axes."""
        return self._axes is not None

    @property
    def named_sizes(self) -> tuple[Symbol, ...]:
        """The sizes that `compile(dynamic=…)` named, as they are declared."""
        return () if self._axes is None else self._axes.symbols

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._slow(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "_function" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._function, name)

    def __repr__(self) -> str:
        return f"<graphc.Compiled {self._name}: {self.cache_info()}>"

    # -- calls ------------------------------------------------------------------------

    def _slow(self, *args: Any, **kwargs: Any) -> Any:
        if current().trace is not None:
            return self._function(*args, **kwargs)
        evaluate(current())
        if self._installed:
            result = self._again(args, kwargs)
            if result is not entry.MISSED:
                return result
        call = self._prepare(args, kwargs)
        if any(isinstance(x, TensorBase) and x._leaf for x in call.copies.values()):
            return self._uncompiled(args, kwargs, "an argument requires grad and is a view of another tensor")
        program = next((p for p in self._programs.get(call.key, ()) if p.valid(call.tensors)), None)
        if program is not None:
            return self._run(program, call, args, kwargs, known=True)
        with collection_paused():  # until the result is there: compiling leaves much to look through
            return self._run(self._compile(call), call, args, kwargs, known=False)

    def _again(self, args: Any, kwargs: Any) -> Any:
        """The call natively, now that nothing is pending, with arguments that the native entry can take; or `MISSED`."""
        now = epoch()
        stale = []
        for found in self._installed:
            variant = found.variant
            assert variant is not None
            if variant.epoch != now and same_guards(variant.epoch, now):
                stale.append((found, variant, variant.epoch, variant.calls))
                variant.epoch = now
        given = [x if type(x) in _PLAIN else placed(x) for x in args]
        named = {name: x if type(x) in _PLAIN else placed(x) for name, x in kwargs.items()} if kwargs else {}
        result = self._dispatcher.attempt(*given, **named)
        for found, variant, before, calls in stale:
            if variant.calls == calls:
                variant.epoch = before
            elif found.way_back is None:  # which counts them itself
                found.count_writes()
        return result

    def _run(self, program: CompiledProgram, call: _Call, args: Any, kwargs: Any, *, known: bool) -> Any:
        """Runs a program that fits the call, and makes it known to the native entry."""
        now = epoch()
        found = program.at(call.sizes)
        if found.overlaps(call.tensors) or not found.returnable(call.copies):
            found.undo()
            shares = "an argument shares memory with another tensor that the function writes in place"
            return self._uncompiled(args, kwargs, shares)
        self._hits += known
        result = found.run(call.tensors)
        for position, leaf in call.copies.items():
            if position in found.compiled.aliases.values():
                write_back(leaf, call.tensors[position])
        # A call that changes which gradients there are may be one that cannot be made again as it is.
        if epoch() == now or program.valid(call.tensors):
            self._install(found, call.args, call.kwargs)
        return result

    def _uncompiled(self, args: Any, kwargs: Any, why: str) -> Any:
        """The call as it is without `compile`: recorded, where every view of a tensor is known to be one."""
        warn_user(
            f"{self._name}(): {why}, so this call is recorded instead of running the compiled program; pass a clone() to "
            "avoid it"
        )
        leaves, tree = flatten((args, kwargs))
        shared = [from_array(x, share=True) if isinstance(x, np.ndarray) else x for x in leaves]
        args, kwargs = unflatten(tree, iter(shared))
        return self._function(*args, **kwargs)

    def _prepare(self, args: Any, kwargs: Any) -> _Call:
        """The arguments of a call, and its signature."""
        leaves, tree = flatten((args, kwargs))
        tensors = [argument(leaf) for leaf in leaves]
        copies = {i: x for i, (x, t) in enumerate(zip(leaves, tensors, strict=True)) if is_copy(x, t)}
        args, kwargs = unflatten(tree, iter(tensors))
        types, sizes = [t.tensor_type for t in tensors], dict[Symbol, int]()
        if self._axes is not None:
            types, sizes = self._axes.apply(self._function, args, kwargs, types)
        storages = [id(t._storage) for t in tensors]
        shape = tuple(
            [
                (type_, t.requires_grad, storages.index(s))
                for t, type_, s in zip(tensors, types, storages, strict=True)
            ]
        )
        return _Call(args, kwargs, tensors, types, sizes, (tree, shape, is_grad_enabled()), copies)

    def _traced(self, call: _Call, *, share: bool = False) -> Traced:
        traced = self._trace(call, share)
        same = traced.shared
        if same:
            traced = self._trace(call, share, same)
        added = [owned(o, call.tensors) for o in traced.gradients.fresh]
        if added:
            # Gradients that are neither cleared nor there accumulate from call to call: they need memory.
            try:
                for tensor in added:
                    tensor._grad = zero_gradient(tensor)
                traced = self._trace(call, share, same)
            finally:
                for tensor in added:
                    tensor._grad = None
        traced.same = [(i, call.tensors[i]) for i in same]
        return traced

    def _trace(self, call: _Call, share: bool, same: Sequence[int] = ()) -> Traced:
        args, kwargs = apart(call.args, call.kwargs, same)
        return trace_function(
            self._function,
            args,
            kwargs,
            name=self._name,
            keep_grads=self._options.keep_grads,
            types=call.types,
            share=share,
            originals=call.tensors,
        )

    def _compile(self, call: _Call) -> CompiledProgram:
        traced = self._traced(call, share=True)
        checks = SizeChecks(traced.graph, traced.assumptions) if call.sizes else None
        if checks is not None:
            checks.check(call.sizes)
        self._misses += 1
        known = self._programs.setdefault(call.key, [])
        self._recompiles += bool(known)
        self._shapes.note(
            self._name, argument_names(self._function, call.args, call.kwargs), call.types, call.key[0]
        )
        graph, way = with_way_back(traced)
        outputs = [v.type for i, v in enumerate(graph.outputs) if i not in graph.aliases]
        compiled = compile_graph(
            graph,
            target=self._options.target,
            passes=self._options.passes,
            memory_budget=self._options.memory_budget,
            tune=self._options.tune,
            keep=not call.sizes and not any(is_exposed(s.memory) for s in traced.states),
        )
        self._disk_hits += compiled.from_disk
        made = CompiledProgram(traced, compiled, len(call.tensors), outputs, way, checks)
        known.append(made)
        return made

    def _install(self, found: SizedProgram, args: Any, kwargs: Any) -> None:
        """Makes the specialisation known to the native entry, or refreshes what it knows of it."""
        now = epoch()
        if found.variant is None:
            found.variant = native_variant(found, args, kwargs, now)
            if found.variant is None:
                return
        else:
            states = found.bind()
            if found.native is not states:
                found.variant.rebind(*bind_states(found))
        found.native = found.bound
        found.variant.epoch = now
        others = [f for f in self._installed if f is not found and f.holds(now)]
        self._installed = [found, *others][:_MOST_NATIVE_VARIANTS]
        self._dispatcher.set_variants([f.variant for f in self._installed if f.variant is not None])
        type(self).__call__ = self._dispatcher.function  # type: ignore[method-assign]

    # -- looking ----------------------------------------------------------------------

    def cache_info(self) -> CacheInfo:
        """Counts of calls and programs."""
        programs = [p for known in self._programs.values() for p in known]
        native = sum(p.native_calls for p in programs)
        return CacheInfo(self._hits + native, self._misses, self._disk_hits, self._recompiles, len(programs))

    def cache_clear(self) -> None:
        """Forgets all programs."""
        self._dispatcher.set_variants(())
        self._installed = []
        self._programs.clear()
        self._hits = self._misses = self._disk_hits = self._recompiles = 0

    def traced(self, *args: Any, **kwargs: Any) -> Traced:
        """The trace of the function on these arguments. Nothing is executed or changed."""
        evaluate(current())
        call = self._prepare(args, kwargs)
        return self._traced(call)

    def trace(self, *args: Any, **kwargs: Any) -> Graph:
        """The graph of the function on these arguments. Nothing is executed or changed."""
        return self.traced(*args, **kwargs).graph

    def _lowered(self, args: Any, kwargs: Any) -> Stages:
        context = make_context(self._options.target, self._options.tune)
        return lower_graph(
            self.trace(*args, **kwargs),
            context,
            self._options.passes,
            self._options.memory_budget,
            keep=self._axes is None,
        )

    def stages(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Every stage in order, from `trace` to `emit` (assembly); `str` of each is its text."""
        graph = self.trace(*args, **kwargs)
        stages = lower_graph(
            graph.copy(),
            make_context(self._options.target, self._options.tune),
            self._options.passes,
            self._options.memory_budget,
            keep=self._axes is None,
        )
        return {
            "trace": graph,
            "differentiate": stages.joint,
            "optimise": stages.optimised,
            "fuse": stages.fused,
            "schedule": stages.kernels,
            "plan": stages.program,
            "lower": _joined(stages.llvm_ir()),
            "emit": _joined(stages.assembly()),
        }

    def cost(self, *args: Any, **kwargs: Any) -> Cost:
        """FLOPs, bytes moved, kernels, arena and weights of a call; `str` is a table with a row per kernel.

        Dynamic dimensions have the sizes of these arguments."""
        graph = self.trace(*args, **kwargs)
        sizes = self._prepare(args, kwargs).sizes
        if sizes:
            graph = specialised(graph, sizes)
        stages = lower_graph(
            graph.copy(),
            make_context(self._options.target, self._options.tune),
            self._options.passes,
            self._options.memory_budget,
        )
        return program_cost(stages.program, graph)

    def llvm_ir(self, *args: Any, **kwargs: Any) -> str:
        """LLVM text, one section a kernel."""
        return _joined(self._lowered(args, kwargs).llvm_ir())

    def assembly(self, *args: Any, **kwargs: Any) -> str:
        """Assembly, one section a kernel."""
        return _joined(self._lowered(args, kwargs).assembly())


def _joined(sections: dict[str, str]) -> str:
    return "\n".join(f"; kernel {name}\n{text}" for name, text in sections.items())
