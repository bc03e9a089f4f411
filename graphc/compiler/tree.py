"""Nests of arguments and results: tuples, lists, dicts, named tuples and dataclasses.

`flatten` separates the tensor-like leaves from a hashable description of everything else; the
description is part of a compiled signature, so static leaves specialise.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from graphc.core.tensor import TensorBase
from graphc.ir.dims import Expr

__all__ = ["Tree", "argument_names", "flatten", "own_tree", "tree_at", "unflatten"]

Tree = Any
"""Hashable: ("leaf",), ("static", value), or (kind, type or keys, children)."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Own:
    """A class that says itself what of it is a nest of Tensors and what is static: `__flatten_nest__` gives
    the two, `__unflatten_nest__` makes an instance of them."""

    type: Any


def own_tree(type_: Any, static: Any, leaves: int) -> Tree:
    """The tree of `leaves` leaves of which `type_.__unflatten_nest__(leaves, static)` makes the nest."""
    return (_Own(type_), static, ((tuple, None, (("leaf",),) * leaves),))


def flatten(nest: Any) -> tuple[list[Any], Tree]:
    """Tensor and array leaves in order, and the tree. Raises TypeError for an unhashable static leaf."""
    leaves: list[Any] = []
    return leaves, _describe(nest, leaves)


def _describe(nest: Any, leaves: list[Any]) -> Tree:
    if isinstance(nest, (TensorBase, np.ndarray)):
        leaves.append(nest)
        return ("leaf",)
    if hasattr(type(nest), "__flatten_nest__"):
        inner, static = nest.__flatten_nest__()
        return (_Own(type(nest)), static, (_describe(inner, leaves),))
    if isinstance(nest, (tuple, list)):
        return (type(nest), None, tuple([_describe(x, leaves) for x in nest]))
    if isinstance(nest, dict):
        return (type(nest), tuple(nest), tuple([_describe(x, leaves) for x in nest.values()]))
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        names = tuple(f.name for f in dataclasses.fields(nest))
        return (type(nest), names, tuple([_describe(getattr(nest, n), leaves) for n in names]))
    try:
        hash(nest)
    except TypeError:
        raise TypeError(
            f"an argument of a compiled function must be a Tensor, an array, a hashable value or a nest of "
            f"these, got {type(nest).__name__}"
        ) from None
    # 1 == 1.0 == True, but they specialise differently.
    return ("static", nest, type(nest))


def tree_at(tree: Tree, sizes: Callable[[Any], Any]) -> Tree:
    """`tree` with `sizes(leaf)` in place of static leaves that are symbolic sizes."""
    kind = tree[0]
    if kind == "leaf":
        return tree
    if kind == "static":
        value = sizes(tree[1]) if isinstance(tree[1], Expr) else tree[1]
        return ("static", value, type(value))
    return (*tree[:2], tuple([tree_at(t, sizes) for t in tree[2]]))


def argument_names(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """A readable name for each leaf of `flatten((args, kwargs))`: `x`, or `batch.0` inside of a nest."""
    try:
        parameters = list(inspect.signature(getattr(function, "forward", function)).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "arg")
    found: list[str] = []
    for i, value in enumerate(args):
        _name_leaves(value, names[i] if i < len(names) else f"{rest}{i - len(names)}", found)
    for key, value in kwargs.items():
        _name_leaves(value, key, found)
    return found


def _name_leaves(nest: Any, name: str, found: list[str]) -> None:
    if isinstance(nest, (TensorBase, np.ndarray)):
        found.append(name)
    elif hasattr(type(nest), "__flatten_nest__"):
        _name_leaves(nest.__flatten_nest__()[0], name, found)
    elif isinstance(nest, (tuple, list)):
        for key, x in zip(getattr(nest, "_fields", range(len(nest))), nest, strict=True):
            _name_leaves(x, f"{name}.{key}", found)
    elif isinstance(nest, dict):
        for i, (key, x) in enumerate(nest.items()):
            plain = isinstance(key, str) and key.isidentifier() and key.isascii()
            _name_leaves(x, f"{name}.{key if plain else i}", found)
    elif dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        for f in dataclasses.fields(nest):
            _name_leaves(getattr(nest, f.name), f"{name}.{f.name}", found)


def unflatten(tree: Tree, leaves: Iterator[Any]) -> Any:
    """The nest that `tree` describes with its leaves taken in order."""
    kind = tree[0]
    if kind == "leaf":
        return next(leaves)
    if kind == "static":
        return tree[1]
    children = [unflatten(t, leaves) for t in tree[2]]
    if isinstance(kind, _Own):
        return kind.type.__unflatten_nest__(*children, tree[1])
    if kind is dict or (isinstance(kind, type) and issubclass(kind, dict)):
        return kind(zip(tree[1], children, strict=True))
    if dataclasses.is_dataclass(kind):
        made: Any = kind
        return made(**dict(zip(tree[1], children, strict=True)))
    make: Callable[..., Any] = kind
    return make(*children) if hasattr(kind, "_fields") else make(children)
