"""Training steps with a symbolic batch: the parameters have the bits that a step compiled for the batch gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
import graphc.nn.functional as F
from graphc import nn

MODELS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "mlp": ((30,), lambda: nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 5))),
    "dropout": (
        (30,),
        lambda: nn.Sequential(
            nn.Linear(30, 24),
            nn.Dropout(0.3),
            nn.GELU(),
            nn.Linear(24, 12),
            nn.Dropout(0.1),
            nn.Linear(12, 5),
        ),
    ),
    # Of a size at which no fixed batch has sums in chunks, whose number follows from the batch.
    "cnn": (
        (3, 6, 6),
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(72, 5),
        ),
    ),
}


def _step(model: nn.Module) -> Callable[[Any, Any], Any]:
    optimiser = graphc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Any, y: Any) -> Any:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        return loss

    return step


@pytest.mark.parametrize("name", MODELS)
def test_steps_have_the_bits_of_fixed_batches(name: str) -> None:
    shape, make = MODELS[name]
    models = []
    with graphc.random.fork_rng():
        for _ in range(2):
            graphc.manual_seed(3)
            models.append(make())
    dynamic = graphc.compile(_step(models[0]), dynamic={"x": {0: "batch"}, "y": {0: "batch"}})
    fixed = graphc.compile(_step(models[1]))
    rng = np.random.default_rng(0)
    for size in (3, 64, 9, 203):
        x, y = rng.standard_normal((size, *shape)).astype(np.float32), rng.integers(0, 5, size)
        losses = []
        for step in (dynamic, fixed):
            with graphc.random.fork_rng():
                graphc.manual_seed(size)
                losses.append(step(x, y).item())
        assert losses[0] == losses[1]
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert p.detach().numpy().tobytes() == q.detach().numpy().tobytes()
    assert dynamic.cache_info().misses == 1
