"""A memory budget: values are computed again, results keep their bits, and what cannot be met is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.ir import Graph
from graphc.ir.builder import Builder
from graphc.ir.errors import CompileError
from graphc.ir.types import TensorType, float32
from graphc.passes.remat import ATTEMPTS, frugal_copy, rematerialise
from graphc.passes.remat.cut import kept_values

STEPS = 3


def perceptron() -> tuple[nn.Module, graphc.Tensor]:
    layers: list[nn.Module] = []
    for n in range(8):
        layers += [nn.Linear(64, 64), nn.GELU(), *([nn.Dropout(0.1)] if n == 0 else [])]
    return nn.Sequential(*layers), graphc.randn(1024, 64)


def convolutions() -> tuple[nn.Module, graphc.Tensor]:
    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers), graphc.randn(16, 8, 16, 16)


def trained(
    build: Callable[[], tuple[nn.Module, graphc.Tensor]], share: float | None
) -> list[np.ndarray[Any, Any]]:
    """Losses and parameters after some training steps whose temporaries have a share of what they take anyway."""
    graphc.manual_seed(0)
    model, x = build()
    optimizer = graphc.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)

    def step(x: graphc.Tensor) -> graphc.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    compiled = graphc.compile(step)
    if share is not None:
        budget = int(share * compiled.cost(x).arena_bytes)
        compiled = graphc.compile(step, memory_budget=budget)
        assert compiled.cost(x).arena_bytes <= budget
    found = [compiled(x).numpy().copy() for _ in range(STEPS)]
    return [*found, *(p.detach().numpy().copy() for p in model.parameters())]


@pytest.mark.parametrize(("build", "share"), [(perceptron, 0.8), (convolutions, 0.65)])
def test_a_budget_is_met_with_the_same_bits(build: Any, share: float) -> None:
    for got, expected in zip(trained(build, share), trained(build, None), strict=True):
        assert np.array_equal(got, expected)


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    with pytest.raises(
        CompileError,
        match=r"(?s)memory_budget=0 cannot be met.* budget of at least \d+.*at .*test_remat.py:\d+",
    ):
        trained(perceptron, 0.0)


@pytest.mark.parametrize(
    ("budget", "error"), [(-1, ValueError), ("1 MB", TypeError), (1.5, TypeError), (True, TypeError)]
)
def test_bad_budgets(budget: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="memory_budget"):
        graphc.compile(lambda x: x, memory_budget=budget)


def chain() -> Graph:
    """Twelve pointwise ops after another, the results of which are read again in reverse order."""
    graph = Graph("chain")
    b = Builder(graph)
    x = graph.add_input(TensorType(float32, (256,)), "argument", "x")
    made = [x]
    for _ in range(12):
        made.append(b.tanh(made[-1]))
    total = made[-1]
    for v in reversed(made):
        total = b.mul(total, v)
    graph.outputs.append(total)
    return graph


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=str)
def test_results_and_order(attempt: Any) -> None:
    graph = frugal_copy(chain())
    assert rematerialise(graph, attempt)
    graph.verify()
    assert any(op.mark == "recompute" for op in graph.ops)
    x = np.linspace(-1, 1, 256, dtype=np.float32)
    (got,) = graphc.run_graph(graph, x, backend="reference")
    (expected,) = graphc.run_graph(chain(), x, backend="reference")
    assert np.array_equal(got, expected)


def test_the_cut_keeps_the_fewest_bytes() -> None:
    graph = Graph("cut")
    b = Builder(graph)
    x = graph.add_input(TensorType(float32, (4,)), "argument", "x")
    small = b.exp(x)
    large = b.broadcast_to(small, (64, 4))
    wanted = [b.tanh(large), b.exp(large)]
    fixed = small.op
    assert kept_values(wanted, lambda v: v.op is None, lambda op, v: op is fixed) == {small}
    assert kept_values(wanted, lambda v: v.op is None, lambda op, v: False) == {x}
    assert kept_values(wanted, lambda v: v.op is None, lambda op, v: True) == set(wanted)
