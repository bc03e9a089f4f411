"""On random graphs every pass keeps the meaning, the invariants and a text that round-trips."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings

from graphc.backends.reference import run
from graphc.ir import Graph, parse
from graphc.ir.structure import structure
from graphc.passes import run_pipeline
from graphc.passes.instruments import same
from tests.fuzz.graphs import Program, programs

PASSES = ("canonicalise", "fold", "fold{max_elements=2}", "cse", "dce")
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def check_text(graph: Graph) -> None:
    text = str(graph)
    again = parse(text)
    assert str(again) == text
    assert structure(again) == structure(graph)


def check_meaning(graph: Graph, arrays: list[Any], expected: list[Any], what: str) -> None:
    for i, (a, b) in enumerate(zip(expected, run(graph, *arrays), strict=True)):
        assert same(a, b, exact=True), f"{what} changed output {i} from {a!r} to {b!r}:\n{graph}"


def check_passes(program: Program) -> None:
    """Each pass alone, then all in a row to a fixpoint, before and after decomposition."""
    graph, arrays = program.graph, program.arrays
    note(str(graph))
    for stage in ("", "decompose"):
        if stage:
            run_pipeline(graph, stage)
        graph.verify()
        check_text(graph)
        expected = run(graph, *arrays)
        for text in PASSES:
            changed = graph.copy()
            run_pipeline(changed, text)
            check_text(changed)
            check_meaning(changed, arrays, expected, text)
        for text in PASSES * 2:
            run_pipeline(graph, text)
            check_meaning(graph, arrays, expected, text)
    check_fixpoint(graph)


def check_fixpoint(graph: Graph) -> None:
    """Canonicalisation and folding come to rest: another round changes nothing."""
    for _ in range(3):
        run_pipeline(graph, "canonicalise,fold,cse,dce")
    settled = structure(graph)
    run_pipeline(graph, "canonicalise,fold,cse,dce")
    assert structure(graph) == settled, f"does not come to rest:\n{graph}"


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=CHECKS)
@given(programs())
def test_passes_keep_the_meaning(program: Program) -> None:
    check_passes(program)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=CHECKS)
@given(programs(max_ops=25))
def test_passes_keep_the_meaning_of_many(program: Program) -> None:
    check_passes(program)
