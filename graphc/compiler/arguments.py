"""Arguments of compiled calls: what stands for a view or an array, and where arguments share memory.

A program takes its inputs for different memory. A contiguous part of a tensor is passed where it lies; anything
else with gaps is passed as a copy, and what the program writes into that is copied back.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from graphc.compiler.tree import flatten, unflatten
from graphc.core.node import Node
from graphc.core.storage import Memory, Storage, shareable
from graphc.core.tensor import TensorBase, from_array, is_known, native_record, wrap

__all__ = ["apart", "argument", "is_copy", "meet", "placed", "span", "write_back"]


def argument(leaf: Any) -> Any:
    """A realised tensor over contiguous memory for one argument leaf, with its native record where it is one."""
    if isinstance(leaf, np.ndarray):
        return from_array(leaf, share=True)
    leaf.realize()
    storage = leaf._storage
    if leaf._chain:
        if leaf.requires_grad:
            return wrap(leaf._read()).realize()
        array = leaf._array(storage)
        part = storage.memory.part(array)
        if part is None:
            return from_array(array, share=False)
        made = wrap(Node(part.type, memory=part))
        made._record = leaf._record = native_record(part.address, part.type)
        return made
    memory = storage.memory
    record = native_record(memory.address, leaf.tensor_type, requires_grad=leaf.requires_grad)
    if leaf._record != record:
        leaf._record = record
    return leaf


def placed(value: Any) -> Any:
    """What the native entry is to get for an argument: with native records wherever there may be some.

    It may be a copy, so it is only for programs that write none of their arguments.
    """
    if isinstance(value, TensorBase):
        if is_known(value) or (value._chain and value.requires_grad):
            return value
        return argument(value)
    kind = type(value)
    if kind is np.ndarray:
        return value if shareable(value) else from_array(value, share=False)
    if kind is tuple or kind is list:
        return kind([placed(x) for x in value])
    if kind is dict:
        return {key: placed(x) for key, x in value.items()}
    return value


def is_copy(leaf: Any, tensor: Any) -> bool:
    """True where `tensor` does not lie in the memory of the argument leaf that it stands for."""
    memory = tensor._storage.memory
    if isinstance(leaf, np.ndarray):
        return memory.foreign is not leaf
    return leaf is not tensor and memory.whole is not leaf._storage.memory


def write_back(leaf: Any, tensor: Any) -> None:
    """What a call has left in the copy of a leaf, to where the leaf has its elements."""
    values = tensor._storage.memory.array
    if isinstance(leaf, np.ndarray):
        leaf[...] = values
        return
    leaf._array(leaf._storage)[...] = values
    leaf._storage.memory.version += 1
    leaf._storage.memory.written_otherwise()


def apart(args: Any, kwargs: Any, same: Collection[int] = ()) -> tuple[Any, Any]:
    """Arguments whose storages no tensor that the function has otherwise shares: what it reads through such a
    tensor is a state, and not the argument of another call. Leaves at the positions `same` stay as they are."""
    leaves, tree = flatten((args, kwargs))
    made: dict[int, Any] = {}
    kept = {id(leaves[i]._storage) for i in same}
    for t in leaves:
        storage = t._storage
        if id(storage) not in made:
            node = storage.node
            keep = id(storage) in kept or storage.memory.foreign is not None
            if not keep and t.requires_grad:
                keep = not _plain_leaf(t)
            made[id(storage)] = t if keep else _twin(t, Node(node.type, memory=storage.memory.apart()))
    args, kwargs = unflatten(tree, iter([made[id(t._storage)] for t in leaves]))
    return args, kwargs


def _plain_leaf(t: Any) -> bool:
    """True of a leaf without hooks, for which another tensor may stand."""
    return t._leaf and not getattr(t, "_hooks", None) and not t.__dict__.get("_hooks_behind")


def _twin(t: Any, node: Node) -> Any:
    """A tensor that stands for an argument in a trace."""
    if not t.requires_grad:
        return wrap(node)
    made = type(t)._new(Storage(node), node.type)
    made.requires_grad_(True)
    made._grad = t._grad
    return made


def span(memory: Memory) -> tuple[int, int]:
    """Addresses of the first byte and of that behind the last."""
    return memory.address, memory.address + memory.type.nbytes


def meet(a: Any, b: Any) -> Any:
    """Which of the spans `a` (rows) have a byte in common with which of `b` (columns)."""
    return (a[:, None, 0] < b[None, :, 1]) & (b[None, :, 0] < a[:, None, 1])
