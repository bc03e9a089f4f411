"""A large map that reads a reduction of everything has a kernel, and partitions, of its own."""

from __future__ import annotations

import pytest

from graphc.ir import Builder, Graph
from tests.passes.models import tensor
from tests.passes.programs import build


@pytest.mark.parametrize(("rows", "kernels"), [(16, 1), (4096, 2)])
def test_a_map_after_a_whole_reduction(rows: int, kernels: int) -> None:
    graph = Graph("scaled")
    x, y = graph.add_input(tensor("f32", 100)), graph.add_input(tensor("f32", rows, 100))
    b = Builder(graph)
    total = b.sum(x, axes=(0,))
    graph.outputs = [b.div(y, b.broadcast_to(total, (rows, 100)))]
    _, program = build(graph)
    calls = [call for phase in program.phases for call in phase.calls]
    assert len(calls) == kernels
    assert (calls[-1].parts > 1) == (kernels == 2)
