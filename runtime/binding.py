"""State addresses of one use of an executable, with the locks that serialise writers and what is kept from call to call.

Storages that were first bound together share a lock; a call takes the locks of all its
storages in address order, shared where it only reads. Invariant: a storage address has the
same lock for every binding.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from graphc.runtime.kept import HEAD_BYTES, KeptBlock
from graphc.runtime.layout import BINDING, KEPT, LOCK, Words, words

__all__ = ["Binding"]


class _StorageLocks:
    """Lock words by storage address. A word is never freed, since a binding may still name it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._by_storage: dict[int, Words] = {}
        self._all: list[Words] = []

    def of(self, addresses: Sequence[int]) -> list[int]:
        """Addresses of the lock words of these storages, ascending, each once."""
        with self._guard:
            fresh: Words | None = None
            found = set()
            for address in addresses:
                lock = self._by_storage.get(address)
                if lock is None:
                    if fresh is None:
                        fresh = Words(LOCK.pack())
                        self._all.append(fresh)
                    lock = self._by_storage[address] = fresh
                found.add(lock.address)
            return sorted(found)

    def reset(self) -> None:
        """Frees all locks: in a forked child the threads that held them are gone."""
        self._guard = threading.Lock()
        for lock in self._all:
            lock[0] = 0


_locks = _StorageLocks()
os.register_at_fork(after_in_child=_locks.reset)


class Binding:
    """Addresses of an executable's states, by index; made by `Executable.bind`."""

    def __init__(
        self,
        states: Sequence[int],
        owners: object,
        *,
        exclusive: bool,
        kept: Sequence[tuple[int, KeptBlock]] = (),
    ) -> None:
        self.owners = owners
        self.kept = tuple(kept)
        """Blocks that are kept, each with the index of the state that it is made from."""
        locks = _locks.of(states)
        rows = [a for _, block in kept for a in (block.address, block.address + HEAD_BYTES)]
        lock_words, addresses = Words(locks), Words([*states, *rows])
        kept_words = words(
            KEPT.pack(head=block.address, lock=_locks.of([states[source]])[0]) for source, block in kept
        )
        self._record = Words(
            BINDING.pack(
                states=addresses.address,
                lock_count=len(locks),
                locks=lock_words.address,
                exclusive=int(exclusive),
                kept=kept_words.address,
                kept_count=len(self.kept),
            ),
            keep=(addresses, lock_words, kept_words),
        )

    @property
    def address(self) -> int:
        """Address of the native record."""
        return self._record.address
