"""Native run-time pieces as LLVM text: drivers, thread pool, memory pool, call entry, export.

Importing this package tells the run time how to load them.
"""

from __future__ import annotations

from graphc.backends.llvm.host.loading import begin_host, load_host, load_pool
from graphc.runtime.host import install

__all__ = ["begin_host", "load_host", "load_pool"]

install(load_host, load_pool)
