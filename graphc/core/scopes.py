"""Scopes: what operations are recorded in, where that matters to what is kept: a checkpoint, or a way back.

A scope is on entries; ops get its word as a mark. Words number the checkpoints of one program in the order of their first
operations, so that equal programs have equal words.
"""

from __future__ import annotations

from graphc.ir.marks import CHECKPOINT, GRADIENT

__all__ = ["WAY_BACK", "Scope", "ScopeWords"]


class Scope:
    """A checkpoint, inside of `outer` where there is one."""

    __slots__ = ("outer",)

    def __init__(self, outer: Scope | None = None) -> None:
        self.outer = outer


WAY_BACK = Scope()
"""What is recorded by `backward`, functions of the user that it asks included."""


class ScopeWords:
    """The words of one program's scopes."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[Scope, str] = {}

    def word(self, scope: Scope) -> str | None:
        """The word for operations of a scope. A way back needs none where nothing before it is in a checkpoint."""
        if scope is WAY_BACK:
            return GRADIENT if self._names else None
        return CHECKPOINT + self._name(scope)

    def _name(self, scope: Scope) -> str:
        known = self._names.get(scope)
        if known is None:
            outer = scope.outer
            before = "" if outer is None or outer is WAY_BACK else f"{self._name(outer)}."
            known = self._names[scope] = f"{before}{len(self._names) + 1}"
        return known
