"""Random graphs: fused and unfused programs have the same bits, and those of the reference nearly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings

from graphc.passes import run_pipeline
from tests.fuzz.graphs import Program, programs
from tests.passes.kernel_interpreter import CheckFailed
from tests.passes.programs import APART, TOGETHER, execute

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def check_one_meaning(program: Program) -> None:
    """An op's bits do not depend on what it is fused with. Sums here fold in order in both."""
    graph, arrays = program.graph, program.arrays
    run_pipeline(graph, "decompose,canonicalise,fold,cse,dce")
    note(str(graph))
    try:
        apart = execute(graph, arrays, APART)
    except CheckFailed:
        with pytest.raises(CheckFailed):
            execute(graph, arrays, TOGETHER)
        return
    for i, (a, b) in enumerate(zip(apart, execute(graph, arrays, TOGETHER), strict=True)):
        assert a.dtype == b.dtype
        assert same_bits(a, b), f"output {i}: {a!r} alone, {b!r} fused"


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bits, any NaN being as good as another."""
    wide_a, wide_b = (x.astype(np.float64) if x.dtype.kind not in "iub" else x for x in (a, b))
    if wide_a.dtype.kind == "f":
        nan = np.isnan(wide_a)
        if not np.array_equal(nan, np.isnan(wide_b)):
            return False
        return bool(
            np.array_equal(wide_a[~nan], wide_b[~nan])
            and np.array_equal(np.signbit(wide_a[~nan]), np.signbit(wide_b[~nan]))
        )
    return bool(np.array_equal(a, b))


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=CHECKS, phases=[Phase.generate]
)
@given(programs())
def test_fusion_keeps_the_bits(program: Program) -> None:
    check_one_meaning(program)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=CHECKS)
@given(programs(max_ops=25))
def test_fusion_keeps_the_bits_of_many(program: Program) -> None:
    check_one_meaning(program)
