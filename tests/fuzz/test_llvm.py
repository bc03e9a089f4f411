"""Random graphs, compiled: within bounds of the reference, and the same bits fused or not, on any threads.

The ordinary run is the same few hundred graphs every time; the slow ones look for new trouble.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings

from graphc.ir import parse
from graphc.ir.families import Gather, Scatter
from graphc.ir.graph import Value
from tests.fuzz.agreement import check_agreement
from tests.fuzz.graphs import Program, programs
from tests.fuzz.shaped import shaped_programs
from tests.sampling import draw

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
FOUND = sorted((Path(__file__).parent / "found").glob("*.graph"))
"""Shrunk graphs that once failed; the comment at the top of each says how."""


def check(program: Program) -> None:
    note(str(program.graph))
    check_agreement(program.graph, program.arrays)


@settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=CHECKS, phases=[Phase.generate]
)
@given(shaped_programs(max_steps=8))
def test_shapes(program: Program) -> None:
    check(program)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=CHECKS, phases=[Phase.generate]
)
@given(programs(max_ops=8))
def test_registry(program: Program) -> None:
    check(program)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=CHECKS)
@given(shaped_programs(max_steps=14))
def test_many_shapes(program: Program) -> None:
    check(program)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=CHECKS)
@given(programs(max_ops=20))
def test_much_of_the_registry(program: Program) -> None:
    check(program)


@pytest.mark.parametrize("path", FOUND, ids=lambda p: p.stem)
def test_found(path: Path) -> None:
    text = "".join(line for line in path.read_text().splitlines(True) if not line.startswith("//"))
    graph = parse(text)
    rng = np.random.default_rng(0)
    for how in ("normal", "any", "special"):
        check_agreement(graph, [draw(v.type, _how(v, how), rng) for v in graph.inputs])


def _how(value: Value, how: str) -> str:
    """Positions that are in range for an operand of indices."""
    extents = list(_extents(value))
    return f"index:{min(extents)}" if extents else how


def _extents(value: Value) -> Iterator[int]:
    for op, index in value.uses:
        if isinstance(op, Gather | Scatter) and index == 1:
            extent = op.operands[0].type.shape[op.attrs["axis"]]
            assert isinstance(extent, int)
            yield extent
