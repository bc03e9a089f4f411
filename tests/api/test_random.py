"""Random functions: distributions, seeds, ranges. Bounds are six standard errors of fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as torch
from graphc import nn

N = 40_000

# (draw, mean, standard deviation, least, greatest)
# fmt: off
DRAWS: list[tuple[str, Callable[[], Any], float, float, float, float]] = [
    ("rand", lambda: torch.rand(N), 0.5, math.sqrt(1 / 12), 0, 1),
    ("randn", lambda: torch.randn(N), 0, 1, -7, 7),
    ("randn float64", lambda: torch.randn(N, dtype=torch.float64), 0, 1, -7, 7),
    ("randint", lambda: torch.randint(-3, 5, (N,)).double(), 0.5, math.sqrt(63 / 12), -3, 4),
    ("normal", lambda: torch.normal(2.0, 3.0, (N,)), 2, 3, -19, 23),
    ("normal of tensors", lambda: torch.normal(torch.full((N,), 1.0), 0.5), 1, 0.5, -2.5, 4.5),
    ("uniform_", lambda: torch.empty(N).uniform_(-2, 4), 1, math.sqrt(3), -2, 4),
    ("normal_", lambda: torch.empty(N).normal_(-1, 2), -1, 2, -15, 13),
    ("bernoulli", lambda: torch.bernoulli(torch.full((N,), 0.3)), 0.3, math.sqrt(0.21), 0, 1),
    ("exponential_", lambda: torch.empty(N).exponential_(2.0), 0.5, 0.5, 0, 10),
    ("dropout", lambda: nn.functional.dropout(torch.ones(N), 0.25), 1, math.sqrt(1 / 3), 0, 4 / 3),
    ("rand_like", lambda: torch.rand_like(torch.ones(N)), 0.5, math.sqrt(1 / 12), 0, 1),
    ("kaiming_uniform_", lambda: nn.init.kaiming_uniform_(torch.empty(200, 200), a=math.sqrt(5)), 0, 1 / math.sqrt(600), -1 / math.sqrt(200), 1 / math.sqrt(200)),
    ("kaiming_normal_", lambda: nn.init.kaiming_normal_(torch.empty(200, 200), nonlinearity="relu"), 0, 0.1, -0.7, 0.7),
    ("xavier_uniform_", lambda: nn.init.xavier_uniform_(torch.empty(200, 200)), 0, math.sqrt(1 / 200), -math.sqrt(6 / 400), math.sqrt(6 / 400)),
    ("xavier_normal_", lambda: nn.init.xavier_normal_(torch.empty(200, 200)), 0, math.sqrt(1 / 200), -0.5, 0.5),
    ("trunc_normal_", lambda: nn.init.trunc_normal_(torch.empty(N), a=-1, b=1), 0, 0.5396, -1, 1),
    ("Linear weight", lambda: nn.Linear(200, 200).weight.detach(), 0, 1 / math.sqrt(600), -1 / math.sqrt(200), 1 / math.sqrt(200)),
    ("Conv2d weight", lambda: nn.Conv2d(20, 200, 3).weight.detach(), 0, 1 / math.sqrt(540), -1 / math.sqrt(180), 1 / math.sqrt(180)),
    ("Embedding weight", lambda: nn.Embedding(200, 200).weight.detach(), 0, 1, -7, 7),
]
# fmt: on


@pytest.mark.parametrize(
    "draw, mean, std, least, greatest", [d[1:] for d in DRAWS], ids=[d[0] for d in DRAWS]
)
def test_distribution(
    draw: Callable[[], Any], mean: float, std: float, least: float, greatest: float
) -> None:
    torch.manual_seed(1)
    values = np.asarray(draw(), np.float64).reshape(-1)
    tolerance = 1e-6
    assert least - tolerance <= values.min() and values.max() <= greatest + tolerance
    error = 6 * std / math.sqrt(values.size)
    assert abs(values.mean() - mean) < error
    # The standard error of a standard deviation is at most this for distributions with light tails.
    assert abs(values.std() - std) < 6 * std * 2 / math.sqrt(values.size) + 1e-4


def test_seed_repeats_and_streams_differ() -> None:
    torch.manual_seed(5)
    a, b = torch.rand(4), torch.rand(4)
    torch.manual_seed(5)
    c, d = torch.rand(4), torch.rand(4)
    assert a.tolist() == c.tolist() and b.tolist() == d.tolist() and a.tolist() != b.tolist()
    torch.manual_seed(6)
    assert torch.rand(4).tolist() != a.tolist()
    assert torch.initial_seed() == 6


def test_numbers_do_not_depend_on_when_they_are_evaluated() -> None:
    torch.manual_seed(5)
    together = [torch.rand(3), torch.randn(2), torch.rand(3)]
    values = [x.tolist() for x in together]
    torch.manual_seed(5)
    apart = [torch.rand(3).tolist(), torch.randn(2).tolist(), torch.rand(3).tolist()]
    assert values == apart


def test_generators_are_independent_of_the_default() -> None:
    own = torch.Generator().manual_seed(9)
    torch.manual_seed(0)
    expected = torch.rand(3).tolist()
    torch.manual_seed(0)
    first = torch.rand(3, generator=own).tolist()
    assert torch.rand(3).tolist() == expected
    assert torch.rand(3, generator=torch.Generator().manual_seed(9)).tolist() == first


def test_randperm() -> None:
    torch.manual_seed(2)
    a = torch.randperm(100)
    assert (
        sorted(a.tolist()) == list(range(100)) and a.tolist() != list(range(100)) and a.dtype is torch.int64
    )
    assert torch.randperm(0).tolist() == []


def test_multinomial() -> None:
    weights = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 0.0]])
    torch.manual_seed(0)
    drawn = np.asarray(torch.multinomial(weights, 4000, replacement=True))
    assert set(drawn[1]) == {0} and set(drawn[0]) == {1, 2}
    assert abs((drawn[0] == 2).mean() - 0.75) < 6 * math.sqrt(0.1875 / 4000)
    assert sorted(torch.multinomial(torch.ones(4), 4).tolist()) == [0, 1, 2, 3]


def test_orthogonal_and_friends() -> None:
    q = np.asarray(nn.init.orthogonal_(torch.empty(4, 6)), np.float64)
    assert np.allclose(q @ q.T, np.eye(4), atol=1e-6)
    assert nn.init.eye_(torch.empty(2, 2)).tolist() == [[1, 0], [0, 1]]
    assert nn.init.constant_(torch.empty(2), 0.3).tolist() == pytest.approx([0.3, 0.3])
    sparse = np.asarray(nn.init.sparse_(torch.empty(10, 4), 0.3))
    assert ((sparse == 0).sum(0) == 3).all()
    assert np.asarray(nn.init.dirac_(torch.empty(2, 2, 3, 3))).sum() == 2


def test_dropout_drops_new_elements_each_time() -> None:
    layer = nn.Dropout(0.5)
    x = torch.ones(64)
    assert layer(x).tolist() != layer(x).tolist()
    layer.eval()
    assert layer(x) is x
