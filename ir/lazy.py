"""Modules that are imported when they are first used.

Most of a process's start would go into the passes and the code generator, and a process whose
programs are all on disk needs neither. `lazy_module` stands for a module until an attribute of
it is asked for. Static checkers see a plain import:

    if TYPE_CHECKING:
        from graphc.compiler import lowering
    else:
        lowering = lazy_module("graphc.compiler.lowering")
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["lazy_module"]


class _LazyModule:
    """Imports the module at the first look at an attribute and keeps what was found."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), attribute)
        setattr(self, attribute, value)
        return value

    def __repr__(self) -> str:
        return f"<lazy module {self.__name__!r}>"


def lazy_module(name: str) -> Any:
    """A stand-in for the module `name`, which is imported at the first use of an attribute."""
    return _LazyModule(name)
