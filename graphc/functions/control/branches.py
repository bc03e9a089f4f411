"""Branches: of two functions the program runs one, chosen when it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphc.compiler.tree import unflatten
from graphc.core.location import annotate
from graphc.core.recording import current, flush_random, record_nodes
from graphc.core.region import RecordedRegion, read_states, record_region, write_states
from graphc.core.tensor import wrap
from graphc.functions.control.nests import check_flag, tensors

__all__ = ["cond"]


def cond(
    pred: Any,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    operands: tuple[Any, ...] | list[Any] = (),
) -> Any:
    """`true_fn(*operands)` where `pred` holds, else `false_fn(*operands)`; only that one is run.

    `pred` is a bool Tensor of one element; for a Python bool the function is simply called. Both functions return
    Tensors, or nests of them, of the same structure, dtypes and shapes. They may read other tensors than
    `operands`, write tensors in place and draw random numbers: what the function that is not run would have done
    does not happen. Differentiable: gradients are those of the function that is run, zeros where it does not
    depend on a value.

    Raises RuntimeError where the functions return different structures or types, or for another kind of `pred`;
    TypeError for what is no Tensor or for `operands` that are no tuple or list.
    """
    try:
        return _cond(pred, true_fn, false_fn, operands)
    except (RuntimeError, TypeError) as error:
        annotate(error)
        raise


def _cond(
    pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Sequence[Any]
) -> Any:
    for function in (true_fn, false_fn):
        if not callable(function):
            raise RuntimeError(f"cond: expected both branches to be callable, got {type(function).__name__}")
    if not isinstance(operands, (tuple, list)):
        raise TypeError(
            f"cond: operands must be a tuple or list of what the branches take, got {type(operands).__name__}"
        )
    if isinstance(pred, bool):
        return (true_fn if pred else false_fn)(*operands)
    check_flag("cond", "pred", pred)
    trees = []

    def branch(name: str, function: Callable[..., Any]) -> RecordedRegion:
        def body(_: list[Any]) -> list[Any]:
            returned, tree = tensors(function(*operands), "cond", f"what {name} returns")
            trees.append(tree)
            return returned

        return record_region(body, ())

    regions = [branch("true_fn", true_fn), branch("false_fn", false_fn)]
    _check_same(regions, trees)
    states = list(dict.fromkeys(s for r in regions for s in r.written))
    if states:
        flush_random(current())
    held = read_states(states)
    captured = list(dict.fromkeys([n for r in regions for n in r.captured] + held))
    graphs = tuple(
        r.graph((), captured, [*r.outputs, *(r.written.get(s, n) for s, n in zip(states, held, strict=True))])
        for r in regions
    )
    if not graphs[0].outputs:
        return unflatten(trees[0], iter(()))
    flag = pred._read()
    if flag.type.rank:
        (flag,) = record_nodes("reshape", (flag,), {"shape": ()})
    attrs = {"outputs": tuple(v.type for v in graphs[0].outputs)}
    nodes = record_nodes("cond", [flag, *captured], attrs, graphs)
    n = len(regions[0].outputs)
    tracked = [any(s in r.written and r.written[s].requires_grad for r in regions) for s in states]
    write_states(states, nodes[n:], tracked)
    return unflatten(trees[0], iter([wrap(node) for node in nodes[:n]]))


def _check_same(regions: Sequence[RecordedRegion], trees: Sequence[Any]) -> None:
    """Raises RuntimeError where the branches return different structures or types."""
    first, second = (r.returned for r in regions)
    if trees[0] != trees[1]:
        raise RuntimeError(
            f"cond: both branches must return the same structure, got {len(first)} Tensors from true_fn and "
            f"{len(second)} from false_fn, or other nests of them"
        )
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if a.tensor_type != b.tensor_type:
            raise RuntimeError(
                f"cond: output {i} is {a.tensor_type} in true_fn and {b.tensor_type} in false_fn; both branches must "
                "return the same dtypes and shapes: cast, reshape or expand one of them"
            )
