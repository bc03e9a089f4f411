"""One training loop as people write it, in a process of its own: what memory it holds.

    python -m tests.e2e.live_memory PACKAGE LOOP STEPS

prints one line of JSON: `numbers` (what the loop read, to be compared), `programs` (compiled in the
third, fourth … step; graphc only), and in bytes `growth` (resident, of a small network from the
fiftieth step to the last), `held` and `peak` (resident, of a large batch between steps and at most,
above what stays when every tensor is gone).
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LOOPS", "main"]

LARGE, SMALL, WIDTH, DEPTH = 4096, 16, 128, 5
EARLY, LARGE_STEPS = 50, 6


def build(p: Any, batch: int) -> tuple[Any, Any, Any, Any, Any]:
    """A multi-layer perceptron whose activations weigh more than its parameters, with data and optimiser."""
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(DEPTH):
        layers += [p.nn.Linear(WIDTH, WIDTH), p.nn.ReLU()]
    model = p.nn.Sequential(*layers, p.nn.Linear(WIDTH, 1))
    with p.no_grad():
        for parameter in model.parameters():
            scale = (2 / WIDTH) ** 0.5 if parameter.ndim == 2 else 0.0
            array = rng.standard_normal(tuple(parameter.shape)).astype(np.float32) * np.float32(scale)
            parameter.copy_(p.tensor(array))
    x = p.tensor(rng.standard_normal((batch, WIDTH)).astype(np.float32))
    y = p.tensor(rng.standard_normal((batch, 1)).astype(np.float32))
    optimizer = p.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    return model, x, y, optimizer, p.nn.MSELoss()


Loop = Iterator[float]


def plain(p: Any, batch: int) -> Loop:
    """Nothing is read before the step has ended."""
    model, x, y, optimizer, criterion = build(p, batch)
    while True:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        yield loss.item()


def item_before_backward(p: Any, batch: int) -> Loop:
    """The loss is read while its graph is still needed."""
    model, x, y, optimizer, criterion = build(p, batch)
    while True:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        value = loss.item()
        loss.backward()
        optimizer.step()
        yield value


def accumulated_backwards(p: Any, batch: int) -> Loop:
    """Three backwards a step, on thirds of the batch."""
    model, x, y, optimizer, criterion = build(p, batch)
    third = batch // 4
    while True:
        optimizer.zero_grad()
        for k in range(3):
            loss = criterion(model(x[k * third : (k + 1) * third]), y[k * third : (k + 1) * third])
            loss.backward()
        optimizer.step()
        yield loss.item()


def retain_graph(p: Any, batch: int) -> Loop:
    """Two backwards through one graph."""
    model, x, y, optimizer, criterion = build(p, batch)
    while True:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
        yield loss.item()


def losses_in_a_list(p: Any, batch: int) -> Loop:
    """Every loss is kept, with whatever hangs on it."""
    model, x, y, optimizer, criterion = build(p, batch)
    losses = []
    while True:
        optimizer.zero_grad()
        losses.append(criterion(model(x), y))
        losses[-1].backward()
        optimizer.step()
        yield losses[-1].item() if len(losses) % 50 == 1 else 0.0


def running_total(p: Any, batch: int) -> Loop:
    """A total of losses as a tensor, off the tape."""
    model, x, y, optimizer, criterion = build(p, batch)
    total = p.zeros(())
    while True:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        yield 0.0


def running_total_on_the_tape(p: Any, batch: int) -> Loop:
    """The same, forgetting to detach."""
    model, x, y, optimizer, criterion = build(p, batch)
    total = 0.0
    while True:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss
        yield 0.0


def decaying_rate(p: Any, batch: int) -> Loop:
    """The learning rate is another one at every step."""
    model, x, y, optimizer, criterion = build(p, batch)
    while True:
        for group in optimizer.param_groups:
            group["lr"] *= 0.99
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        yield loss.item()


LOOPS: dict[str, Callable[[Any, int], Loop]] = {
    f.__name__: f
    for f in (
        plain, item_before_backward, accumulated_backwards, retain_graph, losses_in_a_list, running_total,
        running_total_on_the_tape, decaying_rate,
    )
}  # fmt: skip


def _resident(field: str = "VmRSS") -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def _trim(p: Any) -> None:
    """Gives back what is idle, so that what is resident is in use."""
    gc.collect()
    if p.__name__ == "graphc":
        importlib.import_module("graphc.runtime.buffers").trim()
    ctypes.CDLL(None).malloc_trim(0)


def _growth(p: Any, name: str, steps: int, numbers: list[float]) -> tuple[int, list[int]]:
    """Resident bytes that the loop adds from step `EARLY` on, and how many programs there were after each step."""
    loop = LOOPS[name](p, SMALL)
    programs, early = [], 0
    for k in range(steps):
        numbers.append(next(loop))
        if p.__name__ == "graphc":
            programs.append(importlib.import_module("graphc.core").cache_size())
        if k + 1 == EARLY:
            _trim(p)
            early = _resident()
    _trim(p)
    return _resident() - early, programs[2:]


def _use(p: Any, name: str, numbers: list[float]) -> tuple[int, int]:
    """Resident bytes between steps and at most, with a large batch, above what stays behind."""
    loop = LOOPS[name](p, LARGE)
    for _ in range(3):
        numbers.append(next(loop))
    _trim(p)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    for _ in range(LARGE_STEPS):
        numbers.append(next(loop))
    peak = _resident("VmHWM")
    _trim(p)
    held = _resident()
    del loop
    if p.__name__ == "graphc":
        importlib.import_module("graphc.core").cache_clear()
    _trim(p)
    base = _resident()
    return held - base, peak - base


def main(package: str, name: str, steps: int) -> dict[str, Any]:
    """Runs the loop and measures."""
    p = importlib.import_module(package)
    p.set_num_threads(1)
    numbers: list[float] = []
    growth, programs = _growth(p, name, steps, numbers)
    held, peak = _use(p, name, numbers)
    return {"numbers": numbers, "programs": programs, "growth": growth, "held": held, "peak": peak}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
