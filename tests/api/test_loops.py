"""Training loops as people write them: what compiles, and compiled steps against recorded ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import graphc as torch
from graphc import nn, optim
from graphc.core import cache_size

NETS: dict[str, Callable[[], Any]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
    "norms": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LayerNorm(8), nn.Linear(8, 3)),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3)),
}
OPTIMISERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda m: optim.SGD(m.parameters(), 0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "adamw": lambda m: optim.AdamW(m.parameters(), 0.01, amsgrad=True),
}


def eight_steps(
    compiled: bool, net: Callable[[], Any], optimiser: Callable[[Any], Any]
) -> tuple[list[float], Any, Any]:
    """Losses, state and cache statistics of eight steps; the rate is halved in the middle."""
    torch.manual_seed(0)
    model = net()
    opt = optimiser(model)
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))

    def step(x: Any, y: Any) -> Any:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    call = torch.compile(step) if compiled else step
    losses = []
    for i in range(8):
        if i == 4:
            opt.param_groups[0]["lr"] *= 0.5
        losses.append(call(x, y).item())
    state = {k: v.tolist() for k, v in model.state_dict().items()}
    return losses, state, call.cache_info() if compiled else None


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_compiled_steps_are_the_recorded_ones(
    net: Callable[[], Any], optimiser: Callable[[Any], Any]
) -> None:
    losses, state, _ = eight_steps(False, net, optimiser)
    compiled_losses, compiled_state, info = eight_steps(True, net, optimiser)
    assert compiled_losses == losses and compiled_state == state
    assert (info.misses, info.recompiles, info.size) == (1, 0, 1)


def test_loops_over_slices_compile_once() -> None:
    model = nn.Linear(4, 2)
    opt = optim.SGD(model.parameters(), lr=0.1)
    x, y, order = torch.randn(64, 4), torch.randn(64, 2), torch.randperm(64)

    def epoch(pick: Callable[[int], Any]) -> list[int]:
        sizes = []
        for i in range(0, 64, 8):
            at = pick(i)
            opt.zero_grad()
            loss = (model(x[at]) - y[at]).square().mean()
            loss.backward()
            opt.step()
            sizes.append(cache_size())
        return sizes

    for pick in (lambda i: slice(i, i + 8), lambda i: order[i : i + 8]):
        sizes = epoch(pick)
        assert sizes[2:] == [sizes[2]] * 6
        assert epoch(pick)[-1] == sizes[-1]


def test_slices_of_data_read_the_moment_of_recording() -> None:
    x = torch.arange(6.0)
    before = x[2:4] * 1
    x[2:4] = 0
    after = x[2:4] * 1
    assert before.tolist() == [2, 3] and after.tolist() == [0, 0] and x.tolist() == [0, 1, 0, 0, 4, 5]
