"""Programs with symbolic sizes: one compiled program at every size, against the interpreter at that size.

Results have the same bits for every number of threads. With `same` they also have those of the program that
is compiled for the size; other sums are made in another order where an axis is short or very long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from graphc.backends import reference
from graphc.compiler.driver import CompiledGraph, compile_graph
from graphc.ir.graph import Graph
from graphc.ir.parser import parse
from graphc.ir.specialise import specialised
from graphc.ir.symbolic import graph_sizes
from graphc.ir.types import TensorType
from graphc.runtime import threads

SIZES = (0, 1, 2, 3, 7, 64, 1000)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def aligned(array: Any) -> Any:
    """A copy at a multiple of 64 bytes."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def draw(rng: np.random.Generator, type_: TensorType) -> Any:
    """Random values; integers are small, so that they can be positions."""
    if type_.dtype.kind == "float":
        return rng.standard_normal(type_.sizes).astype(type_.dtype.numpy)
    return rng.integers(0, 2 if type_.dtype.kind == "bool" else 5, type_.sizes).astype(type_.dtype.numpy)


def results(compiled: CompiledGraph, graph: Graph, arrays: list[Any], sizes: Mapping[str, int]) -> list[Any]:
    """What a program makes of arrays: returned outputs, then new states. `graph` has fixed sizes."""
    given = [aligned(a) for a in arrays]
    types = [graph.outputs[i].type for i in graph.returned()]
    made = [aligned(np.full(t.sizes, 1, t.dtype.numpy)) for t in types]
    error = compiled.resolved(sizes).run(
        [given[i].ctypes.data for i in compiled.argument_positions],
        [m.ctypes.data for m in made],
        [given[i].ctypes.data for i in compiled.state_positions],
    )
    assert not error
    return [*made, *(given[j] for j in graph.aliases.values())]


def check(text: str, *cases: Mapping[str, int], tolerance: float = 2e-5, same: bool = True) -> None:
    """One program at every case, with 1, 2 and 4 threads."""
    graph = parse(text)
    symbols = graph_sizes(graph)
    compiled = compile_graph(graph.copy())
    kernels = list(compiled.symbols)
    for sizes in cases:
        at = specialised(graph, {s: sizes[s.name] for s in symbols})
        rng = np.random.default_rng(7)
        arrays = [draw(rng, v.type) for v in at.inputs]
        wanted = reference.run(at, *arrays)
        expected = [wanted[i] for i in (*at.returned(), *at.aliases)]
        first: list[Any] | None = None
        for count in (1, 2, 4):
            threads.set_num_threads(count)
            found = results(compiled, at, arrays, sizes)
            if first is None:
                first = found
                for got, want in zip(found, expected, strict=True):
                    scale = max(1.0, float(np.max(np.abs(want), initial=0)))
                    np.testing.assert_allclose(
                        got, want, rtol=tolerance, atol=tolerance * scale, err_msg=str(sizes)
                    )
            assert [f.tobytes() for f in found] == [f.tobytes() for f in first], f"{count} threads, {sizes}"
        if same:
            fixed = results(compile_graph(at.copy()), at, arrays, {})
            assert [f.tobytes() for f in fixed] == [f.tobytes() for f in first or ()], f"fixed sizes, {sizes}"
    assert compiled.symbols == kernels


def batches(*sizes: int) -> list[dict[str, int]]:
    """Cases of one symbolic size named `n`."""
    return [{"n": size} for size in sizes]


GRAPHS = {
    "map": """graph @g(%x: f32[n, 784] argument, %y: f32[n, 784] argument) -> (f32[n, 784]) {
  %0: f32[n, 784] = add %x, %y
  %1: f32[n, 784] = exp %0
  return %1
}""",
    "rows": """graph @g(%x: f32[n, 100] argument) -> (f32[n]) {
  %0: f32[n] = sum %x {axes=[1]}
  return %0
}""",
    "columns": """graph @g(%x: f32[n, 100] argument) -> (f32[100]) {
  %0: f32[100] = sum %x {axes=[0]}
  return %0
}""",
    "line": """graph @g(%x: f32[n] argument, %y: f32[n] argument) -> (f32[n], f32[]) {
  %0: f32[n] = mul %x, %y
  %1: f32[] = sum %0 {axes=[0]}
  return %0, %1
}""",
    "state": """graph @g(%x: f32[n, 3] argument, %s: f32[3] buffer) -> (f32[n, 3], f32[3]) {
  %0: f32[3] = sum %x {axes=[0]}
  %1: f32[3] = add %s, %0
  %2: f32[n, 3] = tanh %x
  return %2, %1 -> %s
}""",
}

