"""Runs the worker processes of one row and collects what they measured, round by round in turn."""

from __future__ import annotations

import compileall
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import graphc
from tests.benchmarks.frameworks import OURS, runs
from tests.benchmarks.probe import Probes
from tests.benchmarks.quietness import locked
from tests.benchmarks.workloads import Workload

__all__ = ["Measured", "Pool", "RowResult", "Worker", "measure"]

_SETTLE = 0.3
"""Seconds in which idle threads of the framework that ran last go to sleep."""


@dataclass
class Measured:
    """One framework on one row; seconds and bytes. `median` is over rounds, each itself a median.

    `first` is 0 where the compile cache was not empty. `peak` is the core's FMA peak between the runs in GFLOP/s, median
    over rounds, `peak_low` and `peak_high` its extremes; `at_peak` is how many GFLOP that peak would have done in one run,
    compared batch by batch: the median over the `quiet` of all `batches`, in which the core was not shared, or over all
    where few were quiet. `at_peak_best` is the least median of a round. They are 0 where no peak was measured.
    """

    peer: str
    median: float
    low: float
    high: float
    first: float
    memory: int
    peak: float = 0.0
    peak_low: float = 0.0
    peak_high: float = 0.0
    at_peak: float = 0.0
    at_peak_best: float = 0.0
    quiet: int = 0
    batches: int = 0


@dataclass
class RowResult:
    """What all frameworks did on a row; `missing` says why a peer has no figure."""

    workload: Workload
    threads: int
    measured: dict[str, Measured] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def best_peer(self) -> Measured | None:
        """The fastest framework that is not graphc."""
        others = [m for m in self.measured.values() if m.peer not in OURS]
        return min(others, key=lambda m: m.median, default=None)

    def speedup(self) -> float | None:
        """The best peer's time over graphc's."""
        ours, best = self.measured.get("graphc"), self.best_peer()
        return best.median / ours.median if ours and best else None


_MOST_ROUNDS = 6
_LEAST_QUIET = 5
"""Quiet batches from which on the others do not count for the share of the peak."""


@functools.cache
def _write_bytecode() -> None:
    """Writes the bytecode of graphc's modules, as an installation does, whatever PYTHONDONTWRITEBYTECODE says.

    Without it every process compiles all sources that it imports, which takes several times as long as importing them.
    """
    for directory, _, files in os.walk(Path(graphc.__file__).parent, followlinks=True):
        for name in files:
            if name.endswith(".py"):
                compileall.compile_file(Path(directory, name), quiet=2)


class Worker:
    """A process that runs one framework on one row after another."""

    def __init__(
        self,
        peer: str,
        threads: int,
        lock: str | None = None,
        cache: str | None = None,
        probes: Probes | None = None,
    ) -> None:
        self.peer = peer
        if peer in OURS:
            _write_bytecode()
        environment = dict(os.environ)
        if cache is not None:
            environment["GRAPHC_CACHE_DIR"] = cache
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", peer, str(threads), *([lock] if lock else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.times: list[float] = []
        self.peaks: list[float] = []
        self.batches: list[tuple[float, bool]] = []
        self.rounds: list[float] = []
        self.head: dict[str, Any] = {}
        self.error = ""
        self.memory = 0
        if probes is not None:
            self._ask(**asdict(probes))

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = (
            json.loads(line) if line else {"error": f"stopped with exit code {self._process.wait()}"}
        )
        self.error = answer.get("error", "")
        self.memory = answer.get("memory", self.memory)
        return answer

    def build(self, row: str) -> None:
        """Builds a row; `error` says why where that failed."""
        self.times, self.peaks, self.batches, self.rounds = [], [], [], []
        self.head = self._ask(row=row)

    def round(self, seconds: float, pause: float = 0.0, raised: bool = False) -> None:
        """Times one round of about `seconds`."""
        answer = self._ask(seconds=seconds, pause=pause, raised=raised)
        if not self.error:
            self.times.append(answer["seconds"])
            if "peak" in answer:
                self.peaks.append(answer["peak"])
                self.batches += answer["batches"]
                self.rounds.append(statistics.median(work for work, _ in answer["batches"]))

    @property
    def quiet(self) -> int:
        """Batches of the row in which the core was not shared."""
        return sum(alone for _, alone in self.batches)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def result(self) -> Measured:
        """What was measured of the last row."""
        made = Measured(
            self.peer,
            statistics.median(self.times),
            min(self.times),
            max(self.times),
            self.head["first"],
            self.memory,
        )
        if self.peaks:
            made.peak, made.peak_low, made.peak_high = (f(self.peaks) for f in (statistics.median, min, max))
            quiet = [work for work, alone in self.batches if alone]
            made.quiet, made.batches = len(quiet), len(self.batches)
            chosen = quiet if len(quiet) >= _LEAST_QUIET else [work for work, _ in self.batches]
            made.at_peak, made.at_peak_best = statistics.median(chosen), min(self.rounds)
        return made

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Pool:
    """Worker processes by peer: one for each row, or (for micro rows, where memory means nothing) one for many.

    graphc starts with an empty compile cache unless `warm`. `lock` is a file whose lock rounds hold, `probes` the loops
    that every worker runs between its timings.
    """

    def __init__(self, lock: str | None = None, warm: bool = False, probes: Probes | None = None) -> None:
        self.lock = lock
        self.warm = warm
        self.probes = probes
        self._held: dict[tuple[str, int], Worker] = {}
        self._caches = tempfile.TemporaryDirectory(prefix="graphc-benchmark-")
        self._count = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._held.values():
            worker.close()
        self._caches.cleanup()

    def take(self, peer: str, threads: int, workload: Workload) -> Worker:
        """A worker with the row built."""
        worker = self._held.pop((peer, threads), None) if workload.kind == "micro" else None
        if worker is None or not worker.alive:
            self._count += 1
            cache = None if self.warm else os.path.join(self._caches.name, str(self._count))
            worker = Worker(peer, threads, self.lock, cache, self.probes)
        worker.build(workload.name)
        return worker

    def give(self, worker: Worker, threads: int, workload: Workload) -> None:
        """Takes a worker back."""
        if workload.kind == "micro" and worker.alive:
            self._held[(worker.peer, threads)] = worker
        else:
            worker.close()


def measure(
    pool: Pool, workload: Workload, peers: Sequence[str], threads: int, rounds: int, *,
    seconds: float = 0.25, pause: float = 0.0, quiet: int = 0,
) -> RowResult:  # fmt: skip
    """All peers that the row is for, `rounds` rounds in turn, `pause` seconds of Python before each run.

    Further rounds of all follow while one of them has fewer than `quiet` quiet batches, up to six times as many.
    """
    result = RowResult(workload, threads)
    workers = [pool.take(peer, threads, workload) for peer in peers if runs(peer, workload)]
    for number in range(rounds * _MOST_ROUNDS):
        waiting = [w for w in workers if not w.error and w.quiet < quiet]
        if number >= rounds and not waiting:
            break
        with locked(pool.lock):
            for worker in workers:
                if not worker.error:
                    time.sleep(_SETTLE)
                    worker.round(seconds, pause, pool.lock is not None)
    for worker in workers:
        if worker.error:
            result.missing[worker.peer] = worker.error
        else:
            found = worker.result()
            result.measured[worker.peer] = replace(found, first=0.0) if pool.warm else found
        pool.give(worker, threads, workload)
    return result
