"""Loading of the native run time into the process; its text is written only where no object is on disk."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from dataclasses import replace
from typing import TYPE_CHECKING

from graphc.ir.lazy import lazy_module
from graphc.ir.target import TARGETS, Target
from graphc.runtime.cache import cache_key, default_cache
from graphc.runtime.host import is_loaded

if TYPE_CHECKING:
    import llvmlite

    from graphc.backends.llvm import compile as native
    from graphc.backends.llvm import jit, workers
    from graphc.backends.llvm.host import module
else:
    llvmlite = lazy_module("llvmlite")
    native = lazy_module("graphc.backends.llvm.compile")
    jit = lazy_module("graphc.backends.llvm.jit")
    workers = lazy_module("graphc.backends.llvm.workers")
    module = lazy_module("graphc.backends.llvm.host.module")

__all__ = ["begin_host", "load_host", "load_pool"]


_MACHINE = os.uname().machine


def _baseline() -> Target:
    """The architecture's common subset: this code is shared by all processors."""
    return replace(
        TARGETS["aarch64" if _MACHINE in ("aarch64", "arm64") else "x86-64"],
        triple=native.host_target().triple,
    )


@functools.cache
def _key() -> str:
    """The text depends on graphc's sources, which are in every key, and on the interpreter's objects.

    Found without loading LLVM, since a process that has to make the object starts a worker before that.
    """
    interpreter = f"{sys.version} {sysconfig.get_config_var('Py_GIL_DISABLED')}"
    return cache_key("host", llvmlite.__version__, interpreter, sys.platform, _MACHINE)


@functools.cache
def _begun() -> workers.Request | None:
    """The module's compilation by a worker; None where its object is on disk or there is one core."""
    if default_cache().get(_key()) is not None or not workers.workers_pay(_CHARACTERS):
        return None
    running = workers.start_workers()
    target = _baseline()
    return running.submit(str(module.host_module(target)), target)


os.register_at_fork(after_in_child=_begun.cache_clear)  # a worker answers to the process that started it

_CHARACTERS = 1 << 20
"""It takes 0.1 s, so it is worth a worker whatever else there is."""


def begin_host() -> None:
    """Sees to it that a worker compiles the module, where that is necessary, while other things are done."""
    if not is_loaded():
        _begun()


def load_pool() -> jit.LinkedCode | None:
    """The memory pool's functions alone, compiled at once, where a worker compiles the whole; else None."""
    if _begun() is None:
        return None
    target = _baseline()
    return jit.link([native.compile_soon(str(module.pool_module(target)), target)], permanent=True)


def load_host() -> jit.LinkedCode:
    """Compiles the module (or takes it from the cache on disk) and links it for ever."""

    def make() -> bytes:
        request = _begun()
        if request is None:
            target = _baseline()
            return native.compile_text(str(module.host_module(target)), target)
        return request.result()

    return jit.link([default_cache().get_or_make(_key(), make)], permanent=True)
