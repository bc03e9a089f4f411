"""Hooks: ordered callables that can be removed again."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from graphc.core import bump_epoch

__all__ = ["RemovableHandle", "add_hook"]

_numbers = itertools.count()


class RemovableHandle:
    """Takes a hook away again; also a context manager."""

    __slots__ = ("_hooks", "id")

    def __init__(self, hooks: OrderedDict[int, Any]) -> None:
        self._hooks = hooks
        self.id = next(_numbers)

    def remove(self) -> None:
        """Removes the hook; more than once does nothing."""
        if self._hooks.pop(self.id, None) is not None:
            bump_epoch()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def add_hook(
    hooks: OrderedDict[int, Any], hook: Callable[..., Any], prepend: bool = False
) -> RemovableHandle:
    """Adds a hook behind (or before) the others."""
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    bump_epoch()
    return handle
