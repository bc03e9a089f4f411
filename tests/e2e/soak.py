"""Scenarios that go on for long or in a crowd: `python -m tests.e2e.soak SCENARIO COUNT`.

Each scenario ends with an assertion about results' bits or about memory. They run in processes of their own,
so that a hang is a timeout and memory is theirs alone.
"""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import graphc
from graphc import nn, optim

_MOST_BYTES = 512 * 1024
_MOST_BLOCKS = 200


class Run:
    """A small convolutional network's compiled training step (`plain`: not compiled), always from the same start."""

    def __init__(self, plain: bool = False) -> None:
        graphc.manual_seed(3)
        self.model = nn.Sequential(
            nn.Conv2d(3, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 14 * 14, 64), nn.ReLU(),
            nn.Linear(64, 10),
        )  # fmt: skip
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.criterion = nn.CrossEntropyLoss()
        rng = np.random.default_rng(4)
        self.x = graphc.tensor(rng.standard_normal((32, 3, 32, 32)).astype(np.float32))
        self.y = graphc.tensor(rng.integers(0, 10, 32))
        self.step = self._step if plain else graphc.compile(self._step)

    def _step(self, x: Any, y: Any) -> Any:
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def steps(self, count: int) -> list[bytes]:
        """The parameters' bits after so many further steps."""
        for _ in range(count):
            self.step(self.x, self.y)
        return [p.detach().numpy().tobytes() for p in self.model.parameters()]


def _small_step(plain: bool) -> Callable[[], Any]:
    model = nn.Linear(2, 1)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    x, y = graphc.ones(3, 2), graphc.zeros(3, 1)

    def step(a: Any, b: Any) -> Any:
        optimizer.zero_grad()
        loss = ((model(a) - b) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    run = step if plain else graphc.compile(step)
    return lambda: run(x, y)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _leaks_nothing(call: Callable[[], Any], count: int) -> None:
    """Memory after `count` calls is what it was after a fifth of them."""
    early = max(200, count // 5)
    for _ in range(early):
        call()
    gc.collect()
    size, blocks = _resident(), sys.getallocatedblocks()
    for _ in range(count - early):
        call()
    gc.collect()
    grown, more = _resident() - size, sys.getallocatedblocks() - blocks
    assert grown <= _MOST_BYTES, f"{grown} bytes more resident after {count - early} calls"
    assert more <= _MOST_BLOCKS, f"{more} Python blocks more after {count - early} calls"


def calls(count: int) -> None:
    """Back-to-back calls of a compiled step; its losses are dropped."""
    _leaks_nothing(_small_step(plain=False), count)


def array_calls(count: int) -> None:
    """Back-to-back calls with NumPy arguments, of which some fail."""
    double = graphc.compile(lambda a: a + a)
    small, odd = np.ones(8, np.float32), object()

    def call() -> None:
        double(small)
        try:
            double(odd)
        except TypeError:
            pass
        else:
            raise AssertionError("an object was taken for a tensor")

    _leaks_nothing(call, count)


def plain_steps(count: int) -> None:
    """A plain loop, recorded and evaluated at each optimiser step."""
    _leaks_nothing(_small_step(plain=True), count)


def many_threads(count: int) -> None:
    """Eight threads, however few cores there are."""
    graphc.set_num_threads(1)
    wanted = Run().steps(count)
    graphc.set_num_threads(8)
    assert Run().steps(count) == wanted
    assert Run(plain=True).steps(count) == wanted


def busy_neighbour(count: int) -> None:
    """Other processes keep every core busy."""
    graphc.set_num_threads(1)
    wanted = Run().steps(count)
    graphc.set_num_threads(max(2, os.cpu_count() or 1))
    spin = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    neighbours = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        assert Run().steps(count) == wanted
    finally:
        for n in neighbours:
            n.kill()
            n.wait()


def forks(count: int) -> None:
    """Children go on with the parent's step while the parent does so too."""
    graphc.set_num_threads(2)
    run = Run()
    run.steps(2)
    for _ in range(count):
        before = run.steps(0)
        child = os.fork()
        if not child:
            code = 1
            try:
                run.steps(2)
                code = 0
            finally:
                os._exit(code)
        run.steps(2)
        assert os.waitpid(child, 0)[1] == 0, "the child failed"
        assert run.steps(0) != before
    whole = Run()
    assert whole.steps(2 + 2 * count) == run.steps(0)


def nested(count: int) -> None:
    """Compiled functions that call compiled functions, compiled anew for several shapes."""
    inner = graphc.compile(lambda a: (a * 2).relu())
    middle = graphc.compile(lambda a: inner(a) + inner(a - 1))
    outer = graphc.compile(lambda a: middle(a).sum() + inner(a).sum())
    for n in range(count):
        a = np.linspace(-1, 1, 5 + n % 7, dtype=np.float32)
        positive = np.maximum(a * 2, 0)
        expected = (positive + np.maximum((a - 1) * 2, 0)).sum() + positive.sum()
        assert abs(float(outer(graphc.tensor(a)).item()) - expected) < 1e-5


def python_threads(count: int) -> None:
    """Several Python threads train their own models and share one compiled function."""
    graphc.set_num_threads(2)
    wanted = Run().steps(count)
    shared = graphc.compile(lambda a, b: (a @ b).tanh().sum(0))
    rng = np.random.default_rng(6)
    a, b = (graphc.tensor(rng.standard_normal((96, 96)).astype(np.float32)) for _ in range(2))
    product = shared(a, b).numpy().tobytes()
    runs = [Run() for _ in range(4)]
    failures: list[str] = []

    def work(run: Run) -> None:
        try:
            for _ in range(count):
                run.steps(1)
                if shared(a, b).numpy().tobytes() != product:
                    failures.append("the shared function's bits differ")
            if run.steps(0) != wanted:
                failures.append("a model's bits differ")
        except BaseException as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures


SCENARIOS: dict[str, Callable[[int], None]] = {
    f.__name__: f
    for f in (calls, array_calls, plain_steps, many_threads, busy_neighbour, forks, nested, python_threads)
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](int(sys.argv[2]))
