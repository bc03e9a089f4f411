"""Values that are kept from call to call: memory that a program fills from a state and reads until the state changes.

A block belongs to a state's address and a layout, so programs with the same state share it. Its head holds the byte by which
a program decides whether it fills the block, and what the state's count of writes was when that was done last. Invariant:
a block is current where its stamp is the number of writes that the state's storage lock has counted plus its renewals, which
are for writes that no program has made.
"""

from __future__ import annotations

import threading
import weakref

from graphc.runtime.buffers import address, allocate
from graphc.runtime.layout import KEPT_HEAD, cells_at

__all__ = ["HEAD_BYTES", "KeptBlock", "kept_block"]

HEAD_BYTES = 64

_RENEWALS = KEPT_HEAD.offset["renewals"]


class KeptBlock:
    """Memory of `nbytes` behind a head of `HEAD_BYTES`."""

    __slots__ = ("__weakref__", "_cells", "address", "owner", "seen")

    def __init__(self, nbytes: int) -> None:
        self.owner = allocate(HEAD_BYTES + nbytes)
        self.address = address(self.owner)
        self._cells = cells_at(self.address, KEPT_HEAD.size)
        self._cells[:] = KEPT_HEAD.pack(stamp=-1)
        self.seen: object = None
        """What the state was when the block was last known to be its own."""

    def renew(self, seen: object) -> None:
        """Has the next call fill the block, unless the state is what it was when this was last called."""
        if seen is None or seen != self.seen:
            self._cells[_RENEWALS] += 1
            self.seen = seen


_guard = threading.Lock()
_blocks: weakref.WeakValueDictionary[tuple[int, int, int], KeptBlock] = weakref.WeakValueDictionary()


def kept_block(source: int, layout: int, nbytes: int) -> KeptBlock:
    """The block of a state's address and a layout. Who holds it keeps the state's memory alive too."""
    with _guard:
        found = _blocks.get((source, layout, nbytes))
        if found is None:
            found = _blocks[source, layout, nbytes] = KeptBlock(nbytes)
        return found
