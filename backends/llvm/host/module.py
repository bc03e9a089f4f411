"""The native run time as one LLVM module, and its loading into the process.

The module is the same for every program and every model of processor of an architecture:
drivers, thread pool, memory pool, calls and the call entry.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.backends.llvm.compile import COMPILER_VERSION, compile_text, host_target
from graphc.backends.llvm.host.calls import add_calls
from graphc.backends.llvm.host.driver import add_item_runner, add_serial_driver, add_spmd_driver
from graphc.backends.llvm.host.entry import add_entry
from graphc.backends.llvm.host.memory import add_block_owner, add_blocks
from graphc.backends.llvm.host.threads import add_thread_pool
from graphc.backends.llvm.jit import LinkedCode, link
from graphc.backends.llvm.text import ModuleText
from graphc.ir.target import TARGETS, Target
from graphc.runtime.cache import cache_key, default_cache

__all__ = ["host_module", "load_host"]


def _baseline() -> Target:
    """The architecture's common subset: this code is shared by all processors."""
    host = host_target()
    name = "aarch64" if host.triple.startswith(("aarch64", "arm64")) else "x86-64"
    return replace(TARGETS[name], triple=host.triple)


def host_module(target: Target) -> ModuleText:
    """The module's text."""
    module = ModuleText(target)
    add_item_runner(module)
    add_serial_driver(module)
    add_spmd_driver(module)
    add_thread_pool(module)
    add_blocks(module)
    add_block_owner(module)
    add_calls(module)
    add_entry(module)
    return module


def load_host() -> LinkedCode:
    """Compiles the module (or takes it from the cache on disk) and links it for ever."""
    target = _baseline()
    text = str(host_module(target))
    key = cache_key("host", COMPILER_VERSION, text)
    code = default_cache().get_or_make(key, lambda: compile_text(text, target))
    return link([code], permanent=True)
