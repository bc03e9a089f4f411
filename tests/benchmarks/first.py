"""First calls: trace to result with an empty cache, then in a new process from the disk cache; and the import.

    python -m tests.benchmarks.first [ROW ...]

"build" is making the model and its data, which also loads the native run time (with an empty cache, compiles it);
"call" is the first call, from trace to result. Their sum is what PyTorch's figure in the main table holds too.
"""

from __future__ import annotations

import argparse
import tempfile

from tests.benchmarks.measure import Worker
from tests.benchmarks.workloads import ROWS, chosen


def main() -> None:
    """Prints a line a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", default=["*"], metavar="ROW")
    parser.add_argument("--peer", default="graphc", choices=("graphc", "graphc plain"))
    parser.add_argument(
        "--lock", metavar="FILE", help="hold this file's lock, at real-time priority, while timing"
    )
    options = parser.parse_args()
    titles = ("import", "empty: build", "call", "disk: build", "call")
    print(f"{'seconds':46}" + "".join(f"{t:>14}" for t in titles))
    for workload in chosen(ROWS, options.rows):
        heads = []
        with tempfile.TemporaryDirectory(prefix="graphc-benchmark-") as cache:
            for _ in range(2):
                worker = Worker(options.peer, workload.threads, options.lock, cache)
                worker.build(workload.name)
                heads.append(worker.head)
                worker.close()
        error = next((h["error"] for h in heads if "error" in h), "")
        if error:
            print(f"{workload.title:46} not there: {error}", flush=True)
            continue
        figures = [heads[1]["import"]]
        for head in heads:
            figures += [head["build"], head["first"] - head["build"]]
        print(f"{workload.title:46}" + "".join(f"{s:14.3f}" for s in figures), flush=True)


if __name__ == "__main__":
    main()
