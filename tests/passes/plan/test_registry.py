"""Each op of the registry, alone, through fuse, lower, schedule and plan against its reference."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.reference import run
from graphc.ir import REGISTRY, Builder, Graph
from graphc.passes import run_pipeline
from tests.passes.programs import execute
from tests.sampling import draw_sample, regions_of

TOLERANCE = {"f16": 4e-3, "bf16": 3e-2, "f32": 2e-5, "f64": 1e-6}
"""Of the NumPy interpreter's own arithmetic; indexing mistakes are far larger."""


@pytest.mark.parametrize("name", sorted(n for n, c in REGISTRY.items() if "structural" not in c.traits))
def test_op(name: str) -> None:
    cls = REGISTRY[name]
    for sample in cls.samples():
        if any(not t.is_static for t in sample.operands):
            continue
        graph = Graph(name)
        operands = [graph.add_input(t) for t in sample.operands]
        op = Builder(graph).create(cls, operands, regions_of(sample), **sample.attrs)
        graph.outputs = list(op.results)
        arrays = draw_sample(sample)
        expected = run(graph, *arrays)
        run_pipeline(graph, "decompose")
        for got, want in zip(execute(graph, arrays), expected, strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape, (sample, got.shape, want.shape)
            if op.results[0].type.dtype.is_floating_point:
                tolerance = TOLERANCE[op.results[0].type.dtype.name]
                np.testing.assert_allclose(
                    got.astype(np.float64),
                    want.astype(np.float64),
                    rtol=tolerance,
                    atol=tolerance,
                    err_msg=str(sample),
                )
            else:
                np.testing.assert_array_equal(got, want, err_msg=str(sample))
