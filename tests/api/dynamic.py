"""Functions with dynamic dimensions, checked at many sizes: the symbolic graph, as traced once and as the passes
up to fusion leave it, against the same function traced for each size alone, both in the NumPy interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import graphc
from graphc.backends import reference
from graphc.compiler.dynamic import SizeChecks
from graphc.compiler.lowering import make_context
from graphc.ir import parse
from graphc.ir.graph import Graph
from graphc.ir.specialise import specialised
from graphc.passes.decompose import Decompose
from graphc.passes.drop_checks import DropChecks
from graphc.passes.gradients import ExpandGradients
from graphc.passes.manager import run_pipeline
from graphc.passes.pipeline import OPTIMISE

__all__ = ["agree", "optimised"]


def optimised(graph: Graph) -> Graph:
    """A copy of `graph` as it is before fusion; after each stage it verifies, and its text is read back."""
    graph, context = graph.copy(), make_context()
    stages: Sequence[Callable[[], Any]] = (
        lambda: ExpandGradients().run(graph, context),
        lambda: run_pipeline(graph, OPTIMISE, context),
        lambda: Decompose().run(graph, context),
        lambda: DropChecks().run(graph, context),
    )
    for stage in stages:
        stage()
        graph.verify()
        assert str(parse(str(graph))) == str(graph)
    return graph


def agree(
    function: Callable[..., Any],
    dynamic: Any,
    make: Callable[[int], tuple[Any, ...]],
    sizes: Sequence[int] = (2, 0, 1, 3, 7, 20),
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> Graph:
    """Raises AssertionError where the symbolic graph of `function` is wrong at some size; returns the graph.

    `make` gives the arguments, arrays, for a size. Outputs are compared, new states among them.
    """
    compiled, alone = graphc.compile(function, dynamic=dynamic), graphc.compile(function)
    traced = compiled.traced(*make(max(sizes)))
    assert traced.graph.inputs, "nothing to be dynamic"
    checks = SizeChecks(traced.graph, traced.assumptions)
    ready = optimised(traced.graph)
    for size in sizes:
        call = compiled._prepare(make(size), {})
        checks.check(call.sizes)
        arrays = [np.array(t._values()) for t in call.tensors]
        single = alone.traced(*call.args)
        arrays += [np.array(s.memory.array) for s in single.states]
        expected = reference.run(optimised(single.graph), *arrays)
        for graph in (ready, specialised(ready, call.sizes)):
            for got, want in zip(reference.run(graph, *arrays, dims=call.sizes), expected, strict=True):
                assert got.dtype == want.dtype
                np.testing.assert_allclose(
                    got.astype(np.float64), want.astype(np.float64), rtol, atol, err_msg=f"size {size}"
                )
    return traced.graph
