"""Runs the worker processes of one row and collects what they measured, round by round in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.frameworks import OURS, runs
from tests.benchmarks.quietness import locked
from tests.benchmarks.workloads import Workload

__all__ = ["Measured", "RowResult", "measure"]


@dataclass
class Measured:
    """One framework on one row; seconds and bytes. `median` is over rounds, each itself a median."""

    peer: str
    median: float
    low: float
    high: float
    first: float
    memory: int


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


class _Worker:
    """A process that runs one framework on one row."""

    def __init__(
        self, peer: str, workload: Workload, threads: int, lock: str | None, cache: str | None
    ) -> None:
        self.peer = peer
        self.times: list[float] = []
        self.memory = 0
        environment = dict(os.environ)
        if cache is not None:
            environment["GRAPHC_CACHE_DIR"] = cache
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", peer, workload.name, str(threads), *([lock] if lock else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.head = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            return {"error": f"stopped with exit code {self.process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def round(self, seconds: float, pause: float, raised: bool) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"seconds": seconds, "pause": pause, "raised": raised}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            self.head = answer
        else:
            self.times.append(answer["seconds"])
            self.memory = answer["memory"]

    def finish(self) -> Measured | None:
        """Ends the process; what was measured."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        if not self.times:
            return None
        return Measured(
            self.peer,
            statistics.median(self.times),
            min(self.times),
            max(self.times),
            self.head["first"],
            self.memory,
        )


def measure(
    workload: Workload, peers: Sequence[str], threads: int, rounds: int, *,
    seconds: float = 0.25, pause: float = 0.0, warm: bool = False, lock: str | None = None,
) -> RowResult:  # fmt: skip
    """All peers that the row is for, `rounds` rounds in turn, `pause` seconds of Python before each run.

    graphc starts with an empty compile cache unless `warm`.
    """
    result = RowResult(workload, threads)
    workers = []
    with tempfile.TemporaryDirectory(prefix="graphc-benchmark-") as empty:
        for number, peer in enumerate(p for p in peers if runs(p, workload)):
            cache = None if warm else os.path.join(empty, str(number))
            worker = _Worker(peer, workload, threads, lock, cache)
            if "error" in worker.head:
                result.missing[peer] = worker.head["error"]
                worker.finish()
            else:
                workers.append(worker)
        for _ in range(rounds):
            with locked(lock):
                for worker in workers:
                    if "error" not in worker.head:
                        worker.round(seconds, pause, lock is not None)
        for worker in workers:
            done = worker.finish()
            if done is not None and "error" not in worker.head:
                result.measured[worker.peer] = done
            else:
                result.missing[worker.peer] = worker.head.get("error", "no round")
    return result
