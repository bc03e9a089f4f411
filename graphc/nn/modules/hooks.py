"""Hooks of Modules; see `graphc.hooks`."""

from graphc.hooks import RemovableHandle, add_hook

__all__ = ["RemovableHandle", "add_hook"]
