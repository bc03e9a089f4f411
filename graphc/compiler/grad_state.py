"""`.grad` as state of compiled functions: what a trace depends on, and what a call leaves behind.

Invariant: a program runs only where every `.grad` that its trace looked at is of the kind that it was then (none, a
tensor, or not kept), so that dropping a gradient, adding to it and stepping mean the same in any split over functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from enum import Enum
from typing import Any, Literal, TypeAlias

import numpy as np

from graphc.core.node import Node
from graphc.core.storage import Storage
from graphc.core.tensor import LostGradient, TensorBase, from_array
from graphc.ir.errors import TraceError
from graphc.ir.records import dataclass

__all__ = ["Dependence", "GradientTrace", "GradientsLeft", "Owner", "owned", "zero_gradient"]

Owner: TypeAlias = "TensorBase | int"
"""Whose `.grad` it is: a tensor that the function has otherwise, or the position of an argument leaf."""

How: TypeAlias = Literal["zeroed", "added", "read", "set"]


class _Kind(Enum):
    NONE = "none"
    TENSOR = "tensor"
    LOST = "not kept"


def owned(owner: Owner, tensors: Sequence[Any]) -> Any:
    """The tensor that an owner is in a call with these argument leaves."""
    return tensors[owner] if isinstance(owner, int) else owner


def zero_gradient(tensor: TensorBase) -> Any:
    """A gradient of zeros for `tensor`, in memory of its own."""
    array = np.zeros(tensor.tensor_type.sizes, tensor.dtype.numpy)
    return from_array(array, share=False, name=f"{tensor._storage.memory.name}.grad")  # type: ignore[union-attr]


def _kind(gradient: Any) -> Any:
    """None, lost, or a tensor in whose place any other may be; a tensor with views is of its own kind."""
    if gradient is None:
        return _Kind.NONE
    if type(gradient) is LostGradient:
        return _Kind.LOST
    return gradient if gradient._chain else _Kind.TENSOR


@dataclass(frozen=True, eq=False)
class Dependence:
    """A program holds only while the `.grad` of `owner` is of one of `kinds`."""

    owner: Owner
    kinds: tuple[Any, ...]

    def holds(self, tensors: Sequence[Any]) -> bool:
        """True for a call with these argument leaves."""
        gradient = owned(self.owner, tensors)._grad
        now = _kind(gradient)
        return any(now is k or gradient is k for k in self.kinds)


@dataclass(eq=False)
class GradientsLeft:
    """What a traced function leaves in `.grad` of tensors that it did not make."""

    kept: list[tuple[Owner, Node]] = field(default_factory=list)
    """New values, results of the call."""
    lost: list[Owner] = field(default_factory=list)
    """New values that were used in the call and are not kept."""
    nones: list[Owner] = field(default_factory=list)
    assigned: list[tuple[Owner, Any]] = field(default_factory=list)
    """Tensors from outside."""
    fresh: list[Owner] = field(default_factory=list)
    """Gradients that were None and were added to: they accumulate from call to call, so they need a state."""
    depends: list[Dependence] = field(default_factory=list)

    @property
    def of_arguments(self) -> bool:
        """True where `.grad` of an argument has to do with the call."""
        owners = [o for o, *_ in (*self.kept, *self.assigned)]
        owners += [*self.lost, *self.nones, *self.fresh, *(d.owner for d in self.depends)]
        return any(isinstance(o, int) for o in owners)


@dataclass(eq=False)
class _Look:
    """How a trace first came to a tensor's `.grad`, and what it was."""

    tensor: TensorBase
    how: How
    before: Any
    kind: Any


