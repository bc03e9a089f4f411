"""One framework in a process of its own: builds rows, then times rounds on request.

    python -m tests.benchmarks.worker PEER THREADS [LOCK]

Speaks JSON lines. {"row": name} builds a row and does its work a few times; the answer is {"import", "build", "first":
seconds, "memory": bytes}, or {"error": text} where the framework is missing or cannot run the row. {"peak", "mixed"}
gives two loops as in `probe.Probes`, which later rounds run between their timings. {"seconds", "pause", "raised"} times a round
of the last row; the answer is {"seconds": median of the round, "peak": GFLOP/s of the first loop, median, "batches":
[GFLOP that it would have done in one run, whether the core was quiet], "memory"}. Where raised, the round runs at real-time priority. With LOCK, graphc's first call holds that file's lock, like the
rounds that the caller times.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from tests.benchmarks.frameworks import OURS, build
from tests.benchmarks.micro import MICRO
from tests.benchmarks.probe import ProbeCode, Probes
from tests.benchmarks.quietness import raised_priority, undisturbed
from tests.benchmarks.workloads import ROWS

_PACKAGES = {"torch eager": "torch", "torch.compile": "torch"}
_BATCHES = 25


def _round(
    work: Callable[[], Any], seconds: float, once: float, pause: float, probes: Probes | None
) -> dict[str, Any]:
    """Median "seconds" of one run; short runs are timed in batches so that the clock costs nothing.

    With `probes`, "peak" and "batches" too: the core's rates are measured between the batches, since a core that is
    shared with others changes within a round, and each batch is compared with those before and after it. Two runs
    that do not count come first: caches and clock are as in the ones that follow, and say how long `once` takes.
    With a `pause`, Python sleeps-by-spinning that long before each run and only the run is timed.
    """
    if pause:
        times = []
        for _ in range(max(5, min(400, int(seconds / (once + pause))))):
            until = time.perf_counter() + pause
            while time.perf_counter() < until:
                pass
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return {"seconds": statistics.median(times)}
    for _ in range(2):
        start = time.perf_counter()
        work()
        once = max(1e-7, min(once, time.perf_counter() - start))
    repeats = max(3, min(200_000, int(seconds / once)))
    batch = max(1, repeats // _BATCHES)
    times = []
    rates = [probes.rates()] if probes is not None else []
    for _ in range(min(_BATCHES, repeats)):
        start = time.perf_counter()
        for _ in range(batch):
            work()
        times.append((time.perf_counter() - start) / batch)
        if probes is not None:
            rates.append(probes.rates())
    found: dict[str, Any] = {"seconds": statistics.median(times)}
    if rates:
        found["peak"] = statistics.median(r.peak for r in rates)
        found["batches"] = [
            (t * (before.peak + after.peak) / 2, before.quiet and after.quiet)
            for t, before, after in zip(times, rates, rates[1:], strict=False)
        ]
    return found


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _built(
    peer: str, name: str, threads: int, lock: str | None
) -> tuple[Callable[[], Any], float, dict[str, float]]:
    """The row's work, the seconds of a later run, and those of "import", "build" and "first" (build included)."""
    workload = next(w for w in (*ROWS, *MICRO) if w.name == name)
    with undisturbed(lock if peer in OURS else None):
        started = time.perf_counter()
        importlib.import_module("graphc" if peer in OURS else _PACKAGES.get(peer, peer))
        begun = time.perf_counter()
        run = build(peer, workload, threads).run
        built = time.perf_counter()
        run()
        done = time.perf_counter()
    for _ in range(3):
        run()
    began = time.perf_counter()
    run()
    once = max(time.perf_counter() - began, 1e-7)
    return run, once, {"import": begun - started, "build": built - begun, "first": done - begun}


def main() -> None:
    """`worker PEER THREADS [LOCK]`."""
    peer, threads = sys.argv[1:3]
    lock = sys.argv[3] if len(sys.argv) > 3 else None
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what frameworks print must not mix with the answers
    run, once, probes = None, 0.0, None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        if "mixed" in request:
            probes = Probes(ProbeCode(**request["peak"]), ProbeCode(**request["mixed"]))
            answer = {}
        elif "row" in request:
            run = None  # frees what the last row held
            try:
                run, once, answer = _built(peer, request["row"], int(threads), lock)
            except Exception as error:
                first_line = (str(error).splitlines() or [""])[0]
                answer = {"error": f"{type(error).__name__}: {first_line}"[:300]}
        elif run is not None:
            with raised_priority(request["raised"]):
                answer = _round(run, request["seconds"], once, request["pause"], probes)
        else:
            answer = {"error": "no row"}
        print(json.dumps({**answer, "memory": _peak_memory()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
