"""The work of compiling grows with the number of ops and no faster: counted in Python calls, not in seconds."""

from __future__ import annotations

import cProfile
import pstats

from graphc.compiler.driver import lower_graph, make_context
from tests.benchmarks.compile_time import chain


def calls(ops: int) -> int:
    """Calls that taking a graph of `ops` ops through all stages makes."""
    graph, context = chain(ops), make_context()
    profile = cProfile.Profile()
    profile.enable()
    lower_graph(graph, context)
    profile.disable()
    total: int = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    return total


def test_calls_are_linear_in_ops() -> None:
    calls(40)  # what is made once for all programs
    small, large = calls(100), calls(400)
    assert small > 100 * 100, "the count counts"
    assert large < 4.6 * small
