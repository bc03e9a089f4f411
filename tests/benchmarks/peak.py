"""The machine's fused multiply-add peak, measured: what a contraction's speed is a share of.

Run as a program it prints GFLOP/s of one core for float32 and float64.
"""

from __future__ import annotations

import ctypes
import time

from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.jit import link
from graphc.backends.llvm.text import ModuleText, Val
from graphc.ir.target import Target

__all__ = ["fma_peak"]

_ITERATIONS = 40_000
_ROUNDS = 40
_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


def _probe(target: Target, scalar: str, width: int, accumulators: int) -> float:
    """GFLOP/s of a loop of `accumulators` independent chains of `width` lanes."""
    module = ModuleText(target)
    b = module.function("probe", "void", [("ptr", "data"), ("i64", "count")])
    data, count = b.params

    def load(i: int) -> Val:
        return b.splat(b.load(scalar, b.gep(data, i, scalar)), width)

    x, y = load(0), load(1)
    sums = b.loop(
        0, count, 1, [load(i) for i in range(accumulators)], lambda _, c: [b.fma(x, y, s) for s in c]
    )
    total = sums[0]
    for s in sums[1:]:
        total = b.fadd(total, s)
    b.store(total, data, 4)
    b.ret()
    code = link([compile_text(str(module), target)])
    run = _SIGNATURE(code.address("probe"))
    memory = (ctypes.c_double * 128)()
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        run(ctypes.addressof(memory), _ITERATIONS)
        best = min(best, time.perf_counter() - start)
    return 2.0 * _ITERATIONS * accumulators * width / best / 1e9


def fma_peak(target: Target, scalar: str = "float") -> float:
    """GFLOP/s of one core: the best of 256-bit loops, and of 512-bit ones where the target has them.

    `scalar` is `"float"` or `"double"`. The probes have 10 and 12 independent accumulators.
    """
    bits = 32 if scalar == "float" else 64
    sizes = {min(32, target.vector_bytes), target.vector_bytes}
    return max(_probe(target, scalar, size * 8 // bits, n) for size in sizes for n in (10, 12))


if __name__ == "__main__":
    host = host_target()
    for name in ("float", "double"):
        print(f"{name}: {fma_peak(host, name):.1f} GFLOP/s")
