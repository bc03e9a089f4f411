"""Results of a compiled call that share memory: views of one value, or one tensor several times.

The program gives each such value once; the results are tensors on its storage again, as they were in the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.compiler.tree import Tree, own_tree, unflatten
from graphc.core.tensor import TensorBase

__all__ = ["Shared", "share_results"]


class Shared:
    """What `tree_of` wraps: results that are made of fewer values than there are."""

    @staticmethod
    def __unflatten_nest__(values: Sequence[Any], static: Any) -> Any:
        """The results of a call. `static` is their tree, and for each the value it is on, and how it sees it."""
        tree, places = static
        made: list[Any] = []
        known: dict[int, Any] = {}
        for at, key, chain, type_, detached in places:
            if key not in known:
                value = values[at]
                if chain or detached:
                    value = TensorBase._tensor_class._new(value._storage, type_, chain)
                    value._detached = detached
                known[key] = value
            made.append(known[key])
        return unflatten(tree, iter(made))


def share_results(returned: Sequence[Any], tree: Tree) -> tuple[list[Any], Tree]:
    """Returned tensors without those that are views of others, and the tree that makes all of them again.

    As they were where no two share a storage that the function made, or where a size is symbolic.
    """
    storages = [id(t._storage) if isinstance(t, TensorBase) else id(t) for t in returned]
    if len(set(storages)) == len(storages) or not all(_made_here(t) for t in returned):
        return list(returned), tree
    bases: dict[int, Any] = {}
    for t, storage in zip(returned, storages, strict=True):
        bases.setdefault(storage, TensorBase._tensor_class._new(t._storage, t._storage.node.type))
    order = list(bases)
    places = tuple(
        [
            (order.index(storage), _identity(returned, t), t._chain, t.tensor_type, t._detached)
            for t, storage in zip(returned, storages, strict=True)
        ]
    )
    return list(bases.values()), own_tree(Shared, (tree, places), len(bases))


def _made_here(t: Any) -> bool:
    return (
        isinstance(t, TensorBase)
        and t._storage.memory is None
        and t._storage.node.entry is not None
        and t.tensor_type.is_static
        and t._storage.node.type.is_static
    )


def _identity(returned: Sequence[Any], t: Any) -> int:
    """The first position at which this very tensor is returned."""
    return next(i for i, other in enumerate(returned) if other is t)
