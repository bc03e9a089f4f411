"""Convolutions in groups, and their gradients: random sizes, small integers, so that every sum is exact.

A group's sums are a vector times a matrix, or a few rows, over maps whose width is no multiple of a vector: other plans
than those of ordinary convolutions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
import graphc.nn.functional as F
from tests.backends.contraction.kernels import Convolution
from tests.backends.contraction.test_convolution import forward, input_gradient, weight_gradient


def check(groups: int, case: Convolution, seed: int) -> None:
    """`case` is the convolution of one group."""
    rng = np.random.default_rng(seed)
    drawn = [[rng.integers(-3, 4, s).astype(np.float32) for s in case.shapes] for _ in range(groups)]
    # Channels of the input and of the incoming gradient are those of all groups in turn; so are the filters.
    x, w, dy = (
        np.concatenate(parts, axis) for parts, axis in zip(zip(*drawn, strict=True), (1, 0, 1), strict=True)
    )

    def run(x: Any, w: Any, dy: Any) -> Any:
        def apply(x: Any, w: Any) -> Any:
            return F.conv2d(x, w, stride=case.stride, padding=case.pad, dilation=case.dilation, groups=groups)

        gradients = graphc.func.grad(lambda x, w: (apply(x, w) * dy).sum(), argnums=(0, 1))
        return apply(x, w), *gradients(x, w)

    found = graphc.compile(run)(*map(graphc.tensor, (x, w, dy)))
    wanted = (
        np.concatenate([forward(case, a, b) for a, b, _ in drawn], 1),
        np.concatenate([input_gradient(case, d, b) for _, b, d in drawn], 1),
        np.concatenate([weight_gradient(case, a, d) for a, _, d in drawn], 0),
    )
    for name, got, want in zip(("result", "input gradient", "weight gradient"), found, wanted, strict=True):
        wrong = np.argwhere(got.numpy() != want)
        assert not len(wrong), f"{name} of {groups} groups of {case}: {len(wrong)} wrong, first at {wrong[0]}"


@pytest.mark.parametrize("seed", range(24))
def test_random(seed: int) -> None:
    rng = np.random.default_rng(seed)
    while True:
        case = Convolution(
            int(rng.integers(1, 4)), int(rng.integers(1, 6)), int(rng.integers(3, 20)), int(rng.integers(3, 36)),
            int(rng.integers(1, 9)), int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 3)),
            int(rng.integers(0, 3)), int(rng.integers(1, 3)),
        )  # fmt: skip
        if min(case.oh, case.ow) >= 1:
            break
    check(int(rng.integers(2, 7)), case, seed)


SHAPES = [
    (4, Convolution(2, 4, 15, 15, 8, 3, 3, pad=2, dilation=2)),
    (4, Convolution(2, 4, 15, 15, 8, 5, 5, pad=2)),
    (16, Convolution(2, 1, 15, 15, 1, 3, 3, pad=1)),
    (16, Convolution(3, 1, 13, 29, 2, 3, 3, pad=1, stride=2)),
    (3, Convolution(1, 12, 9, 33, 4, 1, 1)),
]


@pytest.mark.parametrize(("groups", "case"), SHAPES)
def test_shapes(groups: int, case: Convolution) -> None:
    check(groups, case, 0)
