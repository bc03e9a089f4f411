"""Optimisers beyond numbers: run-time options, groups, closures, state."""

from __future__ import annotations

from typing import Any

import pytest

import graphc as torch
from graphc import nn, optim
from graphc.core import cache_size


def one_step(optimizer: Any, p: Any) -> None:
    optimizer.zero_grad()
    (p * p).sum().backward()
    optimizer.step()


def test_numbers_take_effect_without_compiling() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = optim.SGD([p], lr=0.1, momentum=0.5, weight_decay=0.1)
    for _ in range(3):
        one_step(optimizer, p)
    before = cache_size()
    for lr, momentum, decay in ((0.2, 0.9, 0.3), (0.01, 0.1, 0.5)):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.param_groups[0].update(momentum=momentum, weight_decay=decay)
        value, velocity = p.tolist()[0], optimizer.state[p]["momentum_buffer"].tolist()[0]
        one_step(optimizer, p)
        expected = momentum * velocity + 2 * value + decay * value
        assert p.tolist()[0] == pytest.approx(value - lr * expected, rel=1e-5)
    assert cache_size() == before


def test_structure_changes_take_effect() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([p], lr=0.1)
    one_step(optimizer, p)
    optimizer.param_groups[0]["weight_decay"] = 1.0
    value = p.tolist()[0]
    one_step(optimizer, p)
    assert p.tolist()[0] == pytest.approx(value - 0.1 * 3 * value, rel=1e-5)


def test_parameters_without_gradient_are_left_alone() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = optim.Adam([a, b], lr=0.1)
    one_step(optimizer, a)
    assert b.tolist() == [1, 1] and len(optimizer.state) == 1
    for _ in range(2):
        optimizer.zero_grad()
        (a * b).sum().backward()
        optimizer.step()
    one_step(optimizer, b)
    assert optimizer.state[a]["step"].item() == 3 and optimizer.state[b]["step"].item() == 3
    assert optimizer.state[a]["step"] is not optimizer.state[b]["step"]


def test_closure_and_return() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([p], lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert p.tolist() == pytest.approx([0.8, 0.8])


def test_groups() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = optim.SGD([{"params": [a], "lr": 0.1}, {"params": b}], lr=0.01)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.01, 0.01]
    assert len(optimizer.param_groups) == 3 and optimizer.defaults["lr"] == 0.01
    named = optim.SGD(nn.Linear(1, 1).named_parameters(), lr=0.1)
    assert named.param_groups[0]["param_names"] == ["weight", "bias"]


def test_zero_grad_keeps_memory_where_asked() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([p], lr=0.1)
    (p * 2).sum().backward()
    gradient = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is gradient and gradient.tolist() == [0, 0]
    optimizer.zero_grad()
    assert p.grad is None


def test_hooks_and_text() -> None:
    p = nn.Parameter(torch.ones(1))
    optimizer = optim.SGD([p], lr=0.1)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    handle = optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))
    one_step(optimizer, p)
    handle.remove()
    one_step(optimizer, p)
    assert seen == ["before", "after", "before"]
    theirs = pytest.importorskip("torch")
    other = theirs.optim.SGD([theirs.ones(1, requires_grad=True)], lr=0.1)
    assert repr(optimizer) == repr(other)


def test_dampening_starts_undamped() -> None:
    theirs = pytest.importorskip("torch")
    values = []
    for t in (torch, theirs):
        p = t.nn.Parameter(t.ones(3))
        optimizer = t.optim.SGD([p], lr=0.1, momentum=0.9, dampening=0.5)
        for _ in range(4):
            optimizer.zero_grad()
            (p * p).sum().backward()
            optimizer.step()
        values.append(p.tolist())
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_learning_rate_as_a_tensor() -> None:
    p = nn.Parameter(torch.ones(2))
    rate = torch.tensor(0.1)
    optimizer = optim.SGD([p], lr=rate)
    one_step(optimizer, p)
    rate.fill_(0.5)
    one_step(optimizer, p)
    assert p.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
