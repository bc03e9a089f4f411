"""Compiles a kernel and runs it natively, partition by partition, on arrays between guard pages."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.backends.llvm.compile import compile_text
from graphc.backends.llvm.elf import read_symbols
from graphc.backends.llvm.jit import ALLOWED_UNDEFINED, link
from graphc.backends.llvm.kernel import emit_kernel, scratch_bytes
from graphc.backends.llvm.text import ModuleText
from graphc.ir.kernel import Kernel
from graphc.ir.target import TARGETS, Target
from tests.backends.math.jit import runnable

__all__ = ["RUNNABLE", "Native", "kernel_object"]

RUNNABLE = [TARGETS[name] for name in runnable()]
"""Targets whose code this machine executes, simplest first."""

_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def kernel_object(kernel: Kernel, target: Target) -> bytes:
    """Object code of a kernel under the symbol `k`; refuses symbols that the process could not give."""
    module = ModuleText(target)
    emit_kernel(kernel, module, "k", target)
    code = compile_text(str(module), target)
    missing = read_symbols(code).undefined - ALLOWED_UNDEFINED
    assert not missing, f"undefined symbols {sorted(missing)}"
    return code


class Native:
    """A kernel compiled for `target`."""

    def __init__(self, kernel: Kernel, target: Target) -> None:
        self.kernel = kernel
        self.code = link([kernel_object(kernel, target)])
        self.function = _FUNCTION(self.code.address("k"))
        self.scratch = scratch_bytes(kernel, target)

    def run(self, arrays: Sequence[Any], parts: int = 1, order: Sequence[int] | None = None) -> int:
        """Runs on guarded copies, writes the results back into `arrays`; gives the error word."""
        places = [_Guarded(a, at_end=(n + parts) % 2 == 0) for n, a in enumerate(arrays)]
        scratch = np.full(self.scratch + 64, 0x5A, np.uint8)
        pointers = (ctypes.c_void_p * (len(places) + 1))(*[p.address for p in places], scratch.ctypes.data)
        error = ctypes.c_uint64(2**63 - 1)
        for part in range(parts) if order is None else order:
            self.function(ctypes.addressof(pointers), part, parts, ctypes.addressof(error))
        for place, array in zip(places, arrays, strict=True):
            place.copy_to(array)
        return error.value


class _Guarded:
    """A copy of an array that ends (or begins) where memory cannot be touched: stray accesses crash.

    On the other side stand bytes that must not change.
    """

    def __init__(self, array: Any, *, at_end: bool) -> None:
        page = mmap.PAGESIZE
        self.nbytes = array.nbytes
        room = -(-(array.nbytes + 1) // page) * page
        self.memory = mmap.mmap(-1, room + 2 * page)
        self.bytes = np.frombuffer(self.memory, np.uint8)
        start = self.bytes.ctypes.data
        self.bytes[:] = 0xA5
        self.offset = page + (room - array.nbytes if at_end else 0)
        self.bytes[self.offset : self.offset + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        self.address = start + self.offset
        self.inner = slice(page, page + room)
        for edge in (start, start + page + room):
            assert _MPROTECT(edge, page, 0) == 0

    def copy_to(self, array: Any) -> None:
        data = slice(self.offset, self.offset + self.nbytes)
        array[...] = self.bytes[data].copy().view(array.dtype).reshape(array.shape)
        self.bytes[data] = 0xA5
        assert (self.bytes[self.inner] == 0xA5).all(), "bytes outside a buffer were written"


_MPROTECT = ctypes.CDLL(None, use_errno=True).mprotect
_MPROTECT.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
