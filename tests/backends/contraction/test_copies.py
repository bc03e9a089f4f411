"""Products with a vector whose matrix is copied along k: the bits of the same product by a matrix that stands in memory."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.llvm.contraction import scratch_bytes
from graphc.backends.llvm.contraction.copies import find_copies
from graphc.backends.llvm.contraction.problem import readings
from graphc.backends.llvm.contraction.vector import STEPS
from graphc.ir.target import TARGETS
from graphc.ir.types import DType, float32, float64
from tests.backends.contraction.kernels import Convolution, matmul
from tests.backends.contraction.native import Native
from tests.backends.contraction.test_convolution import taps

# Weight gradients of one output channel, and whether one copy serves all offsets along an axis.
CASES = [
    (Convolution(1, 1, 28, 28, 1, 3, 3, pad=1), True),
    (Convolution(1, 1, 13, 9, 1, 3, 3), True),
    (Convolution(1, 2, 60, 61, 1, 5, 3, pad=2), True),
    (Convolution(1, 3, 15, 14, 1, 2, 7, pad=3), True),
    (Convolution(1, 1, 31, 24, 1, 3, 3, pad=1, stride=2), False),
    (Convolution(1, 1, 20, 30, 1, 3, 3, pad=2, dilation=2), False),
    (Convolution(3, 1, 28, 31, 1, 3, 3, pad=1), False),
    (Convolution(2, 4, 40, 33, 1, 3, 3, pad=1), False),
    (Convolution(1, 1, 300, 290, 1, 3, 3, pad=1), False),
]


@pytest.mark.parametrize("dtype", [float32, float64])
@pytest.mark.parametrize(("case", "shared"), CASES, ids=str)
def test_bits_are_those_of_a_matrix_in_memory(case: Convolution, shared: bool, dtype: DType) -> None:
    kernel = case.weight_gradient(dtype)
    (problem,) = [p for p in readings(kernel, None) if p.is_vector and p.b.rows.total > 1]
    copies = find_copies(problem, STEPS)
    assert copies is not None
    assert (copies.shift is not None) == shared
    rng = np.random.default_rng(0)
    x, dw, dy = (rng.standard_normal(s).astype(dtype.numpy) for s in case.shapes)
    columns = [np.moveaxis(v, 1, 0).reshape(case.c, -1) for _, _, v in taps(case, x)]
    matrix = np.ascontiguousarray(np.stack(columns, 1).reshape(dw.size, -1).astype(dtype.numpy))
    k = matrix.shape[1]
    for target in (TARGETS["x86-64"], TARGETS["x86-64-v3"]):
        product = Native(matmul(1, dw.size, k, dtype, b_transposed=True), target)
        expected = product([dy.reshape(1, k), matrix, np.zeros((1, dw.size), dtype.numpy)])[2]
        native = Native(kernel, target)
        for parts in (1, 2, 3):
            got = native([x, dy, dw], parts)[2]
            assert np.array_equal(got.ravel(), expected.ravel()), (target.name, parts)
        assert scratch_bytes(kernel, target) <= 1 << 19
