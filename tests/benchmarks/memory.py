"""Memory of training steps: peak of the process against PyTorch's, and the arena against what must live at once.

    python -m tests.benchmarks.memory [ROW ...]
    python -m tests.benchmarks.memory --budget 0.5 [--lock FILE] [ROW ...]

Both processes build the row, run it (graphc compiles it with an empty cache in that process) and report their
largest resident set. An arena's bound is the largest sum of buffers that are live in one phase: from the
first phase that writes a buffer to the last that reads it, a repeated range counting as one.

With `--budget` a row is compiled twice, without and with a memory budget of that share of its arena, and both take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from graphc.compiler.compiled import Compiled
from graphc.compiler.driver import lower_graph, make_context
from graphc.ir.program import Program
from tests.benchmarks.kernels import captured_step
from tests.benchmarks.measure import Pool
from tests.benchmarks.quietness import undisturbed
from tests.benchmarks.workloads import ROWS, Workload, chosen

__all__ = ["budget_line", "largest_live", "row_program"]

_LINE = 64


def largest_live(program: Program) -> int:
    """Bytes of temporaries (in whole cache lines) live in one phase, at most over all phases."""
    spans: dict[int, tuple[int, int]] = {}
    for phase, entry in enumerate(program.phases):
        begin, end = phase, phase
        for r in program.repeats:
            if r.begin <= phase < r.end:
                begin, end = min(begin, r.begin), max(end, r.end - 1)
        for call in entry.calls:
            for row in (*call.buffers, *([call.scratch] if call.scratch >= 0 else [])):
                first, last = spans.get(row, (begin, end))
                spans[row] = (min(first, begin), max(last, end))
    _follow_moves(program, spans)
    live = [0] * (len(program.phases) + 1)
    for row, (first, last) in spans.items():
        if program.buffers[row].kind == "temporary":
            size = -(-program.buffers[row].type.nbytes // _LINE) * _LINE
            for phase in range(first, last + 1):
                live[phase] += size
    return max(live)


def _follow_moves(program: Program, spans: dict[int, tuple[int, int]]) -> None:
    """A row that a moving row points into lives as long as the repeat that moves it."""
    for r in program.repeats:
        for move in (*r.first, *r.then):
            first, last = spans.get(move.source, (r.begin, r.end - 1))
            spans[move.source] = (min(first, r.begin), max(last, r.end - 1))


def row_program(row: str) -> Program:
    """The planned program of a row's compiled function. Raises what building the row raises."""
    step, arguments = captured_step(row)
    program: Program = lower_graph(step.trace(*arguments), make_context()).program
    return program


def _peaks(pool: Pool, workload: Workload, peers: Sequence[str]) -> list[str]:
    cells = []
    for peer in peers:
        worker = pool.take(peer, workload.threads, workload)
        if not worker.error:
            worker.round(0.2)
        cells.append(f"{worker.memory / 2**20:,.0f}" if not worker.error else "–")
        pool.give(worker, workload.threads, workload)
    return cells


def _median(call: Callable[[], Any], count: int) -> float:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def budget_line(row: str, share: float, lock: str | None, rounds: int = 8) -> str:
    """Arena without and with a budget, its share, seconds of compiling with it, and steps' time with it by time without."""
    plain, arguments = captured_step(row)
    arena = lower_graph(plain.trace(*arguments), make_context()).program.arena_bytes
    budget = int(share * arena)
    tight = Compiled.make(plain._function, replace(plain._options, memory_budget=budget))
    begin = time.perf_counter()
    less = lower_graph(plain.trace(*arguments), make_context(), memory_budget=budget).program.arena_bytes
    planning = time.perf_counter() - begin
    times: list[tuple[float, float]] = []
    for step in (plain, tight):
        step(*arguments)
    for _ in range(rounds):
        with undisturbed(lock):
            times.append((_median(lambda: plain(*arguments), 3), _median(lambda: tight(*arguments), 3)))
    ratio = statistics.median(b / a for a, b in times)
    mib = [f"{b / 2**20:,.2f}" for b in (arena, less)]
    return "".join(f"{c:>14}" for c in (*mib, f"{less / arena:.1%}", f"{planning:.2f}", f"{ratio:.3f}"))


def _budgets(names: Sequence[str], share: float, lock: str | None) -> None:
    print(
        f"{'':46}" + "".join(f"{c:>14}" for c in ("arena MiB", "with budget", "share", "planning s", "time"))
    )
    for workload in chosen(ROWS, names):
        if workload.kind == "train":
            print(f"{workload.title:46}" + budget_line(workload.name, share, lock), flush=True)


def main() -> None:
    """Prints a line a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", default=["*"], metavar="ROW")
    parser.add_argument("--arena", action="store_true", help="only the arena; starts no other process")
    parser.add_argument(
        "--budget", type=float, metavar="SHARE", help="a memory budget of this share of the arena"
    )
    parser.add_argument(
        "--lock", metavar="FILE", help="hold this file's lock, at real-time priority, while timing"
    )
    options = parser.parse_args()
    if options.budget is not None:
        _budgets(options.rows, options.budget, options.lock)
        return
    peers = ("graphc", "graphc plain", "torch eager")
    print(f"{'MiB':46}" + "".join(f"{p:>14}" for p in (*peers, "arena", "live at once", "ratio")))
    with Pool() as pool:
        for workload in chosen(ROWS, options.rows):
            if workload.kind != "train" and not options.arena:
                continue
            cells = ["" for _ in peers] if options.arena else _peaks(pool, workload, peers)
            try:
                program = row_program(workload.name)
                live = largest_live(program)
                cells += [f"{b / 2**20:,.2f}" for b in (program.arena_bytes, live)]
                cells.append(f"{program.arena_bytes / live:.3f}" if live else "–")
            except Exception as error:
                cells.append(f"not there: {type(error).__name__}: {error}"[:60])
            print(f"{workload.title:46}" + "".join(f"{c:>14}" for c in cells), flush=True)


if __name__ == "__main__":
    main()
