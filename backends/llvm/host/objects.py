"""What native code does with Python objects: reference counts, types, thread's grad mode.

Offsets hold for CPython 3.11 to 3.13. Where the layout of a reference count is not known
(free-threaded builds, later versions) the interpreter's own functions count.
"""

from __future__ import annotations

import sys
import sysconfig

from graphc.backends.llvm.host.routine import INLINED, RARE, Routine, i64
from graphc.backends.llvm.text import ModuleText, Val
from graphc.runtime.layout import STATE

__all__ = [
    "BYTES_DATA",
    "LIST_ITEMS",
    "OBJECT_DATA",
    "SIZE",
    "TUPLE_ITEMS",
    "add_grad_mode",
    "decref",
    "incref",
    "type_of",
]

OBJECT_DATA = object.__basicsize__
"""Bytes of an object's head: where a float keeps its value and a ctypes array its address."""
SIZE = OBJECT_DATA
"""Offset of the length of a bytes, tuple or list object."""
BYTES_DATA = bytes.__basicsize__ - 1
TUPLE_ITEMS = tuple.__basicsize__
"""Offset of a tuple's items."""

LIST_ITEMS = SIZE + 8
"""Offset of the address of a list's items."""

_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def incref(r: Routine, value: Val) -> None:
    """Adds a reference to a non-null object."""
    if _FREE_THREADED or sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)):
        r.import_call("void", "Py_IncRef", [value])
    elif sys.version_info[:2] == (3, 11):
        r.store(r.add(r.load("i64", value, 8), i64(1)), value, 8)
    else:
        # The low 32 bits count; an immortal object's are all ones.
        more = r.add(r.load("i32", value, 8), Val("i32", "1"))
        with r.if_(r.nonzero(more)):
            r.store(more, value, 8)


def decref(r: Routine, value: Val) -> None:
    """Gives a reference back; null is fine. May run arbitrary Python code."""
    r.import_call("void", "Py_DecRef", [value])


def type_of(r: Routine, value: Val) -> Val:
    """An object's type."""
    return r.load("ptr", r.at_byte(value, OBJECT_DATA - 8), 8)


def add_grad_mode(module: ModuleText) -> None:
    """`i64 grad_mode()`: the calling thread's grad mode word, from the table of exceptions."""
    r = Routine.start(
        module,
        "grad_mode_search",
        "i64",
        [],
        linkage="internal",
        attributes=RARE,
    )
    state = r.imported("state")
    identity = r.import_call("i64", "PyThreadState_GetID", [r.import_call("ptr", "PyThreadState_Get", [])])
    table = r.read_ptr(state, STATE, "grad_table")
    with r.each(r.read(state, STATE, "grad_count")) as n:
        entry = r.gep(table, r.add(n, n), "i64")
        with r.exit_if(r.icmp("eq", r.load("i64", entry, 8), identity)):
            r.ret(r.load("i64", r.gep(entry, 1, "i64"), 8))
    r.ret(i64(1))

    r = Routine.start(module, "grad_mode", "i64", [], linkage="internal", attributes=INLINED)
    with r.exit_if(r.zero(r.read(r.imported("state"), STATE, "grad_count"))):
        r.ret(i64(1))
    r.ret(r.call("i64", "grad_mode_search", []))
