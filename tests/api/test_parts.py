"""Parts of a tensor's memory are read where they lie, and still mean what they mean in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

Compile = Callable[[Any], Any]


def table(p: Any) -> Any:
    return p.tensor(np.arange(4096, dtype=np.float32).reshape(64, 64))


def written_after(p: Any, compiled: Compile) -> Iterator[Any]:
    """A part is read, then the whole is written before the result is asked for."""
    x = table(p)
    y, part = x[16:32] * 2, x[16:32]
    x.add_(1)
    yield y
    yield part * 1
    z = x[8:24].sum(0)
    x[0:16] = 5
    yield z
    yield x[8:24].sum(0)


def gradient(p: Any, compiled: Compile) -> Iterator[Any]:
    """A part is kept for the way back; it was written since, or not."""
    x = table(p)
    x[0:16] = 5
    w = p.tensor(np.ones(64, np.float32), requires_grad=True)
    part = x[32:48]
    loss = (part * w).sum()
    yield loss.item()
    loss.backward()
    yield w.grad.clone()
    loss = (part * w).sum()
    yield loss.item()
    x.mul_(2)
    try:
        loss.backward()
    except RuntimeError:
        yield "error"


def exported(p: Any, compiled: Compile) -> Iterator[Any]:
    """The memory is handed out and written by NumPy."""
    x = table(p)
    y = x[4:8] + 1
    x.numpy()[4:8] = 0
    yield y
    yield x[4:8] + 1


def compiled_write(p: Any, compiled: Compile) -> Iterator[Any]:
    """Another program writes the whole, again and again."""
    x = table(p)
    add = compiled(lambda t: x.add_(t))
    y, part = x[8:12] * 3, x[8:12]
    for _ in range(3):
        add(p.ones(()))
        yield y
        yield part * 1
        yield x[8:12] * 1


def outlives(p: Any, compiled: Compile) -> Iterator[Any]:
    """A part of what is gone."""
    x = table(p)
    part = x[60:]
    x.zero_()
    yield part * 1
    del x
    yield part + 1


def itself(p: Any, compiled: Compile) -> Iterator[Any]:
    """Parts are written from parts of the same memory."""
    x = table(p)
    first, second = x[0:8], x[8:16]
    x.copy_(p.cat([first + 1] * 8))
    yield x
    second += first
    yield x
    twice = x[0:16] * 2
    second.mul_(3)
    yield twice
    yield second * 1
    x[0:8].detach().add_(1)
    yield x


def overlapping(p: Any, compiled: Compile) -> Iterator[Any]:
    """A part is written from one that overlaps it: all is read before anything is written."""
    own = (lambda t: t.clone()) if p is torch else (lambda t: t)
    for low in (0, 4):
        x = table(p)
        x[low + 4 : low + 36] = own(x[low : low + 32])
        yield x
        x[0:16].copy_(own(x[4:20]))
        yield x
        first, second = x[4:36], x[0:32]
        first.copy_(own(second))
        second.add_(own(first))
        first.mul_(own(second))
        yield x


def gradients(p: Any, compiled: Compile) -> Iterator[Any]:
    """Parts of gradients and of an optimiser's state are read, then what they are parts of moves on."""
    a, b = (p.tensor(np.arange(64, dtype=np.float32), requires_grad=True) for _ in range(2))
    for w in (a, b):
        (w * w).sum().backward()
    pending = [a.grad[0:16] * 2, b.grad[16:32] * 3]
    outside = b.grad.numpy()
    (a * b * b).sum().backward()
    yield from pending
    yield a.grad.clone()
    yield b.grad.clone()
    yield p.tensor(outside)
    optimizer = p.optim.SGD([a, b], lr=2.0**-10, momentum=0.5)
    for _ in range(3):
        optimizer.step()
        buffer = optimizer.state[a]["momentum_buffer"]
        pending = [buffer[0:16] * 2, a.detach()[16:32] * 2, b.detach()[0:16] * 2]
        optimizer.step()
        yield from pending
        yield a.detach().clone()


def unaligned(p: Any, compiled: Compile) -> Iterator[Any]:
    """Parts at odd addresses, with gaps, and empty ones."""
    x = p.tensor(np.arange(64, dtype=np.float16))
    for part in (x[8:16], x[1:9], x[8:8], x[::2], x[3:4]):
        yield part * 2
    y = table(p)
    yield y[:, 8:16] * 2
    yield y[3, 16:32] * 2
    yield y.view(-1)[64:128].view(8, 8).t() * 2


LOOPS = [
    written_after,
    gradient,
    exported,
    compiled_write,
    outlives,
    itself,
    overlapping,
    gradients,
    unaligned,
]


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_part(loop: Any, compiled: bool) -> None:
    def value(v: Any) -> Any:
        return v if isinstance(v, (str, float)) else v.detach().numpy().copy()

    wanted = [value(v) for v in loop(torch, lambda f: f)]
    got = [value(v) for v in loop(graphc, graphc.compile if compiled else lambda f: f)]
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
