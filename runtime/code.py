"""Native code in memory as the run time sees it: symbols, their addresses, and what keeps them alive.

Invariant: an address stays valid as long as the object that gave it is referenced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

__all__ = ["Code", "CodeGroup"]


class Code(Protocol):
    """Linked native code. Whoever uses an address holds on to the object."""

    def address(self, name: str) -> int:
        """Address of the symbol `name`. Raises KeyError where there is none."""
        ...


class CodeGroup:
    """Several pieces of code seen as one; the first that has a symbol gives it."""

    def __init__(self, parts: Iterable[Code]) -> None:
        self._parts = tuple(parts)

    def address(self, name: str) -> int:
        """Address of the symbol `name`. Raises KeyError where no part has it."""
        for part in self._parts:
            try:
                return part.address(name)
            except KeyError:
                continue
        raise KeyError(name)
