"""The benchmark: `python -m tests.benchmarks` (see --help).

Each framework runs in a process of its own; rounds alternate between them, so that a drift of the
machine hits all alike. Printed are medians over rounds in microseconds, the ratio of the best peer
to graphc, first-call time, and the share of the measured FMA peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks.workloads import WORKLOADS, Workload

PEERS = ("graphc", "torch eager", "torch.compile")


@dataclass
class Measured:
    """One framework on one workload; seconds and bytes."""

    peer: str
    median: float
    low: float
    high: float
    first: float
    memory: int


class Worker:
    """A process that runs one framework on one workload."""

    def __init__(self, peer: str, workload: Workload, threads: int) -> None:
        self.peer = peer
        self.times: list[float] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", peer, workload.name, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.head = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.peer} stopped with exit code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def round(self) -> None:
        """Times one round."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.times.append(self._answer()["seconds"])

    def finish(self) -> Measured:
        """Ends the process; what was measured."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        return Measured(
            self.peer, statistics.median(self.times), min(self.times), max(self.times),
            self.head["first"], self.head["memory"],
        )  # fmt: skip


def measure(workload: Workload, peers: list[str], threads: int, rounds: int) -> list[Measured]:
    """All peers on one workload, round by round in turn. A peer that fails is left out and said so."""
    workers = []
    for peer in peers:
        try:
            workers.append(Worker(peer, workload, threads))
        except RuntimeError as error:
            print(f"  left out: {error}", file=sys.stderr)
    for _ in range(rounds):
        for worker in workers:
            worker.round()
    return [worker.finish() for worker in workers]


def row(workload: Workload, threads: int, results: list[Measured], peak: float) -> str:
    """One line of the table."""
    cells = [f"{workload.name} ({threads} thread{'s' * (threads > 1)})".ljust(42)]
    ours = next((m for m in results if m.peer == "graphc"), None)
    for peer in PEERS:
        found = next((m for m in results if m.peer == peer), None)
        cells.append(f"{found.median * 1e6:>12,.2f}" if found else f"{'–':>12}")
    others = [m.median for m in results if m.peer != "graphc"]
    cells.append(f"{min(others) / ours.median:>8.2f}×" if ours and others else f"{'–':>9}")
    cells.append(f"{ours.first * 1e3:>9,.0f}" if ours else f"{'–':>9}")
    share = workload.flops / ours.median / (peak * 1e9 * threads) if ours else 0.0
    cells.append(f"{share:>8.1%}")
    return " ".join(cells)


def main() -> None:
    """Runs the chosen workloads and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME"
    )
    parser.add_argument("--peers", nargs="*", default=["graphc", "torch eager"], choices=PEERS)
    parser.add_argument("--threads", type=int, help="override every row's own thread count")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    probe = [sys.executable, "-c", "from tests.benchmarks.peak import *; from graphc.backends.llvm.compile import "
             "host_target; print(fma_peak(host_target()))"]  # fmt: skip
    peak = float(subprocess.run(probe, capture_output=True, text=True, check=True).stdout)
    print(f"measured float32 FMA peak of one core: {peak:.1f} GFLOP/s (best of 256- and 512-bit loops)")
    head = f"{'workload':42}" + "".join(f" {p + ' µs':>12}" for p in PEERS)
    print(head + f" {'speedup':>9} {'first ms':>9} {'of peak':>8}")
    everything = {}
    for name in options.workloads:
        workload = WORKLOADS[name]
        threads = options.threads or workload.threads
        results = measure(workload, options.peers, threads, options.rounds)
        print(row(workload, threads, results, peak), flush=True)
        everything[name] = [asdict(m) for m in results]
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"peak_gflops": peak, "workloads": everything}, file, indent=2)


if __name__ == "__main__":
    main()
