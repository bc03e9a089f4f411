"""Offsets in the arena: no two live buffers overlap, and little is wasted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir import Graph
from graphc.passes.plan.arena import ALIGNMENT, Lifetime, assign_offsets, most_live, places_below, stacked
from tests.passes.models import MODELS
from tests.passes.programs import build

lifetimes = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 8)).map(
        lambda t: Lifetime(t[0], t[1], t[1] + t[2])
    ),
    max_size=40,
)


@settings(deadline=None, derandomize=True)
@given(lifetimes)
def test_live_buffers_do_not_overlap(buffers: list[Lifetime]) -> None:
    _check(buffers, *assign_offsets(buffers))


@settings(deadline=None, derandomize=True)
@given(lifetimes, st.lists(st.integers(0, 5000), min_size=40, max_size=40))
def test_the_order_of_places_serves_other_sizes(buffers: list[Lifetime], sizes: list[int]) -> None:
    offsets, total = assign_offsets(buffers)
    below = places_below(buffers, offsets)
    assert stacked(buffers, below)[1] <= total
    others = [Lifetime(size, x.first, x.last) for x, size in zip(buffers, sizes, strict=False)]
    _check(others, *stacked(others, below))


def _check(buffers: list[Lifetime], offsets: list[int], total: int) -> None:
    """No two buffers that live at once share a byte of the arena."""
    placed = list(zip(buffers, offsets, strict=True))
    for x, at in placed:
        assert at % ALIGNMENT == 0 and at + x.size <= total
    for n, (x, at) in enumerate(placed):
        for y, there in placed[:n]:
            together = x.first <= y.last and y.first <= x.last
            assert not (together and x.size and y.size and at < there + y.size and there < at + x.size)
    assert total >= most_live(buffers)


@pytest.mark.parametrize("name", MODELS)
def test_arena_is_within_a_twentieth_of_what_lives(name: str) -> None:
    graph: Graph = MODELS[name][0]()
    _, program = build(graph)
    lives: dict[int, list[int]] = {}
    for n, phase in enumerate(program.phases):
        for call in phase.calls:
            for row in (*call.buffers, *([call.scratch] if call.scratch >= 0 else [])):
                if program.buffers[row].kind == "temporary":
                    lives.setdefault(row, [n, n])[1] = n
    found = [Lifetime(program.buffers[r].type.nbytes, *life) for r, life in lives.items()]
    assert program.arena_bytes <= 1.05 * most_live(found)
