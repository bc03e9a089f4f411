"""Reverse mode over whole graphs: against finite differences in float64, and its structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from graphc.backends.reference import run
from graphc.ir import REGISTRY, Builder, Graph, TensorType, parse
from graphc.ir.families import Attrs, Composite, Elementwise, Sample, Types
from graphc.ir.graph import Location, Value
from graphc.ir.types import float64, int64
from graphc.passes import run_pipeline
from graphc.passes.differentiate import differentiate

STEP = 1e-6


@pytest.fixture
def cube() -> Iterator[str]:
    """A composite op without a VJP, x·x·x through another such op, registered for one test."""

    class Square(Composite):
        name = "test_square"
        operand_names = ("x",)

        @classmethod
        def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
            return (types[0],)

        def decompose(self, b: Any) -> Value:
            return b.mul(self.operands[0], self.operands[0])

        @classmethod
        def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
            return arrays[0] * arrays[0]

    class Cube(Square):
        name = "test_cube"

        def decompose(self, b: Any) -> Value:
            return b.mul(b.test_square(self.operands[0]), self.operands[0])

        @classmethod
        def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
            return arrays[0] * arrays[0] * arrays[0]

    yield "test_cube"
    del REGISTRY["test_square"], REGISTRY["test_cube"]


def gradients(graph: Graph, wrt: Sequence[int], output: int = 0) -> list[Value | None]:
    """Gradients of a rank-0 output by input positions, seeded with one."""
    root = graph.outputs[output]
    return differentiate(
        graph, [root], [Builder(graph).full((), 1, root.type.dtype)], [graph.inputs[i] for i in wrt]
    )


def inputs_of(graph: Graph, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(v.type.sizes) + 0.1 for v in graph.inputs]


def check_gradient(text: str, order: int = 1) -> None:
    """The gradient by every input agrees with central differences along a random direction.

    Higher orders differentiate the sum of the squares of the gradients of the order below.
    """
    graph = parse(text)
    for _ in range(order - 1):
        b = Builder(graph)
        terms = [
            b.sum(b.mul(g, g), axes=tuple(range(g.type.rank)))
            for g in gradients(graph, range(len(graph.inputs)))
            if g is not None
        ]
        total = terms[0]
        for term in terms[1:]:
            total = b.add(total, term)
        graph.outputs = [total]
    found = gradients(graph, range(len(graph.inputs)))
    b = Builder(graph)
    graph.outputs += [b.zeros_like(v) if g is None else g for g, v in zip(found, graph.inputs, strict=True)]
    graph.verify()
    arrays = inputs_of(graph)
    directions = inputs_of(graph, seed=1)
    analytic = sum(float((g * d).sum()) for g, d in zip(run(graph, *arrays)[1:], directions, strict=True))
    ahead = run(graph, *(a + STEP * d for a, d in zip(arrays, directions, strict=True)))[0]
    behind = run(graph, *(a - STEP * d for a, d in zip(arrays, directions, strict=True)))[0]
    numeric = float(ahead - behind) / (2 * STEP)
    assert analytic == pytest.approx(numeric, rel=1e-6, abs=1e-6)
    before = run(graph, *arrays)
    run_pipeline(graph)
    for a, c in zip(before, run(graph, *arrays), strict=True):
        np.testing.assert_allclose(c, a, rtol=1e-12, atol=1e-12)


MLP = """
graph @mlp(%x: f64[3, 5] argument, %w: f64[4, 5] parameter, %b: f64[4] parameter) -> (f64[]) {
  %y: f64[3, 4] = dot %x, %w {contract=[[1], [1]], batch=[[], []]}
  %e: f64[3, 4] = expand %b {shape=[3, 4]}
  %z: f64[3, 4] = add %y, %e
  %h: f64[3, 4] = tanh %z
  %s: f64[3, 4] = mul %h, %z
  %l: f64[] = sum %s {axes=[0, 1]}
  return %l
}"""
FAN_OUT = """
graph @fan(%x: f64[4] argument) -> (f64[]) {
  %a: f64[4] = sin %x
  %b: f64[4] = mul %a, %x
  %c: f64[4] = mul %a, %b
  %d: f64[4] = add %c, %a
  %e: f64[4] = sub %d, %d
  %f: f64[4] = mul %d, %d
  %g: f64[4] = add %e, %f
  %l: f64[] = sum %g {axes=[0]}
  return %l
}"""
VIEWS = """
graph @views(%x: f64[2, 3] argument, %y: f64[3] argument) -> (f64[]) {
  %t: f64[3, 2] = permute %x {axes=[1, 0]}
  %r: f64[6] = reshape %t {shape=[6]}
  %q: f64[2, 3] = reshape %r {shape=[2, 3]}
  %e: f64[2, 3] = expand %y {shape=[2, 3]}
  %m: f64[2, 3] = mul %q, %e
  %n: f64[2, 3] = mul %m, %x
  %s: f64[3] = sum %n {axes=[0]}
  %u: f64[3] = exp %s
  %l: f64[] = sum %u {axes=[0]}
  return %l
}"""
BATCHED = """
graph @batched(%x: f64[2, 3, 4] argument, %y: f64[2, 4, 5] argument) -> (f64[]) {
  %d: f64[2, 3, 5] = dot %x, %y {contract=[[2], [1]], batch=[[0], [0]]}
  %e: f64[2, 3, 5] = mul %d, %d
  %l: f64[] = sum %e {axes=[0, 1, 2]}
  return %l
}"""
DETACHED = """
graph @detached(%x: f64[4] argument) -> (f64[]) {
  %a: f64[4] = exp %x
  %d: f64[4] = detach %a
  %m: f64[4] = mul %d, %x
  %l: f64[] = sum %m {axes=[0]}
  return %l
}"""


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("text", [MLP, FAN_OUT, VIEWS, BATCHED], ids=["mlp", "fan out", "views", "batched"])
def test_against_finite_differences(text: str, order: int) -> None:
    check_gradient(text, order)


def test_nothing_flows_through_detach() -> None:
    graph = parse(DETACHED)
    graph.outputs += [g for g in gradients(graph, [0]) if g is not None]
    x = inputs_of(graph)[0]
    np.testing.assert_allclose(run(graph, x)[1], np.exp(x), rtol=1e-15)


def test_unused_and_integer_leaves_have_no_gradient() -> None:
    graph = parse(FAN_OUT)
    unused = graph.add_input(TensorType(float64, (4,)))
    integer = graph.add_input(TensorType(int64, (4,)))
    assert gradients(graph, [unused.index, integer.index]) == [None, None]
    assert gradients(graph, [0])[0] is not None


def test_only_needed_cotangents_are_built() -> None:
    graph = parse(MLP)
    before = len(graph)
    gradients(graph, [2])
    # Neither the product with x nor the one with w is differentiated.
    new = list(graph.ops)[before:]
    assert not any(op.name == "dot" for op in new)
    assert all(r.uses or op is new[-1] for op in new for r in op.results)


def test_leaf_in_the_middle() -> None:
    """With `stop` a leaf's producers are not looked at; without, cotangents flow on."""
    found = {}
    for stop in (True, False):
        graph = parse(FAN_OUT)
        middle = next(op for op in graph.ops if op.name == "sin").results[0]
        seed = Builder(graph).full((), 1, float64)
        pair = differentiate(graph, [graph.outputs[0]], [seed], [middle, graph.inputs[0]], stop=stop)
        graph.outputs += [g for g in pair if g is not None]
        found[stop] = run(graph, *inputs_of(graph))[1:]
    alone = parse(FAN_OUT)
    alone.outputs += [g for g in gradients(alone, [0]) if g is not None]
    np.testing.assert_array_equal(found[True][0], found[False][0])
    np.testing.assert_array_equal(found[False][1], run(alone, *inputs_of(alone))[1])
    assert not np.allclose(found[True][1], found[False][1])