class GradientTrace:
    """The part of a trace that `.grad` calls back."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self.arguments: dict[int, Storage] = {id(t._storage): t._storage for t in arguments}
        self.states: dict[int, Storage] = {}
        """Storages that existed before and were read or written, in order."""
        self.positions: dict[int, int] = {id(t): i for i, t in reversed([*enumerate(arguments)])}
        self.looks: dict[int, _Look] = {}
        self.set: dict[int, tuple[TensorBase, Any]] = {}
        """Tensors whose `.grad` was set, with what it was before."""
        self.grad_of: dict[int, Owner] = {}
        """Storages of gradients that were there before, by whose they are: so the program finds their memory."""
        self.used: dict[int, Node] = {}
        """The value of a tensor's gradient that was read last."""

    def owner(self, tensor: TensorBase) -> Owner:
        """Who `tensor` is for other calls."""
        position = self.positions.get(id(tensor))
        return tensor if position is None else position

    def look(self, tensor: TensorBase, how: How) -> None:
        """`.grad` of `tensor` is about to be zeroed where there is one, added to, read, or set whatever it is."""
        look = self.looks.get(id(tensor))
        if look is not None:
            if look.how == "zeroed" and how != "zeroed":
                look.how = "added" if how == "added" else "read"
            return
        gradient = tensor._grad
        kind = _kind(gradient)
        if kind is _Kind.TENSOR:
            at = id(gradient._storage)
            if at in self.states or at in self.arguments or at in self.grad_of:
                kind = gradient  # known by another name, so no other tensor may stand in its place
            elif how != "set":
                self.grad_of[at] = self.owner(tensor)
        self.looks[id(tensor)] = _Look(tensor, how, gradient, kind)

    def use(self, tensor: TensorBase) -> None:
        """The present gradient of `tensor` was read."""
        self.used[id(tensor)] = tensor._grad._storage.node

    def is_used(self, tensor: TensorBase) -> bool:
        """True where the present gradient was read since it was written."""
        gradient = tensor._grad
        return isinstance(gradient, TensorBase) and self.used.get(id(tensor)) is gradient._storage.node

    def save_grad(self, tensor: TensorBase, value: Any) -> None:
        """`.grad` of `tensor` is about to be set."""
        self.look(tensor, "set")
        self.set.setdefault(id(tensor), (tensor, tensor._grad))

    def restore_gradients(self) -> None:
        """Puts back what was set."""
        for tensor, gradient in self.set.values():
            tensor._grad = gradient

    def write(self, storage: Storage) -> None:
        """`storage` is about to be written."""
        raise NotImplementedError

    def leave(self, keep: bool) -> GradientsLeft:
        """What becomes of the gradients that were set. Asked once, while the trace still records.

        With `keep` those are kept, too, that were used in the call.
        """
        left = GradientsLeft()
        for look in self.looks.values():
            tensor, owner = look.tensor, self.owner(look.tensor)
            if tensor._storage.memory is None and not isinstance(owner, int):
                continue  # made by the function itself
            gradient = tensor._grad
            kinds: tuple[Any, ...] = (look.kind,)
            if id(tensor) not in self.set or gradient is look.before:
                if id(tensor) in self.set and gradient is None:
                    left.nones.append(owner)
            elif gradient is None:
                left.nones.append(owner)
            elif self._is_outside(tensor):
                left.assigned.append((owner, gradient))
            else:
                node = gradient._read()
                if (
                    look.how != "set"
                    and look.kind is _Kind.TENSOR
                    and id(look.before._storage) in self.states
                ):
                    # The next call adds to what is left here, so it takes the place of what this one read.
                    self.write(look.before._storage)
                    look.before._storage.node = node
                elif look.how == "added" and look.kind is _Kind.NONE:
                    left.fresh.append(owner)
                elif self.is_used(tensor) and not keep:
                    left.lost.append(owner)
                else:
                    left.kept.append((owner, node))
            if look.how == "added" and look.kind is _Kind.TENSOR and tensor._grad is not None:
                kinds = (_Kind.NONE, _Kind.TENSOR)  # zeros stand for none
            if look.how != "set":
                left.depends.append(Dependence(owner, kinds))
        return left

    def _is_outside(self, tensor: TensorBase) -> bool:
        """True where `.grad` was set to a tensor that is there after the call. Raises TraceError for an argument."""
        gradient = tensor._grad
        storage = gradient._storage
        if id(storage) in self.arguments:
            name = tensor._storage.memory.name if tensor._storage.memory is not None else ""
            raise TraceError(
                f"a compiled function set .grad of {name or 'a tensor'} to one of its arguments, whose memory belongs "
                "to the caller; assign a clone() of it"
            )
        return storage.memory is not None
