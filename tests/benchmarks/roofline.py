"""The machine's measured limits: float32 FMA rate of a core, and bandwidth of a stream through memory and cache."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, dataclass

from graphc.backends.llvm.compile import host_target
from graphc.ir.target import Target
from tests.benchmarks.floor import Floor
from tests.benchmarks.measure import Measured
from tests.benchmarks.peak import best_probes
from tests.benchmarks.probe import ProbeCode, Probes
from tests.benchmarks.quietness import undisturbed
from tests.benchmarks.stream import bandwidth

__all__ = ["Machine", "measured_machine"]

_CACHED_BYTES = 4 << 20
_MEMORY_BYTES = 256 << 20
_SIZES = (16 << 10, 256 << 10, _CACHED_BYTES, 16 << 20, _MEMORY_BYTES)
_MIXES = ((1, 0), (0, 1), (1, 1), (2, 1), (3, 1))


@dataclass(frozen=True)
class Machine:
    """GFLOP/s of one core, and GB/s of one core on streams: `streams["reads:writes"]` has (bytes, GB/s) pairs."""

    gflops: float
    streams: dict[str, list[tuple[int, float]]]

    def __str__(self) -> str:
        read = {size: rate for size, rate in self.streams["1:0"]}  # noqa: C416 - JSON gives lists
        return (
            f"Measured on one core: {self.gflops:.1f} GFLOP/s float32 FMA, reading {read[_CACHED_BYTES]:.0f} GB/s "
            f"from cache ({_CACHED_BYTES >> 20} MiB) and {read[_MEMORY_BYTES]:.0f} GB/s from memory."
        )

    def bandwidth(self, floor: Floor) -> float:
        """GB/s of one core on streams with the floor's mix, at the measured size nearest to its own."""
        sizes = self.streams["{}:{}".format(*floor.mix())]
        return min(sizes, key=lambda s: abs(math.log(s[0] / max(floor.bytes, 1.0))))[1]

    def least_seconds(self, floor: Floor, threads: int) -> float:
        """The time below which no program can do the work, if both limits scale with threads."""
        return max(floor.flops / self.gflops, floor.bytes / self.bandwidth(floor)) / 1e9 / threads

    def share(self, floor: Floor, threads: int, measured: Measured) -> float:
        """The share of a run's time that the work must take.

        Arithmetic is compared with the peak as it was between the runs, memory traffic with the rate at the start.
        """
        arithmetic = floor.flops / 1e9 / (measured.at_peak or self.gflops * measured.median)
        traffic = floor.bytes / 1e9 / self.bandwidth(floor) / measured.median
        return max(arithmetic, traffic) / threads


def measured_machine(lock: str | None = None) -> tuple[Machine, Probes]:
    """The limits, and the loops that show how fast the core is; measured in a process of its own, so that the benchmark stays small."""
    command = [sys.executable, "-m", "tests.benchmarks.roofline", *([lock] if lock else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    probes = Probes(ProbeCode(**found["probes"]["peak"]), ProbeCode(**found["probes"]["mixed"]))
    return Machine(probes.peak.best, found["streams"]), probes


def _streams(target: Target, mix: tuple[int, int]) -> list[tuple[int, float]]:
    """Rates by size; beyond the caches the better of plain and streaming stores."""
    found = []
    for size in _SIZES:
        ways = (False, True) if mix[1] and size == _MEMORY_BYTES else (False,)
        found.append((size, max(bandwidth(target, *mix, size, streaming=s) for s in ways)))
    return found


if __name__ == "__main__":
    with undisturbed(sys.argv[1] if len(sys.argv) > 1 else None):
        host = host_target()
        streams = {"{}:{}".format(*mix): _streams(host, mix) for mix in _MIXES}
        print(json.dumps({"streams": streams, "probes": asdict(best_probes(host))}))
