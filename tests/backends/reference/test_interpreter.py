"""The interpreter: outputs, strict inputs, symbolic dims, and results held to their types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from graphc.backends.reference import run
from graphc.ir import REGISTRY, Builder, Graph, TensorType, VerifyError, parse
from graphc.ir.dims import Symbol
from graphc.ir.families import Attrs, Elementwise
from graphc.ir.types import float32

STEP = """graph @step(%x: f32[2] argument, %w: f32[2] parameter) -> (f32[2], f32[2], f32[2]) {
  %a: f32[2] = add %x, %w
  %b: f32[2] = mul %a, %w
  return %b -> %w, %a, %x
}"""


def test_all_outputs_and_no_input_written() -> None:
    x, w = np.array([1, 2], np.float32), np.array([10, 20], np.float32)
    b, a, same = run(parse(STEP), x, w)
    np.testing.assert_array_equal(a, [11, 22])
    np.testing.assert_array_equal(b, [110, 440])
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(w, [10, 20])


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ([np.zeros(2, np.float32)], TypeError, "graph @step takes 2 inputs, got 1"),
        (
            [np.zeros(2), np.zeros(2, np.float32)],
            TypeError,
            r"input 0 \(%x\): expected dtype float32 .* got float64",
        ),
        (
            [np.zeros(2, np.float32), np.zeros(3, np.float32)],
            ValueError,
            r"input 1 \(%w\): expected shape \[2\] for f32\[2\], got \[3\]",
        ),
        (
            [np.float32(0), np.zeros(2, np.float32)],
            ValueError,
            r"expected 1 dimensions for f32\[2\], got shape \[\]",
        ),
    ],
)
def test_inputs_are_strict(arrays: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(parse(STEP), *arrays)


def symbolic(*shapes: tuple[Any, ...]) -> Graph:
    graph = Graph("symbolic")
    graph.outputs = [graph.add_input(TensorType(float32, shape)) for shape in shapes]
    return graph


N, M = Symbol("n", 1, 8).expr, Symbol("m").expr


def test_symbols_reach_attributes() -> None:
    graph = Graph("g")
    x = graph.add_input(TensorType(float32, (N, M)))
    b = Builder(graph)
    graph.outputs = [b.reshape(b.expand(x, shape=(2, N, M)), shape=(2 * N * M,))]
    (y,) = run(graph, np.ones((3, 5), np.float32))
    assert y.shape == (30,)


@pytest.mark.parametrize(
    ("declared", "given", "message"),
    [
        ([(N,), (N,)], [(3,), (4,)], r"input 1: expected shape \[3\] for f32\[n\], got \[4\]"),
        ([(N,)], [(9,)], "dimension n is 9, expected 1 to 8"),
        ([(N,)], [(0,)], "dimension n is 0, expected 1 to 8"),
        ([(N * M,)], [(6,)], "cannot be read off"),
        ([(N, N * 2)], [(3, 7)], r"expected shape \[3, 6\]"),
        ([(2 * M,)], [(5,)], "cannot be read off"),
    ],
)
def test_symbols_are_checked(declared: list[Any], given: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(symbolic(*declared), *(np.zeros(s, np.float32) for s in given))


@pytest.mark.parametrize(
    ("declared", "given"),
    [
        ([(N, N)], [(3, 3)]),
        ([(2 * M + 1,)], [(7,)]),
        ([(N * M,), (N,)], [(6,), (3,)]),
        ([(N + M,), (M,)], [(5,), (2,)]),
        ([(M // 4 + 1,), (M,)], [(2,), (7,)]),
    ],
)
def test_symbols_are_read_off_shapes(declared: list[Any], given: list[tuple[int, ...]]) -> None:
    arrays = [np.zeros(s, np.float32) for s in given]
    assert [a.shape for a in run(symbolic(*declared), *arrays)] == given


@pytest.fixture
def liar() -> Iterator[str]:
    """An op whose reference gives another dtype than its inference."""

    class Liar(Elementwise):
        name = "test_liar"
        operand_names = ("x",)

        @classmethod
        def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
            return arrays[0].astype(np.float64)

    yield Liar.name
    del REGISTRY["test_liar"]


def test_results_are_held_to_their_types(liar: str) -> None:
    text = f'graph @g(%x: f32[2] argument) -> (f32[2]) {{\n  %a: f32[2] = {liar} %x   loc("net.py":3)\n  return %a\n}}'
    with pytest.raises(
        VerifyError, match=r"test_liar: its reference gave f64\[2\], expected f32\[2\]"
    ) as caught:
        run(parse(text), np.zeros(2, np.float32))
    assert caught.value.lineno == 3
