"""The machine's fused multiply-add peak, measured: what a contraction's speed is a share of.

Run as a program it prints GFLOP/s of one core for float32 and float64.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Sequence

from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.jit import link
from graphc.backends.llvm.text import ModuleText, Val
from graphc.ir.target import Target
from tests.benchmarks.probe import Probe, ProbeCode, Probes

__all__ = ["best_probes", "fma_peak"]

_ROUNDS = 40


def _probe(
    target: Target, scalar: str, width: int, accumulators: int, loads: int = 0, sums: int = 0
) -> ProbeCode:
    """A loop of `accumulators` independent chains of `width` lanes.

    The first `loads` chains read a factor from memory, `sums` integers are added up beside them.
    """
    module = ModuleText(target)
    b = module.function("probe", "void", [("ptr", "data"), ("i64", "count")])
    data, count = b.params
    size, type_ = 8 if scalar == "double" else 4, f"<{width} x {scalar}>"

    def load(i: int) -> Val:
        return b.splat(b.load(scalar, b.gep(data, i, scalar)), width)

    def factor(i: int) -> Val:
        """Volatile, so that no loop is without its loads."""
        place = b.gep(data, i % 4 * width, scalar)
        return b.op(type_, f"load volatile {type_}, {place}, align {width * size}")

    def body(_: Val, carried: tuple[Val, ...]) -> list[Val]:
        chains = [b.fma(x, factor(i) if i < loads else y, s) for i, s in enumerate(carried[:accumulators])]
        return [*chains, *(b.add(s, b.const("i64", i + 3)) for i, s in enumerate(carried[accumulators:]))]

    x, y = load(0), load(1)
    start = [load(i) for i in range(accumulators)] + [
        b.load("i64", b.gep(data, i, "i64")) for i in range(sums)
    ]
    last = b.loop(0, count, 1, start, body)
    total = last[0]
    for s in last[1:accumulators]:
        total = b.fadd(total, s)
    b.store(total, b.gep(data, 128, "float"), 4)
    for i, s in enumerate(last[accumulators:]):
        b.store(s, b.gep(data, 96 + i, "i64"), 8)
    b.ret()
    module.function("after", "void", []).ret()
    code = link([compile_text(str(module), target)])
    begin = code.address("probe")
    content = ctypes.string_at(begin, code.address("after") - begin)
    return ProbeCode(content.hex(), 2 * accumulators * width)


def _best(codes: Sequence[ProbeCode]) -> ProbeCode:
    """The fastest of the loops, with its rate."""
    found = [dataclasses.replace(c, best=max(Probe(c).rate() for _ in range(_ROUNDS))) for c in codes]
    return max(found, key=lambda c: c.best)


def best_probes(target: Target, scalar: str = "float") -> Probes:
    """The loop of the FMA peak of one core: the best of 256-bit loops, and of 512-bit ones where the target has them;
    and one of the same width with loads and additions.

    `scalar` is `"float"` or `"double"`. The loops have 10 and 12 independent accumulators.
    """
    bits = 32 if scalar == "float" else 64
    widths = [size * 8 // bits for size in sorted({min(32, target.vector_bytes), target.vector_bytes})]
    peak = _best([_probe(target, scalar, w, n) for w in widths for n in (10, 12)])
    return Probes(peak, _best([_probe(target, scalar, widths[0], 12, 8, 4)]))


def fma_peak(target: Target, scalar: str = "float") -> float:
    """GFLOP/s of one core; see `best_probes`."""
    return best_probes(target, scalar).peak.best


if __name__ == "__main__":
    host = host_target()
    for name in ("float", "double"):
        print(f"{name}: {fma_peak(host, name):.1f} GFLOP/s")
