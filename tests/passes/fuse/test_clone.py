"""What is made of an input by one cheap op is made where it is read."""

from __future__ import annotations

import pytest

from graphc.ir import Builder, Graph
from graphc.passes import run_pipeline
from graphc.passes.differentiate import differentiate
from graphc.passes.pipeline import OPTIMISE
from tests.passes.models import tensor
from tests.passes.programs import build, kernel_count


@pytest.mark.parametrize("rows", [8, 4096])
def test_a_loss_gradient_is_made_with_its_rows(rows: int) -> None:
    classes = 30
    graph = Graph("loss")
    scores = graph.add_input(tensor("f32", rows, classes), "argument")
    targets = graph.add_input(tensor("i64", rows), "argument")
    b = Builder(graph)
    loss = b.cross_entropy(scores, targets)
    graph.outputs = [loss, *differentiate(graph, [loss], [b.full((), 2.0, loss.type.dtype)], [scores])]
    run_pipeline(graph, OPTIMISE)
    _, program = build(graph)
    # The number of targets that count, all rows with their gradient, the mean.
    assert kernel_count(program) == 3
    assert program.arena_bytes < 4 * rows * classes
