"""`compile(tune=True)`: measured plans, the same bits, nothing measured twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.backends.llvm.compile import host_target
from graphc.backends.llvm.tuning import backend
from graphc.backends.llvm.tuning.contest import Contest
from graphc.compiler import driver, lowering
from graphc.ir.target import TARGETS
from graphc.ir.types import float32
from graphc.nn import functional as F
from graphc.runtime.cache import CompileCache
from tests.backends.contraction.kernels import matmul


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known beforehand, and what these tests make up is not left to others."""
    cache = CompileCache(tmp_path / "cache")
    for module in (driver, backend):
        monkeypatch.setattr(module, "default_cache", lambda: cache)
    lowering.make_context.cache_clear()
    yield
    lowering.make_context.cache_clear()


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
    lowering.make_context.cache_clear()  # another process knows what is on disk alone
    stages, again = _trained(True, 104)
    assert again == tuned
    assert str(stages()["schedule"]) == before


class _Timed:
    """A plan that takes as long as a test says."""

    def __init__(self, seconds: float) -> None:
        self.seconds = lambda: seconds


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, "0"),
        ({"1": 0.99}, "0"),  # not clearly faster
        ({"1": 0.5}, "1"),
        ({"1": 0.5, "0 mc=24": 0.1}, "1"),  # of the best plan alone variations are tried
        ({"0 a=runs": 0.9}, "0 a=runs"),
        ({"0 a=runs": 0.9, "0 a=runs kc=320": 0.8}, "0 a=runs kc=320"),
    ],
)
def test_the_fastest_wins(times: dict[str, float], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(self: Contest, names: Sequence[str]) -> dict[str, _Timed]:
        return {name: _Timed(times.get(name, 1.0)) for name in names}

    monkeypatch.setattr(Contest, "_entries", entries)
    kernel = matmul(90, 64, 1280, float32)
    assert backend.fastest(kernel, TARGETS["x86-64-v3"], False) == expected


def test_real_plans_are_timed() -> None:
    contest = Contest(matmul(90, 64, 128, float32), host_target(), False)
    entries = contest._entries(["0", "1"])
    assert list(entries) == ["0", "1"]
    assert all(entry.seconds() > 0 for entry in entries.values())
    assert contest.best(["0", "1"]) in entries
