"""The benchmark: `python -m tests.benchmarks` (see --help).

Each framework runs in a process of its own; rounds alternate between them, so that a drift of the
machine hits all alike. Printed are medians over rounds in microseconds, the ratio of the best peer
to graphc, first-call time (trace and compile with an empty cache), the process's peak memory, and the share
that the time at the measured peak or bandwidth has of graphc's time (the roofline). Every framework's process runs the
loop of the FMA peak between its timings, and arithmetic is compared with the peak of that moment, in those batches of runs
in which the core is quiet: another loop tells where somebody else uses its second hardware thread. Beside it are
the share of the peak in the best round (others only slow a round down), the peak (median and extremes over rounds) and the
number of quiet batches. A peer that is
missing, or that cannot run a row, is left out and named below the table with the reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.benchmarks.frameworks import MICRO_PEERS, PEERS
from tests.benchmarks.measure import Pool, measure
from tests.benchmarks.micro import MICRO
from tests.benchmarks.roofline import measured_machine
from tests.benchmarks.table import as_json, from_json, markdown, summary, text_head, text_row
from tests.benchmarks.workloads import ROWS, chosen


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workloads", nargs="*", default=[], metavar="NAME", help="names or patterns like 'gpt*'"
    )
    parser.add_argument("--group", choices=["rows", "micro", "all"], default=None, help="default: rows")
    parser.add_argument("--list", action="store_true", help="print the rows' names and stop")
    parser.add_argument(
        "--peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; default: all that fit"
    )
    parser.add_argument("--threads", type=int, help="override every row's own thread count")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.25, help="length of one round of one framework")
    parser.add_argument(
        "--gap", type=float, default=0.0, metavar="MS", help="Python between runs; time inside the call only"
    )
    parser.add_argument(
        "--quiet",
        type=int,
        default=0,
        metavar="N",
        help="more rounds until N batches had the core for themselves",
    )
    parser.add_argument("--warm", action="store_true", help="use the disk cache instead of an empty one")
    parser.add_argument(
        "--lock", metavar="FILE", help="hold this file's lock, at real-time priority, while timing"
    )
    parser.add_argument("--json", metavar="FILE", help="also write (and merge into) this file")
    parser.add_argument("--again", action="store_true", help="measure nothing: the tables of the --json file")
    parser.add_argument("--markdown", metavar="FILE", help="also write the table for the README")
    return parser.parse_args()


def main() -> None:
    """Runs the chosen rows and prints the table."""
    options = _arguments()
    group = options.group or ("all" if options.workloads else "rows")
    rows = [*(ROWS if group != "micro" else ()), *(MICRO if group != "rows" else ())]
    if options.workloads:
        rows = chosen(rows, options.workloads)
    if options.list:
        for w in rows:
            print(f"{w.name:28} {w.title}")
        return
    peers = options.peers or list(MICRO_PEERS if group == "micro" else PEERS)
    unknown = set(peers) - set(PEERS)
    if unknown:
        sys.exit(f"unknown peer {', '.join(sorted(unknown))}; peers are {', '.join(PEERS)}")
    if options.again:
        results, machine = from_json(Path(options.json), rows)
        print(machine)
        print(
            "\n".join([text_head(peers), *(text_row(r, peers, machine) for r in results), summary(results)])
        )
        if options.markdown:
            Path(options.markdown).write_text(markdown(results, peers, machine), encoding="utf-8")
        return
    machine, probes = measured_machine(options.lock)
    print(machine)
    print(text_head(peers))
    results = []
    with Pool(options.lock, options.warm, probes) as pool:
        for workload in rows:
            named = options.peers or (MICRO_PEERS if workload.kind == "micro" else PEERS)
            results.append(
                measure(
                    pool, workload, named, options.threads or workload.threads, options.rounds,
                    seconds=options.seconds, pause=options.gap / 1e3, quiet=options.quiet,
                )
            )  # fmt: skip
            print(text_row(results[-1], peers, machine), flush=True)
            if options.json:
                as_json(results[-1:], machine, Path(options.json))
    print(summary(results))
    if options.markdown:
        Path(options.markdown).write_text(markdown(results, peers, machine), encoding="utf-8")


if __name__ == "__main__":
    main()
