"""Convolutions and both their gradients through the same engine, against loops over filter taps.

Small integers make every sum exact; no copy of a whole input is made, which the scratch size shows.
"""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.llvm.contraction import is_contraction, scratch_bytes
from graphc.ir.target import TARGETS
from graphc.ir.types import float32, float64
from tests.backends.contraction.kernels import Convolution
from tests.backends.contraction.native import Native

CASES = [
    Convolution(1, 1, 5, 5, 1, 3, 3),
    Convolution(2, 3, 8, 9, 5, 3, 3, pad=1),
    Convolution(2, 3, 17, 17, 6, 5, 5),
    Convolution(2, 16, 14, 14, 32, 3, 3, pad=1),
    Convolution(2, 16, 14, 14, 32, 3, 3, pad=1, stride=2),
    Convolution(2, 16, 14, 14, 32, 1, 1),
    Convolution(2, 16, 14, 14, 32, 1, 1, stride=2),
    Convolution(3, 40, 7, 7, 33, 3, 3, pad=2, dilation=2),
    Convolution(9, 5, 2, 2, 7, 3, 3, pad=1),
    Convolution(1, 3, 20, 20, 4, 7, 7, pad=3, stride=2),
    Convolution(2, 3, 9, 11, 4, 2, 2, stride=3),
    Convolution(2, 3, 12, 13, 4, 3, 3, pad=1, stride=3, dilation=2),
    Convolution(2, 3, 13, 11, 4, 3, 3, pad=1, stride=4, dilation=2),
    Convolution(1, 2, 12, 12, 3, 3, 1, pad=2, stride=2, dilation=2),
    Convolution(1, 2, 23, 23, 3, 3, 3, stride=5),
    Convolution(8, 40, 4, 4, 24, 3, 3, pad=1),
    Convolution(8, 40, 2, 2, 24, 3, 3, pad=1),
    Convolution(20, 3, 6, 6, 5, 5, 5),
    Convolution(3, 19, 7, 9, 13, 3, 3, pad=1, stride=2),
    Convolution(2, 4, 1, 40, 9, 1, 5, pad=2),
]


def taps(c: Convolution, x: np.ndarray):
    """(r, s, the padded input's values that tap (r, s) reads for every output position)."""
    padded = np.pad(x, [(0, 0), (0, 0), (c.pad, c.pad), (c.pad, c.pad)])
    for r in range(c.r):
        for s in range(c.s):
            top, left = r * c.dilation, s * c.dilation
            rows = slice(top, top + (c.oh - 1) * c.stride + 1, c.stride)
            columns = slice(left, left + (c.ow - 1) * c.stride + 1, c.stride)
            yield r, s, padded[:, :, rows, columns]


def forward(c: Convolution, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return sum(np.einsum("nchw,oc->nohw", v, w[:, :, r, s]) for r, s, v in taps(c, x))  # type: ignore[return-value]


def weight_gradient(c: Convolution, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    out = np.zeros(c.shapes[1])
    for r, s, v in taps(c, x):
        out[:, :, r, s] = np.einsum("nchw,nohw->oc", v, dy)
    return out


def input_gradient(c: Convolution, dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    n, ch, h, v = c.shapes[0]
    out = np.zeros((n, ch, h + 2 * c.pad, v + 2 * c.pad))
    for r in range(c.r):
        for s in range(c.s):
            top, left = r * c.dilation, s * c.dilation
            rows = slice(top, top + (c.oh - 1) * c.stride + 1, c.stride)
            columns = slice(left, left + (c.ow - 1) * c.stride + 1, c.stride)
            out[:, :, rows, columns] += np.einsum("nohw,oc->nchw", dy, w[:, :, r, s])
    return out[:, :, c.pad : c.pad + h, c.pad : c.pad + v]


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "x".join(map(str, vars(c).values())))
def test_convolution_is_exact(case: Convolution, target: str) -> None:
    rng = np.random.default_rng(1)
    x, w, dy = (rng.integers(-3, 4, s).astype(np.float32) for s in case.shapes)
    checks = [
        (case.forward, (x, w), forward(case, x, w)),
        (case.weight_gradient, (x, dy), weight_gradient(case, x, dy)),
        (case.input_gradient, (dy, w), input_gradient(case, dy, w)),
    ]
    for make, operands, expected in checks:
        native = Native(make(float32), TARGETS[target])
        out = np.zeros(expected.shape, np.float32)
        for parts in (1, 3):
            assert np.array_equal(native([*operands, out], parts)[2], expected.astype(np.float32)), (
                make.__name__
            )


def test_float64() -> None:
    case = CASES[3]
    rng = np.random.default_rng(1)
    x, w = (rng.integers(-3, 4, s).astype(np.float64) for s in case.shapes[:2])
    got = Native(case.forward(float64))([x, w, np.zeros(case.shapes[2])])[2]
    assert np.array_equal(got, forward(case, x, w))


def test_scratch_is_a_block_not_an_input_patch_matrix() -> None:
    case = Convolution(8, 64, 56, 56, 64, 3, 3, pad=1)
    kernel = case.forward(float32)
    assert is_contraction(kernel)
    patches = 4 * case.n * case.oh * case.ow * case.c * case.r * case.s
    assert scratch_bytes(kernel, TARGETS["x86-64-v3"]) * 40 < patches
