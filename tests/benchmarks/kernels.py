"""Where a compiled step's time goes: every kernel of a workload timed alone, on one thread.

    python -m tests.benchmarks.kernels "LeNet step, SGD momentum"

Prints a line a kernel: microseconds, share, what it computes. Buffers hold small random numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import time
from typing import Any

import numpy as np

from graphc.backends.llvm.codegen import compile_kernels
from graphc.compiler.driver import lower_graph, make_context
from graphc.ir.program import Buffer, KernelCall, Program
from tests.benchmarks.worker import framework
from tests.benchmarks.workloads import WORKLOADS, Framework

_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_ROUNDS = 7
_LEAST_SECONDS = 0.002


class _Captured(Exception):
    pass


def captured_step(name: str) -> tuple[Any, tuple[Any, ...]]:
    """The compiled function of a workload and the arguments it is called with."""
    found: list[Any] = []
    made = framework("graphc", 1)

    def capture(function: Any) -> Any:
        compiled = made.compile(function)
        found.append(compiled)

        def call(*args: Any) -> Any:
            found.append(args)
            raise _Captured

        return call

    work = WORKLOADS[name].build(Framework(made.torch, made.nn, made.optim, capture))
    with contextlib.suppress(_Captured):
        work()
    return found[0], found[1]


def _memory(buffer: Buffer, rng: np.random.Generator) -> np.ndarray:
    raw = np.zeros(buffer.type.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array = raw[start : start + buffer.type.nbytes].view(buffer.type.dtype.numpy)
    if buffer.type.dtype.is_floating_point:
        array[...] = rng.standard_normal(array.size) * 0.1
    return array


def time_kernels(program: Program, target: Any) -> list[tuple[KernelCall, float]]:
    """Best seconds of each kernel call, all its partitions in turn."""
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
    return [(c, _time(addresses[s], c, memory)) for c, s in zip(calls, symbols, strict=True)]


def _time(address: int, call: KernelCall, memory: list[np.ndarray]) -> float:
    rows = [*call.buffers, *([call.scratch] if call.scratch >= 0 else [])]
    table = (ctypes.c_void_p * len(rows))(*[memory[row].ctypes.data for row in rows])
    error = ctypes.c_int64(-1)
    run = _SIGNATURE(address)

    def once() -> float:
        start = time.perf_counter()
        for part in range(call.parts):
            run(table, part, call.parts, ctypes.addressof(error))
        return time.perf_counter() - start

    repeats = max(1, int(_LEAST_SECONDS / max(once(), 1e-7)))
    return min(sum(once() for _ in range(repeats)) / repeats for _ in range(_ROUNDS))


def main() -> None:
    """Prints the table of one workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--text", action="store_true", help="also print each kernel's text")
    options = parser.parse_args()
    step, args = captured_step(options.workload)
    context = make_context()
    stages = lower_graph(step.trace(*args), context)
    timed = time_kernels(stages.program, context.target)
    total = sum(seconds for _, seconds in timed)
    for number, (call, seconds) in enumerate(timed):
        outer = "×".join(str((a.hi or 0) + 1) for a in call.kernel.axes) or "1"
        inner = ", ".join(
            f"{s.kind}[{'×'.join(str((a.hi or 0) + 1) for a in s.axes)}]" for s in call.kernel.stages
        )
        print(
            f"{number:3} {seconds * 1e6:10.1f} µs {seconds / total:6.1%}  {call.parts:2} parts  {outer}: {inner}"
        )
        if options.text:
            print(call.kernel)
    print(f"    {total * 1e6:10.1f} µs in all")


if __name__ == "__main__":
    main()
