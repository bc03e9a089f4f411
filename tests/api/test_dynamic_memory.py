"""Checkpoints and memory budgets of functions with dynamic dimensions: the same bits, in less memory at large sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.ir.errors import CompileError
from graphc.utils.checkpoint import checkpoint

SIZES = (4, 1, 3, 64, 1000)
BOUND = {"x": {0: graphc.Dim("n", max=1000)}}


def _training(checkpointed: bool, dynamic: Any = BOUND, budget: int | None = None) -> tuple[Any, nn.Module]:
    graphc.manual_seed(0)
    model = nn.Sequential(
        *(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.2), nn.Linear(64, 32)) for _ in range(4))
    )
    optimiser = graphc.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        optimiser.zero_grad()
        for block in model:
            x = checkpoint(block, x, use_reentrant=False) if checkpointed else block(x)
        loss = x.square().mean()
        loss.backward()
        optimiser.step()
        return loss

    return graphc.compile(step, dynamic=dynamic, memory_budget=budget), model


def _run(compiled: Any) -> tuple[list[float], list[int]]:
    """Losses of a step for each size, and the bytes of temporaries that it took."""
    rng = np.random.default_rng(1)
    losses = []
    for n in SIZES:
        graphc.manual_seed(n)
        losses.append(compiled(graphc.from_numpy(rng.standard_normal((n, 32)).astype(np.float32))).item())
    ((program,),) = compiled._programs.values()
    return losses, [program.compiled.resolved({"n": n}).program.arena_bytes for n in SIZES]


def _same(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert p.detach().numpy().tobytes() == q.detach().numpy().tobytes()


def test_checkpoints() -> None:
    (plain, model), (saving, twin) = _training(False), _training(True)
    losses, most = _run(plain)
    found, less = _run(saving)
    assert found == losses
    _same(model, twin)
    assert less[-1] < 0.7 * most[-1]


def test_checkpoints_of_unbounded_sizes() -> None:
    losses, most = _run(_training(False, {"x": {0: "n"}})[0])
    found, less = _run(_training(True, {"x": {0: "n"}})[0])
    assert found == losses and less[-1] < 0.7 * most[-1]


def test_memory_budgets() -> None:
    plain, model = _training(False)
    losses, most = _run(plain)
    budget = most[-1] * 7 // 10
    saving, twin = _training(False, budget=budget)
    found, less = _run(saving)
    assert found == losses
    _same(model, twin)
    assert max(less) <= budget


def test_budgets_that_cannot_be_met() -> None:
    x = graphc.ones(4, 32)
    with pytest.raises(CompileError, match=r"memory_budget=1000 cannot be met.*give a budget of at least"):
        _training(False, budget=1000)[0](x)
    with pytest.raises(ValueError, match="n has no bound; give one, like Dim"):
        _training(False, {"x": {0: "n"}}, budget=1 << 20)
