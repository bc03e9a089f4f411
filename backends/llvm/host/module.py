"""The native run time as one LLVM module, and the memory pool's functions as another.

Modules are the same for every program and every model of processor of an architecture: drivers, thread pool,
memory pool, calls and the call entry. The small module has what the first tensors need while the whole one is
being compiled; both work on the same words, so blocks of one may be freed by the other.
"""

from __future__ import annotations

from graphc.backends.llvm.host.calls import add_calls
from graphc.backends.llvm.host.driver import add_item_runner, add_serial_driver, add_spmd_driver
from graphc.backends.llvm.host.entry import add_entry
from graphc.backends.llvm.host.memory import add_block_owner, add_blocks
from graphc.backends.llvm.host.threads import add_thread_pool
from graphc.backends.llvm.text import ModuleText
from graphc.ir.target import Target

__all__ = ["host_module", "pool_module"]


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


def pool_module(target: Target) -> ModuleText:
    """The text of a module with the memory pool alone."""
    module = ModuleText(target)
    add_blocks(module)
    add_block_owner(module)
    return module
