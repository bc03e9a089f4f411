"""One framework in a process of its own: builds a workload, then times rounds on request.

Speaks JSON lines: first {"first": seconds, "memory": bytes}, then for each line read one
{"seconds": median of the round}.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.workloads import WORKLOADS, Framework

__all__ = ["framework"]

_ROUND_SECONDS = 0.25


def framework(peer: str, threads: int) -> Framework:
    """The framework named `peer`, set to `threads`. Raises ImportError where it is not installed."""
    if peer == "graphc":
        import graphc
        from graphc import nn, optim

        graphc.set_num_threads(threads)
        return Framework(graphc, nn, optim, graphc.compile)
    import torch

    torch.set_num_threads(threads)
    compile_ = torch.compile if peer == "torch.compile" else _identity
    return Framework(torch, torch.nn, torch.optim, compile_)


def _identity(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _round(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of one run; short runs are timed in batches so that the clock costs nothing."""
    batch = max(1, repeats // 25)
    times = []
    for _ in range(min(25, repeats)):
        start = time.perf_counter()
        for _ in range(batch):
            work()
        times.append((time.perf_counter() - start) / batch)
    return statistics.median(times)


def main() -> None:
    """`worker PEER WORKLOAD THREADS`."""
    peer, name, threads = sys.argv[1:4]
    start = time.perf_counter()
    made = framework(peer, int(threads))
    imported = time.perf_counter()
    work = WORKLOADS[name].build(made)
    work()
    first = time.perf_counter() - imported
    for _ in range(3):
        work()
    began = time.perf_counter()
    work()
    once = max(time.perf_counter() - began, 1e-7)
    repeats = max(5, min(200_000, int(_ROUND_SECONDS / once)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"import": imported - start, "first": first, "memory": memory}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": _round(work, repeats)}), flush=True)


if __name__ == "__main__":
    main()
