"""How fast the core is at the moment: loops as bare machine code.

Every framework's process runs the same bytes between its timings, so this imports nothing of graphc.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

__all__ = ["QUIET", "Probe", "ProbeCode", "Probes", "Rates"]

QUIET = 0.95
"""Share of its best rate from which on the mixed loop says that the core is not shared."""

_SECONDS = 0.0003
_WARMING = 2_000
_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


@dataclass(frozen=True)
class ProbeCode:
    """Code of `void probe(float *data, i64 iterations)` in hexadecimal digits, its floating-point operations an iteration,
    and its best rate so far in GFLOP/s (0: not known yet).

    The code refers to nothing outside itself; `data` has 1 KiB of zeros, aligned to 64 bytes.
    """

    code: str
    flops: int
    best: float = 0.0


@dataclass(frozen=True)
class Probes:
    """`peak` does nothing but multiply-adds; `mixed` has loads and additions beside them.

    Where another hardware thread uses the core, the first hardly becomes slower, and the second does, like all real work.
    """

    peak: ProbeCode
    mixed: ProbeCode

    def rates(self) -> Rates:
        """How fast the core is now."""
        return Rates(self._running[0].rate(), self._running[1].rate() >= QUIET * self.mixed.best)

    @cached_property
    def _running(self) -> tuple[Probe, Probe]:
        return Probe(self.peak), Probe(self.mixed)


class Rates(NamedTuple):
    """The peak in GFLOP/s, and whether the core is not shared."""

    peak: float
    quiet: bool


class Probe:
    """The loop in executable memory of this process."""

    def __init__(self, code: ProbeCode) -> None:
        content = bytes.fromhex(code.code)
        self._memory = mmap.mmap(-1, len(content), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._memory.write(content)
        self._start = ctypes.c_char.from_buffer(self._memory)
        self._run = _SIGNATURE(ctypes.addressof(self._start))
        self._data = (ctypes.c_double * 136)()
        self._flops = code.flops
        self._iterations = int(_SECONDS * (code.best or 100.0) * 1e9 / code.flops)

    def rate(self) -> float:
        """GFLOP/s over about 0.3 ms.

        A short uncounted call comes first: after other work the interpreter's own code is not in the caches.
        """
        data = -(-ctypes.addressof(self._data) // 64) * 64
        self._run(data, _WARMING)
        begun = time.perf_counter()
        self._run(data, self._iterations)
        return self._flops * self._iterations / (time.perf_counter() - begun) / 1e9
