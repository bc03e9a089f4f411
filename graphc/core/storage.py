"""Storages: what a tensor and its views share. A storage holds a current value and its memory.

Invariant: once a storage has memory it keeps it for life; later values are written in place. So a
native record that holds the address stays good.
"""

from __future__ import annotations

import functools
import sys
import weakref
from typing import Any

import numpy as np

from graphc.core.node import Node
from graphc.ir.graph import Role
from graphc.ir.types import TensorType, dtype_of
from graphc.runtime import buffers
from graphc.runtime.state import bump_epoch

__all__ = ["Memory", "Storage", "allocate_memory", "memory_of", "shareable", "type_of"]

Array = np.ndarray[Any, Any]
ALIGNMENT = 64


class Memory:
    """Bytes of one value: row-major, contiguous. `version` counts recorded writes.

    `owner` keeps the bytes alive; `foreign` is the user's array where they are its own. `role` and
    `name` say what it is as an input of a traced graph. `whole` is the memory that this is a part of:
    writes are counted there.
    """

    __slots__ = (
        "__weakref__",
        "_array",
        "_exports",
        "_version",
        "address",
        "exposures",
        "foreign",
        "kept",
        "name",
        "owner",
        "pointed",
        "role",
        "type",
        "whole",
    )

    def __init__(self, type_: TensorType, owner: Any, address: int, foreign: Array | None = None) -> None:
        self.type = type_
        self.owner = owner
        self.address = address
        self.whole: Memory | None = None
        self._version = 0
        self.foreign = foreign
        self._array: Array | None = foreign
        self._exports: list[weakref.ref[Any]] = []
        self.role: Role = "buffer"
        self.name = ""
        self.exposures = 0
        """How often somebody outside got an array over the bytes."""
        self.kept = False
        """True where a compiled program may keep something that it has made from the bytes."""
        self.pointed = False
        """True where somebody outside knows the address, which nobody can see them write through."""

    @property
    def version(self) -> int:
        """Recorded writes so far."""
        return self._version if self.whole is None else self.whole.version

    @version.setter
    def version(self, value: int) -> None:
        if self.whole is None:
            self._version = value
        else:
            self.whole.version = value

    def apart(self) -> Memory:
        """The same bytes as memory of its own for a trace, which is not to take it for a state's."""
        found = Memory(self.type, self.owner, self.address)
        found.whole, found.role, found.name = self, self.role, self.name
        return found

    def part(self, array: Array) -> Memory | None:
        """Memory over the bytes of `array`, made from ours by views; None where it is no aligned block of them.

        Arrays of the user's own are not divided: who else refers to them tells whether they are shared.
        """
        at = buffers.data_address(array)
        inside = self.address <= at and at + array.nbytes <= self.address + self.type.nbytes
        if self.foreign is not None or not array.nbytes or not inside or not shareable(array):
            return None
        found = Memory(type_of(array.dtype, array.shape), self.owner, at)
        found.whole = self
        return found

    @property
    def array(self) -> Array:
        """The bytes as a NumPy array, for our own use: it is never handed out."""
        if self._array is None:
            self._array = self._view()
        return self._array

    def _view(self) -> Array:
        return buffers.array(self.owner, self.type.sizes, self.type.dtype.numpy, data=self.address)

    def export(self) -> Array:
        """A writable NumPy array over the bytes; while it or a view of it lives, they are shared.

        NumPy makes views of views refer to the first array over foreign memory, so one weak
        reference to that array sees them all.
        """
        self.exposures += 1
        self.written_otherwise()
        if self.foreign is not None:
            return self.foreign
        array = self._view()
        first = array
        while isinstance(first.base, np.ndarray):
            first = first.base
        self._exports = [r for r in self._exports if r() is not None]
        self._exports.append(weakref.ref(first))
        return array

    def point(self) -> None:
        """Notes that somebody outside was given the address."""
        self.pointed = True
        self.written_otherwise()

    def written_otherwise(self) -> None:
        """Has compiled programs look at what they keep before they run: the bytes may be written by no program."""
        if self.kept:
            bump_epoch()

    @property
    def shared(self) -> bool:
        """True where somebody outside can still write the bytes."""
        if self.foreign is not None:
            # Our own references: `foreign`, `_array`, `owner`, and the argument of getrefcount.
            return sys.getrefcount(self.foreign) > 4 or self.foreign.base is not None
        if self._exports:
            self._exports = [r for r in self._exports if r() is not None]
        return bool(self._exports)


def allocate_memory(type_: TensorType) -> Memory:
    """Fresh, aligned, uninitialised memory for a value of a static type."""
    owner = buffers.allocate(type_.nbytes)
    return Memory(type_, owner, buffers.address(owner))


def shareable(array: Array) -> bool:
    """True where compiled code may use the array's own bytes."""
    # carray: contiguous, aligned and writable
    return array.flags.carray and buffers.data_address(array) % 16 == 0 and array.dtype.isnative


@functools.lru_cache(maxsize=4096)
def type_of(dtype: Any, shape: tuple[int, ...]) -> TensorType:
    """The type of arrays of a NumPy dtype and a shape. Raises TypeError for a dtype that tensors do not have."""
    return TensorType(dtype_of(dtype), shape)


def memory_of(array: Array, *, share: bool) -> Memory:
    """Memory holding `array`'s elements: its own bytes where asked and possible, else a copy."""
    type_ = type_of(array.dtype, array.shape)
    if share and shareable(array):
        return Memory(type_, array, buffers.data_address(array), foreign=array)
    memory = allocate_memory(type_)
    if array.flags.c_contiguous and array.dtype.isnative:
        buffers.copy_bytes(memory.address, buffers.data_address(array), type_.nbytes)
    else:
        memory.array[...] = array
    return memory


def _same_bytes(a: Array, b: Array) -> bool:
    return np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))


class Storage:
    """A tensor's bytes over time. `node` is the current value, `memory` where values are kept."""

    __slots__ = ("__weakref__", "_apart", "memory", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.memory: Memory | None = node.memory
        self._apart: tuple[Node, Node] | None = None

    def apart(self) -> Node:
        """The current realised value on memory of its own, for what somebody outside may write.

        The same node as long as neither the value nor the bytes have changed, so it can be differentiated by.
        """
        node = self.node
        assert node.memory is not None
        twin = self._apart[1] if self._apart is not None and self._apart[0] is node else None
        if twin is None or twin.memory is None or not _same_bytes(twin.memory.array, node.memory.array):
            twin = Node(node.type, memory=memory_of(node.memory.array, share=False))
            self._apart = (node, twin)
        twin.requires_grad, twin.leaf, twin.tape = node.requires_grad, node.leaf, node.tape
        twin.hooked = node.hooked
        return twin

    @property
    def version(self) -> int:
        """Number of writes to the memory so far."""
        return self.memory.version if self.memory is not None else 0
