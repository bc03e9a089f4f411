"""Nodes and entries: functional values and the recorded operations that make them.

A `Node` is one immutable value. It is pending (made by an `Entry` of a recording) or realised
(it has memory). In-place operations never change a node: they give a storage another node.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from graphc.ir.graph import Graph, Location
from graphc.ir.types import TensorType

if TYPE_CHECKING:
    from graphc.core.recording import Recording
    from graphc.core.storage import Memory

__all__ = ["Entry", "Node"]


class Node:
    """One value. Exactly one of `entry` (pending) and `memory` (realised) is set.

    `requires_grad` says that it is on the tape. `leaf` is a weak reference to the leaf tensor whose
    `.grad` its gradient goes to. `tape` (realised values only) is the evaluated tape that made it
    and its position there. `hooked` is the point on the tape where functions see its gradient, and
    its position there. `version` is the memory's version that the value belongs to.
    """

    __slots__ = (
        "__weakref__",
        "entry",
        "hooked",
        "leaf",
        "memory",
        "position",
        "requires_grad",
        "tape",
        "type",
        "version",
    )

    def __init__(
        self, type_: TensorType, entry: Entry | None = None, position: int = 0, memory: Memory | None = None
    ) -> None:
        self.type = type_
        self.entry = entry
        self.position = position
        self.memory = memory
        self.version = memory.version if memory is not None else 0
        self.requires_grad = False
        self.leaf: weakref.ref[Any] | None = None
        self.tape: tuple[Any, int] | None = None
        self.hooked: tuple[Any, int] | None = None

    def __repr__(self) -> str:
        return f"<{'pending' if self.entry is not None else 'realised'} {self.type}>"


class Entry:
    """One recorded operation: an op class (or a backward marker) on nodes.

    `key` identifies what it does apart from its operands. After evaluation the entry is emptied,
    so that nodes and entries, which refer to each other, are freed at once.
    """

    __slots__ = (
        "attrs",
        "copies",
        "freed",
        "key",
        "kind",
        "loc",
        "operands",
        "recording",
        "regions",
        "results",
        "scope",
        "taped",
    )

    def __init__(
        self,
        recording: Recording,
        kind: Any,
        operands: tuple[Node, ...],
        attrs: dict[str, Any],
        key: Any,
        types: tuple[TensorType, ...],
        loc: Location | None,
        regions: tuple[Graph, ...] = (),
    ) -> None:
        self.recording = recording
        self.kind = kind
        self.operands = operands
        self.attrs = attrs
        self.key = key
        self.loc = loc
        self.regions = regions
        self.scope = recording.scope
        """The checkpoint that it was recorded in, or the way back."""
        self.freed = False
        """True once a `backward` without `retain_graph` went through it."""
        self.taped = False
        """True where gradients flow through it."""
        self.copies = False
        """True where it is its operand again, on memory of its own."""
        self.results = (
            (Node(types[0], self),)
            if len(types) == 1
            else tuple([Node(t, self, i) for i, t in enumerate(types)])
        )

    def clear(self) -> None:
        """Lets go of everything; results must be realised or dead."""
        self.operands = self.results = ()
