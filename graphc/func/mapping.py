"""`vmap`: a function of one instance for many at once.

The function is recorded once, for one instance, and its graph is batched (`ir/batching.py`); what it
gives are ordinary operations of the recording around it. Invariant: what depends on no mapped
argument is computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.core import TensorBase, assign, no_grad, plain, wrap
from graphc.core.location import annotate
from graphc.core.modes import unrecorded
from graphc.core.node import Node
from graphc.core.recording import record_nodes
from graphc.core.region import RecordedRegion, record_region, write_states
from graphc.core.storage import Storage
from graphc.func.transforms import Pull, leaves, mapped
from graphc.functions import shape
from graphc.ir.attributes import Dense
from graphc.ir.batching import batch_graph
from graphc.ir.graph import Graph
from graphc.ir.lazy import lazy_module
from graphc.ir.marks import NO_GRAD, has_mark

gradients: Any = lazy_module("graphc.passes.gradients")

__all__ = ["vmap"]

DRAWS = 1 << 32
"""Numbers of a random stream that one instance has for itself."""

RANDOM = (
    "vmap: called random operation while in randomness error mode. Please either use the 'same' or 'different' "
    "randomness flags on vmap or perform the randomness operation out of vmap"
)


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """A function that maps `func` over axes of its arguments.

    `in_dims` says which axis of each positional argument is mapped over: a number, None for an argument that is one
    for all, or a nest of these like the arguments; `out_dims` where the axis stands in the results.
    `randomness`: "error" refuses random operations, "same" draws once for all, "different" for each instance.
    `chunk_size` instances are done at a time; None is all of them.

    Raises ValueError for axes that do not fit the arguments, as PyTorch does, and RuntimeError where `func` asks
    for a value or writes a tensor from outside of it.
    """
    if randomness not in ("error", "different", "same"):
        raise RuntimeError(
            f"Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness}"
        )
    if chunk_size is not None and not (chunk_size is None or chunk_size > 0):
        raise ValueError(f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})")

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        name = getattr(func, "__name__", repr(func))
        try:
            dims = _spread(
                in_dims if isinstance(in_dims, (int, type(None))) else tuple(in_dims), args, name, in_dims
            )
            flat = _items(args)
            size = _size(flat, dims, name, in_dims)
        except ValueError as error:
            annotate(error)
            raise
        if chunk_size is None or chunk_size >= size:
            return _mapped_once(func, args, kwargs, flat, dims, out_dims, size, randomness, name)
        parts = []
        for start in range(0, size, chunk_size):
            stop = min(start + chunk_size, size)
            part = [
                x if d is None else shape.narrow(x, d, start, stop - start)
                for x, d in zip(flat, dims, strict=True)
            ]
            parts.append(
                _mapped_once(func, args, kwargs, part, dims, out_dims, stop - start, randomness, name)
            )
        return _concatenated(parts, out_dims)

    return wrapped


# -- arguments ----------------------------------------------------------------------------


def _items(x: Any) -> list[Any]:
    """The leaves of a nest, whatever they are."""
    if isinstance(x, Mapping):
        return [t for v in x.values() for t in _items(v)]
    if isinstance(x, (list, tuple)):
        return [t for v in x for t in _items(v)]
    return [x]


def _spread(dims: Any, x: Any, name: str, in_dims: Any) -> list[int | None]:
    """The axis for each leaf of `x`; `dims` is a nest like `x` or a prefix of it."""
    if isinstance(dims, int) or dims is None:
        return [dims] * len(_items(x))
    if isinstance(x, Mapping) and isinstance(dims, Mapping) and set(x) == set(dims):
        return [d for k, v in x.items() for d in _spread(dims[k], v, name, in_dims)]
    if isinstance(x, (list, tuple)) and isinstance(dims, (list, tuple)) and len(x) == len(dims):
        return [d for v, s in zip(x, dims, strict=True) for d in _spread(s, v, name, in_dims)]
    raise ValueError(
        f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): in_dims is not compatible with the structure of inputs."
    )


def _nested(x: Any) -> bool:
    return isinstance(x, (list, tuple, Mapping))


def _size(flat: list[Any], dims: list[int | None], name: str, in_dims: Any) -> int:
    """The number of instances; makes axes non-negative. Raises ValueError for what does not fit."""
    where = f"vmap({name}, in_dims={in_dims}, ...)(<inputs>): "
    sizes = []
    for i, (x, d) in enumerate(zip(flat, dims, strict=True)):
        if d is None:
            continue
        if not isinstance(x, TensorBase):
            raise ValueError(
                f"{where}Got in_dim={d} for an input but the input is of type {type(x)}. We cannot vmap over non-Tensor "
                "arguments, please use None as the respective in_dim"
            )
        rank = len(x.shape)
        if not -rank <= d < rank:
            raise ValueError(
                f"{where}Got in_dim={d} for some input, but that input is a Tensor of dimensionality {rank} so "
                f"expected in_dim to satisfy -{rank} <= in_dim < {rank}."
            )
        dims[i] = d % rank
        sizes.append(plain(x.shape[d]))
    if not sizes:
        raise ValueError(
            f"{where}at least one input must be mapped over: all in_dims are None or there are no Tensors"
        )
    if len(set(sizes)) > 1:
        raise ValueError(
            f"vmap: Expected all tensors to have the same size in the mapped dimension, got sizes {sizes} for the "
            "mapped dimension"
        )
    found: int = sizes[0]
    return found


def _filled(x: Any, items: Any) -> Any:
    """A nest like `x` with other leaves."""
    if isinstance(x, Mapping):
        return type(x)({k: _filled(v, items) for k, v in x.items()})  # type: ignore[call-arg]
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_filled(v, items) for v in x))
    if isinstance(x, (list, tuple)):
        return type(x)(_filled(v, items) for v in x)
    return next(items)


# -- one batch ----------------------------------------------------------------------------


def _mapped_once(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    flat: list[Any],
    dims: list[int | None],
    out_dims: Any,
    size: int,
    randomness: str,
    name: str,
) -> Any:
    fronted = [shape.movedim(x, d, 0) if d else x for x, d in zip(flat, dims, strict=True)]
    if isinstance(func, Pull) and all(d is not None for d in dims):
        found = func(*_filled(args, iter(fronted)), instances=size)
        return _placed(found, leaves(found), out_dims, size, [True] * len(leaves(found)), name)
    # What is one for all is read from outside, like any other tensor.
    places = [i for i, d in enumerate(dims) if d is not None]
    types = [fronted[i].tensor_type.with_shape(fronted[i].tensor_type.shape[1:]) for i in places]
    returned: list[Any] = []
    written: list[int] = []

    def body(arguments: list[Any]) -> list[Any]:
        items, before = list(fronted), [a._storage.node for a in arguments]
        for i, argument in zip(places, arguments, strict=True):
            items[i] = argument
        returned.append(func(*_filled(args, iter(items)), **kwargs))
        for item in _items(returned[0]):
            if not isinstance(item, TensorBase):
                error = ValueError(
                    f"vmap({name}, ...): `{name}` must only return Tensors, got type {type(item)}. Did you mean to set "
                    "out_dims= to None for output?"
                )
                annotate(error)
                raise error
        written.extend(
            k for k, (a, n) in enumerate(zip(arguments, before, strict=True)) if a._storage.node is not n
        )
        return [*_items(returned[0]), *(arguments[k] for k in written)]

    recorded = record_region(body, types)
    nodes, batched = _batched(recorded, [fronted[i] for i in places], size, randomness)
    results = [wrap(n) for n in nodes]
    count = len(results) - len(written)
    # What was written in place in an argument is what the argument holds from now on.
    for k, value, on in zip(written, results[count:], batched[count:], strict=True):
        x = fronted[places[k]]
        assign(x, value if on else value.expand(x.shape))
    return _placed(returned[0], results[:count], out_dims, size, batched[:count], name)


def _batched(
    recorded: RecordedRegion, arguments: Sequence[Any], size: int, randomness: str
) -> tuple[list[Node], list[bool]]:
    """Records the region for all instances. Gives its results, and whether each has a leading axis."""
    states = list(recorded.written)
    _check_written(states, randomness)
    after = [recorded.written[s] for s in states]
    before = [_outside(s) for s in states]
    graph = recorded.graph(recorded.arguments, recorded.captured, [*recorded.outputs, *after])
    gradients.expand_gradients(graph)
    different = {n for n in before if randomness == "different"}
    flags = [True] * len(recorded.arguments) + [n in different for n in recorded.captured]
    whole, have = batch_graph(graph, flags, size, whole=False)
    given = [t._read() for t in arguments]
    given += [_own_states(n, size) if n in different else n for n in recorded.captured]
    found = _replayed(whole, given)
    count = len(recorded.outputs)
    ends = []
    for node, on in zip(found[count:], have[count:], strict=True):
        if on and randomness != "different":
            raise RuntimeError(
                "vmap: a tensor from outside of the function is written in place with values that differ between "
                "instances; return the values instead"
            )
        ends.append(_last(node) if on else node)
    with no_grad():
        write_states(states, ends, [False] * len(states))
    return found[:count], have[:count]


def _check_written(states: Sequence[Storage], randomness: str) -> None:
    for storage in states:
        role = storage.memory.role if storage.memory is not None else None
        if role == "rng" and randomness == "error":
            error = RuntimeError(RANDOM)
            annotate(error)
            raise error


def _outside(storage: Storage) -> Node:
    whole: Node = TensorBase._tensor_class._new(storage, storage.node.type)._read()
    return whole


def _own_states(state: Node, size: int) -> Node:
    """A stream's state for each instance, `DRAWS` numbers apart."""
    (every,) = record_nodes("expand", (state,), {"shape": (size, 2)})
    steps = np.stack([np.zeros(size, np.int64), np.arange(size, dtype=np.int64) * DRAWS], 1)
    (apart,) = record_nodes("constant", (), {"value": Dense(steps)})
    return record_nodes("add", (every, apart), {})[0]


