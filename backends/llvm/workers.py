"""Compile workers: subprocesses that turn LLVM text into objects, several at a time.

Every call into LLVM takes one lock of the process, so threads do not help. Workers are plain
subprocesses of `emitter.py`, spoken to over pipes that never block the caller: whoever submits goes on
making text meanwhile, and answers are taken in at the next look. They start with the first large
request, live as long as the process and end when their pipe closes. Invariant: a worker's answer is
byte for byte what compiling in this process gives.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import heapq
import itertools
import os
import selectors
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import llvmlite

from graphc.ir.errors import CompileError
from graphc.ir.lazy import lazy_module
from graphc.ir.target import Target
from graphc.runtime.threads import usable_cores

if TYPE_CHECKING:
    from graphc.backends.llvm import compile as native
    from graphc.backends.llvm import emitter
else:  # a worker starts while this process loads LLVM
    native = lazy_module("graphc.backends.llvm.compile")
    emitter = lazy_module("graphc.backends.llvm.emitter")

__all__ = ["CompileWorkers", "Request", "compile_many", "running_workers", "start_workers", "workers_pay"]

_TEXT_WORTH_WORKERS = 100_000
"""Characters of text, about 0.15 s of compiling, from which starting workers pays."""
_AHEAD = 2
"""Requests that a worker has at a time: what it compiles, and what it takes next without waiting for us."""
_TEXT_WORTH_HELP = 60_000
"""Characters of text up to which who waits compiles it: more would take memory that a worker has anyway."""
_PIPE_BYTES = 1 << 20
_START = "import runpy, sys; sys.path.append(sys.argv[2]); runpy.run_path(sys.argv[1], run_name='__main__')"


class Request:
    """A module that is being compiled."""

    def __init__(self, pool: CompileWorkers, text: str, target: Target) -> None:
        parts = [s.encode() for s in (target.triple, target.cpu, target.features, text)]
        self.message = b"".join((emitter.REQUEST.pack(*map(len, parts)), *parts))
        self.text, self.target = text, target
        self.answer: bytes | CompileError | None = None
        self._pool = pool

    def result(self) -> bytes:
        """The object, once it is there. Raises `CompileError`, also where the worker died."""
        while self.answer is None:
            self._pool.look()
            if self.answer is None and not self._pool.help():
                self._pool.look(wait=True)
        if isinstance(self.answer, CompileError):
            raise self.answer
        return self.answer


class _Worker:
    """One subprocess, what it was asked, and what is on the way in both directions."""

    def __init__(self) -> None:
        package = Path(llvmlite.__file__).parent.parent
        script = Path(__file__).with_name("emitter.py")
        command = [sys.executable, "-I", "-S", "-c", _START, str(script), str(package)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        for descriptor in (self.requests, self.answers):
            os.set_blocking(descriptor, False)
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.asked: deque[Request] = deque()
        self.unsent = memoryview(b"")
        self._received = bytearray()

    def ask(self, request: Request) -> None:
        self.asked.append(request)
        self.unsent = memoryview(bytes(self.unsent) + request.message)

    def exchange(self) -> None:
        """Writes and reads what goes without waiting. Raises OSError where the subprocess is gone."""
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[os.write(self.requests, self.unsent) :]
        with contextlib.suppress(BlockingIOError):
            while True:
                content = os.read(self.answers, _PIPE_BYTES)
                if not content:
                    raise BrokenPipeError("end of answers")
                self._received += content
        self._take()

    def _take(self) -> None:
        head = emitter.ANSWER.size
        while len(self._received) >= head:
            status, length = emitter.ANSWER.unpack_from(self._received)
            if len(self._received) < head + length:
                return
            body = bytes(self._received[head : head + length])
            del self._received[: head + length]
            self.asked.popleft().answer = CompileError(body.decode()) if status else body

    def close(self) -> int:
        """Ends the subprocess; its exit status."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait()


