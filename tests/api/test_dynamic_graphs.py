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
    "from half": lambda x: x[x.shape[0] // 2 :] * 2,
    "every other": lambda x: x[::2],
    "roll": lambda x: x.roll(1, 0),
    "softmax over the batch": lambda x: F.softmax(x, 0),
    "one in n": lambda x: x * (2 / (x.size(0) + 1)),
    "dropout": lambda x: F.dropout(x) + graphc.rand(x.shape[0], 4),
    "range": lambda x: graphc.arange(2, 2 * x.shape[0] + 3, 2)[1:, None] * x,
    "vmap": lambda x: graphc.func.vmap(lambda row: (row * row).sum())(x),
    "branch": lambda x: graphc.cond(x.sum() > 0, lambda a: a * 2, lambda a: a - 1, (x,)),
    "loop": lambda x: graphc.fori_loop(0, 4, lambda i, a: a + i, x),
}
"""Right at size 0 too."""
NOT_EMPTY: dict[str, Function] = {
    "first and last": lambda x: x[0] - x[-1],
    "differences": lambda x: x[1:] - x[:-1],
    "largest": lambda x: x.max(0).values + x.argmax(0) + x.amax(),
    "by columns": lambda x: x.view(-1, x.shape[0]),
}
IMAGES: dict[str, Any] = {
    "convolution": nn.Conv2d(3, 4, 3, stride=2),
    "groups": nn.Conv2d(3, 6, 3, groups=3),
    "pooling": nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "running statistics": nn.BatchNorm2d(3).eval(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    agree(FUNCTIONS[name], {"x": {0: "batch"}}, lambda n: (_floats(n, 4),))


@pytest.mark.parametrize("name", NOT_EMPTY)
def test_functions_of_what_is_not_empty(name: str) -> None:
    agree(NOT_EMPTY[name], {"x": {0: "batch"}}, lambda n: (_floats(n, 4),), (2, 1, 3, 7))


@pytest.mark.parametrize("name", IMAGES)
def test_layers_of_images(name: str) -> None:
    agree(IMAGES[name], {0: {0: "batch"}}, lambda n: (_floats(n, 3, 8, 8),))


def test_batch_statistics() -> None:
    agree(nn.BatchNorm2d(3), {0: {0: "batch"}}, lambda n: (_floats(n, 3, 4, 4),), (2, 1, 3, 7))


def test_images_of_any_size() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    agree(model, {0: {0: "n", 2: "h", 3: "w"}}, lambda n: (_floats(2, 3, n + 2, n + 4),), (2, 1, 3, 7))


def test_attention() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    dynamic = {"x": {0: "batch", 1: "time"}}
    agree(lambda x: model(x, x, x)[0], dynamic, lambda n: (_floats(n, n + 1, 8),), (2, 0, 1, 3), rtol=1e-4)


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