def test_blocked_values_pass_nothing_on() -> None:
    graph = parse(FAN_OUT)
    middle = next(op for op in graph.ops if op.name == "sin").results[0]
    seed = Builder(graph).full((), 1, float64)
    (blocked,) = differentiate(graph, [graph.outputs[0]], [seed], [graph.inputs[0]], blocked=[middle])
    (stopped, _) = reversed(differentiate(graph, [graph.outputs[0]], [seed], [middle, graph.inputs[0]]))
    assert blocked is not None and stopped is not None
    graph.outputs += [blocked, stopped]
    _, a, b = run(graph, *inputs_of(graph))
    np.testing.assert_array_equal(a, b)


def test_several_roots_with_cotangents() -> None:
    graph = parse(MLP)
    y = next(op for op in graph.ops if op.name == "tanh").results[0]
    seeds = [graph.add_input(graph.outputs[0].type), graph.add_input(y.type)]
    (both,) = differentiate(graph, [graph.outputs[0], y], seeds, [graph.inputs[1]])
    (first,) = differentiate(graph, [graph.outputs[0]], seeds[:1], [graph.inputs[1]])
    (second,) = differentiate(graph, [y], seeds[1:], [graph.inputs[1]])
    assert both is not None and first is not None and second is not None
    graph.outputs = [both, first, second]
    total, a, b = run(graph, *inputs_of(graph))
    np.testing.assert_allclose(total, a + b, rtol=1e-12)


