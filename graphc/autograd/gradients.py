"""`backward` and `grad`: the walk from results back to leaves or to chosen tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc import core

__all__ = ["backward", "grad"]


def _sequence(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (tuple, list)) else [x]


def _seeds(outputs: list[Any], given: Any) -> list[Any]:
    seeds = [None] * len(outputs) if given is None else _sequence(given)
    if len(seeds) != len(outputs):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(seeds)} gradients")
    return seeds


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Sequence[Any] | None = None,
) -> None:
    """Adds the gradients of `tensors` (weighted by `grad_tensors`) to `.grad` of the leaves.

    Raises RuntimeError for a tensor that does not require grad, for a non-scalar without gradient
    and for a tape that an earlier call has freed.
    """
    roots = _sequence(tensors)
    core.backward(roots, _seeds(roots, grad_tensors), retain_graph, create_graph, inputs)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """Gradients of the sum of `outputs` with respect to each of `inputs`; `.grad` is not touched.

    With `is_grads_batched`, `grad_outputs` and results have a leading axis of instances, all of them computed
    at once. Raises RuntimeError for an input that is unused, unless `allow_unused` (then None) or
    `materialize_grads` (then zeros).
    """
    roots, leaves = _sequence(outputs), _sequence(inputs)
    seeds, instances = _seeds(roots, grad_outputs), None
    if is_grads_batched:
        given = [s for s in seeds if s is not None and s.tensor_type.shape]
        if not given:
            raise RuntimeError("is_grads_batched=True: grad_outputs must have a leading axis of instances")
        instances = int(given[0].shape[0])
    found = core.gradients(
        roots,
        leaves,
        seeds,
        retain_graph,
        create_graph,
        bool(allow_unused) or materialize_grads,
        instances,
    )
    if not materialize_grads:
        return found
    lead = () if instances is None else (instances,)
    return tuple(
        core.constant(np.zeros((*lead, *x.tensor_type.sizes), x.dtype.numpy)) if g is None else g
        for x, g in zip(leaves, found, strict=True)
    )
