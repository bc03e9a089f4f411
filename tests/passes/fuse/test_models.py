"""What is fused into what: numbers of kernels, and the same results as the reference."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.reference import run
from graphc.ir import Graph
from graphc.ir.graph import Value
from tests.passes.models import MODELS
from tests.passes.programs import APART, TOGETHER, build, execute, kernel_count


def draw(value: Value, rng: np.random.Generator) -> np.ndarray:
    """Small positive numbers (class numbers for integers), so that square roots have one."""
    if value.type.dtype.is_integral:
        return rng.integers(0, 10, value.type.sizes)
    return np.asarray(np.abs(rng.standard_normal(value.type.sizes)) * 0.3 + 0.05, value.type.dtype.numpy)


def check(graph: Graph, kernels: int) -> None:
    rng = np.random.default_rng(1)
    arrays = [draw(v, rng) for v in graph.inputs]
    _, program = build(graph)
    assert kernel_count(program) == kernels, str(build(graph)[0])
    together, apart = execute(graph, arrays, TOGETHER), execute(graph, arrays, APART)
    for i, want in enumerate(run(graph, *arrays)):
        np.testing.assert_allclose(together[i], want, rtol=2e-4, atol=1e-5)
        np.testing.assert_array_equal(together[i], apart[i])


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    make, kernels = MODELS[name]
    check(make(), kernels)
