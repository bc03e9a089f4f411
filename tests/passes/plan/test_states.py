"""States, outputs and checks: what is written in place, what is copied, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from graphc.backends.reference import run
from graphc.ir import Builder, Graph, Value
from graphc.ir.program import Program
from tests.passes.kernel_interpreter import CheckFailed, run_program
from tests.passes.models import new_state, tensor
from tests.passes.programs import build, execute, kernel_count

Make = Callable[[Graph, Builder, Sequence[Value]], None]
"""Fills a graph that has an argument x: f32[4, 3] and states s, t: f32[4, 3]."""


def swap(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new_state(g, v[1], v[2])
    new_state(g, v[2], v[1])


def update(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new_state(g, v[1], b.sub(v[1], v[0]))


def update_and_return(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new = b.sub(v[1], v[0])
    g.outputs.append(new)
    new_state(g, v[1], new)


def read_old_after(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new = b.mul(v[1], 2.0)
    new_state(g, v[1], new)
    g.outputs.append(b.dot(new, v[1], contract=((1,), (1,))))


def reverse_into_itself(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new_state(g, v[1], b.reshape(b.permute(b.reshape(v[1], shape=(2, 6)), axes=(1, 0)), shape=(4, 3)))


def cross_update(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new_state(g, v[1], b.add(v[1], b.permute(b.reshape(v[2], shape=(3, 4)), axes=(1, 0))))
    new_state(g, v[2], b.add(v[2], b.permute(b.reshape(v[1], shape=(3, 4)), axes=(1, 0))))


def same_twice(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new = b.exp(v[0])
    new_state(g, v[1], new)
    new_state(g, v[2], new)
    g.outputs += [new, new, v[0], v[1]]


def constant_state(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new_state(g, v[1], b.constant(np.arange(12, dtype=np.float32).reshape(4, 3)))


def argument_state(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new_state(g, v[1], v[0])
    g.outputs.append(b.add(v[1], 1.0))


def unchanged(g: Graph, b: Builder, v: Sequence[Value]) -> None:
    new_state(g, v[1], v[1])


CASES: dict[str, tuple[Make, int]] = {
    "update": (update, 1),
    "update_and_return": (update_and_return, 2),
    "read_old_after": (read_old_after, 3),
    "reverse_into_itself": (reverse_into_itself, 2),
    "cross_update": (cross_update, 3),
    "swap": (swap, 3),
    "same_twice": (same_twice, 6),
    "constant_state": (constant_state, 1),
    "argument_state": (argument_state, 2),
    "unchanged": (unchanged, 0),
}
"""What a graph does, and its number of kernels, copies included."""


def make_graph(make: Make) -> Graph:
    graph = Graph("states")
    x = graph.add_input(tensor("f32", 4, 3), "argument", "x")
    s = graph.add_input(tensor("f32", 4, 3), "parameter", "s")
    t = graph.add_input(tensor("f32", 4, 3), "buffer", "t")
    make(graph, Builder(graph), (x, s, t))
    return graph


@pytest.mark.parametrize("name", CASES)
def test_states(name: str) -> None:
    make, kernels = CASES[name]
    graph = make_graph(make)
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((4, 3)).astype(np.float32) for _ in graph.inputs]
    fused, program = build(graph)
    assert kernel_count(program) == kernels, f"{fused}\n{program}"
    for got, want in zip(execute(graph, arrays), run(graph, *arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_failing_kernels_come_before_writes() -> None:
    program = checked_update()
    writing = [n for n, phase in enumerate(program.phases) if phase.writes_state]
    failing = [n for n, phase in enumerate(program.phases) if any(c.kernel.checks for c in phase.calls)]
    assert writing and failing and max(failing) < min(writing)
    (check,) = program.checks
    assert check.exception == "IndexError" and check.message == "out of range"


def checked_update() -> Program:
    """Scales a state, and gathers from it at positions that are checked."""
    graph = Graph("checked")
    i = graph.add_input(tensor("i64", 2, 3), "argument", "i")
    s = graph.add_input(tensor("f32", 4, 3), "parameter", "s")
    b = Builder(graph)
    graph.outputs = [b.gather(s, i, axis=0, check="IndexError: out of range")]
    new_state(graph, s, b.mul(s, 2.0))
    return build(graph)[1]


@pytest.mark.parametrize("bad", (-1, 4))
def test_a_failing_check_leaves_states_alone(bad: int) -> None:
    program = checked_update()
    state = np.ones((4, 3), np.float32)
    with pytest.raises(CheckFailed) as failure:
        run_program(program, [np.full((2, 3), bad)], [state])
    assert failure.value.number == 0
    np.testing.assert_array_equal(state, 1)


def test_a_dying_temporary_is_reused() -> None:
    """Two matrix products in a row with work after each: the second input's buffer is not enough."""
    graph = Graph("reuse")
    x = graph.add_input(tensor("f32", 64, 64), "argument", "x")
    b = Builder(graph)
    h = b.exp(b.dot(x, x, contract=((1,), (0,))))
    rows = b.sum(h, axes=(0,))
    graph.outputs = [b.dot(b.mul(h, b.broadcast_to(rows, (64, 64))), x, contract=((1,), (0,)))]
    _, program = build(graph)
    assert program.arena_bytes <= 2 * 64 * 64 * 4 + 64 * 4
