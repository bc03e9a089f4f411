"""Objects to code in this process: links object files and gives addresses by symbol.

Invariant: code stays mapped while its `LinkedCode` lives, or for ever where it was linked as
permanent. Kernels may leave undefined only the few memory functions in `ALLOWED_UNDEFINED`.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from collections.abc import Sequence

import llvmlite.binding as llvm

from graphc.backends.llvm.compile import compile_text, host_target, machine
from graphc.backends.llvm.elf import read_symbols
from graphc.ir.errors import CompileError

__all__ = ["ALLOWED_UNDEFINED", "LinkedCode", "compile_text", "link"]

ALLOWED_UNDEFINED = frozenset({"memset", "memcpy", "memmove"})
"""Functions of libc that generated code may call by name; the compiler inserts them by itself."""

_numbers = itertools.count()
_lock = threading.Lock()


@functools.cache
def _jit() -> llvm.LLJIT:
    """The process's linker. Never destroyed: objects that die at interpreter exit still call code."""
    jit = llvm.create_lljit_compiler(machine(host_target(), jit=True), use_jit_link=False)
    _make_permanent(jit)
    return jit


def _make_permanent(value: object) -> None:
    """Adds a reference that is never given back, so that `value` outlives the interpreter's teardown."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


class LinkedCode:
    """Code in memory: address of each global symbol of the linked objects."""

    def __init__(self, tracker: llvm.ResourceTracker, names: frozenset[str]) -> None:
        self._tracker = tracker
        self._addresses: dict[str, int] = {name: tracker[name] for name in names}

    @property
    def symbols(self) -> frozenset[str]:
        """Names that `address` knows."""
        return frozenset(self._addresses)

    def address(self, name: str) -> int:
        """Address of the symbol `name`. Raises KeyError where the objects do not define it."""
        return self._addresses[name]


def link(objects: Sequence[bytes], *, permanent: bool = False) -> LinkedCode:
    """Links object files of this machine into the process.

    Objects may refer to each other and to the functions in `ALLOWED_UNDEFINED`. Raises
    `CompileError` for a duplicate or another undefined symbol. `permanent` code is never unmapped.
    """
    defined: set[str] = set()
    undefined: set[str] = set()
    for code in objects:
        symbols = read_symbols(code)
        twice = defined & symbols.defined
        if twice:
            raise CompileError(f"symbol defined by two objects: {min(twice)}")
        defined |= symbols.defined
        undefined |= symbols.undefined
    missing = undefined - defined - ALLOWED_UNDEFINED
    if missing:
        raise CompileError(f"generated code calls {', '.join(sorted(missing))}, which no object defines")
    names = frozenset(defined)
    builder = llvm.JITLibraryBuilder().add_current_process()
    for code in objects:
        builder.add_object_img(code)
    for name in names:
        builder.export_symbol(name)
    with _lock:
        tracker = builder.link(_jit(), f"graphc.{next(_numbers)}")
    if permanent:
        _make_permanent(tracker)
    return LinkedCode(tracker, names)
