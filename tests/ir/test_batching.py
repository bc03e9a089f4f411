"""How graphs are batched; that every op does what a loop over the instances does is in `test_derivatives`."""

from __future__ import annotations

from graphc.ir.batching import batch_graph
from graphc.ir.control import While
from graphc.ir.families import REGISTRY, GraphOp, Random
from tests.ir.derivatives import MAPPED
from tests.ir.one_op import graph_of


def test_what_is_one_for_all_is_computed_once() -> None:
    graph, _ = graph_of(REGISTRY["add"], next(iter(REGISTRY["add"].samples())))
    whole, have = batch_graph(graph, [False, False], 3, whole=False)
    assert have == [False] and str(whole) == str(graph)


def test_families_have_a_way_of_their_own() -> None:
    """Only draws from a state and loops without a known length are run instance by instance."""
    for name in MAPPED:
        cls = REGISTRY[name]
        assert (
            cls.batch is not GraphOp.batch or cls.leading is not None or issubclass(cls, (Random, While))
        ), name
