"""Compiles a contraction kernel and runs it on NumPy arrays, guard bytes around every buffer."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.contraction import emit_contraction, scratch_bytes
from graphc.backends.llvm.jit import link
from graphc.backends.llvm.text import ModuleText
from graphc.ir.kernel import Kernel
from graphc.ir.target import Target

_GUARD = 256
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def guarded(nbytes: int) -> tuple[np.ndarray, np.ndarray]:
    """(a 64-byte aligned view of `nbytes` bytes, the whole memory around it filled with 0xA5)."""
    whole = np.full(nbytes + 2 * _GUARD + 64, 0xA5, np.uint8)
    start = _GUARD + -(whole.ctypes.data + _GUARD) % 64
    return whole[start : start + nbytes], whole


class Native:
    """A compiled kernel: `native(arrays, parts)` runs it in place on contiguous arrays."""

    def __init__(self, kernel: Kernel, target: Target | None = None) -> None:
        self.kernel = kernel
        self.target = target or host_target()
        module = ModuleText(self.target)
        emit_contraction(kernel, module, "k", self.target)
        self.text = str(module)
        self.object = compile_text(self.text, self.target)
        self._code = link([self.object])
        self.function = _FUNCTION(self._code.address("k"))

    def __call__(self, arrays: Sequence[np.ndarray], parts: int = 1) -> list[np.ndarray]:
        """Copies of the arrays after the kernel ran on them; raises if memory around them changed."""
        held = []
        for array in arrays:
            view, whole = guarded(array.nbytes)
            view[:] = np.frombuffer(array.tobytes(), np.uint8)
            held.append((view, whole, array))
        scratch, around = guarded(scratch_bytes(self.kernel, self.target))
        scratch[:] = 0xFF  # NaN wherever the kernel reads what it has not written
        table = (ctypes.c_void_p * (len(arrays) + 1))(
            *[v.ctypes.data for v, _, _ in held], scratch.ctypes.data
        )
        for part in range(parts):
            self.function(ctypes.addressof(table), part, parts, None)
        for view, whole in [(v, w) for v, w, _ in held] + [(scratch, around)]:
            edges = whole.copy()
            start = view.ctypes.data - whole.ctypes.data
            edges[start : start + view.nbytes] = 0xA5
            assert (edges == 0xA5).all(), "the kernel wrote outside a buffer"
        return [v.view(a.dtype).reshape(a.shape).copy() for v, _, a in held]
