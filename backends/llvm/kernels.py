"""Kernels that this process has linked, by symbol, and their objects on disk.

A kernel's symbol is a digest of its text and target, so a symbol is all that is needed to find its
code again; nothing here imports the code generator. Invariant: a symbol is linked at most once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from graphc.backends.llvm.compile import COMPILER_VERSION
from graphc.backends.llvm.jit import LinkedCode, link
from graphc.ir.target import Target
from graphc.runtime.cache import cache_key, default_cache

__all__ = [
    "CompiledKernels",
    "find_kernels",
    "link_kernels",
    "load_objects",
    "lock",
    "missing_kernels",
    "store_objects",
]


class CompiledKernels(NamedTuple):
    """A program's code: the symbol of each call in program order, and the code that has them all."""

    symbols: list[str]
    codes: list[LinkedCode]
    from_disk: bool
    """True where kernels had to be found and all of those were on disk."""


_linked: dict[str, LinkedCode] = {}
lock = threading.Lock()
"""Held from asking what is linked to linking the rest."""


def _key(symbol: str, target: Target) -> str:
    return cache_key("kernel", COMPILER_VERSION, symbol, str(target))


def load_objects(symbols: Iterable[str], target: Target) -> dict[str, bytes]:
    """The objects that are on disk."""
    cache = default_cache()
    return {s: code for s in symbols if (code := cache.get(_key(s, target))) is not None}


def store_objects(objects: Mapping[str, bytes], target: Target) -> None:
    """Keeps objects on disk."""
    cache = default_cache()
    for symbol, code in objects.items():
        cache.put(_key(symbol, target), code)


def missing_kernels(symbols: Iterable[str]) -> list[str]:
    """Those not linked yet, each once. The caller holds `lock`."""
    return [s for s in dict.fromkeys(symbols) if s not in _linked]


def link_kernels(symbols: Sequence[str], objects: Mapping[str, bytes], *, from_disk: bool) -> CompiledKernels:
    """Links `objects` and gives the code of all `symbols`. The caller holds `lock`."""
    if objects:
        _linked.update(dict.fromkeys(objects, link(list(objects.values()))))
    return CompiledKernels(list(symbols), list(dict.fromkeys(_linked[s] for s in symbols)), from_disk)


def find_kernels(symbols: Sequence[str], target: Target) -> CompiledKernels | None:
    """The code of kernels that are linked or on disk; None where one is neither."""
    with lock:
        missing = missing_kernels(symbols)
        objects = load_objects(missing, target)
        if len(objects) < len(missing):
            return None
        return link_kernels(symbols, objects, from_disk=bool(missing))
