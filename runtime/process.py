"""Native words of this process: the mutation epoch, the memory pool, the thread pool.

They exist before any native code does and live as long as the process.
"""

from __future__ import annotations

import os
from pathlib import Path

from graphc.runtime.layout import BLOCKS, POOL, STATE, Words

__all__ = ["BLOCK_WORDS", "POOL_WORDS", "STATE_WORDS", "memory_bytes"]


def _read_number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def memory_bytes() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's if less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (
        _read_number("/sys/fs/cgroup/memory.max"),
        _read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    )
    return min([total, *(limit for limit in limits if limit)])


STATE_WORDS = Words([0] * STATE.size, permanent=True)
BLOCK_WORDS = Words(BLOCKS.pack(limit=memory_bytes() // 4), permanent=True)
POOL_WORDS = Words([0] * POOL.size, permanent=True)
