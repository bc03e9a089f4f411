"""Random contractions, exact on small integers: sizes, layouts, batches, strides and partitions drawn by seed."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.llvm import contraction
from graphc.backends.llvm.contraction.phases import phases
from graphc.backends.llvm.contraction.plan import all_plans
from graphc.ir.target import TARGETS
from graphc.ir.types import bfloat16, float16, float32, float64
from tests.backends.contraction.kernels import Convolution, matmul
from tests.backends.contraction.native import Native
from tests.backends.contraction.test_convolution import forward, input_gradient, weight_gradient
from tests.backends.contraction.test_matmul import product, small_integers

_SIZES = (1, 2, 3, 5, 7, 8, 12, 16, 17, 33, 50, 96, 130)
_STEPS = (1, 2, 9, 31, 32, 64, 100, 330, 700)


def check_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n, batch = (int(rng.choice(s)) for s in (_SIZES, _SIZES, (0, 0, 2, 9)))
    k = int(rng.choice(_STEPS))
    dtype = [float32, float32, float64, bfloat16, float16][rng.integers(5)]
    options = {key: bool(rng.integers(2)) for key in ("a_transposed", "b_transposed", "out_transposed")}
    target = TARGETS[["x86-64", "x86-64-v3"][rng.integers(2)]]
    kernel = matmul(m, n, k, dtype, batch=batch, **options)  # type: ignore[arg-type]
    x, y, out = (small_integers(b.type.sizes, dtype, seed + i) for i, b in enumerate(kernel.buffers))
    got = Native(kernel, target)([x, y, out], int(rng.integers(1, 6)))[2]
    assert np.array_equal(got, product(x, y, options).astype(np.float32).astype(dtype.numpy)), (
        m,
        n,
        k,
        batch,
        options,
    )


def draw_convolution(rng: np.random.Generator) -> Convolution:
    """A convolution with at least one output position."""
    while True:
        n, c, o = (int(rng.integers(1, top)) for top in (5, 20, 20))
        h, w, r, s = (
            int(rng.integers(1, 20)),
            int(rng.integers(1, 36)),
            int(rng.integers(1, 5)),
            int(rng.integers(1, 5)),
        )
        drawn = Convolution(
            n, c, h, w, o, r, s, int(rng.integers(1, 4)), int(rng.integers(0, 3)), int(rng.integers(1, 3))
        )
        if min(drawn.oh, drawn.ow) >= 1:
            return drawn


def check_convolution(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw_convolution(rng)
    target = TARGETS[["x86-64", "x86-64-v3"][rng.integers(2)]]
    x, w, dy = (rng.integers(-3, 4, s).astype(np.float32) for s in case.shapes)
    which = int(rng.integers(3))
    kernel, operands, expected = [
        lambda: (case.forward(float32), (x, w), forward(case, x, w)),
        lambda: (case.weight_gradient(float32), (x, dy), weight_gradient(case, x, dy)),
        lambda: (case.input_gradient(float32), (dy, w), input_gradient(case, dy, w)),
    ][which]()
    native = Native(kernel, target)
    got = native([*operands, np.zeros(expected.shape, np.float32)], int(rng.integers(1, 6)))[2]
    assert np.array_equal(got, expected.astype(np.float32)), (case, which)


def check_plans(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plan of a random convolution gives the same bits on random values."""
    rng = np.random.default_rng(seed)
    case = draw_convolution(rng)
    target = TARGETS[["x86-64", "x86-64-v3"][rng.integers(2)]]
    makes = [(case.forward, (0, 1, 2)), (case.weight_gradient, (0, 2, 1)), (case.input_gradient, (2, 1, 0))]
    make, order = makes[int(rng.integers(3))]
    kernel = make(float32)
    arrays = [rng.standard_normal(case.shapes[i], np.float32) for i in order]
    results = set()
    choices = [all_plans(phase, target) for phase in phases(kernel)]
    for number in range(max(map(len, choices))):
        plans = [c[number % len(c)] for c in choices]
        monkeypatch.setattr(contraction, "_plans", lambda k, t, plans=plans: plans)
        results.add(Native(kernel, target)(arrays, int(rng.integers(1, 4)))[2].tobytes())
    assert len(results) == 1, (case, make.__name__)


@pytest.mark.parametrize("seed", range(8))
def test_every_plan_has_the_same_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_plans(seed, monkeypatch)


@pytest.mark.parametrize("seed", range(12))
def test_products(seed: int) -> None:
    check_product(seed)


@pytest.mark.parametrize("seed", range(12))
def test_convolutions(seed: int) -> None:
    check_convolution(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 400))
def test_many(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_product(seed)
    check_plans(seed, monkeypatch)
    monkeypatch.undo()
    check_convolution(seed)
