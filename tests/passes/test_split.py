"""Forward and backward graphs made by `split_joint` compute what the joint graph computes."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.reference import run
from graphc.ir import Graph, parse
from graphc.passes.differentiate import differentiate
from graphc.passes.split import SplitJoint, split_joint

LINEAR = """
graph @linear(%x: f64[3, 5] argument, %w: f64[4, 5] parameter) -> (f64[]) {
  %y: f64[3, 4] = dot %x, %w {contract=[[1], [1]], batch=[[], []]}
  %z: f64[3, 4] = mul %y, %y
  %l: f64[] = sum %z {axes=[0, 1]}
  return %l
}"""
CHEAP = """
graph @cheap(%x: f64[3] argument, %w: f64[3] parameter) -> (f64[]) {
  %a: f64[3] = add %x, %w
  %b: f64[3] = mul %a, %a
  %l: f64[] = sum %b {axes=[0]}
  return %l
}"""
EXPANDED = """
graph @expanded(%x: f64[3, 5] argument, %w: f64[3, 5] parameter) -> (f64[]) {
  %s: f64[3] = sum %x {axes=[1]}
  %r: f64[3, 1] = reshape %s {shape=[3, 1]}
  %e: f64[3, 5] = expand %r {shape=[3, 5]}
  %y: f64[3, 5] = mul %e, %w
  %l: f64[] = sum %y {axes=[0, 1]}
  return %l
}"""
OVERWRITTEN = """
graph @overwritten(%x: f64[3] argument, %w: f64[3] buffer) -> (f64[], f64[3]) {
  %y: f64[3] = mul %x, %w
  %l: f64[] = sum %y {axes=[0]}
  %n: f64[3] = add %w, %x
  return %l, %n -> %w
}"""
RETURNED = """
graph @returned(%x: f64[3, 5] argument, %w: f64[4, 5] parameter) -> (f64[3, 4], f64[]) {
  %y: f64[3, 4] = dot %x, %w {contract=[[1], [1]], batch=[[], []]}
  %z: f64[3, 4] = mul %y, %y
  %l: f64[] = sum %z {axes=[0, 1]}
  return %y, %l
}"""
ZERO = """
graph @zero(%x: f64[3] argument, %w: f64[3] parameter, %u: f64[3] parameter) -> (f64[]) {
  %y: f64[3] = mul %x, %w
  %l: f64[] = sum %y {axes=[0]}
  return %l
}"""

NORMALISED = """
graph @normalised(%x: f64[3, 5] argument, %w: f64[5, 5] parameter, %s: f64[5] parameter) -> (f64[]) {
  %y: f64[3, 5] = dot %x, %w {contract=[[1], [1]], batch=[[], []]}
  %n: f64[3, 5] = layer_norm %y, %s {rank=1, eps=1e-05}
  %m: f64[3, 5] = mul %n, %n
  %l: f64[] = sum %m {axes=[0, 1]}
  return %l
}"""
ACTIVATED = """
graph @activated(%x: f64[3, 5] argument, %w: f64[5, 5] parameter) -> (f64[]) {
  %y: f64[3, 5] = dot %x, %w {contract=[[1], [1]], batch=[[], []]}
  %n: f64[3, 5] = relu %y
  %l: f64[] = sum %n {axes=[0, 1]}
  return %l
}"""
DROPPED = """
graph @dropped(%x: f64[3, 5] argument, %r: i64[2] rng) -> (f64[], i64[2]) {
  %y: f64[3, 5] = dropout %x, %r {p=0.5, offset=0}
  %l: f64[] = sum %y {axes=[0, 1]}
  %q: i64[2] = add %r, %r
  return %l, %q -> %r
}"""


def arrays_for(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(4 * rng.standard_normal(v.type.sizes)).astype(v.type.dtype.numpy) for v in graph.inputs]


def run_split(
    split: SplitJoint, inputs: list[np.ndarray], cotangents: list[np.ndarray]
) -> list[np.ndarray | None]:
    split.forward.verify()
    split.backward.verify()
    outputs = run(split.forward, *inputs)
    fed = [inputs[i] if kind == "input" else outputs[i] for kind, i in split.sources]
    found = run(split.backward, *fed, *cotangents)
    return [None if i is None else found[i] for i in split.gradients]


def joint_gradients(
    text: str, root: int, wrt: list[int], inputs: list[np.ndarray], seed: np.ndarray
) -> list[np.ndarray | None]:
    graph = parse(text)
    cotangent = graph.add_input(graph.outputs[root].type)
    grads = differentiate(graph, [graph.outputs[root]], [cotangent], [graph.inputs[i] for i in wrt])
    graph.outputs = [g for g in grads if g is not None]
    found = iter(run(graph, *inputs, seed))
    return [None if g is None else next(found) for g in grads]


@pytest.mark.parametrize(
    ("text", "root", "wrt", "sources"),
    [
        pytest.param(LINEAR, 0, [0, 1], {("input", 0), ("input", 1), ("residual", 1)}, id="dot kept"),
        pytest.param(CHEAP, 0, [1], {("input", 0), ("input", 1)}, id="add computed again"),
        pytest.param(EXPANDED, 0, [0, 1], {("residual", 1), ("input", 1)}, id="kept before it is expanded"),
        pytest.param(OVERWRITTEN, 0, [0], {("residual", 2)}, id="overwritten input kept"),
        pytest.param(RETURNED, 1, [1], {("input", 0), ("residual", 0)}, id="own output is a residual"),
        pytest.param(ZERO, 0, [1, 2], {("input", 0)}, id="symbolic zero"),
    ],
)
def test_split(text: str, root: int, wrt: list[int], sources: set[tuple[str, int]]) -> None:
    graph = parse(text)
    before = str(graph)
    inputs = arrays_for(graph)
    seed = np.asarray(0.75)
    split = split_joint(graph, [graph.outputs[root]], [graph.inputs[i] for i in wrt])
    assert str(graph) == before
    assert set(split.sources) == sources
    expected = joint_gradients(text, root, wrt, inputs, seed)
    found = run_split(split, inputs, [seed])
    assert [g is None for g in found] == [g is None for g in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(run(split.forward, *inputs), run(graph, *inputs), strict=False):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        # Not the expanded value, but what it is expanded from.
        pytest.param(EXPANDED, ["f64[3]"], id="expanded"),
        # The normalised rows and one scale each: no reduction runs twice.
        pytest.param(NORMALISED, ["f64[3, 5]", "f64[3]"], id="normalised"),
        # Where nothing else needs the activation, its mask.
        pytest.param(ACTIVATED, ["bool[3, 5]"], id="activated"),
        # The mask, and the random state, which moves on: two numbers to draw again by.
        pytest.param(DROPPED, ["bool[3, 5]", "i64[2]"], id="dropped"),
    ],
)
def test_kept(text: str, kept: list[str]) -> None:
    graph = parse(text)
    wrt = [v for v in graph.inputs if v.type.dtype.is_floating_point]
    split = split_joint(graph, [graph.outputs[0]], wrt)
    assert sorted(str(v.type) for v in split.forward.outputs[len(graph.outputs) :]) == sorted(kept)
    inputs, seed = arrays_for(graph), np.asarray(0.75)
    expected = joint_gradients(text, 0, [v.index for v in wrt], inputs, seed)
    for a, b in zip(run_split(split, inputs, [seed]), expected, strict=True):
        assert a is not None and b is not None
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
