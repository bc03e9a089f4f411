"""Plans of one kernel timed against each other on made-up data, in turn, on one thread.

Times are the thread's own, so that other work on the machine disturbs them little. A plan has to be clearly faster than the first of a list to win, so that noise does not choose.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np

from graphc.backends.llvm.codegen import module_text
from graphc.backends.llvm.contraction import named_schedule, scratch_bytes
from graphc.backends.llvm.jit import link
from graphc.backends.llvm.text import ModuleText, Val
from graphc.backends.llvm.workers import compile_many
from graphc.ir.kernel import Kernel
from graphc.ir.target import Target
from graphc.runtime.buffers import address, allocate

__all__ = ["Contest"]

_ROUNDS = 7
_SECONDS = 0.002
"""Length of one plan's turn in a round."""
_CLEARLY = 0.98
"""Share of the first plan's time that another one may take at most to be preferred."""
_COPIES_BYTES = 48 << 20
"""What copies of a kernel's arrays take together where it reads more than stays near: each call has another copy, as
in a program, where other kernels have used the caches meanwhile."""

_REPEAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


class Contest:
    """A kernel's arrays, and the times of its plans on them."""

    def __init__(self, kernel: Kernel, target: Target, vector: bool) -> None:
        self.kernel, self.target, self.vector = kernel, target, vector
        parameters = kernel.parameters
        total = sum(b.type.nbytes for b in parameters)
        copies = 1 if total <= target.l2_bytes else max(1, _COPIES_BYTES // total)
        self._held = [[_filled(b.type.nbytes, b.type.dtype.numpy) for b in parameters] for _ in range(copies)]
        self._error = ctypes.c_int64()

    def best(self, names: Sequence[str], again: int = 1) -> str:
        """The first name, or the fastest one where it is clearly faster, in `again` times the usual number of rounds."""
        if len(set(names)) < 2:
            return names[0]
        entries = self._entries(list(dict.fromkeys(names)))
        times = dict.fromkeys(entries, math.inf)
        for _ in range(again * _ROUNDS):
            for name, entry in entries.items():
                times[name] = min(times[name], entry.seconds())
        winner = min(times, key=lambda n: times[n])
        return winner if times[winner] < _CLEARLY * times[names[0]] else names[0]

    def _entries(self, names: Sequence[str]) -> dict[str, _Entry]:
        schedules = [named_schedule(n, self.kernel, self.target, self.vector) for n in names]
        kernels = [dataclasses.replace(self.kernel, schedule=s) for s in schedules]
        texts = [module_text(k, "tuned", self.target) for k in kernels]
        loop, *objects = compile_many([_loop(self.target), *texts], self.target)
        made = zip(names, kernels, objects, strict=True)
        return {name: _Entry(self, kernel, [loop, code]) for name, kernel, code in made}


def _filled(nbytes: int, dtype: np.dtype) -> object:
    """Memory with numbers between -1 and 1; integers, which may be positions, are all 0."""
    owner = allocate(nbytes)
    ctypes.memset(address(owner), 0, nbytes)
    if dtype.kind == "f":
        values = np.random.default_rng(0).uniform(-1, 1, nbytes // dtype.itemsize).astype(dtype)
        ctypes.memmove(address(owner), values.ctypes.data, values.nbytes)
    return owner


class _Entry:
    """One plan's code, with a native loop that runs all its partitions one after another."""

    def __init__(self, contest: Contest, kernel: Kernel, objects: Sequence[bytes]) -> None:
        assert kernel.schedule is not None
        self._code = link(objects)
        self._run = _REPEAT(self._code.address("repeat"))
        self._scratch = allocate(max(64, scratch_bytes(kernel, contest.target)))
        rows = [[*map(address, held), address(self._scratch)] for held in contest._held]
        self._tables = (ctypes.c_void_p * (len(rows) * len(rows[0])))(*(a for row in rows for a in row))
        self._numbers = (ctypes.c_int64 * 5)(0, 0, len(rows), len(rows[0]), kernel.schedule.parts)
        self._error = contest._error
        self._count = 1
        self.seconds()
        self._count = max(1, math.ceil(_SECONDS / max(self.seconds(), 1e-8)))

    def seconds(self) -> float:
        """Of one call, all partitions. Calls go on with the copy after the last one used."""
        numbers = self._numbers
        numbers[0], numbers[1] = numbers[1], numbers[1] + self._count
        start = time.thread_time()
        self._run(ctypes.addressof(self._tables), ctypes.addressof(numbers), ctypes.addressof(self._error))
        return (time.thread_time() - start) / self._count


def _loop(target: Target) -> str:
    """`void @repeat(ptr tables, ptr numbers, ptr error)`: calls `first` up to `end`, each on the next table, all parts."""
    module = ModuleText(target)
    module.declare("tuned", "void", ("ptr", "i64", "i64", "ptr"))
    b = module.function("repeat", "void", [("ptr", "tables"), ("ptr", "numbers"), ("ptr", "error")])
    tables, numbers, error = b.params
    first, end, copies, length, parts = (b.load("i64", b.gep(numbers, n, "i64")) for n in range(5))

    def call(i: Val, _: object) -> list[Val]:
        table = b.gep(tables, b.mul(b.binary("urem", i, copies), length), "ptr")

        def part(p: Val, _: object) -> list[Val]:
            b.call_void("tuned", [table, p, parts, error])
            return []

        b.loop(0, parts, 1, (), part)
        return []

    b.loop(first, end, 1, (), call)
    b.ret()
    return str(module)
