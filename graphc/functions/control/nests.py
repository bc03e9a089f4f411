"""Nests of Tensors that loops and branches take and return, and what is refused of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.compiler.tree import Tree, flatten
from graphc.core.tensor import TensorBase

__all__ = ["check_flag", "check_kept", "tensors"]


def tensors(nest: Any, name: str, what: str) -> tuple[list[Any], Tree]:
    """The Tensors of a nest and its tree. Raises TypeError for other leaves than Tensors and None."""
    leaves, tree = flatten(nest)
    for leaf in (*leaves, *_static(tree)):
        if not isinstance(leaf, TensorBase):
            raise TypeError(f"{name}: {what} must be Tensors or nests of Tensors, got {type(leaf).__name__}")
    return leaves, tree


def _static(tree: Tree) -> list[Any]:
    """Leaves that are no tensors, None apart."""
    if tree[0] == "leaf":
        return []
    if tree[0] == "static":
        return [] if tree[1] is None else [tree[1]]
    return [x for child in tree[2] for x in _static(child)]


def check_kept(
    name: str, function: str, before: Sequence[Any], before_tree: Tree, after: Sequence[Any], after_tree: Tree
) -> None:
    """Raises RuntimeError where what is carried is nested otherwise, or of other types, after a step."""
    if before_tree != after_tree:
        raise RuntimeError(
            f"{name}: {function} must return a carry nested like the one that it takes, got {len(after)} Tensors in "
            f"another nest than the {len(before)} that it was given"
        )
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        if a.tensor_type != b.tensor_type:
            raise RuntimeError(
                f"{name}: carried value {i} is {a.tensor_type} before a step and {b.tensor_type} after it; it must "
                f"keep its dtype and shape: cast or reshape it in {function}, or start from a value of that type"
            )


def check_flag(name: str, what: str, value: Any) -> None:
    """Raises RuntimeError for a predicate that is no bool Tensor of one element."""
    if not isinstance(value, TensorBase):
        raise RuntimeError(f"{name}: {what} must be a bool Tensor of one element, got {type(value).__name__}")
    if value.tensor_type.numel != 1:
        raise RuntimeError(
            f"{name}: {what} must have one element, got {value.tensor_type}; reduce it with .all() or .any(), or "
            "choose element by element with graphc.where"
        )
    if value.dtype.kind != "bool":
        raise RuntimeError(
            f"{name}: {what} must be bool, got {value.tensor_type}; compare it, for example with != 0"
        )
