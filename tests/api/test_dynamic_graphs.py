"""Tracing with symbolic sizes, and every pass up to fusion on the symbolic graph: see `dynamic.agree`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
import graphc.nn.functional as F
from graphc import nn
from tests.api.dynamic import agree

Function = Callable[[Any], Any]
_rng = np.random.default_rng(0)


def _floats(*shape: int) -> Any:
    return _rng.standard_normal(shape).astype(np.float32)


def _written(x: Any) -> Any:
    y = graphc.zeros(x.shape[0], 6)
    y[:, 1:5] = x
    return y


FUNCTIONS: dict[str, Function] = {
    "scaled sum": lambda x: (x * 2 + 1).sum(),
    "mean": lambda x: x.mean(0),
    "variance": lambda x: x.var(0, unbiased=False),
    "view(-1)": lambda x: x.view(-1).sin(),
    "view(2n)": lambda x: x.view(x.shape[0] * 2, 2).sin(),
    "reshape": lambda x: x.reshape(-1, 2),
    "half": lambda x: x[: x.shape[0] // 2] * 2,
    "zeros": lambda x: graphc.zeros(x.size(0), 4) + x,
    "arange": lambda x: graphc.arange(x.shape[0])[:, None] + x,
    "expand": lambda x: graphc.ones(1, 4).expand(x.shape[0], -1) * x,
    "divided by the count": lambda x: x.sum() / x.numel(),
    "times the count": lambda x: x.shape[0] * x,
    "product": lambda x: x @ x.t(),
    "log softmax": lambda x: F.log_softmax(x, 1),
    "cat": lambda x: graphc.cat([x, x * 2], 0),
    "flip": lambda x: x.flip(0),
    "repeat": lambda x: x.repeat(2, 1),
    "pad": lambda x: F.pad(x, (0, 0, 1, 2)),
    "cumsum": lambda x: x.cumsum(0),
    "write": _written,
    "pairs": lambda x: x[:, None, :] - x[None],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    agree(FUNCTIONS[name], {"x": {0: "batch"}}, lambda n: (_floats(n, 4),))


def test_a_linear_layer() -> None:
    graph = agree(nn.Linear(4, 5), {0: {0: graphc.Dim("batch", max=64)}}, lambda n: (_floats(n, 4),))
    assert "where batch: 0..64" in str(graph)


def test_a_training_step() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimiser = graphc.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        return loss

    dynamic = {"x": {0: "batch"}, "y": {0: "batch"}}
    agree(step, dynamic, lambda n: (_floats(n, 4), _rng.integers(0, 3, n)), (1, 2, 3, 7, 64))
