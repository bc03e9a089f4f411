"""Where a compiled step's time goes: every kernel of a row timed on one thread, against the machine's peak.

    python -m tests.benchmarks.kernels resnet18 --sort

Prints a line a kernel: microseconds in the program's order and alone, FLOPs, bytes, rates. Buffers hold
small random numbers; all partitions of a kernel run on one thread, so two threads take about half.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.backends.llvm.codegen import compile_kernels
from graphc.compiler.cost import KernelCost, program_cost
from graphc.compiler.driver import lower_graph, make_context
from graphc.ir.graph import Graph
from graphc.ir.program import Buffer, KernelCall, Program
from graphc.ir.target import Target
from tests.benchmarks.frameworks import framework
from tests.benchmarks.micro import MICRO
from tests.benchmarks.models import Framework
from tests.benchmarks.peak import fma_peak
from tests.benchmarks.quietness import undisturbed
from tests.benchmarks.workloads import ROWS, chosen

_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_ROUNDS = 7
_LEAST_SECONDS = 0.002


class _Captured(Exception):
    pass


def captured_step(name: str) -> tuple[Any, tuple[Any, ...]]:
    """The compiled function of a row and the arguments it is called with."""
    found: list[Any] = []
    made = framework("graphc", 1)

    def capture(function: Any) -> Any:
        compiled = made.compile(function)
        found.append(compiled)

        def call(*args: Any) -> Any:
            found.append(args)
            raise _Captured

        return call

    (row,) = chosen([*ROWS, *MICRO], [name])
    with contextlib.suppress(_Captured):
        row.build(Framework(made.torch, made.nn, made.optim, capture)).run()
    return found[0], found[1]


def _memory(buffer: Buffer, rng: np.random.Generator) -> np.ndarray:
    raw = np.zeros(buffer.type.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array: np.ndarray = raw[start : start + buffer.type.nbytes].view(buffer.type.dtype.numpy)
    if buffer.type.dtype.is_floating_point:
        array[...] = rng.standard_normal(array.size) * 0.1
    return array


@dataclass(frozen=True)
class TimedCall:
    """Seconds of a kernel call: repeated alone (its data as near as it gets), and in the program's order."""

    call: KernelCall
    cost: KernelCost
    alone: float
    in_order: float
    times: int
    """How often one run of the program makes the call."""

    @property
    def seconds(self) -> float:
        """Of all times, in the program's order."""
        return self.in_order * self.times


def time_kernels(program: Program, graph: Graph, target: Target, lock: str | None = None) -> list[TimedCall]:
    """Every kernel call of the program, all its partitions in turn on one thread; medians over rounds."""
    rng = np.random.default_rng(0)
    symbols, codes, _ = compile_kernels(program, target)
    memory = [_memory(b, rng) for b in program.buffers]
    for b, array in zip(program.buffers, memory, strict=True):
        if b.kind == "constant":
            array[...] = np.ascontiguousarray(program.constants[b.index]).reshape(-1)
    addresses = {}
    for code in codes:
        addresses.update({s: code.address(s) for s in code.symbols})
    calls = [call for phase in program.phases for call in phase.calls]
    once = [_runner(addresses[s], c, memory) for s, c in zip(symbols, calls, strict=True)]
    with undisturbed(lock):
        for run in once:
            run()
        rounds = [[run() for run in once] for _ in range(_ROUNDS)]
        in_order = [statistics.median(times) for times in zip(*rounds, strict=True)]
        alone = [_alone(run) for run in once]
    costs = program_cost(program, graph).per_kernel
    times = [program.times(n) for n, phase in enumerate(program.phases) for _ in phase.calls]
    return [TimedCall(*row) for row in zip(calls, costs, alone, in_order, times, strict=True)]


def _runner(address: int, call: KernelCall, memory: list[np.ndarray]) -> Callable[[], float]:
    rows = [*call.buffers, *([call.scratch] if call.scratch >= 0 else [])]
    table = (ctypes.c_void_p * len(rows))(*[memory[row].ctypes.data for row in rows])
    error = ctypes.c_int64(-1)
    where = ctypes.addressof(error)
    run = _SIGNATURE(address)

    def once() -> float:
        start = time.perf_counter()
        for part in range(call.parts):
            run(table, part, call.parts, where)
        return time.perf_counter() - start

    return once


def _alone(run: Callable[[], float]) -> float:
    repeats = max(1, int(_LEAST_SECONDS / max(run(), 1e-7)))
    return statistics.median(sum(run() for _ in range(repeats)) / repeats for _ in range(3))


def _shape(kernel: Any) -> str:
    if kernel.links:
        return "; ".join(_shape(link.kernel) for link in kernel.links)
    outer = "×".join(str((a.hi or 0) + 1) for a in kernel.axes) or "1"
    inner = ", ".join(f"{s.kind}[{'×'.join(str((a.hi or 0) + 1) for a in s.axes)}]" for s in kernel.stages)
    return f"{outer}: {inner}"


def _fills(program: Program, call: KernelCall) -> bool:
    """True of a call that makes what is kept from call to call: most calls of the program leave it out."""
    kept = {state for _, state, _ in program.kept}
    outputs = [r for r, p in zip(call.buffers, call.kernel.parameters, strict=True) if p.access == "out"]
    return any(program.buffers[r].kind == "state" and program.buffers[r].index in kept for r in outputs)


def main() -> None:
    """Prints the table of one row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", help="a row's name or pattern (python -m tests.benchmarks --list)")
    parser.add_argument("--text", action="store_true", help="also print each kernel's text")
    parser.add_argument("--sort", action="store_true", help="longest first")
    parser.add_argument(
        "--lock", metavar="FILE", help="hold this file's lock, at real-time priority, while timing"
    )
    options = parser.parse_args()
    step, args = captured_step(options.row)
    context = make_context()
    graph = step.trace(*args)
    stages = lower_graph(graph, context, keep=True)
    program = stages.program
    timed = [
        t for t in time_kernels(program, graph, context.target, options.lock) if not _fills(program, t.call)
    ]
    with undisturbed(options.lock):
        peak = fma_peak(context.target)
    total = sum(t.seconds for t in timed)
    print("  # in order µs  share   alone µs    MFLOP GFLOP/s  peak     KiB   GB/s parts times  what")
    numbered = list(enumerate(timed))
    for number, t in sorted(numbered, key=lambda r: -r[1].seconds) if options.sort else numbered:
        rate = t.cost.flops / t.in_order / 1e9
        print(
            f"{number:3} {t.in_order * 1e6:11.1f} {t.seconds / total:6.1%} {t.alone * 1e6:10.1f} "
            f"{t.cost.flops / 1e6:8.2f} {rate:7.1f} {rate / peak:5.0%} {t.cost.bytes / 1024:7.0f} "
            f"{t.cost.bytes / t.in_order / 1e9:6.1f} {t.call.parts:5} {t.times:5}  {t.cost.title} | {_shape(t.call.kernel)}"
        )
        if options.text:
            print(t.call.kernel)
    flops = sum(t.cost.flops * t.times for t in timed)
    print(
        f"{len(timed)} kernels, {total * 1e6:,.1f} µs in order, {sum(t.alone * t.times for t in timed) * 1e6:,.1f} µs alone, "
        f"{flops / 1e9:.3f} GFLOP, {flops / total / 1e9:.1f} of {peak:.1f} GFLOP/s"
    )


if __name__ == "__main__":
    main()
