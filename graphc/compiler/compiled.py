"""`Compiled`: a function with one native program per signature.

A call that was seen before is one native call: the builtin that stands as `__call__` of a
per-function subclass compares the mutation epoch, the grad mode and the arguments' records, and
runs the program. Every other call comes to `_slow`, which finds or makes the specialisation, runs
it, and makes it known to the builtin.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graphc.compiler.arguments import apart, argument, is_copy, meet, span, write_back
from graphc.compiler.cost import Cost, program_cost
from graphc.compiler.driver import CompiledGraph, compile_graph, lower_graph, make_context
from graphc.compiler.dynamic import Axes, ShapeWatch, SizeChecks
from graphc.compiler.outer import WayBack, with_way_back
from graphc.compiler.tracing import Traced, trace_function, zero_gradient
from graphc.compiler.tree import argument_names, flatten, unflatten
from graphc.core.evaluate import evaluate
from graphc.core.modes import is_grad_enabled, on_grad_mode_change
from graphc.core.node import Node
from graphc.core.recording import current
from graphc.core.storage import Memory, allocate_memory
from graphc.core.tensor import LostGradient, TensorBase, from_array, native_record, wrap
from graphc.ir.dims import Symbol
from graphc.ir.graph import Graph
from graphc.ir.specialise import concrete
from graphc.ir.types import TensorType
from graphc.runtime import entry
from graphc.runtime.executable import Executable
from graphc.runtime.state import epoch, grad_mode, set_grad_mode

if TYPE_CHECKING:
    from graphc.compiler.lowering import Stages

__all__ = ["CacheInfo", "CompileOptions", "Compiled"]

on_grad_mode_change(lambda enabled: set_grad_mode(int(enabled)))

_MOST_NATIVE_VARIANTS = 8
_MOST_SIZES = 256
"""Tuples of sizes that a program with dynamic dimensions keeps what it has worked out for."""


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


class _Program:
    """What one trace of a function was compiled to: a program for one signature, whatever its dynamic sizes."""

    def __init__(
        self,
        traced: Traced,
        compiled: CompiledGraph,
        arguments: int,
        outputs: list[TensorType],
        way: WayBack | None,
        checks: SizeChecks | None,
    ) -> None:
        self.traced = traced
        self._checks = checks
        self.compiled = compiled
        self.arguments = arguments
        self.fresh_types = outputs
        self.way_back = way
        self._sized: dict[tuple[int, ...], _Specialisation] = {}
        self._forgotten = 0

    def valid(self) -> bool:
        """True where everything that the trace depended on is as it was."""
        return all(snapshot() == value for snapshot, value in self.traced.guards)

    def at(self, sizes: Mapping[Symbol, int]) -> _Specialisation:
        """The program at the sizes of a call. Raises where the trace does not hold for them."""
        key = tuple(sizes.values())
        found = self._sized.get(key)
        if found is None:
            if self._checks is not None:
                self._checks.check(sizes)
            if len(self._sized) >= _MOST_SIZES:
                oldest = self._sized.pop(next(iter(self._sized)))
                self._forgotten += oldest.variant.calls if oldest.variant is not None else 0
            found = self._sized[key] = _Specialisation(self, sizes)
        return found

    @property
    def native_calls(self) -> int:
        """Calls that the native entry has served."""
        return self._forgotten + sum(s.variant.calls for s in self._sized.values() if s.variant is not None)


class _Specialisation:
    """A program at the sizes of a call (none where no dimension is dynamic)."""

    def __init__(self, program: _Program, sizes: Mapping[Symbol, int]) -> None:
        self.program = program
        self.traced = program.traced
        self.compiled = program.compiled
        self.arguments = program.arguments
        self.dims = {s.name: n for s, n in sizes.items()}
        self.fresh_types: list[TensorType] = [concrete(t, sizes) for t in program.fresh_types]
        self.way_back = None if program.way_back is None else program.way_back.at(sizes)
        self.bound: list[Memory] = []
        self.written: list[Memory] = []
        """States that a call writes, of those in `bound`."""
        self.spans = np.zeros((0, 2), np.int64)
        """Where they begin and end."""
        self.variant: entry.Variant | None = None
        self.native: list[Memory] = []
        """The states' memory that `variant` is bound to."""

    @property
    def executable(self) -> Executable:
        """What runs at these sizes."""
        return self.compiled.resolved(self.dims)

    def bind(self) -> list[Memory]:
        """The states' memory now."""
        states = [s.memory for s in self.traced.states]
        if len(states) != len(self.bound) or any(a is not b for a, b in zip(states, self.bound, strict=True)):
            self.bound = states
            written = sorted(
                p - self.arguments for p in self.compiled.aliases.values() if p >= self.arguments
            )
            self.written = [states[p] for p in written]
            self.spans = np.array([span(m) for m in self.written], np.int64).reshape(-1, 2)
        return self.bound

    def overlaps(self, tensors: Sequence[Any]) -> bool:
        """True where what a call writes is also an argument by another name: the program takes them for different."""
        if not tensors:
            return False
        states = self.bind()
        spans = np.array([span(t._storage.memory) for t in tensors], np.int64)
        if len(self.spans) and meet(spans, self.spans).any():
            return True
        written = [p for p in self.compiled.aliases.values() if p < self.arguments]
        if not written:
            return False
        storages = [t._storage for t in tensors]
        others = np.array([span(m) for m in states], np.int64).reshape(-1, 2)
        for p in written:
            rest = [i for i, s in enumerate(storages) if s is not storages[p]]
            if meet(spans[p : p + 1], np.concatenate([spans[rest], others])).any():
                return True
        return False

    def returnable(self, copies: dict[int, Any]) -> bool:
        """True where what a call writes of arguments that were copied can be copied back."""
        return not any(
            isinstance(copies.get(p), TensorBase) and copies[p].requires_grad
            for p in self.compiled.aliases.values()
        )

    def run(self, tensors: Sequence[Any]) -> Any:
        """One call through Python, on realised argument tensors."""
        inputs = [t._storage.memory for t in tensors] + self.bind()
        outputs = [allocate_memory(t) for t in self.fresh_types]
        self.compiled.run(inputs, outputs, self.dims)
        for position in self.compiled.aliases.values():
            inputs[position].version += 1
        nodes = [Node(m.type, memory=m) for m in outputs]
        if self.way_back is not None:
            self.way_back.attach(nodes, tensors, self.traced)
        made = [wrap(n) for n in nodes]
        for tensor, at in self.traced.grads:
            assert at is not None
            tensor._grad = made[at]
        for tensor in self.traced.lost:
            tensor._grad = LostGradient(tensor._storage.memory.name)  # type: ignore[union-attr]
        for tensor in self.traced.nones:
            tensor._grad = None
        return unflatten(self.traced.tree, iter(made[: self.traced.returned]))


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
    _programs: dict[Any, list[_Program]]
    _dispatcher: entry.Dispatcher
    _hits: int
    _misses: int
    _disk_hits: int
    _recompiles: int

    @staticmethod
    def make(function: Callable[..., Any], options: CompileOptions, axes: Axes | None = None) -> Compiled:
        """A Compiled whose class has the native entry as `__call__`; `axes` are the dynamic ones."""
        name = getattr(function, "__name__", type(function).__name__)
        kind = type(f"Compiled_{name}" if name.isidentifier() else "Compiled_function", (Compiled,), {})
        self: Compiled = object.__new__(kind)
        self._function = function
        self._options = options
        self._axes = axes
        self._shapes = ShapeWatch()
        self._name = name if name.isidentifier() else "function"
        self._programs = {}
        self._hits = self._misses = self._disk_hits = self._recompiles = 0
        self._dispatcher = entry.Dispatcher(self._slow, self._name)
        kind.__call__ = self._dispatcher.function  # type: ignore[method-assign]
        functools.update_wrapper(self, function, updated=())
        return self

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
        call = self._prepare(args, kwargs)
        program = next((p for p in self._programs.get(call.key, ()) if p.valid()), None)
        known = program is not None
        if program is None:
            program = self._compile(call)
        found = program.at(call.sizes)
        if found.overlaps(call.tensors) or not found.returnable(call.copies):
            return self._uncompiled(args, kwargs)
        self._hits += known
        result = found.run(call.tensors)
        for position, leaf in call.copies.items():
            if position in found.compiled.aliases.values():
                write_back(leaf, call.tensors[position])
        self._install(found, call.args, call.kwargs)
        return result

    def _uncompiled(self, args: Any, kwargs: Any) -> Any:
        """The call as it is without `compile`: recorded, where every view of a tensor is known to be one."""
        warnings.warn(
            f"{self._name}(): an argument shares memory with another tensor that the function writes in place, so "
            "this call is recorded instead of running the compiled program; pass a clone() to avoid it",
            stacklevel=3,
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

    def _traced(self, call: _Call, *, keep_grads: bool) -> Traced:
        args, kwargs = apart(call.args, call.kwargs)
        return trace_function(
            self._function, args, kwargs, name=self._name, keep_grads=keep_grads, types=call.types
        )

    def _compile(self, call: _Call) -> _Program:
        traced = self._traced(call, keep_grads=self._options.keep_grads)
        if traced.fresh:
            # Gradients that are neither cleared nor there accumulate from call to call: give them memory.
            for tensor in traced.fresh:
                tensor._grad = zero_gradient(tensor)
            traced = self._traced(call, keep_grads=self._options.keep_grads)
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
        )
        self._disk_hits += compiled.from_disk
        made = _Program(traced, compiled, len(call.tensors), outputs, way, checks)
        known.append(made)
        return made

    def _install(self, found: _Specialisation, args: Any, kwargs: Any) -> None:
        """Makes the specialisation known to the native entry, or refreshes what it knows of it."""
        now = epoch()
        if found.variant is None:
            found.variant = _native_variant(found, args, kwargs, now)
            if found.variant is None:
                return
        else:
            states = found.bind()
            if found.native is not states:
                found.variant.rebind(*_bind(found))
        found.native = found.bound
        found.variant.epoch = now
        others = [v for v in self._dispatcher.variants if v is not found.variant and v.epoch == now]
        self._dispatcher.set_variants([found.variant, *others][:_MOST_NATIVE_VARIANTS])

    # -- looking ----------------------------------------------------------------------

    def cache_info(self) -> CacheInfo:
        """Counts of calls and programs."""
        programs = [p for known in self._programs.values() for p in known]
        native = sum(p.native_calls for p in programs)
        return CacheInfo(self._hits + native, self._misses, self._disk_hits, self._recompiles, len(programs))

    def cache_clear(self) -> None:
        """Forgets all programs."""
        self._dispatcher.set_variants(())
        self._programs.clear()
        self._hits = self._misses = self._disk_hits = self._recompiles = 0

    def traced(self, *args: Any, **kwargs: Any) -> Traced:
        """The trace of the function on these arguments. Nothing is executed or changed."""
        evaluate(current())
        call = self._prepare(args, kwargs)
        traced = self._traced(call, keep_grads=self._options.keep_grads)
        if traced.fresh:
            traced = self._traced(call, keep_grads=True)
        return traced

    def trace(self, *args: Any, **kwargs: Any) -> Graph:
        """The graph of the function on these arguments. Nothing is executed or changed."""
        return self.traced(*args, **kwargs).graph

    def _lowered(self, args: Any, kwargs: Any) -> Stages:
        context = make_context(self._options.target)
        return lower_graph(
            self.trace(*args, **kwargs), context, self._options.passes, self._options.memory_budget
        )

    def stages(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Every stage in order, from `trace` to `emit` (assembly); `str` of each is its text."""
        graph = self.trace(*args, **kwargs)
        stages = lower_graph(
            graph.copy(),
            make_context(self._options.target),
            self._options.passes,
            self._options.memory_budget,
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
        """FLOPs, bytes moved, kernels, arena and weights of a call; `str` is a table with a row per kernel."""
        graph = self.trace(*args, **kwargs)
        stages = lower_graph(
            graph.copy(),
            make_context(self._options.target),
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


@functools.cache
def _layout() -> entry.TensorLayout:
    cls = TensorBase._tensor_class
    defaults = {
        "_cache": None,
        "_chain": (),
        "_detached": False,
        "_grad": None,
        "_leaf": False,
        "_stored": None,
        "_type": None,
    }
    return entry.TensorLayout(cls, also=TensorBase._parameter_class, defaults=defaults)


def _bind(found: _Specialisation) -> tuple[Any, list[tuple[int, int]]]:
    """The states' addresses for the native entry, and which spans of memory a call writes."""
    executable, states = found.executable, found.bind()
    inputs = found.compiled.state_positions
    binding = executable.bind([states[i - found.arguments].address for i in inputs], tuple(states))
    return binding, [span(m) for m in found.written]


def _native_variant(found: _Specialisation, args: Any, kwargs: Any, now: int) -> entry.Variant | None:
    """The signature for the native entry; None where only Python can serve it."""
    traced = found.traced
    if found.way_back is not None or traced.grads:
        return None
    if any(p < found.arguments for p in found.compiled.aliases.values()):
        return None
    arguments: list[Any] = []
    position = 0
    for value in [*args, *kwargs.values()]:
        if isinstance(value, TensorBase):
            record = native_record(0, value.tensor_type, requires_grad=value.requires_grad)
            arguments.append((record, value))
            position += 1
        elif value is None or isinstance(value, (int, float, str, bytes, bool)):
            arguments.append(entry.Static(value))
        else:
            return None
    return _build_variant(found, arguments, tuple(kwargs), now)


def _build_variant(
    found: _Specialisation, arguments: list[Any], names: tuple[str, ...], now: int
) -> entry.Variant | None:
    tree = found.traced.tree
    layout = _layout()
    native: list[Any] = []
    position = 0
    for given in arguments:
        if isinstance(given, entry.Static):
            native.append(given)
            continue
        record, value = given
        native.append(_tensor_argument(layout, record, value, position))
        position += 1
    results = [
        entry.TensorResult(layout, native_record(0, t), i, {"_type": t})
        for i, t in enumerate(found.fresh_types)
    ]
    kind, unflatten_ = _result_tree(tree)
    binding, written = _bind(found)
    return entry.Variant(
        found.executable,
        binding,
        native,
        results,
        fail=found.compiled.fail,
        epoch=now,
        grad_mode=grad_mode(),
        keywords=names,
        tree=kind,
        unflatten=unflatten_,
        written=written,
    )


def _tensor_argument(layout: entry.TensorLayout, record: bytes, value: Any, position: int) -> Any:
    memory = value._storage.memory
    if value._record is None:  # made from an array for this call
        return entry.Array(value.dtype.numpy, value.tensor_type.sizes, position)
    aligned = memory.address % 64 == 0
    # The signature holds the alignment flag of the address, so take it from the real one.
    return entry.TensorArgument(
        layout, record[:8] + value._record[8:] if aligned else value._record, position
    )


def _result_tree(tree: Any) -> tuple[str, Any]:
    if tree == ("leaf",):
        return "single", None
    if tree[0] == "static" and tree[1] is None:
        return "none", None
    if tree[0] in (tuple, list) and all(t == ("leaf",) for t in tree[2]):
        return tree[0].__name__, None
    return "unflatten", functools.partial(_unflatten_results, tree)


def _unflatten_results(tree: Any, leaves: tuple[Any, ...]) -> Any:
    return unflatten(tree, iter(leaves))
