"""Random loops and branches: the reference, the plan and compiled code agree; gradients survive the passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphc.backends import reference
from graphc.ir import Builder, Graph
from graphc.passes import run_pipeline
from graphc.passes.context import Options
from graphc.passes.differentiate import differentiate
from graphc.passes.pipeline import OPTIMISE
from tests.fuzz.agreement import IN_PARTS, TOGETHER, check_text, execute
from tests.fuzz.control import control_program
from tests.passes import programs

APART = replace(TOGETHER, options=Options(fuse=False))


def check(seed: int) -> None:
    """The bits of a graph are one thing, however it is run."""
    program = control_program(seed)
    graph = program.graph
    graph.verify()
    check_text(graph)
    optimised = graph.copy()
    run_pipeline(optimised, OPTIMISE, TOGETHER)
    check_text(optimised)
    expected = programs.execute(optimised, program.arrays)
    # NumPy's minima and maxima of two zeros of different signs may be either.
    for a, b in zip(expected, reference.run(graph, *program.arrays), strict=True):
        np.testing.assert_array_equal(a, b)
    for context, threads in ((TOGETHER, 1), (APART, 1), (IN_PARTS, 3)):
        for a, b in zip(execute(optimised, program.arrays, context, threads), expected, strict=True):
            assert a.tobytes() == b.tobytes(), (seed, threads)


@pytest.mark.parametrize("seed", range(25))
def test_agreement(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 2000))
def test_much_agreement(seed: int) -> None:
    check(seed)


def joint_of(graph: Graph) -> Graph:
    """The graph with the gradients of the sum of all its different outputs by all inputs as further outputs."""
    joint = graph.copy()
    b = Builder(joint)
    roots = list(dict.fromkeys(joint.outputs))
    joint.outputs = list(roots)
    found = differentiate(
        joint, roots, [b.full(r.type.shape, 1.0, r.type.dtype) for r in roots], joint.inputs
    )
    joint.outputs += [b.zeros_like(v) if g is None else g for g, v in zip(found, joint.inputs, strict=True)]
    return joint


def check_gradients(seed: int) -> None:
    program = control_program(seed, differentiable=True)
    joint = joint_of(program.graph)
    joint.verify()
    rng = np.random.default_rng(seed)
    # No two elements are equal, so that minima, maxima and predicates are decided.
    arrays = [a + rng.uniform(0.1, 0.4, a.shape) for a in program.arrays]
    expected = reference.run(joint, *arrays)
    optimised = joint.copy()
    run_pipeline(optimised, OPTIMISE, TOGETHER)
    for a, b in zip(execute(optimised, arrays, TOGETHER, 2), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    # All that the graph does is linear between decisions, so that a quotient is exact but for rounding.
    steps = [1e-7 * rng.standard_normal(a.shape) for a in arrays]
    ends = [reference.run(joint, *(a + k * s for a, s in zip(arrays, steps, strict=True))) for k in (1, -1)]
    count = len(expected) - len(arrays)
    change = sum(float((a - b).sum()) for a, b in zip(*(e[:count] for e in ends), strict=True))
    slope = sum(float((g * s).sum()) for g, s in zip(expected[count:], steps, strict=True))
    size = sum(float(np.abs(a).sum()) for a in expected) + 1
    assert abs(change - 2 * slope) <= 1e-6 * abs(slope) + 1e-13 * size, (seed, change, slope)


@pytest.mark.parametrize("seed", range(100, 115))
def test_gradients(seed: int) -> None:
    """Compiled gradients are those of the reference, and of a difference quotient along a line."""
    check_gradients(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2000, 2500))
def test_many_gradients(seed: int) -> None:
    check_gradients(seed)
