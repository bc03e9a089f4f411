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


class Block(nn.Module):
    """Causal attention and a perceptron, both added to what they read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rest = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1)
        )

    def forward(self, x: graphc.Tensor) -> graphc.Tensor:
        b, t, c = x.shape
        q, k, v = (h.view(b, t, 4, c // 4).transpose(1, 2) for h in self.read(self.before(x)).split(c, 2))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.write(mixed.transpose(1, 2).reshape(b, t, c))
        found: graphc.Tensor = x + self.rest(self.between(x))
        return found


def gpt() -> tuple[nn.Module, graphc.Tensor]:
    layers = [nn.Embedding(50, 32), *(Block(32) for _ in range(2)), nn.LayerNorm(32), nn.Linear(32, 50)]
    return nn.Sequential(*layers), graphc.randint(50, (8, 64))


class Residual(nn.Module):
    """Two convolutions with their norms, added to what they read; the first has a stride where asked."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.past = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: graphc.Tensor) -> graphc.Tensor:
        found: graphc.Tensor = nn.functional.relu(self.way(x) + self.past(x))
        return found


def resnet() -> tuple[nn.Module, graphc.Tensor]:
    stem = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    blocks = [Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 16, 1)]
    return nn.Sequential(*stem, *blocks, nn.Flatten(), nn.Linear(16 * 64, 10)), graphc.randn(32, 3, 16, 16)


def trained(
    build: Callable[[], tuple[nn.Module, graphc.Tensor]], budget: int | None
) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
    """Losses, gradients and all states of some training steps, and the bytes of their temporaries."""
    graphc.manual_seed(0)
    model, x = build()
    optimizer = graphc.optim.AdamW(model.parameters(), lr=1e-2)

    def step(x: graphc.Tensor) -> graphc.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    compiled = graphc.compile(step, keep_grads=True, memory_budget=budget)
    found = {f"loss {n}": compiled(x).numpy().copy() for n in range(STEPS)}
    for name, p in model.named_parameters():
        found[f"gradient of {name}"] = p.grad.numpy().copy()
        moments = {k: v for k, v in optimizer.state[p].items() if isinstance(v, graphc.Tensor)}
        found |= {f"{k} of {name}": v.numpy().copy() for k, v in moments.items()}
    found |= {k: v.detach().numpy().copy() for k, v in model.state_dict().items()}
    ((program,),) = compiled._programs.values()
    return found, program.compiled.program.arena_bytes


@pytest.mark.parametrize(
    ("build", "share"), [(perceptron, 0.8), (convolutions, 0.65), (gpt, 0.65), (resnet, 0.7)]
)
def test_a_budget_is_met_with_the_same_bits(build: Any, share: float) -> None:
    expected, whole = trained(build, None)
    got, less = trained(build, int(share * whole))
    assert less <= int(share * whole)
    assert [k for k, v in expected.items() if not np.array_equal(got[k], v)] == []


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    with pytest.raises(
        CompileError,
        match=r"(?s)memory_budget=0 cannot be met.* budget of at least \d+.*at .*test_remat.py:\d+",
    ):
        trained(perceptron, 0)


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
