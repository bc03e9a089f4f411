"""Loops that go on as long as a predicate holds, and counted loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphc.compiler.tree import unflatten
from graphc.core.hooked import Refusal, hook_values
from graphc.core.location import annotate, user_location
from graphc.core.modes import is_grad_enabled, no_grad
from graphc.core.node import Node
from graphc.core.recording import current, flush_random, record_nodes
from graphc.core.region import read_states, record_region, write_states
from graphc.core.storage import Storage
from graphc.core.symint import sym_max
from graphc.core.tensor import TensorBase, wrap
from graphc.functions.control.nests import check_flag, check_kept, tensors
from graphc.functions.control.scan import scan_as
from graphc.functions.creation import arange, full
from graphc.functions.promotion import size_operand
from graphc.functions.shape import reshape
from graphc.ir.dims import Expr
from graphc.ir.errors import located

__all__ = ["fori_loop", "while_loop"]


def while_loop(
    cond_fn: Callable[..., Any],
    body_fn: Callable[..., Any],
    operands: tuple[Any, ...] | list[Any],
    *,
    max_iterations: int | None = None,
) -> tuple[Any, ...]:
    """Runs `operands = body_fn(*operands)` as long as `cond_fn(*operands)` holds; returns the last ones.

    `operands` is a tuple of Tensors or nests of them; `body_fn` returns one like it, of the same dtypes and
    shapes (a single value may stand for a tuple of one). `cond_fn` returns a bool Tensor of one element. With
    `max_iterations` the loop ends after that many steps at the latest, and is differentiable; without, its
    number of steps is not bounded and differentiating it raises RuntimeError. Both functions are recorded once
    and may read other tensors; `body_fn` may write tensors in place and draw random numbers.

    Raises RuntimeError where a value does not keep its type, for another kind of predicate and where `cond_fn`
    writes a tensor; TypeError for what is no Tensor.
    """
    try:
        return _while_loop("while_loop", "body_fn", cond_fn, body_fn, operands, max_iterations)
    except (RuntimeError, TypeError, ValueError) as error:
        annotate(error)
        raise


def fori_loop(lower: Any, upper: Any, body: Callable[[Any, Any], Any], init: Any) -> Any:
    """Runs `value = body(i, value)` for i = lower … upper - 1, from `init`; returns the last value.

    `value` is a Tensor or a nest of Tensors that keeps its dtypes and shapes; `i` is an integer Tensor of rank 0.
    Bounds that are ints or dynamic sizes make a loop of known length, which is differentiable; with a Tensor among them
    it is a `while_loop` without bound, which is not. Raises RuntimeError where a value does not keep its type; TypeError
    for what is no Tensor or for bounds that are no integers.
    """
    try:
        return _fori_loop(lower, upper, body, init)
    except (RuntimeError, TypeError) as error:
        annotate(error)
        raise


def _scalar(bound: Any, model: Any) -> Any:
    """A bound as a Tensor without dimensions, in the dtype of `model` where it is an int."""
    return full((), bound, dtype=model.dtype) if isinstance(bound, int) else reshape(bound, ())


def _fori_loop(lower: Any, upper: Any, body: Callable[[Any, Any], Any], init: Any) -> Any:
    if all(isinstance(b, (int, Expr)) and not isinstance(b, bool) for b in (lower, upper)):
        numbers = arange(lower, sym_max(lower, upper))
        return scan_as("fori_loop", "body", lambda v, i: (body(i, v), None), init, numbers, None, False)[0]
    lower, upper = (size_operand(b) if isinstance(b, Expr) else b for b in (lower, upper))
    for name, bound in (("lower", lower), ("upper", upper)):
        whole = (
            bound.dtype.is_integral and bound.tensor_type.numel == 1
            if isinstance(bound, TensorBase)
            else isinstance(bound, int) and not isinstance(bound, bool)
        )
        if not whole:
            kind = bound.tensor_type if isinstance(bound, TensorBase) else type(bound).__name__
            raise TypeError(
                f"fori_loop: {name} must be an int or an integer Tensor of one element, got {kind}"
            )
    model: Any = lower if isinstance(lower, TensorBase) else upper
    first, last = (_scalar(b, model) for b in (lower, upper))
    if first.dtype is not last.dtype:
        first, last = first.long(), last.long()
    _, found = _while_loop(
        "fori_loop", "body", lambda i, v: i < last, lambda i, v: (i + 1, body(i, v)), (first, init), None
    )
    return found


def _while_loop(
    name: str,
    function: str,
    cond_fn: Callable[..., Any],
    body_fn: Callable[..., Any],
    operands: Sequence[Any],
    limit: int | None,
) -> tuple[Any, ...]:
    if not isinstance(operands, (tuple, list)):
        raise TypeError(
            f"{name}: operands must be a tuple of what the loop carries, got {type(operands).__name__}"
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise ValueError(f"{name}: max_iterations must be an int of at least 0, got {limit!r}")
    carries, tree = tensors(tuple(operands), name, "operands")

    def test(arguments: list[Any]) -> list[Any]:
        flag: Any = cond_fn(*unflatten(tree, iter(arguments)))
        check_flag(name, "what cond_fn returns", flag)
        return [flag.reshape(())] if flag.tensor_type.rank else [flag]

    def step(arguments: list[Any]) -> list[Any]:
        returned = body_fn(*unflatten(tree, iter(arguments)))
        if not isinstance(returned, (tuple, list)) and len(operands) == 1:
            returned = (returned,)
        if not isinstance(returned, (tuple, list)):
            raise TypeError(
                f"{name}: {function} must return a tuple of {len(operands)} values, got {type(returned).__name__}"
            )
        after, after_tree = tensors(tuple(returned), name, f"what {function} returns")
        check_kept(name, function, carries, tree, after, after_tree)
        return after

    types = [t.tensor_type for t in carries]
    states: list[Storage] = []
    body = record_region(step, types)
    while len(body.written) > len(states):
        # What is written in a step is read in the next: such state is carried.
        states = list(body.written)
        body = record_region(step, types, states)
    asked = record_region(test, types, states)
    if any(asked.written[s] is not n for s, n in zip(states, asked.bound, strict=True)) or len(
        asked.written
    ) > len(states):
        raise RuntimeError(
            f"{name}: cond_fn must not write tensors or draw random numbers; do it in {function}"
        )
    if limit == 0:
        return tuple(operands)
    if states:
        flush_random(current())
    captured = list(dict.fromkeys([*asked.captured, *body.captured]))
    graphs = (
        asked.graph([*asked.arguments, *asked.bound], captured, asked.outputs),
        body.graph([*body.arguments, *body.bound], captured, [*body.outputs, *body.written.values()]),
    )
    n = len(carries)
    attrs = {"carries": n + len(states), "limit": limit}
    nodes = [*(t._read() for t in carries), *read_states(states), *captured]
    results = _recorded(name, nodes, attrs, graphs)
    write_states(states, results[n:], [v.requires_grad for v in body.written.values()])
    found: tuple[Any, ...] = unflatten(tree, iter(_untracked(name, nodes, limit, results[:n])))
    return found


def _is_refused(nodes: Sequence[Node], limit: int | None) -> bool:
    """True of a loop without bound whose results would be on the tape."""
    # In a region the derivative of the op around it refuses the loop.
    return (
        limit is None
        and current().region is None
        and is_grad_enabled()
        and any(n.requires_grad for n in nodes)
    )


def _recorded(name: str, nodes: Sequence[Node], attrs: dict[str, Any], graphs: Any) -> tuple[Node, ...]:
    if _is_refused(nodes, attrs["limit"]):
        with no_grad():
            return record_nodes("while", nodes, attrs, graphs)
    return record_nodes("while", nodes, attrs, graphs)


def _untracked(name: str, nodes: Sequence[Node], limit: int | None, results: Sequence[Node]) -> list[Any]:
    """Results as Tensors, behind a point that refuses gradients where the loop has no bound."""
    found = [wrap(node) for node in results]
    if not _is_refused(nodes, limit):
        return found
    where = user_location()
    refuse = Refusal(
        located(
            RuntimeError,
            f"{name}: a loop whose number of steps is not bounded cannot be differentiated in reverse, since what "
            "each step computed has to be kept; give max_iterations (or int bounds), use scan, or put the loop "
            "under no_grad()",
            where.filename if where else None,
            where.lineno if where else None,
        )
    )

    floating = [i for i, t in enumerate(found) if t.dtype.is_floating_point]
    for i, tensor in zip(floating, hook_values([found[i] for i in floating], refuse), strict=True):
        found[i] = tensor
    return found
