"""Loading of the native run time into the process; its text is written only where no object is on disk."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import replace
from typing import TYPE_CHECKING

from graphc.ir.lazy import lazy_module
from graphc.ir.target import TARGETS, Target
from graphc.runtime.cache import cache_key, default_cache

if TYPE_CHECKING:
    from graphc.backends.llvm import compile as native
    from graphc.backends.llvm import jit
    from graphc.backends.llvm.host import module
else:
    native = lazy_module("graphc.backends.llvm.compile")
    jit = lazy_module("graphc.backends.llvm.jit")
    module = lazy_module("graphc.backends.llvm.host.module")

__all__ = ["load_host"]


def _baseline() -> Target:
    """The architecture's common subset: this code is shared by all processors."""
    host = native.host_target()
    name = "aarch64" if host.triple.startswith(("aarch64", "arm64")) else "x86-64"
    return replace(TARGETS[name], triple=host.triple)


def load_host() -> jit.LinkedCode:
    """Compiles the module (or takes it from the cache on disk) and links it for ever.

    The text depends on graphc's sources, which are in every key, and on the interpreter's objects.
    """
    target = _baseline()
    interpreter = f"{sys.version} {sysconfig.get_config_var('Py_GIL_DISABLED')}"
    key = cache_key("host", native.COMPILER_VERSION, interpreter, str(target))
    code = default_cache().get_or_make(
        key, lambda: native.compile_text(str(module.host_module(target)), target)
    )
    return jit.link([code], permanent=True)
