"""Slices of dynamic axes by numbers: clamped as in PyTorch at every size, 0 included, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

SIZES = (3, 0, 1, 2, 4, 5, 7, 100)
_rng = np.random.default_rng(13)


def _written(x: Any, _: Any) -> Any:
    y = x * 1
    y[1:] += 2
    y[:-1] *= 3
    y[1:-1] = 0.5
    return y


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "x[1:]": lambda x, _: x[1:],
    "x[:-1]": lambda x, _: x[:-1],
    "x[-3:]": lambda x, _: x[-3:],
    "x[:3]": lambda x, _: x[:3],
    "x[1:4]": lambda x, _: x[1:4],
    "x[-4:-1]": lambda x, _: x[-4:-1],
    "x[1::2]": lambda x, _: x[1::2],
    "x[5:2]": lambda x, _: x[5:2],
    "x[-2:1]": lambda x, _: x[-2:1],
    "differences": lambda x, _: x[1:] - x[:-1],
    "second differences": lambda x, _: x[2:] - 2 * x[1:-1] + x[:-2],
    "columns": lambda x, _: x.t()[:, 1:] * x.t()[:, :-1],
    "product": lambda x, _: x[1:] @ x[:-1].t(),
    "turned": lambda x, m: m.cat([x[1:], x[:1]]) - x,
    "length": lambda x, m: (x[1:] * m.arange(x.shape[0] - 1).unsqueeze(1)).sum(0),
    "written": _written,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_slices(name: str) -> None:
    function = FUNCTIONS[name]
    sizes = [n for n in SIZES if n or name != "length"]

    def both(x: Any) -> Any:
        y = function(x, graphc)
        return y, graphc.autograd.grad(y.square().sum(), x)[0]

    compiled = graphc.compile(both, dynamic={"x": {0: "n"}})
    for n in sizes:
        x = _rng.standard_normal((n, 4)).astype(np.float32)
        twin = torch.from_numpy(x.copy()).requires_grad_()
        expected = function(twin, torch)
        expected.square().sum().backward()
        found, gradient = compiled(graphc.from_numpy(x).requires_grad_())
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), 1e-4, 1e-4)
        np.testing.assert_allclose(gradient.numpy(), twin.grad.numpy(), 1e-4, 1e-3)
    assert compiled.cache_info().misses == 1


def test_sizes_that_are_spelt_otherwise() -> None:
    """Equal at most sizes: taken for equal, and checked at every call."""
    compiled = graphc.compile(lambda x: x[1:] + graphc.arange(x.shape[0] // 2), dynamic={"x": {0: "n"}})
    assert compiled(graphc.ones(2)).tolist() == [1]
    with pytest.raises(
        RuntimeError, match=r"must match the size of tensor b \(.*\) at dimension -1 \(with n=5\)"
    ):
        compiled(graphc.ones(5))
