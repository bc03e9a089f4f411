"""Matrix products and convolutions against the machine's peak, and against PyTorch where installed.

One thread, best of interleaved rounds; packing and the kernel call are inside the measured time.
Prints a line a case: microseconds, GFLOP/s, share of the peak measured in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable

import numpy as np

from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.contraction import emit_contraction, partitions, scratch_bytes
from graphc.backends.llvm.jit import link
from graphc.backends.llvm.text import ModuleText
from graphc.ir import types
from graphc.ir.kernel import Kernel
from tests.backends.contraction.kernels import Convolution, matmul
from tests.benchmarks.peak import fma_peak

try:
    import torch
except ImportError:
    torch = None

_REPEAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


class Timed:
    """A kernel with its own buffers and a native loop that calls it."""

    def __init__(self, kernel: Kernel) -> None:
        target = host_target()
        module = ModuleText(target)
        start = time.perf_counter()
        emit_contraction(kernel, module, "k", target)
        b = module.function("repeat", "void", [("ptr", "buffers"), ("i64", "count")])
        zero, one = (b.const("i64", v) for v in (0, 1))

        def call(i: object, _: object) -> list[object]:
            b.call_void("k", [b.params[0], zero, one, b.gep(b.params[0], 0, "ptr")])
            return []

        b.loop(0, b.params[1], 1, (), call)  # type: ignore[arg-type]
        b.ret()
        text = str(module)
        self.emitted = time.perf_counter() - start
        code = compile_text(text, target)
        self.compiled = time.perf_counter() - start
        self._code = link([code])
        self.run = _REPEAT(self._code.address("repeat"))
        sizes = [x.type.nbytes for x in kernel.buffers] + [scratch_bytes(kernel, target)]
        self.memory = [np.zeros(n + 128, np.uint8) for n in sizes]
        rng = np.random.default_rng(0)
        for x, held in zip(kernel.buffers, self.memory, strict=False):
            held[: x.type.nbytes] = np.frombuffer(
                rng.standard_normal(x.type.numel).astype(x.type.dtype.numpy).tobytes(), np.uint8
            )
        addresses = [m.ctypes.data + -m.ctypes.data % 64 for m in self.memory]
        for held, address, n in zip(self.memory, addresses, sizes, strict=True):
            shift = address - held.ctypes.data
            held[shift : shift + n] = held[:n].copy()
        self.table = (ctypes.c_void_p * len(addresses))(*addresses)

    def seconds(self, count: int) -> float:
        start = time.perf_counter()
        self.run(ctypes.addressof(self.table), count)
        return (time.perf_counter() - start) / count


def measure(name: str, kernel: Kernel, flops: float, peer: Callable[[], object] | None, peak: float) -> None:
    timed = Timed(kernel)
    count = max(1, int(2e7 / flops))
    ours = theirs = float("inf")
    for _ in range(25):
        ours = min(ours, timed.seconds(count))
        if peer is not None:
            peer()
            start = time.perf_counter()
            for _ in range(min(count, 200)):
                peer()
            theirs = min(theirs, (time.perf_counter() - start) / min(count, 200))
    line = (
        f"{name:34s} {ours * 1e6:10.2f} us {flops / ours / 1e9:7.1f} GFLOP/s {flops / ours / 1e9 / peak:6.1%}"
    )
    line += f"  torch {theirs * 1e6:10.2f} us x{theirs / ours:.2f}" if peer else ""
    target = host_target()
    print(
        f"{line}  compile {timed.compiled * 1e3:.0f} ms  parts {partitions(kernel, target)}"
        f"  scratch {scratch_bytes(kernel, target) >> 10} KiB",
        flush=True,
    )


MATMULS = [
    (512, 512, 512, {}), (512, 512, 512, {"b_transposed": True}), (512, 512, 512, {"a_transposed": True}),
    (200, 200, 200, {}), (1000, 1000, 1000, {}), (1024, 1024, 1024, {}),
    (64, 128, 784, {}), (64, 128, 784, {"b_transposed": True}), (128, 784, 64, {"a_transposed": True}),
    (64, 10, 128, {}), (64, 10, 128, {"b_transposed": True}), (10, 128, 64, {"a_transposed": True}),
    (64, 128, 10, {}), (64, 32, 64, {}), (64, 32, 64, {"b_transposed": True}),
    (3, 1, 2, {}), (1, 2, 3, {"a_transposed": True}), (1, 128, 784, {"b_transposed": True}),
    (1, 128, 784, {}), (1, 10, 128, {"b_transposed": True}), (1000, 1, 1000, {}), (10, 200, 100, {"b_transposed": True}),
    (512, 384, 384, {"b_transposed": True}), (512, 1536, 384, {"b_transposed": True}),
    (128, 128, 64, {"batch": 24, "b_transposed": True}), (128, 64, 128, {"batch": 24}),
]  # fmt: skip

CONVOLUTIONS = [
    Convolution(1, 64, 56, 56, 64, 3, 3, 1, 1), Convolution(1, 128, 28, 28, 128, 3, 3, 1, 1),
    Convolution(1, 256, 14, 14, 256, 3, 3, 1, 1), Convolution(1, 512, 7, 7, 512, 3, 3, 1, 1),
    Convolution(1, 64, 56, 56, 128, 3, 3, 2, 1), Convolution(1, 64, 56, 56, 128, 1, 1, 2, 0),
    Convolution(1, 3, 224, 224, 64, 7, 7, 2, 3), Convolution(64, 3, 32, 32, 6, 5, 5),
    Convolution(64, 6, 14, 14, 16, 5, 5), Convolution(8, 64, 16, 16, 64, 3, 3, 1, 1),
    Convolution(8, 512, 2, 2, 512, 3, 3, 1, 1),
]  # fmt: skip


def _matmul_case(m: int, n: int, k: int, options: dict[str, object], peak: float) -> None:
    kernel = matmul(m, n, k, types.float32, **options)  # type: ignore[arg-type]
    batch = int(options.get("batch", 0))  # type: ignore[call-overload]
    peer = None
    if torch is not None:
        x, y = (torch.randn(b.type.sizes) for b in kernel.buffers[:2])
        x = x.transpose(-1, -2) if options.get("a_transposed") else x
        y = y.transpose(-1, -2) if options.get("b_transposed") else y
        out = torch.empty(kernel.buffers[2].type.sizes)
        peer = lambda: torch.matmul(x, y, out=out)  # noqa: E731
    name = f"matmul {m}x{n}x{k} " + " ".join(f"{k[:3]}={int(v)}" for k, v in options.items())  # type: ignore[call-overload]
    measure(name, kernel, 2.0 * m * n * k * max(batch, 1), peer, peak)


def _convolution_case(c: Convolution, peak: float) -> None:
    x, w, y = c.shapes
    flops = 2.0 * np.prod(y) * np.prod(w[1:])
    name = f"conv {c.n}x{c.c}x{c.h}x{c.w} {c.o}x{c.r}x{c.s}/{c.stride}"
    peers: list[Callable[[], object] | None] = [None, None, None]
    if torch is not None:
        tx, tw, ty = torch.randn(x), torch.randn(w), torch.randn(y)
        size = {"stride": c.stride, "padding": c.pad, "dilation": c.dilation}
        grad = torch.ops.aten.convolution_backward
        rest = ([c.stride] * 2, [c.pad] * 2, [c.dilation] * 2, False, [0, 0], 1)
        peers = [
            lambda: torch.nn.functional.conv2d(tx, tw, **size),
            lambda: grad(ty, tx, tw, None, *rest, [False, True, False]),
            lambda: grad(ty, tx, tw, None, *rest, [True, False, False]),
        ]
    measure(name, c.forward(types.float32), flops, peers[0], peak)
    measure(name + " dw", c.weight_gradient(types.float32), flops, peers[1], peak)
    if c.stride == 1:
        measure(name + " dx", c.input_gradient(types.float32), flops, peers[2], peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["matmul", "conv"], default=None)
    only = parser.parse_args().only
    if torch is not None:
        torch.set_num_threads(1)
    peak = fma_peak(host_target())
    print(f"peak {peak:.1f} GFLOP/s")
    if only != "conv":
        for m, n, k, options in MATMULS:
            _matmul_case(m, n, k, options, peak)
    if only != "matmul":
        for c in CONVOLUTIONS:
            _convolution_case(c, peak)


if __name__ == "__main__":
    main()
