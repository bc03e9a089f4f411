"""Control flow: functions that are recorded once and run as loops inside of the program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.compiler.tree import Tree, flatten, unflatten
from graphc.core.location import annotate
from graphc.core.recording import record_nodes
from graphc.core.region import record_region
from graphc.core.tensor import TensorBase, wrap

__all__ = ["scan"]


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Runs `carry, y = f(carry, x)` over the slices `x` of `xs` along their first axis.

    `init` is the first carry; `init` and `xs` are Tensors or nests of them, and `xs` may be None where
    `length` is given. Returns the last carry and all `y` stacked. With `reverse` the slices come last to
    first; each `y` stands where its `x` stood. `f` is recorded once and is a loop in the program, whatever
    the length; it may read other tensors, but not write them. Differentiable.

    Raises RuntimeError where the carry that `f` returns is of another type than the one it took, or
    where slices differ in number; TypeError for what is no Tensor.
    """
    try:
        return _scan(f, init, xs, length, reverse)
    except (RuntimeError, TypeError) as error:
        annotate(error)
        raise


def _scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, length: int | None, reverse: bool
) -> tuple[Any, Any]:
    carries, carry_tree = _tensors(init, "the initial carry")
    slices, slice_tree = _tensors(xs, "xs")
    steps = _steps(slices, length)
    kept: list[Tree] = []

    def body(arguments: list[Any]) -> list[Any]:
        carry = unflatten(carry_tree, iter(arguments[: len(carries)]))
        x = unflatten(slice_tree, iter(arguments[len(carries) :]))
        returned = f(carry, x)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(f"scan: f must return a pair (carry, y), got {type(returned).__name__}")
        after, after_tree = _tensors(returned[0], "the carry that f returns")
        out, out_tree = _tensors(returned[1], "y")
        _check_carry(carries, carry_tree, after, after_tree)
        kept.append(out_tree)
        return [*after, *out]

    types = [t.tensor_type for t in carries]
    types += [t.tensor_type.with_shape(t.tensor_type.shape[1:]) for t in slices]
    graph, captured, returned = record_region(body, types)
    attrs = {
        "length": steps,
        "carries": len(carries),
        "slices": len(slices),
        "outputs": tuple(t.tensor_type for t in returned[len(carries) :]),
        "reverse": bool(reverse),
    }
    operands = [t._read() for t in (*carries, *slices)] + captured
    results = [wrap(node) for node in record_nodes("scan", operands, attrs, (graph,))] if returned else []
    return (
        unflatten(carry_tree, iter(results[: len(carries)])),
        unflatten(kept[0], iter(results[len(carries) :])),
    )


def _tensors(nest: Any, what: str) -> tuple[list[Any], Tree]:
    """The Tensors of a nest and its tree. Raises TypeError for other leaves than Tensors and None."""
    leaves, tree = flatten(nest)
    for leaf in (*leaves, *_static(tree)):
        if not isinstance(leaf, TensorBase):
            raise TypeError(f"scan: {what} must be Tensors or nests of Tensors, got {type(leaf).__name__}")
    return leaves, tree


def _static(tree: Tree) -> list[Any]:
    """Leaves that are no tensors, None apart."""
    if tree[0] == "leaf":
        return []
    if tree[0] == "static":
        return [] if tree[1] is None else [tree[1]]
    return [x for child in tree[2] for x in _static(child)]


def _steps(slices: list[Any], length: int | None) -> int:
    for t in slices:
        if not t.shape:
            raise RuntimeError("scan: xs must have a first axis to take slices along, got a rank-0 Tensor")
    sizes = [int(t.shape[0]) for t in slices]
    if length is None:
        if not sizes:
            raise TypeError("scan: give length where there is no xs")
        length = sizes[0]
    if any(n != length for n in sizes):
        raise RuntimeError(f"scan: {length} steps expected of each of xs, got first axes of sizes {sizes}")
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise TypeError(f"scan: length must be an int of at least 0, got {length!r}")
    return length


def _check_carry(before: list[Any], before_tree: Tree, after: list[Any], after_tree: Tree) -> None:
    if before_tree != after_tree:
        raise RuntimeError(
            f"scan: f must return a carry nested like the one that it takes, got {len(after)} Tensors in another "
            f"nest than the {len(before)} of init"
        )
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        if a.tensor_type != b.tensor_type:
            raise RuntimeError(
                f"scan: carried value {i} is {a.tensor_type} before a step and {b.tensor_type} after it; it must "
                "keep its dtype and shape: cast or reshape it in f, or start from a value of that type"
            )
