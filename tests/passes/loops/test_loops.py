"""Passes over loops: what becomes of the graph, with its meaning kept; loops divided in instances, bits kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc import run_graph
from graphc.backends.llvm.codegen import LlvmBackend
from graphc.backends.reference import run
from graphc.ir import Graph, parse
from graphc.ir.control import Loop
from graphc.ir.target import TARGETS
from graphc.passes import run_pipeline
from graphc.passes.context import CompileContext, Options
from tests.passes.programs import build, execute


def loop(head: str, attributes: str, region: str, returned: str) -> Graph:
    """A graph of one loop. `head` is its inputs and output types, `region` that of the body and its lines."""
    inputs, results, operands = head.split(" | ")
    return parse(
        f"graph @g({inputs}) -> ({results.replace('%', '')}) {{\n"
        f"  {returned} = scan {operands} {{{attributes}, reverse=false}}\n  region graph @body{region}\n}}\n"
        f"  return {', '.join(r.split(':')[0] for r in returned.split(', %') if r).replace(', ', ', %')}\n}}"
    )


def attributes(length: int, carries: int, slices: int, outputs: str = "", history: str = "") -> str:
    return f"length={length}, carries={carries}, slices={slices}, outputs=[{outputs}], history=[{history}]"


X = "%c: f32[3] argument, %x: f32[4, 3] argument, %k: f32[3] argument"

# name, passes, graph, carries, slices and outputs of the loop afterwards, operands
CASES: list[tuple[str, str, Graph, tuple[int, int, int], int]] = [
    (
        "output is carried",
        "simplify_loops",
        loop(
            f"{X} | f32[3], f32[4, 3] | %c, %x, %k",
            attributes(4, 1, 1, "f32[3]"),
            "(%c: f32[3] argument, %x: f32[3] argument, %k: f32[3] argument) -> (f32[3], f32[3]) {\n"
            "%0: f32[3] = mul %c, %k\n%1: f32[3] = add %0, %x\nreturn %1, %1",
            "%a: f32[3], %b: f32[4, 3]",
        ),
        (1, 1, 0),
        3,
    ),
    (
        "output is a slice, carry never changes",
        "simplify_loops",
        loop(
            "%c: f32[3] argument, %d: f32[3] argument, %x: f32[4, 3] argument | f32[3], f32[3], f32[4, 3] | %c, %d, %x",
            attributes(4, 2, 1, "f32[3]"),
            "(%c: f32[3] argument, %d: f32[3] argument, %x: f32[3] argument) -> (f32[3], f32[3], f32[3]) {\n"
            "%0: f32[3] = add %c, %d\n%1: f32[3] = add %0, %x\nreturn %c, %1, %x",
            "%a: f32[3], %b: f32[3], %y: f32[4, 3]",
        ),
        (1, 1, 0),
        3,
    ),
    (
        "equal operands and outputs",
        "simplify_loops",
        loop(
            "%c: f32[3] argument, %x: f32[4, 3] argument | f32[3], f32[4, 3], f32[4, 3] | %c, %x, %x",
            attributes(4, 1, 2, "f32[3], f32[3]"),
            "(%c: f32[3] argument, %x: f32[3] argument, %z: f32[3] argument) -> (f32[3], f32[3], f32[3]) {\n"
            "%0: f32[3] = add %c, %x\n%1: f32[3] = mul %0, %z\nreturn %0, %1, %1",
            "%a: f32[3], %b: f32[4, 3], %y: f32[4, 3]",
        ),
        (1, 1, 1),
        2,
    ),
    (
        "constants are hoisted",
        "hoist_invariants,simplify_loops,dce",
        loop(
            f"{X} | f32[3] | %c, %x, %k",
            attributes(4, 1, 1),
            "(%c: f32[3] argument, %x: f32[3] argument, %k: f32[3] argument) -> (f32[3]) {\n"
            "%0: f32[3] = exp %k\n%1: f32[3] = mul %0, %c\n%2: f32[3] = add %1, %x\nreturn %2",
            "%a: f32[3]",
        ),
        (1, 1, 0),
        3,
    ),
    (
        "a product is made for all steps",
        "hoist_invariants,simplify_loops,dce",
        loop(
            "%c: f32[2, 3] argument, %x: f32[4, 2, 5] argument, %k: f32[3, 5] argument | f32[2, 3] | %c, %x, %k",
            attributes(4, 1, 1),
            "(%c: f32[2, 3] argument, %x: f32[2, 5] argument, %k: f32[3, 5] argument) -> (f32[2, 3]) {\n"
            "%0: f32[2, 5] = abs %x\n%1: f32[2, 3] = dot %0, %k {contract=[[1], [1]], batch=[[], []], ordered=[]}\n"
            "%2: f32[2, 3] = add %1, %c\nreturn %2",
            "%a: f32[2, 3]",
        ),
        (1, 1, 0),
        2,
    ),
    (
        "a product with the slice second",
        "hoist_invariants,simplify_loops,dce",
        loop(
            "%c: f32[3, 2] argument, %x: f32[4, 5, 2] argument, %k: f32[3, 5] argument | f32[3, 2] | %c, %x, %k",
            attributes(4, 1, 1),
            "(%c: f32[3, 2] argument, %x: f32[5, 2] argument, %k: f32[3, 5] argument) -> (f32[3, 2]) {\n"
            "%0: f32[3, 2] = dot %k, %x {contract=[[1], [0]], batch=[[], []], ordered=[]}\n"
            "%1: f32[3, 2] = add %0, %c\nreturn %1",
            "%a: f32[3, 2]",
        ),
        (1, 1, 0),
        2,
    ),
    (
        "a matrix is transposed once",
        "loop_layouts",
        loop(
            "%c: f32[2, 9] argument, %k: f32[9, 9] argument | f32[2, 9] | %c, %k",
            attributes(4, 1, 0),
            "(%c: f32[2, 9] argument, %k: f32[9, 9] argument) -> (f32[2, 9]) {\n"
            "%0: f32[2, 9] = dot %c, %k {contract=[[1], [1]], batch=[[], []], ordered=[]}\nreturn %0",
            "%a: f32[2, 9]",
        ),
        (1, 0, 0),
        2,
    ),
]


def test_layouts_in_regions() -> None:
    """A matrix that products in branches of an open loop read is transposed once, before the loop."""
    product = "%0: f32[4, 9] = dot %h, %w {{contract=[[1], [1]], batch=[[], []], ordered=[]}}"
    taken = "(%h: f32[4, 9] argument, %w: f32[9, 9] argument)"
    graph = parse(
        "graph @g(%h: f32[4, 9] argument, %n: f32[] argument, %w: f32[9, 9] argument) -> (f32[4, 9]) {\n"
        "%0: f32[4, 9] = while %h, %n, %w {carries=1, limit=none}\n"
        "region graph @test(%h: f32[4, 9] argument, %n: f32[] argument, %w: f32[9, 9] argument) -> (bool[]) {\n"
        "%0: f32[] = sum %h {axes=[0, 1]}\n%1: bool[] = lt %0, %n\nreturn %1\n}\n"
        "region graph @step(%h: f32[4, 9] argument, %n: f32[] argument, %w: f32[9, 9] argument) -> (f32[4, 9]) {\n"
        "%0: f32[] = max %h {axes=[0, 1]}\n%1: bool[] = lt %0, %n\n"
        "%2: f32[4, 9] = cond %1, %h, %w {outputs=[f32[4, 9]]}\n"
        f"region graph @one{taken} -> (f32[4, 9]) {{{{\n{product}\n%1: f32[4, 9] = exp %0\nreturn %1\n}}}}\n"
        f"region graph @two{taken} -> (f32[4, 9]) {{{{\n{product}\n%1: f32[4, 9] = add %0, %h\nreturn %1\n}}}}\n"
        "return %2\n}\nreturn %0\n}".replace("{{", "{").replace("}}", "}")
    )
    graph.verify()
    arrays = [np.abs(a) for a in drawn(graph)]
    arrays[1] = np.array(200, np.float32)
    wanted, after = run(graph, *arrays), graph.copy()
    assert run_pipeline(after, "loop_layouts,canonicalise,dce")
    after.verify()
    # Once before the loop; each product looks at that through a view.
    assert [op.name for op in after.ops] == ["permute", "while"]
    assert str(after).count("permute") == 3
    for g in (after, graph):
        np.testing.assert_allclose(run_graph(g, *arrays)[0], wanted[0], rtol=1e-4)
    np.testing.assert_allclose(run(after, *arrays)[0], wanted[0], rtol=1e-4)


# rows, shape of the constant matrix, its axis that is summed, steps, whether it is turned before the loop
LAYOUTS: list[tuple[int, tuple[int, int], int, int, bool]] = [
    (10, (48, 48), 1, 100, True),
    (10, (48, 48), 0, 100, False),
    (32, (512, 512), 1, 100, False),
    (32, (512, 512), 0, 100, True),
    (32, (512, 512), 0, 4, False),
    (1, (50, 50), 1, 48, True),
    (1, (50, 50), 1, 28, False),
    (1, (50, 50), 0, 28, False),
    (1, (300, 300), 1, 100, False),
]


@pytest.mark.parametrize(("rows", "shape", "axis", "steps", "turned"), LAYOUTS)
def test_layouts_are_what_the_backend_is_fast_with(
    rows: int, shape: tuple[int, int], axis: int, steps: int, turned: bool
) -> None:
    """Packed in every step, or read along the sums: the estimate of the code generator decides."""
    carried, matrix = f"f32[{rows}, {shape[0]}]", f"f32[{shape[0]}, {shape[1]}]"
    graph = loop(
        f"%c: {carried} argument, %k: {matrix} argument | {carried} | %c, %k",
        attributes(steps, 1, 0),
        f"(%c: {carried} argument, %k: {matrix} argument) -> ({carried}) {{\n"
        f"%0: {carried} = dot %c, %k {{contract=[[1], [{axis}]], batch=[[], []], ordered=[]}}\nreturn %0",
        f"%a: {carried}",
    )
    context = CompileContext(target=TARGETS["x86-64-v3"], backend=LlvmBackend())
    changed = run_pipeline(graph, "loop_layouts", context)
    assert changed == turned == ("permute" in [op.name for op in graph.ops])


def drawn(graph: Graph) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(v.type.sizes).astype(v.type.dtype.numpy) / 3 for v in graph.inputs]


@pytest.mark.parametrize(("name", "passes", "graph", "counts", "operands"), CASES, ids=[c[0] for c in CASES])
def test_pass(name: str, passes: str, graph: Graph, counts: tuple[int, int, int], operands: int) -> None:
    arrays = drawn(graph)
    wanted = run(graph, *arrays)
    after = graph.copy()
    assert run_pipeline(after, passes)
    (op,) = (op for op in after.ops if isinstance(op, Loop))
    assert (op.carries, op.attrs["slices"], len(op.attrs["outputs"])) == counts
    assert len(op.operands) == operands
    for a, b, c in zip(wanted, run(after, *arrays), run_graph(graph, *arrays), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6)
        np.testing.assert_allclose(c, a, rtol=1e-5, atol=1e-6)
    again = after.copy()
    run_pipeline(again, passes)
    assert str(again) == str(after)


RECURRENT = """graph @g(%h: f32[{b}, {n}] argument, %x: f32[{t}, {b}, {n}] argument, %w: f32[{n}, {n}] argument)
 -> (f32[{b}, {n}], f32[{b}, {n}], f32[{t}, {b}]) {{
  %0: f32[{b}, {n}], %1: f32[{b}, {n}], %2: f32[{t}, {b}] = scan %h, %h, %x, %w {{length={t}, carries=2, slices=1, outputs=[f32[{b}]], history=[], reverse={reverse}}}
  region graph @body(%h: f32[{b}, {n}] argument, %g: f32[{b}, {n}] argument, %x: f32[{b}, {n}] argument, %w: f32[{n}, {n}] argument) -> (f32[{b}, {n}], f32[{b}, {n}], f32[{b}]) {{
    %0: f32[{b}, {n}] = dot %h, %w {{contract=[[1], [1]], batch=[[], []], ordered=[]}}
    %1: f32[{b}, {n}] = add %0, %x
    %2: f32[{b}, {n}] = tanh %1
    %3: f32[{b}, {n}] = mul %2, %g
    %4: f32[{b}] = sum %3 {{axes=[{axis}]}}
    return %2, %3, %4
  }}
  return %0, %1, %2
}}"""


def recurrent(b: int, n: int, t: int, reverse: bool = False) -> Graph:
    text = RECURRENT.replace("\n ->", " ->").format(b=b, n=n, t=t, axis=1, reverse=str(reverse).lower())
    return parse(text)


@pytest.mark.parametrize(("length", "reverse"), [(3, False), (4, True)])
def test_instances(length: int, reverse: bool) -> None:
    """A loop over a batch is run in parts that have the bits of the whole, in any context."""
    graph = recurrent(20, 64, length, reverse)
    arrays = drawn(graph)
    together = CompileContext(options=Options(grain=32 * 1024))
    shared = CompileContext(options=Options(grain=1024))
    alone = CompileContext(options=Options(max_parts=1))
    assert len(build(graph, together)[1].together[0]) == 4
    # Steps that are long beside the grain are shared by all threads instead.
    program = build(graph, shared)[1]
    assert not program.together and any(c.parts > 1 for phase in program.phases for c in phase.calls)
    assert not build(graph, alone)[1].together
    whole = execute(graph, arrays, alone)
    assert [x.tobytes() for x in execute(graph, arrays, shared)] == [x.tobytes() for x in whole]
    for a, b, c, d in zip(
        execute(graph, arrays, together),
        whole,
        run_graph(graph, *arrays),
        run(graph, *arrays),
        strict=True,
    ):
        assert a.tobytes() == b.tobytes()
        np.testing.assert_allclose(c, d, rtol=1e-5, atol=1e-5)


def test_rows_that_mix() -> None:
    """Where a step mixes the rows of what it carries, the loop stays whole."""
    graph = parse(
        str(recurrent(20, 20, 4)).replace(
            "dot %h, %w {contract=[[1], [1]]", "dot %w, %h {contract=[[1], [0]]"
        )
    )
    assert not build(graph, CompileContext(options=Options(grain=8 * 1024)))[1].together
