"""The native run time as one LLVM module.

The module is the same for every program and every model of processor of an architecture:
drivers, thread pool, memory pool, calls and the call entry.
"""

from __future__ import annotations

from graphc.backends.llvm.host.calls import add_calls
from graphc.backends.llvm.host.driver import add_item_runner, add_serial_driver, add_spmd_driver
from graphc.backends.llvm.host.entry import add_entry
from graphc.backends.llvm.host.memory import add_block_owner, add_blocks
from graphc.backends.llvm.host.threads import add_thread_pool
from graphc.backends.llvm.text import ModuleText
from graphc.ir.target import Target

__all__ = ["host_module"]


def host_module(target: Target) -> ModuleText:
    """The module's text."""
    module = ModuleText(target, optimised=True)
    add_item_runner(module)
    add_serial_driver(module)
    add_spmd_driver(module)
    add_thread_pool(module)
    add_blocks(module)
    add_block_owner(module)
    add_calls(module)
    add_entry(module)
    return module
