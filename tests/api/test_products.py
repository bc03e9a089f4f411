"""Products with zeros among the factors: derivatives of the first three orders, as PyTorch gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")


def derivatives(p: Any, factors: np.ndarray, axis: int | None) -> list[Any]:
    """A function of products and its derivatives along a fixed direction."""
    x = p.tensor(factors, requires_grad=True)
    direction = p.tensor(np.cos(np.arange(factors.size)).reshape(factors.shape))
    y = x.prod() if axis is None else x.prod(axis)
    (first,) = p.autograd.grad((y * y + y).sum(), x, create_graph=True)
    (second,) = p.autograd.grad((first * direction).sum(), x, create_graph=True)
    (third,) = p.autograd.grad((second * direction).sum(), x)
    return [v.detach().numpy() for v in (y, first, second, third)]


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize(
    "zeros", [[], [(1, 1)], [(0, 0), (1, 1)], [(0, 0), (1, 0), (2, 0)], [(3, 0), (3, 1), (3, 2)]]
)
def test_derivatives(zeros: list[tuple[int, int]], axis: int | None) -> None:
    factors = np.random.default_rng(0).standard_normal((4, 3))
    for at in zeros:
        factors[at] = 0
    for a, b in zip(derivatives(graphc, factors, axis), derivatives(torch, factors, axis), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
