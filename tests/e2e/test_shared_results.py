"""Views that a compiled call returns together share memory, and a tensor that is returned twice is one, as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

FUNCTIONS: list[Callable[[Any], Any]] = [
    lambda x: (lambda y: (y, y[0], y.view(-1), y))(x * 2),
    lambda x: (x * 2).unbind(0),
    lambda x: {"a": (y := x * 2), "b": [y.t(), y.detach()], "c": x + 1},
    lambda x: (lambda y: (y[0], y[1:], y.clone()))(x.exp()),
    lambda x: (x + 1, x + 1),
]


def leaves(nest: Any) -> list[Any]:
    items = nest.values() if isinstance(nest, dict) else nest
    return [t for v in items for t in (leaves(v) if isinstance(v, (dict, list, tuple)) else [v])]


@pytest.mark.parametrize("number", range(len(FUNCTIONS)))
def test_writes_are_seen(number: int) -> None:
    """A write to each result in turn is seen by the same others as in PyTorch, call after call."""
    f = FUNCTIONS[number]
    compiled = graphc.compile(f)
    for k in range(len(leaves(f(torch.ones(2, 3))))):
        expected, got = leaves(f(torch.ones(2, 3))), leaves(compiled(graphc.ones(2, 3)))
        for results in (expected, got):
            results[k].mul_(7)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
        assert [[a is b for b in got] for a in got] == [[a is b for b in expected] for a in expected]
    assert compiled.cache_info().misses == 1


def test_gradients_of_views() -> None:
    """Views that are returned together are on one tape."""

    def gradient(m: Any, f: Callable[[Any], Any]) -> Any:
        x = m.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        y, row, cut = f(x)
        assert not cut.requires_grad
        (y.sum() * 2 + row.square().sum() + cut.sum()).backward()
        return x.grad.numpy()

    def f(x: Any) -> Any:
        y = x.exp()
        return y, y[0], y.detach()

    np.testing.assert_allclose(gradient(graphc, graphc.compile(f)), gradient(torch, f), rtol=1e-6)


def test_results_are_fresh_at_each_call() -> None:
    compiled = graphc.compile(FUNCTIONS[0])
    first, second = compiled(graphc.ones(2, 3)), compiled(graphc.zeros(2, 3))
    second[1].fill_(9)
    assert first[0].tolist() == [[2.0] * 3] * 2 and second[0][0].tolist() == [9.0] * 3
