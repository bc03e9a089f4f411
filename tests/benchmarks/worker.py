"""One framework in a process of its own: builds a row, then times rounds on request.

    python -m tests.benchmarks.worker PEER ROW THREADS [LOCK]

Speaks JSON lines. First {"import", "first": seconds, "memory": bytes}, or {"error": text} where the framework is
missing or cannot run the row. Then it reads {"seconds", "pause", "raised"} a line and answers {"seconds": median
of the round, "memory"}. Where raised, the round runs at real-time priority. With LOCK, graphc's first call holds
that file's lock, like the rounds that the caller times.
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
from tests.benchmarks.quietness import raised_priority, undisturbed
from tests.benchmarks.workloads import ROWS

_PACKAGES = {"torch eager": "torch", "torch.compile": "torch"}
_BATCHES = 25


def _round(work: Callable[[], Any], seconds: float, once: float, pause: float) -> float:
    """Median seconds of one run; short runs are timed in batches so that the clock costs nothing.

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
        return statistics.median(times)
    repeats = max(3, min(200_000, int(seconds / once)))
    batch = max(1, repeats // _BATCHES)
    times = []
    for _ in range(min(_BATCHES, repeats)):
        start = time.perf_counter()
        for _ in range(batch):
            work()
        times.append((time.perf_counter() - start) / batch)
    return statistics.median(times)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """`worker PEER ROW THREADS [LOCK]`."""
    peer, name, threads = sys.argv[1:4]
    lock = sys.argv[4] if len(sys.argv) > 4 else None
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    workload = next(w for w in (*ROWS, *MICRO) if w.name == name)
    try:
        start = time.perf_counter()
        importlib.import_module("graphc" if peer in OURS else _PACKAGES.get(peer, peer))
        imported = time.perf_counter()
        with undisturbed(lock if peer in OURS else None):
            begun = time.perf_counter()
            run = build(peer, workload, int(threads)).run
            run()
            first = time.perf_counter() - begun
        for _ in range(3):
            run()
    except Exception as error:
        answer(error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300])
        return
    began = time.perf_counter()
    run()
    once = max(time.perf_counter() - began, 1e-7)
    answer(**{"import": imported - start}, first=first, memory=_peak_memory())
    for line in sys.stdin:
        request = json.loads(line)
        with raised_priority(request["raised"]):
            seconds = _round(run, request["seconds"], once, request["pause"])
        answer(seconds=seconds, memory=_peak_memory())


if __name__ == "__main__":
    main()