def test_root_that_is_a_leaf() -> None:
    graph = parse(FAN_OUT)
    seed = graph.add_input(graph.inputs[0].type)
    assert differentiate(graph, [graph.inputs[0]], [seed], [graph.inputs[0]]) == [seed]


def test_placed_before_an_op() -> None:
    graph = parse(FAN_OUT)
    b = Builder(graph)
    seed = b.full((), 1, float64)
    last = b.neg(graph.outputs[0]).op
    (g,) = differentiate(graph, [graph.outputs[0]], [seed], list(graph.inputs), before=last)
    graph.outputs = [last.result, g]
    graph.verify()
    assert list(graph.ops)[-1] is last


def test_new_ops_have_the_forward_op_location() -> None:
    graph = parse(MLP)
    for i, op in enumerate(graph.ops):
        op.loc = Location("net.py", i + 1)
    forward = len(graph)
    gradients(graph, [0, 1, 2])
    lines = [op.loc.lineno for op in list(graph.ops)[forward + 1 :] if op.loc is not None]
    assert len(lines) == len(graph) - forward - 1
    assert lines == sorted(lines, reverse=True)


def test_composite_without_vjp_is_decomposed_in_place(cube: str) -> None:
    check_gradient(
        f"""graph @c(%x: f64[4] argument) -> (f64[]) {{
  %a: f64[4] = sin %x
  %b: f64[4] = {cube} %a
  %l: f64[] = sum %b {{axes=[0]}}
  return %l
}}""",
        2,
    )


def test_composite_root(cube: str) -> None:
    graph = parse(f"graph @c(%x: f64[] argument) -> (f64[]) {{\n  %a: f64[] = {cube} %x\n  return %a\n}}")
    graph.outputs += [g for g in gradients(graph, [0]) if g is not None]
    graph.verify()
    value, slope = run(graph, np.asarray(1.5))
    assert (value, slope) == (3.375, 6.75)


def test_wrong_cotangent_type_is_named() -> None:
    class Bad(Elementwise):
        name = "test_bad_vjp"
        operand_names = ("x",)

        def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
            return [b.full((), 0, float64)]

        @classmethod
        def samples(cls) -> Iterator[Sample]:
            yield from ()

    graph = Graph()
    x = graph.add_input(TensorType(float64, (2,)))
    b = Builder(graph)
    y = b.test_bad_vjp(x)
    del REGISTRY["test_bad_vjp"]
    with pytest.raises(
        RuntimeError, match=r"test_bad_vjp: its VJP gave a cotangent of type f64\[\] for operand 0"
    ):
        differentiate(graph, [y], [x], [x])
