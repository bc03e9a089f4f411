"""Training steps with Python between them: time inside the call against back-to-back calls.

    python -m tests.benchmarks.gaps [ROW ...]

Rounds without a gap, with 0.2 ms and with 2 ms of Python before each call take turns in one process a row.
The last lines are the machine's own: a loop that does nothing but read, on one core, whose data were all in the caches
when the gap began. What it loses was taken by others that share the caches, and no program can keep it.
"""

from __future__ import annotations

import argparse
import statistics
import time

from graphc.backends.llvm.compile import host_target
from tests.benchmarks.frameworks import PEERS
from tests.benchmarks.measure import Worker
from tests.benchmarks.quietness import locked, undisturbed
from tests.benchmarks.stream import stream
from tests.benchmarks.workloads import ROWS, chosen

_GAPS = (0.0, 0.0002, 0.002)
_READ_KIB = (256, 1024, 4096)


def main() -> None:
    """Prints a line a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", default=["*"], metavar="ROW")
    parser.add_argument("--peer", default="graphc", choices=PEERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument(
        "--lock", metavar="FILE", help="hold this file's lock, at real-time priority, while timing"
    )
    options = parser.parse_args()
    print(f"{'µs inside the call':46}" + "".join(f"{f'{g * 1e3:g} ms between':>22}" for g in _GAPS))
    for workload in chosen(ROWS, options.rows):
        if workload.kind != "train":
            continue
        worker = Worker(options.peer, workload.threads, options.lock)
        worker.build(workload.name)
        found: dict[float, list[float]] = {g: [] for g in _GAPS}
        for _ in range(options.rounds if not worker.error else 0):
            for gap in _GAPS:
                with locked(options.lock):
                    worker.times.clear()
                    worker.round(options.seconds, gap, options.lock is not None)
                found[gap] += worker.times
        if worker.error:
            print(f"{workload.title:46} not there: {worker.error}", flush=True)
        else:
            _print(workload.title, found)
        worker.close()
    for kib in _READ_KIB:
        _print(f"reading {kib} KiB, one core", _reading(kib << 10, options.seconds, options.lock))


def _print(title: str, found: dict[float, list[float]]) -> None:
    base = statistics.median(found[0.0])
    cells = [f"{m * 1e6:12,.1f} ({m / base:5.2f}×)" for m in map(statistics.median, found.values())]
    print(f"{title:46}" + "".join(f"{c:>22}" for c in cells), flush=True)


def _reading(size: int, seconds: float, lock: str | None) -> dict[float, list[float]]:
    """Seconds of each walk over `size` bytes by gap."""
    walk, _ = stream(host_target(), 1, 0, size)
    found: dict[float, list[float]] = {}
    with undisturbed(lock):
        for gap in _GAPS:
            times = found[gap] = []
            ended = time.perf_counter() + seconds
            while time.perf_counter() < ended:
                walk(1)
                until = time.perf_counter() + gap
                while time.perf_counter() < until:
                    pass
                start = time.perf_counter()
                walk(1)
                times.append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    main()
