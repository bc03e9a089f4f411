"""Compile workers: subprocesses that turn LLVM text into objects, several at a time.

Every call into LLVM takes one lock of the process, so threads do not help. Workers are plain
subprocesses of `emitter.py`, spoken to over pipes by one thread each; they start with the
first large request, live as long as the process and end when their pipe closes. Invariant: a
worker's answer is byte for byte what compiling in this process gives.
"""

from __future__ import annotations

import atexit
import functools
import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import llvmlite

from graphc.backends.llvm import emitter
from graphc.backends.llvm.compile import compile_text
from graphc.ir.errors import CompileError
from graphc.ir.target import Target
from graphc.runtime.threads import usable_cores

__all__ = ["CompileWorkers", "compile_many"]

_TEXT_WORTH_WORKERS = 200_000
"""Characters of text, about 0.3 s of compiling, from which starting workers pays."""
_START = "import runpy, sys; sys.path.append(sys.argv[2]); runpy.run_path(sys.argv[1], run_name='__main__')"


class _Worker:
    """One subprocess."""

    def __init__(self) -> None:
        package = Path(llvmlite.__file__).parent.parent
        command = [sys.executable, "-I", "-c", _START, str(Path(emitter.__file__)), str(package)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def compile(self, text: str, target: Target) -> bytes:
        """One request and its answer. Raises `CompileError`, also where the worker dies."""
        parts = [s.encode() for s in (target.triple, target.cpu, target.features, text)]
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(b"".join((emitter.REQUEST.pack(*map(len, parts)), *parts)))
            process.stdin.flush()
            head = process.stdout.read(emitter.ANSWER.size)
            status, length = emitter.ANSWER.unpack(head)
            body = process.stdout.read(length)
            if len(body) != length:
                raise EOFError
        except (OSError, ValueError, EOFError, struct.error):
            raise CompileError(f"a compile worker died (exit status {process.wait()})") from None
        if status:
            raise CompileError(body.decode())
        return body

    def close(self) -> None:
        """Ends the subprocess."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class CompileWorkers:
    """A number of workers; `submit` never waits."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="graphc-compile")
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()
        self._count = count
        for _ in range(count):
            self._idle.put(None)  # started when first wanted

    def submit(self, text: str, target: Target) -> Future[bytes]:
        """The object of an LLVM module, in the future; its exception is a `CompileError`."""
        return self._threads.submit(self._compile, text, target)

    def _compile(self, text: str, target: Target) -> bytes:
        worker = self._idle.get()
        healthy = False
        try:
            worker = worker or _Worker()
            result = worker.compile(text, target)
            healthy = True
            return result
        finally:
            if worker is not None and not healthy:
                worker.close()
            self._idle.put(worker if healthy else None)

    def close(self) -> None:
        """Waits for what was submitted and ends the workers."""
        self._threads.shutdown()
        for _ in range(self._count):
            worker = self._idle.get()
            if worker is not None:
                worker.close()


@functools.cache
def _workers() -> CompileWorkers:
    workers = CompileWorkers(usable_cores())
    atexit.register(workers.close)
    return workers


def _forget_workers() -> None:
    """In a forked child, which has neither the threads nor pipes of its own."""
    if _workers.cache_info().currsize:
        atexit.unregister(_workers().close)
    _workers.cache_clear()


os.register_at_fork(after_in_child=_forget_workers)


def compile_many(texts: Iterable[str], target: Target) -> list[bytes]:
    """Objects of several modules, in order; with workers where there is enough to do.

    Raises `CompileError` for the first module that LLVM does not accept.
    """
    modules = list(texts)
    if len(modules) < 2 or usable_cores() < 2 or sum(map(len, modules)) < _TEXT_WORTH_WORKERS:
        return [compile_text(text, target) for text in modules]
    # The longest first, so that no worker is left with one at the end.
    order = sorted(range(len(modules)), key=lambda i: -len(modules[i]))
    futures = {i: _workers().submit(modules[i], target) for i in order}
    return [futures[i].result() for i in range(len(modules))]
