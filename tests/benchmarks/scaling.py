"""Two threads against one, rounds in turn: `python -m tests.benchmarks.scaling [ROW ...]`."""

from __future__ import annotations

import argparse
import statistics

from tests.benchmarks.measure import Worker
from tests.benchmarks.quietness import locked
from tests.benchmarks.workloads import ROWS, chosen


def main() -> None:
    """Prints a line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", default=["*"], metavar="ROW")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument(
        "--lock", metavar="FILE", help="hold this file's lock, at real-time priority, while timing"
    )
    options = parser.parse_args()
    counts = (1, options.threads)
    print(f"{'µs':46}" + "".join(f"{f'{n} threads':>14}" for n in counts) + f"{'ratio':>8}")
    for workload in chosen(ROWS, options.rows):
        workers = [Worker("graphc", n, options.lock) for n in counts]
        for worker in workers:
            worker.build(workload.name)
        error = next((w.error for w in workers if w.error), "")
        for _ in range(0 if error else options.rounds):
            with locked(options.lock):
                for worker in workers:
                    worker.round(options.seconds, raised=options.lock is not None)
        if error:
            print(f"{workload.title:46} not there: {error}", flush=True)
        else:
            one, many = (statistics.median(w.times) for w in workers)
            print(f"{workload.title:46}{one * 1e6:14,.1f}{many * 1e6:14,.1f}{one / many:7.2f}×", flush=True)
        for worker in workers:
            worker.close()


if __name__ == "__main__":
    main()