PRODUCTS = {
    "linear": """graph @g(%x: f32[n, 100] argument, %w: f32[100, 48] parameter) -> (f32[n, 48]) {
  %0: f32[n, 48] = dot %x, %w {contract=[[1], [0]], batch=[[], []], ordered=[]}
  %1: f32[n, 48] = relu %0
  return %1
}""",
    "batched": """graph @g(%x: f32[n, 20, 30] argument, %y: f32[n, 30, 17] argument) -> (f32[n, 20, 17]) {
  %0: f32[n, 20, 17] = dot %x, %y {contract=[[2], [1]], batch=[[0], [0]], ordered=[]}
  return %0
}""",
    "weights": """graph @g(%x: f32[n, 50] argument, %y: f32[n, 48] argument) -> (f32[50, 48]) {
  %0: f32[50, 48] = dot %x, %y {contract=[[0], [0]], batch=[[], []], ordered=[]}
  %1: f32[50, 48] = relu %0
  return %1
}""",
    "weights of rows": """graph @g(%x: f32[n, 20, 50] argument, %y: f32[n, 20, 48] argument) -> (f32[50, 48]) {
  %0: f32[50, 48] = dot %x, %y {contract=[[0, 1], [0, 1]], batch=[[], []], ordered=[]}
  return %0
}""",
    "rows": """graph @g(%x: f32[n, n, 30] argument, %w: f32[30, 24] parameter) -> (f32[n, n, 24]) {
  %0: f32[n, n, 24] = dot %x, %w {contract=[[2], [0]], batch=[[], []], ordered=[]}
  return %0
}""",
    "windows": """graph @g(%x: f32[n, 3, 16, 16] argument, %w: f32[16, 3, 3, 3] parameter) -> (f32[n, 16, 16, 16]) {
  %0: f32[n, 16, 16, 16] = conv2d %x, %w {stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1}
  return %0
}""",
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_size(name: str) -> None:
    check(GRAPHS[name], *batches(*SIZES))


def test_long_lines_have_the_order_of_fixed_sizes() -> None:
    check(GRAPHS["line"], *batches(8, 9, 17, 31, 32, 33, 63, 2047, 2049, 60_000))


def test_long_columns_have_the_order_of_fixed_sizes() -> None:
    check(GRAPHS["columns"].replace("100", "5"), *batches(63, 65, 127, 2047, 2100))


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    check(PRODUCTS[name], *batches(0, 1, 2, 3, 7, 9, 29, 65, 100, 161))


def test_sums_over_images() -> None:
    """The gradient of windows: one image after the other."""
    check(
        """graph @g(%x: f32[n, 3, 20, 20] argument, %g: f32[n, 4, 18, 18] argument) -> (f32[4, 3, 3, 3]) {
  %0: f32[4, 3, 3, 3] = conv2d_weight_grad %x, %g {stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, size=[3, 3]}
  return %0
}""",
        *batches(0, 2, 3, 9),
    )


def test_loops_over_a_batch() -> None:
    check(
        """graph @g(%x: f32[n, 6] argument, %s: f32[5, n, 6] argument) -> (f32[n, 6], f32[5, n, 6]) {
  %0: f32[n, 6], %1: f32[5, n, 6] = scan %x, %s {length=5, carries=1, slices=1, outputs=[f32[n, 6]], history=[], reverse=false}
  region graph @body(%a: f32[n, 6] argument, %b: f32[n, 6] argument) -> (f32[n, 6], f32[n, 6]) {
    %0: f32[n, 6] = add %a, %b
    %1: f32[n, 6] = mul %a, %0
    return %0, %1
  }
  return %0, %1
}""",
        *batches(0, 1, 2, 7, 100),
    )
