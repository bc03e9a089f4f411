"""How fast the core is at the moment: a loop of fused multiply-adds as bare machine code.

Every framework's process runs the same bytes between its timings, so this imports nothing of graphc.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from dataclasses import dataclass

__all__ = ["Probe", "ProbeCode"]

_ITERATIONS = 200_000
_WARMING = 2_000
_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


@dataclass(frozen=True)
class ProbeCode:
    """Code of `void probe(float *data, i64 iterations)` in hexadecimal digits, and its operations an iteration.

    The code refers to nothing outside itself; `data` has 128 zeros.
    """

    code: str
    flops: int


class Probe:
    """The loop in executable memory of this process."""

    def __init__(self, code: ProbeCode) -> None:
        content = bytes.fromhex(code.code)
        self._memory = mmap.mmap(-1, len(content), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._memory.write(content)
        self._start = ctypes.c_char.from_buffer(self._memory)
        self._run = _SIGNATURE(ctypes.addressof(self._start))
        self._data = (ctypes.c_double * 128)()
        self._flops = code.flops

    def rate(self) -> float:
        """GFLOP/s over about a third of a millisecond.

        A short uncounted call comes first: after other work the interpreter's own code is not in the caches.
        """
        data = ctypes.addressof(self._data)
        self._run(data, _WARMING)
        begun = time.perf_counter()
        self._run(data, _ITERATIONS)
        return self._flops * _ITERATIONS / (time.perf_counter() - begun) / 1e9
