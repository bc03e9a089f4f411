"""On random graphs gradients are well-typed, survive the passes, and split into two equal programs."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, note, reject, settings

from graphc.backends.reference import run
from graphc.ir import Graph
from graphc.passes import run_pipeline
from graphc.passes.differentiate import differentiate
from graphc.passes.instruments import same
from graphc.passes.split import split_joint
from tests.fuzz.graphs import Program, programs
from tests.fuzz.test_passes import CHECKS, PASSES, check_meaning, check_text
from tests.sampling import draw_like


def check_gradient(program: Program) -> None:
    """The joint graph and the pair of graphs give the same bits for every gradient."""
    graph, arrays = program.graph, program.arrays
    note(str(graph))
    roots = [i for i, v in enumerate(graph.outputs) if v.type.dtype.is_floating_point]
    wrt = [v.index for v in graph.inputs if v.type.dtype.is_floating_point]
    assume(roots and wrt)
    seeds = [draw_like(graph.outputs[i].type, seed=i) for i in roots]
    joint = joint_graph(graph, roots, wrt)
    note(str(joint))
    try:
        expected = run(joint, *arrays, *seeds)
    except (IndexError, RuntimeError):
        reject()  # the program refuses its data
    # Splitting decomposes composite ops, whose own reference may round otherwise.
    decomposed = joint.copy()
    run_pipeline(decomposed, "decompose")
    check_split(graph, roots, wrt, arrays, seeds, run(decomposed, *arrays, *seeds)[len(graph.outputs) :])
    for text in PASSES:
        run_pipeline(joint, text)
        check_text(joint)
        check_meaning(joint, [*arrays, *seeds], expected, text)


def joint_graph(graph: Graph, roots: list[int], wrt: list[int]) -> Graph:
    """A copy that also has the cotangents as inputs and those gradients that are not zero as outputs."""
    joint = graph.copy()
    cotangents = [joint.add_input(joint.outputs[i].type) for i in roots]
    values = [joint.outputs[i] for i in roots]
    found = differentiate(joint, values, cotangents, [joint.inputs[i] for i in wrt], stop=False)
    joint.outputs += [g for g in found if g is not None]
    joint.verify()
    return joint


def check_split(
    graph: Graph, roots: list[int], wrt: list[int], arrays: list[Any], seeds: list[Any], expected: list[Any]
) -> None:
    split = split_joint(graph, [graph.outputs[i] for i in roots], [graph.inputs[i] for i in wrt])
    split.forward.verify()
    split.backward.verify()
    outputs = run(split.forward, *arrays)
    fed = [arrays[i] if kind == "input" else outputs[i] for kind, i in split.sources]
    found = run(split.backward, *fed, *seeds)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert same(a, b, exact=True), f"{a} is not {b}:\n{split.forward}\n{split.backward}"


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=CHECKS)
@given(programs(max_ops=8))
def test_gradients(program: Program) -> None:
    check_gradient(program)
