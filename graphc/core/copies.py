"""Values that need no program: whole tensors that are copied from memory to memory.

Loading a state dict is nothing but these; as a program it would be one kernel for each shape. Invariant: a copy is made
after the program of its evaluation has run, which reads what was there before, and only where neither that program nor
another copy writes what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graphc.core.node import Node
from graphc.core.storage import Memory, Storage

__all__ = ["Copy", "take_copies"]

Output = tuple[Node, Storage | None]


class Copy(NamedTuple):
    """The value that `storage` gets, and where it is."""

    node: Node
    storage: Storage
    source: Memory
    target: Memory

    def perform(self) -> None:
        """Copies the bytes; the node is realised then."""
        self.target.array[...] = self.source.array
        self.node.memory, self.node.version = self.target, self.target.version


def _copy(node: Node, storage: Storage | None) -> Copy | None:
    """The output as a copy; None where it is anything else, or gradients flow through it."""
    entry, target = node.entry, None if storage is None else storage.memory
    if storage is None or target is None or entry is None or not entry.copies or node.memory is not None:
        return None
    if node.hooked is not None or (node.requires_grad and node.leaf is None):
        return None
    source = entry.operands[0].memory
    return None if source is None else Copy(node, storage, source, target)


def take_copies(outputs: Sequence[Output]) -> tuple[list[Copy], list[Output]]:
    """The outputs that can be copied after the program has run, and those that it is to make."""
    found = [c for c in (_copy(n, s) for n, s in outputs) if c is not None]
    written = {id(_whole(s.memory)) for _, s in outputs if s is not None and s.memory is not None}
    found = [c for c in found if id(_whole(c.source)) not in written]
    twice = {c.node for c in found if sum(n is c.node for n, _ in outputs) > 1} if found else set()
    copies = [c for c in found if c.node not in twice]
    taken = {c.node for c in copies}
    return copies, [(n, s) for n, s in outputs if n not in taken]


def _whole(memory: Memory) -> Memory:
    return memory if memory.whole is None else memory.whole