class CompileWorkers:
    """Up to a number of workers; `submit` never waits. Any thread may use them.

    The second and further ones start when enough text is waiting: a worker takes as long to start as to compile
    several small kernels, and meanwhile whoever submits makes text on a core of its own. Who waits for an answer while
    a core is without worker compiles what is short and not yet begun.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_Worker] = []
        self._waiting: list[tuple[int, int, Request]] = []
        """A heap with the longest first, so that no worker is left with one at the end."""
        self._numbers = itertools.count()
        self._lock = threading.RLock()

    def start(self) -> None:
        """Starts a worker where none is running."""
        with self._lock:
            if not self._workers:
                self._workers.append(_Worker())

    def submit(self, text: str, target: Target) -> Request:
        """Begins to compile an LLVM module."""
        request = Request(self, text, target)
        with self._lock:
            self.start()
            heapq.heappush(self._waiting, (-len(request.message), next(self._numbers), request))
            self.look()
        return request

    def look(self, *, wait: bool = False) -> None:
        """Takes in answers and hands out requests; with `wait`, sleeps until something moves if nothing does."""
        with self._lock:
            if wait:
                self._wait()
            for worker in list(self._workers):
                self._attend(worker)
            if self._crowded():
                self._workers.append(_Worker())
                self._attend(self._workers[-1])

    def _crowded(self) -> bool:
        """Whether a further worker would pay; where it takes a core from who submits, much has to wait for it."""
        running = len(self._workers)
        worth = _TEXT_WORTH_WORKERS * (1 if running + 1 < self._count else 4)
        return 0 < running < self._count and -sum(r[0] for r in self._waiting) > worth

    def help(self) -> bool:
        """Compiles the shortest request that no worker has, here; False where there is none that is short."""
        with self._lock:
            found = max(self._waiting, default=None)
            if found is None or -found[0] > _TEXT_WORTH_HELP or len(self._workers) >= self._count:
                return False
            self._waiting.remove(found)
            heapq.heapify(self._waiting)
        request = found[2]
        try:
            request.answer = native.compile_text(request.text, request.target)
        except CompileError as error:
            request.answer = error
        return True

    def _attend(self, worker: _Worker) -> None:
        try:
            worker.exchange()
            while self._waiting and len(worker.asked) < _AHEAD and worker is self._least_busy():
                worker.ask(heapq.heappop(self._waiting)[2])
                worker.exchange()
        except (OSError, struct.error):
            self._bury(worker)

    def _least_busy(self) -> _Worker:
        return min(self._workers, key=lambda w: len(w.asked))

    def _bury(self, worker: _Worker) -> None:
        """A worker died: its request fails, those that it had not begun go to others."""
        self._workers.remove(worker)
        status = worker.close()
        if worker.asked:
            worker.asked.popleft().answer = CompileError(f"a compile worker died (exit status {status})")
        for request in worker.asked:
            heapq.heappush(self._waiting, (-len(request.message), next(self._numbers), request))
        self.start()

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if worker.asked:
                    selector.register(worker.answers, selectors.EVENT_READ)
                if worker.unsent:
                    selector.register(worker.requests, selectors.EVENT_WRITE)
            if selector.get_map():
                selector.select()
            else:
                time.sleep(0.001)  # another thread compiles what is waited for

    def close(self) -> None:
        """Ends the workers; what they have not answered is lost."""
        with self._lock:
            for worker in self._workers:
                if worker.asked:
                    worker.process.kill()
                worker.close()
            self._workers.clear()


@functools.cache
def _workers() -> CompileWorkers:
    workers = CompileWorkers(usable_cores())
    atexit.register(workers.close)
    return workers


def _forget_workers() -> None:
    """In a forked child, which has no pipes of its own."""
    if _workers.cache_info().currsize:
        atexit.unregister(_workers().close)
    _workers.cache_clear()


os.register_at_fork(after_in_child=_forget_workers)


def running_workers() -> CompileWorkers | None:
    """The process's workers, where they have been started."""
    return _workers() if _workers.cache_info().currsize else None


def workers_pay(characters: int) -> bool:
    """Whether so much text is compiled sooner by workers than in this process."""
    return usable_cores() > 1 and characters >= _TEXT_WORTH_WORKERS


def start_workers() -> CompileWorkers:
    """The process's workers, running; they take a while to load LLVM, so start them before there is text."""
    workers = _workers()
    workers.start()
    return workers


def compile_many(texts: Iterable[str], target: Target) -> list[bytes]:
    """Objects of several modules, in order; with workers where there is enough to do.

    Raises `CompileError` for the first module that LLVM does not accept.
    """
    modules = list(texts)
    if len(modules) < 2 or not workers_pay(sum(map(len, modules))):
        return [native.compile_text(text, target) for text in modules]
    requests = [_workers().submit(text, target) for text in modules]
    return [request.result() for request in requests]
