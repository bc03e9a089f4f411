"""Runs a pipeline on a graph in a file: `python -m graphc.passes.replay FILE --pipeline cse,dce`.

Prints the resulting graph. The command that a failed compilation names is one of these.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from graphc.ir import parse
from graphc.ir.target import TARGETS
from graphc.passes.context import CompileContext
from graphc.passes.instruments import Instrument, Print, Time, Verify
from graphc.passes.pipeline import OPTIMISE, parse_pipeline

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads, runs, prints; 0 on success. An error of a pass is raised as it is, for its traceback."""
    options = _parser().parse_args(arguments)
    graph = parse(Path(options.file).read_text(encoding="utf-8"))
    context = CompileContext(target=TARGETS[options.target])
    timer = Time()
    instruments: list[Instrument] = [Verify(), timer]
    if options.print_each:
        instruments.append(Print())
    for pass_ in parse_pipeline(options.pipeline).passes:
        for instrument in instruments:
            instrument.before(pass_, graph, context)
        changed = pass_.run(graph, context) is not False
        for instrument in instruments:
            instrument.after(pass_, graph, context, changed)
    print(graph)
    if options.time:
        print(timer, file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m graphc.passes.replay", description=__doc__.splitlines()[0]
    )
    parser.add_argument("file", help="a graph as text")
    parser.add_argument("--pipeline", default=OPTIMISE, help=f"passes to run (default {OPTIMISE})")
    parser.add_argument("--target", default="x86-64-v3", choices=sorted(TARGETS))
    parser.add_argument("--print-each", action="store_true", help="print the graph after each pass")
    parser.add_argument("--time", action="store_true", help="print the time of each pass")
    return parser


if __name__ == "__main__":
    sys.exit(main())
