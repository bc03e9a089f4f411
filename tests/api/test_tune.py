"""`compile(tune=True)`: measured plans, the same bits, nothing measured twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.backends.llvm.compile import host_target
from graphc.backends.llvm.contraction import named_schedule
from graphc.backends.llvm.tuning import backend
from graphc.backends.llvm.tuning.contest import Contest
from graphc.ir.types import float32
from graphc.nn import functional as F
from tests.backends.contraction.kernels import matmul


def _trained(tune: bool, width: int) -> tuple[Any, list[bytes]]:
    """The compiled step, and the parameters' bits after three steps."""
    graphc.manual_seed(1)
    model = nn.Sequential(nn.Linear(200, width), nn.ReLU(), nn.Linear(width, 40))
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @graphc.compile(tune=tune)
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    rng = np.random.default_rng(0)
    x = graphc.tensor(rng.standard_normal((96, 200)).astype(np.float32))
    y = graphc.tensor(rng.integers(0, 40, 96))
    for _ in range(3):
        step(x, y)
    return (lambda: step.stages(x, y)), [p.detach().numpy().tobytes() for p in model.parameters()]


def test_another_plan_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    contests = []

    def last(self: Contest, names: Sequence[str], again: int = 1) -> str:
        contests.append(names)
        return names[-1]

    monkeypatch.setattr(Contest, "best", last)
    stages, tuned = _trained(True, 112)
    assert contests
    assert tuned == _trained(False, 112)[1]
    plans = [k.schedule.plan for k in stages()["schedule"] if k.schedule.engine == "contraction"]
    assert any("=" in p for p in plans), plans
    assert f'plan "{plans[0]}"' in str(stages()["schedule"])


def test_nothing_is_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as once:
        once.setattr(Contest, "best", lambda self, names, again=1: names[-1])
        stages, tuned = _trained(True, 104)
        before = str(stages()["schedule"])
    monkeypatch.setattr(backend, "Contest", None)  # another model has the same kernels
    stages, again = _trained(True, 104)
    assert again == tuned
    assert str(stages()["schedule"]) == before


def test_measured() -> None:
    kernel = matmul(90, 64, 128, float32)
    name = backend.fastest(kernel, host_target(), False)
    assert named_schedule(name, kernel, host_target(), False).plan == name
