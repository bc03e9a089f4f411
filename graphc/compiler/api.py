"""`graphc.compile`, `graphc.run_graph` and `Dim`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from graphc.compiler.compiled import Compiled, CompileOptions
from graphc.compiler.driver import compile_graph, make_context
from graphc.compiler.dynamic import Dim, declared_axes
from graphc.core.storage import Memory, allocate_memory, memory_of
from graphc.ir.graph import Graph
from graphc.ir.lazy import lazy_module
from graphc.runtime.threads import set_num_threads

if TYPE_CHECKING:
    from graphc.backends import reference
    from graphc.passes import pipeline
else:
    reference = lazy_module("graphc.backends.reference")
    pipeline = lazy_module("graphc.passes.pipeline")

__all__ = ["Dim", "compile", "run_graph"]


@overload
def compile(
    fn: Callable[..., Any],
    *,
    dynamic: Any = ...,
    target: str = ...,
    threads: int | None = ...,
    passes: str | None = ...,
    memory_budget: int | None = ...,
    tune: bool = ...,
    keep_grads: bool = ...,
) -> Compiled: ...


@overload
def compile(
    fn: None = None,
    *,
    dynamic: Any = ...,
    target: str = ...,
    threads: int | None = ...,
    passes: str | None = ...,
    memory_budget: int | None = ...,
    tune: bool = ...,
    keep_grads: bool = ...,
) -> Callable[[Callable[..., Any]], Compiled]: ...


def compile(
    fn: Callable[..., Any] | None = None,
    *,
    dynamic: Any = None,
    target: str = "host",
    threads: int | None = None,
    passes: str | None = None,
    memory_budget: int | None = None,
    tune: bool = False,
    keep_grads: bool = False,
) -> Compiled | Callable[[Callable[..., Any]], Compiled]:
    """Compiles a function, a Module or a bound method; also a decorator, bare or with options.

    The function may hold `zero_grad`, a forward pass, `loss.backward()` and `optimizer.step()`: a call
    is then one native training step. It is traced once per signature (tensor dtypes and shapes,
    Python values). Module attributes are guarded: changing one is seen at the next call. Globals,
    closures and other objects are read at trace time and fixed.

    `target` is `"host"` or a target's name; `threads` sets the process's thread count; `passes` is a
    pipeline in text form; `keep_grads` keeps gradients that are both made and consumed inside the call
    readable as `.grad`. With a `memory_budget` values of the forward part are computed again in the backward part until
    the temporaries of a call fit in so many bytes: results keep their bits; the call that compiles raises CompileError
    where even the most that can be computed again does not fit, and says what would. With `dynamic` that is so at the
    largest sizes, whose `Dim` must have a `max`.

    With `tune` the plans that matrix products and convolutions may have are measured on this machine when a function is
    compiled, which takes seconds for each kernel of its own; the fastest are remembered in the compile cache, so the next process measures
    nothing. Results keep their bits. Kernels of symbolic sizes are not measured.

    With `dynamic` axes of arguments keep their size open, and one program serves all sizes, 0 and 1 included:
    `dynamic={"x": {0: "batch"}}` maps a parameter's name or position to axes, and an axis to a name or to a
    `graphc.Dim` with bounds. In the function `x.shape[0]` is then a symbolic size. What needs it as a number, or
    compares it where the bounds do not decide, raises TraceError. A call with a size outside of its bounds, or with two
    sizes of one name, raises ValueError. Raises TypeError where `fn` cannot be called, ValueError for an unknown
    target or pass, RuntimeError for a number of threads outside 1 … 1024, as `set_num_threads` does.
    """
    if tune and target != "host":
        raise ValueError(
            f'graphc.compile: tune measures on this machine, so target must be "host", got {target!r}'
        )
    if memory_budget is not None:
        if isinstance(memory_budget, bool) or not isinstance(memory_budget, int):
            raise TypeError(
                f"graphc.compile: memory_budget must be a number of bytes, got {type(memory_budget).__name__}"
            )
        if memory_budget < 0:
            raise ValueError(f"graphc.compile: memory_budget must be at least 0, got {memory_budget}")
    if threads is not None:
        set_num_threads(threads)
    if target != "host":
        make_context(target)
    if passes is not None:
        pipeline.parse_pipeline(passes)
    options = CompileOptions(
        target=target, passes=passes, keep_grads=keep_grads, memory_budget=memory_budget, tune=tune
    )
    if fn is None:
        return functools.partial(_compile, options, dynamic)
    return _compile(options, dynamic, fn)


def _compile(options: CompileOptions, dynamic: Any, fn: Callable[..., Any]) -> Compiled:
    if not callable(fn):
        raise TypeError(f"graphc.compile expects a function or a Module, got {type(fn).__name__}")
    axes = declared_axes(fn, dynamic)
    if options.memory_budget is not None and axes is not None:
        open_ = [s.name for s in axes.symbols if s.hi is None]
        if open_:
            raise ValueError(
                f"graphc.compile: memory_budget is what temporaries take at the largest sizes, but {', '.join(open_)} has no "
                f'bound; give one, like Dim("{open_[0]}", max=…)'
            )
    return Compiled.make(fn, options, axes)


def run_graph(graph: Graph, *arrays: Any, backend: str = "llvm") -> list[Any]:
    """Runs a graph on NumPy arrays, one per input; returns all outputs, new states included.

    `backend` is `"llvm"` or `"reference"` (the NumPy interpreter). The graph and the arrays are not
    changed. Raises TypeError or ValueError where an array does not fit its input.
    """
    if backend == "reference":
        return reference.run(graph, *arrays)
    if backend != "llvm":
        raise ValueError(f'run_graph: backend must be "llvm" or "reference", got {backend!r}')
    if len(arrays) != len(graph.inputs):
        raise TypeError(f"graph @{graph.name} takes {len(graph.inputs)} inputs, got {len(arrays)}")
    inputs = [_checked(v.type, a, v.name) for v, a in zip(graph.inputs, arrays, strict=True)]
    compiled = compile_graph(graph.copy())
    outputs = [
        inputs[graph.aliases[i]] if i in graph.aliases else allocate_memory(v.type)
        for i, v in enumerate(graph.outputs)
    ]
    compiled.run(inputs, [m for i, m in enumerate(outputs) if i not in graph.aliases])
    return [m.array for m in outputs]


def _checked(type_: Any, array: Any, name: str) -> Memory:
    given = np.asarray(array)
    if given.dtype != type_.dtype.numpy:
        raise TypeError(f"input %{name}: expected dtype {type_.dtype.numpy}, got {given.dtype}")
    if given.shape != type_.sizes:
        raise ValueError(f"input %{name}: expected shape {list(type_.sizes)}, got {list(given.shape)}")
    return memory_of(given, share=False)
