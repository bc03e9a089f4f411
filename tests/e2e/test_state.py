"""State of compiled functions against PyTorch: what lives outside and is read or written inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

Compile = Callable[[Any], Any]
Loop = Callable[[Any, Compile], list[Any]]


def data(library: Any, *shape: int, seed: int = 0, **kwargs: Any) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return library.tensor(values, **kwargs)


def linear(library: Any, n: int, m: int, seed: int) -> Any:
    """A layer with the same parameters in both libraries."""
    made = library.nn.Linear(n, m)
    with library.no_grad():
        made.weight.copy_(data(library, m, n, seed=seed))
        made.bias.copy_(data(library, m, seed=seed + 50))
    return made


def accumulation(library: Any, compiled: Compile) -> list[Any]:
    """Gradients add up over several calls, then another function takes the step."""
    model = linear(library, 3, 2, 1)
    optimizer = library.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @compiled
    def backward(x: Any) -> Any:
        loss = model(x).square().mean()
        loss.backward()
        return loss

    @compiled
    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    seen: list[Any] = []
    for _ in range(3):
        for n in range(3):
            seen.append(backward(data(library, 4, 3, seed=n)))
        seen.append(model.weight.grad.clone())
        update()
        seen += [model.weight.detach().clone(), model.weight.grad.clone()]
    return seen


def accumulation_from_none(library: Any, compiled: Compile) -> list[Any]:
    """Gradients that do not exist before the first call, and that plain code drops again."""
    model = linear(library, 3, 2, 1)
    optimizer = library.optim.Adam(model.parameters(), lr=0.1)

    @compiled
    def backward(x: Any) -> Any:
        loss = model(x).square().mean()
        loss.backward()
        return loss

    seen: list[Any] = []
    for _ in range(2):
        optimizer.zero_grad()
        for n in range(2):
            seen.append(backward(data(library, 4, 3, seed=n)))
        seen.append(model.bias.grad.clone())
        optimizer.step()
        seen.append(model.bias.detach().clone())
    return seen


def adversaries(library: Any, compiled: Compile) -> list[Any]:
    """Two models and two optimisers in one step."""
    maker, judge = linear(library, 2, 3, 1), linear(library, 3, 1, 2)
    first = library.optim.Adam(maker.parameters(), lr=0.05)
    second = library.optim.SGD(judge.parameters(), lr=0.05)
    loss_function = library.nn.BCEWithLogitsLoss()

    @compiled
    def step(noise: Any, real: Any) -> Any:
        made = maker(noise)
        second.zero_grad()
        ones, zeros = library.ones(4, 1), library.zeros(4, 1)
        judged = loss_function(judge(real), ones) + loss_function(judge(made.detach()), zeros)
        judged.backward()
        second.step()
        first.zero_grad()
        fooled = loss_function(judge(made), ones)
        fooled.backward()
        first.step()
        return judged, fooled

    seen: list[Any] = []
    for n in range(4):
        seen += step(data(library, 4, 2, seed=n), data(library, 4, 3, seed=n + 10))
    return [*seen, maker.weight, judge.weight, judge.bias]


def shared(library: Any, compiled: Compile) -> list[Any]:
    """Two compiled functions share parameters; what one writes the other reads."""
    model = linear(library, 3, 1, 1)
    optimizer = library.optim.SGD(model.parameters(), lr=0.1)

    @compiled
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    @compiled
    def look(x: Any) -> Any:
        return model(x).sum()

    x, seen = data(library, 4, 3), []
    for _ in range(3):
        seen += [look(x), step(x), look(x)]
    with library.no_grad():
        model.bias.fill_(2.0)
    return [*seen, look(x), step(x), look(x)]


def running_statistics(library: Any, compiled: Compile) -> list[Any]:
    """Buffers that a training step moves, read by another program."""
    norm = library.nn.BatchNorm1d(3)
    forward = compiled(lambda x: norm(x))
    seen = [forward(data(library, 5, 3, seed=n)) for n in range(3)]
    count = int(norm.num_batches_tracked)
    norm.eval()
    seen.append(compiled(lambda x: norm(x) * 2)(data(library, 5, 3)))
    return [*seen, norm.running_mean, norm.running_var, library.tensor(count)]


def cache(library: Any, compiled: Compile) -> list[Any]:
    """A cache that is written at a place which another tensor counts."""
    memory, place = library.zeros(4, 2), library.zeros((), dtype=library.int64)

    @compiled
    def add(x: Any) -> Any:
        memory.index_copy_(0, place.reshape(1), x.reshape(1, -1))
        place.add_(1)
        return memory.sum(0)

    seen = [add(data(library, 2, seed=n)) for n in range(4)]
    return [*seen, memory, place]


def views(library: Any, compiled: Compile) -> list[Any]:
    """In-place writes through views of a tensor that lives outside."""
    table = data(library, 4, 3)

    @compiled
    def write(x: Any) -> Any:
        row = table[1]
        row += x
        table[:, 2].mul_(2)
        flat = table.view(-1)
        flat[0] = 7
        table.t()[1, 3] = x.sum()
        return row * 1

    seen = [write(data(library, 3, seed=n)) for n in range(3)]
    return [*seen, table]


def swapped(library: Any, compiled: Compile) -> list[Any]:
    """A state tensor whose memory plain code exchanges between calls."""
    weight = data(library, 3, requires_grad=True)

    @compiled
    def grade(x: Any) -> Any:
        loss = (weight * x).sum()
        loss.backward()
        return loss

    seen = [grade(data(library, 3, seed=1))]
    weight.data = data(library, 3, seed=5)
    seen.append(grade(data(library, 3, seed=2)))
    first = weight.grad
    weight.grad = None
    seen.append(grade(data(library, 3, seed=3)))
    return [*seen, first, weight.grad, weight]


LOOPS: list[Loop] = [
    accumulation,
    accumulation_from_none,
    adversaries,
    shared,
    running_statistics,
    cache,
    views,
    swapped,
]


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_state(loop: Loop, compiled: bool) -> None:
    wanted = loop(torch, lambda f: f)
    got = loop(graphc, graphc.compile if compiled else lambda f: f)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=2e-5, atol=2e-6)
