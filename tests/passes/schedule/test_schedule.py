"""Schedules: the axis in lanes, partitions from the shape, axes joined."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphc.ir import Builder, Graph, Value
from graphc.ir.errors import VerifyError
from graphc.ir.kernel import Kernel, Loop, Schedule
from graphc.passes.context import CompileContext
from graphc.passes.schedule import verify_schedule
from tests.passes.models import tensor
from tests.passes.programs import build

Build = Callable[[Builder, Value], Value]

CASES: dict[str, tuple[tuple[int, ...], Build, str]] = {
    "contiguous axes become one": ((30, 40), lambda b, x: b.neg(x), "o0 unroll 4, o0 vector 8"),
    "a bias keeps two axes": (
        (30, 40),
        lambda b, x: b.add(x, b.graph.add_input(tensor("f32", 40))),
        "o0 sequential, o1 unroll 4, o1 vector 8",
    ),
    "large work is divided": ((1 << 20,), lambda b, x: b.neg(x), "o0 parallel 64, o0 unroll 4, o0 vector 8"),
    "long chains are interleaved": ((1 << 20,), lambda b, x: b.exp(x), "o0 parallel 64, o0 vector 32"),
    "no more lanes than points": ((50,), lambda b, x: b.tanh(b.exp(x)), "o0 vector 32"),
    "lanes of a short axis": ((20,), lambda b, x: b.exp(x), "o0 vector 16"),
    "an interleaved stage": (
        (6, 64),
        lambda b, x: b.sum(b.exp(x), axes=(1,)),
        "o0 sequential | i0 vector 32",
    ),
    "stores decide about a transposition": (
        (32, 48),
        lambda b, x: b.neg(b.permute(x, axes=(1, 0))),
        "o0 sequential, o1 unroll 4, o1 vector 8",
    ),
    "a large transposition is tiled": (
        (160, 144),
        lambda b, x: b.permute(x, axes=(1, 0)),
        "o0 tile 16, o1 tile 16, o0 sequential, o1 vector 8",
    ),
    "a few elements run one by one": ((3,), lambda b, x: b.exp(x), "o0 sequential"),
    "rows are folded along the last axis": (
        (6, 40),
        lambda b, x: b.sum(x, axes=(1,)),
        "o0 sequential | i0 vector 8",
    ),
    "short rows are folded in order": (
        (64, 5),
        lambda b, x: b.sum(x, axes=(1,)),
        "o0 unroll 4, o0 vector 8 | i0 sequential",
    ),
    "columns are folded in order": (
        (40, 16),
        lambda b, x: b.sum(x, axes=(0,)),
        "o0 unroll 2, o0 vector 8 | i0 sequential",
    ),
    "axes next to each other are folded as one": (
        (6, 5, 8),
        lambda b, x: b.sum(x, axes=(1, 2)),
        "o0 sequential | i0 vector 8",
    ),
}


def spell(kernel: Kernel) -> str:
    """Outer loops, then those of stages with inner axes."""
    plan = kernel.schedule
    assert plan is not None
    levels = [plan.loops, *(s for s, stage in zip(plan.stages, kernel.stages, strict=True) if stage.axes)]
    return " | ".join(
        ", ".join(f"{x.axis} {x.role}" + (f" {x.size}" if x.size else "") for x in p) for p in levels
    )


@pytest.mark.parametrize("name", CASES)
def test_schedule(name: str) -> None:
    shape, make, loops = CASES[name]
    graph = Graph("kernel")
    x = graph.add_input(tensor("f32", *shape))
    graph.outputs = [make(Builder(graph), x)]
    _, program = build(graph)
    kernel = program.phases[-1].calls[-1].kernel
    assert spell(kernel) == loops, str(kernel)


PARTS: dict[str, tuple[tuple[int, ...], Build, int]] = {
    "work of three parts is two": ((1 << 18,), lambda b, x: b.neg(x), 2),
    "work of six parts is four": ((1 << 19,), lambda b, x: b.neg(x), 4),
    "what folds accumulators counts": ((96, 1024), lambda b, x: b.argmax(x, axes=(1,)), 4),
    "a sum is two operations an element": ((256, 1024), lambda b, x: b.sum(x, axes=(1,)), 2),
    "little work stays whole": ((1 << 16,), lambda b, x: b.neg(x), 1),
}


@pytest.mark.parametrize("name", PARTS)
def test_partitions(name: str) -> None:
    shape, make, parts = PARTS[name]
    graph = Graph("kernel")
    x = graph.add_input(tensor("f32", *shape))
    graph.outputs = [make(Builder(graph), x)]
    assert build(graph)[1].phases[-1].calls[-1].parts == parts


BAD: dict[str, Schedule] = {
    "unknown axis": Schedule((Loop("q", "sequential"),), ((),)),
    "lanes not innermost": Schedule((Loop("o0", "vector", 8), Loop("o0", "sequential")), ((),)),
    "parallel inside": Schedule((Loop("o0", "sequential"), Loop("o0", "parallel")), ((),)),
    "missing stage": Schedule((), ()),
    "no partition": Schedule((), ((),), 0),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_schedules_are_found(name: str) -> None:
    graph = Graph("kernel")
    x = graph.add_input(tensor("f32", 40))
    graph.outputs = [Builder(graph).exp(x)]
    kernel = build(graph, CompileContext())[1].phases[0].calls[0].kernel
    with pytest.raises(VerifyError):
        verify_schedule(Kernel(kernel.buffers, kernel.axes, kernel.stages, 0, BAD[name]))
