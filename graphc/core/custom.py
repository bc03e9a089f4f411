"""Functions with a derivative of the user's in the body of a loop or branch, or under `vmap`.

There is no tape to stop at: both directions are recorded at once, as regions of one op
(`ir/ops/composite/custom.py`). Invariant: what the way back reads of the way forth is an argument, a result,
or one of the values that the function kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from graphc.core.hooked import move_before, put_behind, run_hooks
from graphc.core.modes import no_grad
from graphc.core.node import Node
from graphc.core.recording import current, record_nodes
from graphc.core.region import RecordedRegion, record_region
from graphc.core.tensor import wrap
from graphc.ir.errors import TraceError

__all__ = ["hook_in_region", "record_custom"]

Tensors = list[Any]


def record_custom(
    arguments: Sequence[Any],
    forward: Callable[[Tensors], tuple[Tensors, Tensors, list[int]]],
    backward: Callable[[Tensors, Tensors, Tensors, Tensors], list[Any]],
) -> Tensors:
    """The results of a function, with a derivative of its own, in the region that is being recorded.

    `forward(arguments)` gives results, the values that are kept for the way back, and which results have a cotangent;
    `backward(arguments, results, kept, cotangents)` gives a gradient, or None, for each argument. Both are called
    once, with tensors of the region. Raises TraceError where one of them writes a tensor from outside or draws
    random numbers.
    """
    sizes: list[int] = []
    roots: list[int] = []
    wrt: list[int] = []

    def forth(given: Tensors) -> Tensors:
        with no_grad():
            results, kept, rooted = forward(given)
        sizes.append(len(results))
        roots.extend(rooted)
        return [*results, *kept]

    nodes = [a._read() for a in arguments]
    types = [n.type for n in nodes]
    first = record_region(forth, types)
    outputs = tuple([n.type for n in first.outputs])
    n, m = len(types), len(outputs)

    def back(given: Tensors) -> Tensors:
        results = given[n : n + m]
        found = backward(given[:n], results[: sizes[0]], results[sizes[0] :], given[n + m :])
        wrt.extend(i for i, g in enumerate(found) if g is not None)
        return [g for g in found if g is not None]

    second = record_region(back, [*types, *outputs, *(outputs[i] for i in roots)])
    _refuse_writes(first, second)
    captured = list(dict.fromkeys([*first.captured, *second.captured]))
    regions = (
        first.graph(first.arguments, captured, first.outputs),
        second.graph(second.arguments, captured, second.outputs),
    )
    attrs = {"outputs": outputs, "arguments": n, "roots": tuple(roots), "wrt": tuple(wrt)}
    made: tuple[Node, ...] = record_nodes("custom_gradient", (*nodes, *captured), attrs, regions)
    for i in range(sizes[0]):
        made[i].requires_grad = made[i].requires_grad and i in roots
    return [wrap(node) for node in made[: sizes[0]]]


def hook_in_region(tensor: Any, hook: Callable[[Any], Any]) -> OrderedDict[int, Callable[[Any], Any]]:
    """Records `hook` as the derivative of an identity that the tensor stands behind from now on.

    It is called at once, with a gradient that has no value yet. What is returned refuses to give it back.
    """
    node, region = tensor._read(), current().region

    def ask(gradient: Any) -> Any:
        return run_hooks(OrderedDict({0: hook}), gradient)

    def identity(source: Node) -> Node:
        (made,) = record_custom(
            [wrap(source)],
            lambda given: (given, [], [0]),
            lambda given, results, kept, cotangents: [ask(cotangents[0])],
        )
        result: Node = made._storage.node
        region.hooks.add(result.entry)
        return result

    if node.entry not in region.hooks:
        put_behind(tensor, node, identity(node))
        return _Recorded()
    # Hooks are asked in the order in which they came: this one stands before those that are there.
    last = node.entry
    while last.operands[0].entry in region.hooks:
        last = last.operands[0].entry
    made = identity(last.operands[0])
    move_before(region, last)
    last.operands = (made, *last.operands[1:])
    return _Recorded()


class _Recorded(OrderedDict[int, Any]):
    """Stands for the hooks of a value in a region: they are part of it."""

    def pop(self, key: Any, default: Any = None) -> Any:
        raise TraceError(
            "a hook in the body of a loop or branch is recorded with it and cannot be removed again"
        )


def _refuse_writes(*regions: RecordedRegion) -> None:
    if any(r.written for r in regions):
        current().region.refuse(
            "have an autograd.Function or hook that writes tensors from outside of it or draws random numbers; "
            "give it what it needs as arguments"
        )
