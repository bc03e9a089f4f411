"""Bandwidth of one core on streams with a given mix of reads and writes: a loop of our own LLVM text."""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable

import numpy as np

from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.jit import link
from graphc.backends.llvm.text import ModuleText, Val
from graphc.ir.target import Target

__all__ = ["bandwidth", "stream"]

_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_UNROLL = 4
_ROUNDS = 12


def bandwidth(target: Target, reads: int, writes: int, size: int, *, streaming: bool = False) -> float:
    """GB/s (bytes of the streams, no write-allocate traffic counted) of `reads` input and `writes` output
    streams of `size` bytes in all; see `stream`."""
    run, moved = stream(target, reads, writes, size, streaming=streaming)
    repeats = max(1, int(2e7 / size))
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        run(repeats)
        best = min(best, (time.perf_counter() - begun) / repeats)
    return moved / best / 1e9


def stream(
    target: Target, reads: int, writes: int, size: int, *, streaming: bool = False
) -> tuple[Callable[[int], None], int]:
    """A function that walks the streams a number of times, and the bytes that one walk reads and writes.

    A read-only loop adds up what it reads; otherwise each output element is the sum of the inputs' elements
    (or a constant). Where `streaming`, stores bypass the cache.
    """
    width = target.vector_bytes // 4
    step = width * _UNROLL
    count = size // (4 * (reads + writes)) // step * step
    module = ModuleText(target)
    b = module.function("probe", "void", [("ptr", "table"), ("i64", "count"), ("i64", "repeats")])
    table, n, times = b.params
    streams = [b.load("ptr", b.gep(table, i, "ptr")) for i in range(reads + writes)]
    vector = f"<{width} x float>"
    zero = b.const(vector, 0.0)
    hint = ", !nontemporal !0" if streaming else ""

    def body(i: Val, sums: tuple[Val, ...]) -> list[Val]:
        made = []
        for u in range(_UNROLL):
            at = b.add(i, b.const("i64", u * width))
            value = sums[u] if not writes else zero
            for s in streams[:reads]:
                value = b.fadd(value, b.load(vector, b.gep(s, at, "float"), 4 * width))
            for s in streams[reads:]:
                b.emit(f"store {value}, {b.gep(s, at, 'float')}, align {4 * width}{hint}")
            made.append(value)
        return made if not writes else []

    start = [] if writes else [zero] * _UNROLL
    last = b.loop(0, times, 1, start, lambda _, carried: b.loop(0, n, step, carried, body))
    if not writes:
        total = last[0]
        for s in last[1:]:
            total = b.fadd(total, s)
        b.store(total, streams[0], 4)
    b.ret()
    text = str(module) + ("\n!0 = !{i32 1}\n" if streaming else "")
    code = link([compile_text(text, target)])
    run = _SIGNATURE(code.address("probe"))
    memory = [np.ones(count + 16, np.float32) for _ in range(reads + writes)]
    addresses = (ctypes.c_void_p * len(memory))(*(m.ctypes.data + -m.ctypes.data % 64 for m in memory))

    def walk(repeats: int) -> None:
        # Memory and code live as long as this function.
        assert len(memory) == reads + writes and code
        run(addresses, count, repeats)

    return walk, (reads + writes) * 4 * count


def main() -> None:
    """Prints the rates of common mixes at sizes in and out of the caches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", nargs="*", type=float, default=[0.25, 4, 64, 256])
    target = host_target()
    for size in parser.parse_args().mebibytes:
        for reads, writes, streaming in (
            (1, 0, False),
            (1, 1, False),
            (1, 1, True),
            (2, 1, False),
            (2, 1, True),
            (0, 1, False),
            (0, 1, True),
        ):
            rate = bandwidth(target, reads, writes, int(size * 2**20), streaming=streaming)
            print(
                f"{size:8.2f} MiB  {reads} read {writes} written{' streaming' * streaming:10} {rate:7.1f} GB/s"
            )


if __name__ == "__main__":
    main()
