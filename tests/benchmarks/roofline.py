"""The machine's measured limits: float32 FMA rate of a core, and bandwidth of a stream through memory and cache."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from graphc.backends.llvm.compile import host_target
from tests.benchmarks.floor import Floor
from tests.benchmarks.peak import fma_peak
from tests.benchmarks.quietness import undisturbed
from tests.benchmarks.stream import bandwidth

__all__ = ["Machine", "measured_machine"]

_CACHED_BYTES = 4 << 20
_MEMORY_BYTES = 256 << 20
_CACHE_LIMIT = 16 << 20


@dataclass(frozen=True)
class Machine:
    """GFLOP/s of one core, GB/s of one core reading from the last cache and from memory."""

    gflops: float
    cached: float
    memory: float

    def __str__(self) -> str:
        return (
            f"measured on one core: {self.gflops:.1f} GFLOP/s float32 FMA, reading "
            f"{self.cached:.0f} GB/s from cache ({_CACHED_BYTES >> 20} MiB) and {self.memory:.0f} GB/s from memory"
        )

    def least_seconds(self, floor: Floor, threads: int) -> float:
        """The time below which no program can do the work, if both limits scale with threads."""
        rate = self.memory if floor.bytes > _CACHE_LIMIT else self.cached
        return max(floor.flops / (self.gflops * 1e9), floor.bytes / (rate * 1e9)) / threads


def measured_machine(lock: str | None = None) -> Machine:
    """Measures in a process of its own, so that the benchmark itself stays small."""
    command = [sys.executable, "-m", "tests.benchmarks.roofline", *([lock] if lock else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Machine(**json.loads(done.stdout))


if __name__ == "__main__":
    with undisturbed(sys.argv[1] if len(sys.argv) > 1 else None):
        target = host_target()
        rates = [bandwidth(target, reads=1, writes=0, size=s) for s in (_CACHED_BYTES, _MEMORY_BYTES)]
        print(json.dumps({"gflops": fma_peak(target), "cached": rates[0], "memory": rates[1]}))
