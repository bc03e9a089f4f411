"""Phases: large temporaries are not kept alive by kernels that could run before, small programs keep few barriers."""

from __future__ import annotations

import itertools

import pytest

import graphc
from graphc import nn
from graphc.compiler.driver import lower_graph, make_context
from graphc.ir.program import Program

DEPTH = 5


def training_program(batch: int, width: int) -> Program:
    """A training step of `DEPTH` square layers with ReLU; each activation is `batch` × `width` × 4 bytes."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 1))
    optimizer = graphc.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(x: graphc.Tensor) -> graphc.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    graph = graphc.compile(step).trace(graphc.zeros(batch, width))
    program: Program = lower_graph(graph, make_context()).program
    return program


@pytest.mark.parametrize(
    ("batch", "width", "activations", "phases"),
    [
        # What must live: the activations not yet used, a gradient and the one made of it.
        (4096, 128, DEPTH + 1, 18),
        # So little memory is not worth a barrier: a phase a layer, forward and backward, and those around the loss.
        (64, 32, None, 2 * DEPTH + 4),
    ],
    ids=["large", "small"],
)
def test_what_lives_at_once(batch: int, width: int, activations: int | None, phases: int) -> None:
    program = training_program(batch, width)
    assert len(program.phases) <= phases
    if activations is not None:
        scratch = program.scratch_bytes
        assert program.arena_bytes <= 4 * batch * width * (activations + 0.1) + scratch


def test_scratch_memory_is_one_for_a_phase() -> None:
    program = training_program(4096, 128)
    used = [{c.scratch for c in p.calls if c.scratch >= 0} for p in program.phases]
    assert any(used) and all(len(rows) <= 1 for rows in used)
    assert not any(a & b for a, b in itertools.combinations(used, 2))
    assert program.scratch_bytes == max(program.buffers[r].type.nbytes for rows in used for r in rows)
