"""The native run time of this process: drivers, pools and the call entry, loaded on first use.

A backend says how to load it (`install`); the run time asks for it (`host`), or for its memory pool alone
(`new_block`), which the backend may have sooner. Invariant: each is loaded at most once and stays for ever,
since objects that die last still call it.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.runtime.code import Code
from graphc.runtime.process import BLOCK_WORDS, POOL_WORDS, STATE_WORDS

__all__ = ["IMPORTS", "Host", "Pool", "host", "install", "is_loaded", "pool"]

_LIBC_FUNCTIONS = (
    "posix_memalign", "free", "madvise", "syscall", "sched_yield", "clock_gettime",
    "pthread_create", "pthread_join", "pthread_sigmask",
)  # fmt: skip
_PYTHON_FUNCTIONS = (
    "Py_IncRef", "Py_DecRef", "PyObject_Vectorcall", "PyObject_CallOneArg", "PyObject_RichCompareBool",
    "PyErr_NoMemory", "PyErr_Occurred", "PyErr_Clear", "PyLong_FromLongLong", "PyLong_AsLongLong",
    "PyBytes_FromStringAndSize", "PyCapsule_New", "PyCapsule_GetPointer", "PyType_GenericAlloc",
    "PyTuple_New", "PyList_New", "PyDict_Size", "PyDict_Next", "PyEval_SaveThread", "PyEval_RestoreThread",
    "PyThreadState_Get", "PyThreadState_GetID",
)  # fmt: skip
_OBJECTS: dict[str, int] = {
    "None": id(None),
    "list": id(list),
    "bytes": id(bytes),
    "float": id(float),
    "int": id(int),
    "ndarray": id(np.ndarray),
    "state": STATE_WORDS.address,
    "blocks": BLOCK_WORDS.address,
    "pool": POOL_WORDS.address,
}
IMPORTS = (*_LIBC_FUNCTIONS, *_PYTHON_FUNCTIONS, *_OBJECTS)
"""Entries of the native module's table `imports`: functions and objects reached by address."""

_METH_O = 0x0008
_METH_FASTCALL = 0x0080


class _MethodDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address


@functools.cache
def import_addresses() -> Sequence[int]:
    """Addresses of `IMPORTS`, in order."""
    libc = ctypes.CDLL(None)
    return (
        *(_address(libc, name) for name in _LIBC_FUNCTIONS),
        *(_address(ctypes.pythonapi, name) for name in _PYTHON_FUNCTIONS),
        *_OBJECTS.values(),
    )


class Pool:
    """Functions of the memory pool."""

    def __init__(self, code: Code) -> None:
        """Fills the import table of `code` and wraps its functions."""
        self._code = code
        self._methods: dict[tuple[str, str], _MethodDef] = {}
        table = (ctypes.c_int64 * len(IMPORTS)).from_address(code.address("imports"))
        table[:] = list(import_addresses())
        self.blocks_trim: Callable[[], None] = self._function("blocks_trim", None)
        self.new_block: Callable[[int], object] = self.builtin("new_block", "new_block", _METH_O, None)

    def _function(self, name: str, result: Any, *parameters: Any) -> Any:
        return ctypes.PYFUNCTYPE(result, *parameters)(self._code.address(name))

    def builtin(self, symbol: str, name: str, flags: int, self_object: object) -> Any:
        """A Python builtin whose body is the native function `symbol`, bound to `self_object`."""
        method = self._methods.setdefault(
            (symbol, name), _MethodDef(name.encode(), self._code.address(symbol), flags, None)
        )
        create = ctypes.pythonapi.PyCFunction_NewEx
        create.restype = ctypes.py_object
        create.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
        return create(ctypes.addressof(method), self_object, None)


class Host(Pool):
    """Functions of the native run time."""

    def __init__(self, code: Code) -> None:
        """Fills the import table of `code` and wraps its functions."""
        super().__init__(code)
        pointer = ctypes.c_void_p
        # run_addresses(executable, binding, inputs, outputs): numbers, and lists or tuples of numbers.
        self.run_addresses: Callable[..., int] = self.builtin(
            "run_addresses", "run_addresses", _METH_FASTCALL, None
        )
        self.frames_free: Callable[[int], None] = self._function("frames_free", None, pointer)
        # Waits for other threads, so it runs without the interpreter lock.
        self.pool_stop: Callable[[int], None] = ctypes.CFUNCTYPE(None, pointer)(code.address("pool_stop"))


class _Loader:
    """How the host is loaded, and the host once it is."""

    def __init__(self) -> None:
        self.load: Callable[[], Code] | None = None
        self.load_pool: Callable[[], Code | None] = lambda: None
        self.host: Host | None = None
        self.pool: Pool | None = None
        self.lock = threading.RLock()


_loader = _Loader()


def install(load: Callable[[], Code], load_pool: Callable[[], Code | None] = lambda: None) -> None:
    """Says how native run-time code is made; called by a backend when it is imported.

    `load_pool` gives the memory pool alone where that takes less time than `load`, else None.
    """
    _loader.load, _loader.load_pool = load, load_pool


def is_loaded() -> bool:
    """Whether `host` has been called."""
    return _loader.host is not None


def host() -> Host:
    """The native run time. Raises RuntimeError where no backend has been imported."""
    if _loader.host is None:
        with _loader.lock:
            if _loader.host is None:
                if _loader.load is None:
                    raise RuntimeError("no native backend: import graphc.backends.llvm.host first")
                _loader.host = Host(_loader.load())
    return _loader.host


def pool() -> Pool:
    """The memory pool: the native run time's where that is loaded or can be at once. Raises as `host` does."""
    if _loader.host is not None:
        return _loader.host
    with _loader.lock:
        if _loader.pool is None:
            code = _loader.load_pool()
            if code is None:
                return host()
            _loader.pool = Pool(code)
        return _loader.pool
