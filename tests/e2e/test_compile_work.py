"""The work of compiling grows with the number of ops and no faster: counted in Python calls, not in seconds."""

from __future__ import annotations

import cProfile
import pstats

import graphc
from graphc import nn, optim
from graphc.compiler.lowering import lower_graph, make_context
from graphc.ir.kernel import Kernel
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


def test_kernels_are_told_of_once_they_will_not_change() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @graphc.compile
    def step(x: graphc.Tensor, target: graphc.Tensor) -> graphc.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    graph = step.trace(graphc.zeros(4, 3, 8, 8), graphc.zeros(4, dtype=graphc.int64))
    told: list[Kernel] = []
    stages = lower_graph(graph, make_context(), on_kernel=told.append)
    used = {str(call.kernel) for phase in stages.program.phases for call in phase.calls}
    assert told and {str(kernel) for kernel in told} <= used
