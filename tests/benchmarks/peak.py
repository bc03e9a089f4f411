"""The machine's fused multiply-add peak, measured: what a contraction's speed is a share of.

Run as a program it prints GFLOP/s of one core for float32 and float64.
"""

from __future__ import annotations

import ctypes

from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.jit import link
from graphc.backends.llvm.text import ModuleText, Val
from graphc.ir.target import Target
from tests.benchmarks.probe import Probe, ProbeCode

__all__ = ["best_probe", "fma_peak"]

_ROUNDS = 40


def _probe(target: Target, scalar: str, width: int, accumulators: int) -> ProbeCode:
    """A loop of `accumulators` independent chains of `width` lanes."""
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
    module.function("after", "void", []).ret()
    code = link([compile_text(str(module), target)])
    start = code.address("probe")
    content = ctypes.string_at(start, code.address("after") - start)
    return ProbeCode(content.hex(), 2 * accumulators * width)


def best_probe(target: Target, scalar: str = "float") -> tuple[float, ProbeCode]:
    """GFLOP/s of one core, and the loop that reaches them: the best of 256-bit loops, and of 512-bit ones where
    the target has them.

    `scalar` is `"float"` or `"double"`. The loops have 10 and 12 independent accumulators.
    """
    bits = 32 if scalar == "float" else 64
    sizes = sorted({min(32, target.vector_bytes), target.vector_bytes})
    codes = [_probe(target, scalar, size * 8 // bits, n) for size in sizes for n in (10, 12)]
    rates = [max(probe.rate() for _ in range(_ROUNDS)) for probe in map(Probe, codes)]
    return max(zip(rates, codes, strict=True), key=lambda found: found[0])


def fma_peak(target: Target, scalar: str = "float") -> float:
    """GFLOP/s of one core; see `best_probe`."""
    return best_probe(target, scalar)[0]


if __name__ == "__main__":
    host = host_target()
    for name in ("float", "double"):
        print(f"{name}: {fma_peak(host, name):.1f} GFLOP/s")
