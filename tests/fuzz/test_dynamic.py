"""Random functions of tensors with two dynamic dimensions: one program at many sizes against the same function
recorded for each size alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
import graphc.nn.functional as F

SIZES = ((2, 3), (1, 1), (7, 2), (0, 4), (17, 33), (64, 9))
STEPS = 4

Step = Callable[[Any, Any], Any]

# Each takes the value so far, [rows, columns] of any sizes, and a generator that decides; all keep two dimensions.
UNARY: tuple[Step, ...] = (
    lambda x, r: x * float(r.uniform(-2, 2)) + x.shape[r.integers(2)],
    lambda x, r: x.tanh(),
    lambda x, r: x.t(),
    lambda x, r: x.flip(int(r.integers(2))),
    lambda x, r: x[x.shape[0] // 2 :],
    lambda x, r: x[:, ::2],
    lambda x, r: F.pad(x, (1, 0, 0, 2), value=0.5),
    lambda x, r: graphc.cat([x, x * 2], int(r.integers(2))),
    lambda x, r: x.repeat(1, 2),
    lambda x, r: x.reshape(-1).unsqueeze(int(r.integers(2))),
    lambda x, r: x.reshape(x.shape[1], x.shape[0]),
    lambda x, r: F.softmax(x, 1),
    lambda x, r: x - x.mean(int(r.integers(2)), keepdim=True).nan_to_num(),
    lambda x, r: x.sum(1, keepdim=True) * graphc.arange(x.shape[1]),
    lambda x, r: x @ x.t() / (x.shape[1] + 1),
    lambda x, r: x.t() @ x / (x.numel() + 1),
    lambda x, r: graphc.where(x > 0, x, -x.size(1)),
    lambda x, r: x.cumsum(1) / (1 + graphc.arange(x.shape[1])),
    lambda x, r: x.roll(1, 0),
    lambda x, r: x.unsqueeze(1).expand(-1, 3, -1).reshape(3 * x.shape[0], x.shape[1]),
    lambda x, r: (x.unsqueeze(2) * x.unsqueeze(1)).sum(2),
    lambda x, r: F.layer_norm(x.unsqueeze(2).expand(-1, -1, 4) + graphc.arange(4), (4,)).flatten(1),
)


def _function(seed: int) -> Callable[[Any, Any], Any]:
    def function(x: Any, y: Any) -> Any:
        rng = np.random.default_rng(seed)
        value = x @ y if rng.integers(2) else x.sin()
        for choice in rng.integers(len(UNARY), size=STEPS):
            value = UNARY[choice](value, rng).clamp(-4, 4)
        return value, value.sum() / 3

    return function


@pytest.mark.parametrize("seed", range(10))
def test_random_functions(seed: int) -> None:
    function = _function(seed)
    compiled = graphc.compile(function, dynamic={"x": {0: "m", 1: "k"}, "y": {0: "k"}})
    rng = np.random.default_rng(1000 + seed)
    for m, k in SIZES:
        x, y = (graphc.from_numpy(rng.standard_normal(s).astype(np.float32)) for s in ((m, k), (k, 5)))
        for got, want in zip(compiled(x, y), function(x, y), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-4, atol=1e-4, err_msg=f"{m}, {k}")
    assert compiled.cache_info().misses == 1
