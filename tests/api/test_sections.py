"""Optimiser steps recorded as one entry: the same bits as recorded op by op, whatever changes between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import graphc as torch
from graphc import nn, optim
from graphc.core.recording import current

MAKERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: optim.SGD(p, 0.1),
    "momentum": lambda p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.2, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, maximize=True),
    "adam": lambda p: optim.Adam(p, 0.1, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, 0.1, amsgrad=True),
}


def nothing(optimizer: Any, params: list[Any], i: int) -> None:
    """Every step is as the one before."""


def missing_gradients(optimizer: Any, params: list[Any], i: int) -> None:
    params[i % 2].grad = None


def numbers(optimizer: Any, params: list[Any], i: int) -> None:
    optimizer.param_groups[0]["lr"] *= 0.5
    optimizer.param_groups[0]["weight_decay"] = 0.1 * (i % 3)


def structure(optimizer: Any, params: list[Any], i: int) -> None:
    optimizer.param_groups[0]["maximize"] = bool(i % 2)


def tensor_rate(optimizer: Any, params: list[Any], i: int) -> None:
    if i % 3 == 0:
        optimizer.param_groups[0]["lr"] = torch.tensor(0.1 / (i + 1), dtype=torch.float64)
    else:
        optimizer.param_groups[0]["lr"].mul_(0.5)


def other_state(optimizer: Any, params: list[Any], i: int) -> None:
    for state in optimizer.state.values():
        for name in state:
            if name != "step":
                state[name] = state[name].detach().clone() * 0.5


def loaded_state(optimizer: Any, params: list[Any], i: int) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def one_gradient(optimizer: Any, params: list[Any], i: int) -> None:
    if i % 2:
        params[1].grad = params[0].grad


def gradient_is_parameter(optimizer: Any, params: list[Any], i: int) -> None:
    if i % 2:
        params[1].grad = params[0].detach()


def views_as_gradients(optimizer: Any, params: list[Any], i: int) -> None:
    params[0].grad = torch.arange(12.0).reshape(4, 3)[1:3, :].detach()


def shared_memory(optimizer: Any, params: list[Any], i: int) -> None:
    array = params[0].detach().numpy()
    array[0] += 1
    params[0]._kept = array if i % 2 else None


def another_group(optimizer: Any, params: list[Any], i: int) -> None:
    if i == 2:
        params.append(nn.Parameter(torch.ones(2, 3)))
        optimizer.add_param_group({"params": [params[-1]], "lr": 0.3})


def pending_parameter(optimizer: Any, params: list[Any], i: int) -> None:
    with torch.no_grad():
        params[0].mul_(0.9)


CHANGES = [
    nothing, missing_gradients, numbers, structure, tensor_rate, other_state, loaded_state, one_gradient,
    gradient_is_parameter, views_as_gradients, shared_memory, another_group, pending_parameter,
]  # fmt: skip


def trained(make: Callable[[Any], Any], change: Callable[..., None], repeats: bool) -> list[Any]:
    """Parameters and state after seven steps."""
    params = [nn.Parameter(torch.arange(6.0).reshape(2, 3)), nn.Parameter(torch.ones(2, 3))]
    optimizer = make(params)
    optimizer.repeats = repeats
    for i in range(7):
        optimizer.zero_grad(set_to_none=i % 3 != 2)
        sum((p * p).sum() for p in params).backward()
        change(optimizer, params, i)
        optimizer.step()
    states = [[v.tolist() for v in optimizer.state[p].values()] for p in params]
    return [*(p.tolist() for p in params), states]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_sections_are_what_they_stand_for(make: Callable[[Any], Any], change: Callable[..., None]) -> None:
    assert trained(make, change, True) == trained(make, change, False)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_step_is_one_entry(make: Callable[[Any], Any]) -> None:
    params = [nn.Parameter(torch.ones(2, 3)) for _ in range(5)]
    optimizer = make(params)
    lengths = []
    optimizer.register_step_pre_hook(lambda *_: lengths.append(-len(current().entries)))
    optimizer.register_step_post_hook(lambda *_: lengths.append(len(current().entries)))
    for _ in range(3):
        optimizer.zero_grad()
        sum((p * p).sum() for p in params).backward()
        optimizer.step()
    assert [a + b for a, b in zip(lengths[::2], lengths[1::2], strict=True)] == [1, 1, 1]


def test_updates_of_other_classes_are_recorded_every_time() -> None:
    class Odd(optim.SGD):
        def update(self, group: Any, pairs: Any) -> None:
            self.count = getattr(self, "count", 0) + 1
            if self.count % 2:
                super().update(group, pairs)

    p = nn.Parameter(torch.ones(2))
    optimizer = Odd([p], lr=0.5)
    values = []
    for _ in range(4):
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()
        values.append(p.tolist()[0])
    assert values == [0.5, 0.5, 0.0, 0.0]
