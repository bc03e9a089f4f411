"""Plain PyTorch-style loops without `compile`: PyTorch's numbers, errors and memory behaviour.

Every program is written once and run on both packages.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.core import cache_size
from graphc.core.recording import MOST_ENTRIES, current
from graphc.runtime.buffers import live_blocks

torch = pytest.importorskip("torch")

X = np.random.default_rng(1).standard_normal((16, 5)).astype(np.float32)
Y = np.random.default_rng(2).standard_normal((16, 1)).astype(np.float32)
WEIGHT = np.random.default_rng(3).standard_normal((1, 5)).astype(np.float32)


def parts(p: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Model, data, optimiser and loss with equal initial values on either package."""
    model = p.nn.Linear(5, 1)
    with p.no_grad():
        model.weight.copy_(p.tensor(WEIGHT))
        model.bias.zero_()
    optimizer = p.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, p.tensor(X), p.tensor(Y), optimizer, p.nn.MSELoss()


def item_before_backward(p: Any) -> list[float]:
    model, x, y, optimizer, criterion = parts(p)
    found = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        found.append(loss.item())
        loss.backward()
        optimizer.step()
    return [*found, *model.weight.detach().numpy().ravel().tolist()]


def accumulated_backwards(p: Any) -> list[float]:
    model, x, y, optimizer, criterion = parts(p)
    for _ in range(4):
        optimizer.zero_grad()
        for k in range(3):
            criterion(model(x[k * 4 : k * 4 + 4]), y[k * 4 : k * 4 + 4]).backward()
        optimizer.step()
    return [*model.weight.grad.numpy().ravel().tolist(), *model.weight.detach().numpy().ravel().tolist()]


def retain_graph(p: Any) -> list[float]:
    model, x, y, _, criterion = parts(p)
    loss = criterion(model(x), y)
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    return [loss.item(), *model.weight.grad.numpy().ravel().tolist()]


def losses_in_a_list(p: Any) -> list[float]:
    model, x, y, optimizer, criterion = parts(p)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss)
    return [v.item() for v in losses]


def running_total(p: Any) -> list[float]:
    model, x, y, optimizer, criterion = parts(p)
    total = 0.0
    for _ in range(10):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return [total.item()]


def decaying_rate(p: Any) -> list[float]:
    model, x, y, optimizer, criterion = parts(p)
    for k in range(10):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.8**k
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    return model.weight.detach().numpy().ravel().tolist()  # type: ignore[no-any-return]


def views_in_place(p: Any) -> list[float]:
    x = p.tensor(X)
    y = x.view(-1)
    y.add_(1)
    x[2:4, 1] = 7.0
    x.t()[0].mul_(2)
    return x.numpy().ravel().tolist()  # type: ignore[no-any-return]


def detached_parts(p: Any) -> list[float]:
    w = p.tensor(WEIGHT, requires_grad=True)
    z = w * 2
    with p.no_grad():
        c = w * 3
    ((z.detach() + z) * c).sum().backward()
    return w.grad.numpy().ravel().tolist()  # type: ignore[no-any-return]


def two_networks(p: Any) -> list[float]:
    """Two losses evaluated together: backward of one neither frees nor reads the way of the other."""
    generator, critic = p.nn.Linear(5, 5), p.nn.Sequential(p.nn.Linear(5, 5), p.nn.Tanh(), p.nn.Linear(5, 1))
    for i, q in enumerate([*generator.parameters(), *critic.parameters()]):
        with p.no_grad():
            q.copy_(p.linspace(-0.5, 0.1 * i, q.numel()).reshape(q.shape))
        q.tolist()
    optimizer = p.optim.SGD(critic.parameters(), lr=0.1)
    made = generator(p.tensor(X))
    loss = critic(p.tensor(X)).mean() - critic(made.detach()).mean()
    found = [loss.item(), made.sum().item()]
    loss.backward()
    assert generator.weight.grad is None
    optimizer.step()
    critic(made).sum().backward()
    for again in (loss, made.sum()):
        with pytest.raises(RuntimeError, match="second time"):
            again.backward()
    return [*found, *generator.weight.grad.numpy().ravel().tolist()]


def common_trunk(p: Any) -> list[float]:
    w = p.tensor(WEIGHT, requires_grad=True)
    for retain in (True, False):
        trunk = (w * 2).exp()
        one, two = trunk.sum(), (trunk * trunk).mean()
        one.item()
        one.backward(retain_graph=retain)
        if retain:
            two.backward()
    with pytest.raises(RuntimeError, match="second time"):
        two.backward()
    return w.grad.numpy().ravel().tolist()  # type: ignore[no-any-return]


PROGRAMS = [
    item_before_backward, accumulated_backwards, retain_graph, losses_in_a_list, running_total, decaying_rate,
    views_in_place, detached_parts, two_networks, common_trunk,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_same_numbers(program: Callable[[Any], list[float]]) -> None:
    np.testing.assert_allclose(program(graphc), program(torch), rtol=1.3e-6, atol=1e-5)


def test_no_compile_after_the_third_iteration() -> None:
    model, x, y, optimizer, criterion = parts(graphc)
    compiled = []
    for k in range(12):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (k + 1)
        optimizer.zero_grad()
        loss = criterion(model(x), y) * (1.0 + 0.37 * k)
        loss.item()
        loss.backward()
        optimizer.step()
        compiled.append(cache_size())
    assert compiled[0] > 0
    assert compiled[3:] == [compiled[2]] * 9


def test_losses_kept_hold_one_block_each() -> None:
    model, x, y, optimizer, criterion = parts(graphc)
    losses, blocks = [], []
    for k in range(1000):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss)
        if k % 100 == 99:
            gc.collect()
            blocks.append(live_blocks())
    growth = np.diff(blocks)
    assert (growth <= 100).all(), growth


def test_outside_writes_are_not_seen_by_recorded_operations() -> None:
    a = np.arange(4.0, dtype=np.float32)
    x = graphc.from_numpy(a)
    y = x + 1
    a[:] = 0
    assert y.tolist() == [1.0, 2.0, 3.0, 4.0]
    t = graphc.tensor([1.0, 2.0])
    v = t.numpy()
    z = t * 2
    v[:] = 0
    assert z.tolist() == [2.0, 4.0]
    assert t.tolist() == [0.0, 0.0]


def test_overwritten_residual_is_an_error() -> None:
    w = graphc.tensor([1.0, 2.0], requires_grad=True)
    x = w.exp()
    y = (x * x).sum()
    y.item()
    x.detach().zero_()
    x.tolist()
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.backward()


def test_in_place_on_a_leaf_is_an_error() -> None:
    w = graphc.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        w.add_(1)


def test_a_loop_that_asks_for_nothing_is_cut_at_its_module() -> None:
    model = graphc.nn.Sequential(*[graphc.nn.Linear(4, 4) for _ in range(20)], graphc.nn.ReLU())
    x = graphc.randn(3, 4)
    total = graphc.zeros(())
    compiled, longest = [], 0
    with graphc.no_grad():
        for _ in range(12):
            total += (model(x) + model(x)).sum()
            longest = max(longest, len(current().entries))
            compiled.append(cache_size())
    assert longest < 400
    assert compiled[6:] == [compiled[5]] * 6
    assert np.isfinite(total.item())


def test_a_recording_has_a_limit() -> None:
    x = graphc.zeros(2)
    for _ in range(MOST_ENTRIES + 100):
        x = x + 1
    assert len(current().entries) <= MOST_ENTRIES
    assert x.tolist() == [MOST_ENTRIES + 100.0] * 2
