"""Loops of known length: functions that are recorded once and run as loops inside of the program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.compiler.tree import Tree, unflatten
from graphc.core.location import annotate
from graphc.core.recording import current, flush_random, record_nodes
from graphc.core.region import read_states, record_region, write_states
from graphc.core.storage import Storage
from graphc.core.symint import assume, plain
from graphc.core.tensor import wrap
from graphc.functions.control.nests import check_kept, tensors
from graphc.functions.shape import reshape
from graphc.ir.dims import Dim, Expr

__all__ = ["map", "scan", "scan_as"]


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Runs `carry, y = f(carry, x)` over the slices `x` of `xs` along their first axis.

    `init` is the first carry; `init` and `xs` are Tensors or nests of them, and `xs` may be None where
    `length` is given. Returns the last carry and all `y` stacked. With `reverse` the slices come last to
    first; each `y` stands where its `x` stood. `f` is recorded once and is a loop in the program, whatever
    the length. It may read other tensors and write them in place; random numbers are those of the same loop
    in Python. Differentiable.

    The length may be that of a dynamic dimension; each call then brings its own number of steps.

    Raises RuntimeError where the carry that `f` returns is of another type than the one it took, or
    where slices differ in number; TypeError for what is no Tensor.
    """
    try:
        return scan_as("scan", "f", f, init, xs, length, reverse)
    except (RuntimeError, TypeError) as error:
        annotate(error)
        raise


def map(f: Callable[[Any], Any], xs: Any) -> Any:
    """All `f(x)`, stacked, for the slices `x` of `xs` along their first axis.

    `xs` is a Tensor or a nest of Tensors with first axes of one size, and so is what `f` returns. `f` is recorded
    once; the slices come one after the other. Differentiable. Raises what `scan` raises.
    """
    try:
        return scan_as("map", "f", lambda _, x: (None, f(x)), None, xs, None, False)[1]
    except (RuntimeError, TypeError) as error:
        annotate(error)
        raise


def scan_as(
    name: str,
    function: str,
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    length: int | None,
    reverse: bool,
) -> tuple[Any, Any]:
    """`scan` under the name of the user's function; errors call `f` by the name `function`."""
    carries, carry_tree = tensors(init, name, "the initial carry")
    slices, slice_tree = tensors(xs, name, "xs")
    steps = _steps(name, slices, length)
    # A first axis that is assumed to be of the loop's length has to be spelt like it.
    slices = [t if t.tensor_type.shape[0] == steps else reshape(t, (steps, *t.shape[1:])) for t in slices]
    kept: list[Tree] = []

    def body(arguments: list[Any]) -> list[Any]:
        carry = unflatten(carry_tree, iter(arguments[: len(carries)]))
        x = unflatten(slice_tree, iter(arguments[len(carries) :]))
        returned = f(carry, x)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(
                f"{name}: {function} must return a pair (carry, y), got {type(returned).__name__}"
            )
        after, after_tree = tensors(returned[0], name, f"the carry that {function} returns")
        out, out_tree = tensors(returned[1], name, "y")
        check_kept(name, function, carries, carry_tree, after, after_tree)
        kept[:] = [out_tree]
        return [*after, *out]

    n = len(carries)
    types = [t.tensor_type for t in carries]
    types += [t.tensor_type.with_shape(t.tensor_type.shape[1:]) for t in slices]
    region = record_region(body, types)
    states: list[Storage] = []
    while len(region.written) > len(states):
        # What is written in a step is read in the next: such state is carried.
        states = list(region.written)
        region = record_region(body, types, states)
    if states:
        flush_random(current())
    graph = region.graph(
        [*region.arguments[:n], *region.bound, *region.arguments[n:]],
        region.captured,
        [*region.outputs[:n], *region.written.values(), *region.outputs[n:]],
    )
    attrs = {
        "length": steps,
        "carries": n + len(states),
        "slices": len(slices),
        "outputs": tuple(t.tensor_type for t in region.returned[n:]),
        "reverse": bool(reverse),
    }
    operands = [
        *(t._read() for t in carries),
        *read_states(states),
        *(t._read() for t in slices),
        *region.captured,
    ]
    nodes = list(record_nodes("scan", operands, attrs, (graph,))) if graph.outputs else []
    write_states(states, nodes[n : n + len(states)], [v.requires_grad for v in region.written.values()])
    results = [wrap(node) for node in (*nodes[:n], *nodes[n + len(states) :])]
    return unflatten(carry_tree, iter(results[:n])), unflatten(kept[0], iter(results[n:]))


def _steps(name: str, slices: list[Any], length: Any) -> Dim:
    for t in slices:
        if not t.shape:
            raise RuntimeError(f"{name}: xs must have a first axis to take slices along, got a rank-0 Tensor")
    sizes = [t.shape[0] for t in slices]
    if length is None:
        if not sizes:
            raise TypeError(
                f"{name}: " + ("give length where there is no xs" if name == "scan" else "xs has no Tensor")
            )
        length = sizes[0]
    if isinstance(length, bool) or not isinstance(length, (int, Expr)):
        raise TypeError(f"{name}: length must be an int of at least 0, got {length!r}")
    assume(length, ">=", 0, TypeError, f"{name}: length must be an int of at least 0, got {length}")
    for n in sizes:
        message = f"{name}: {length} steps expected of each of xs, got first axes of sizes {sizes}"
        assume(n, "==", length, RuntimeError, message)
    found: Dim = plain(length)
    return found