def _last(states: Node) -> Node:
    size, width = states.type.sizes
    part = {"starts": (size - 1, 0), "stops": (size, width), "strides": (1, 1)}
    (row,) = record_nodes("slice", (states,), part)
    return record_nodes("reshape", (row,), {"shape": (width,)})[0]


def _replayed(graph: Graph, given: Sequence[Node]) -> list[Node]:
    """Records a graph's operations one by one, at the lines that they come from."""
    values = dict(zip(graph.inputs, given, strict=True))
    for op in graph.ops:
        operands = [values[v] for v in op.operands]
        if has_mark(op, NO_GRAD):
            with unrecorded():
                results = record_nodes(op.name, operands, op.attrs, op.regions)
        else:
            results = record_nodes(op.name, operands, op.attrs, op.regions)
        made = results[0].entry
        assert made is not None
        if op.loc is not None:
            made.loc = op.loc
        values.update(zip(op.results, results, strict=True))
    return [values[v] for v in graph.outputs]


# -- results ------------------------------------------------------------------------------


def _placed(
    nest: Any, results: list[Any], out_dims: Any, size: int, batched: Sequence[bool], name: str
) -> Any:
    """The results in the nest that the function returned, with the axis where `out_dims` says."""
    try:
        places = _spread_out(out_dims, nest, name, out_dims)
        placed = []
        for x, on, d in zip(results, batched, places, strict=True):
            if d is None:
                if on:
                    raise ValueError(
                        f"vmap({name}, ...): `{name}` can not return a BatchedTensor when out_dim is None"
                    )
                placed.append(x)
                continue
            whole = x if on else shape.broadcast_to(x, (size, *x.shape))
            rank = len(whole.shape)
            if not -rank <= d < rank:
                raise IndexError(
                    f"Dimension out of range (expected to be in range of [{-rank}, {rank - 1}], but got {d})"
                )
            placed.append(shape.movedim(whole, 0, d) if d % rank else whole)
    except (ValueError, IndexError) as error:
        annotate(error)
        raise
    return _filled(nest, iter(placed)) if _nested(nest) else placed[0]


def _spread_out(dims: Any, nest: Any, name: str, out_dims: Any) -> list[int | None]:
    if isinstance(dims, int) or dims is None:
        return [dims] * len(_items(nest))
    if isinstance(dims, (tuple, list)) and not _nested(nest) and len(dims) == 1:
        return _spread_out(dims[0], nest, name, out_dims)
    try:
        return _spread(dims, nest, name, out_dims)
    except ValueError:
        raise ValueError(
            f"vmap({name}, ..., out_dims={out_dims})(<inputs>): out_dims is not compatible with the structure of "
            f"outputs."
        ) from None


def _concatenated(parts: list[Any], out_dims: Any) -> Any:
    places = iter(_spread_out(out_dims, parts[0], "func", out_dims))
    columns = zip(*(leaves(p) for p in parts), strict=True)
    joined = iter(
        [c[0] if d is None else shape.cat(list(c), d) for c, d in zip(columns, places, strict=True)]
    )
    return mapped(lambda _: next(joined), parts[0])
