"""Large reductions are cut by the op's shape alone, and give what they gave."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.reference import run
from graphc.ir import REGISTRY, Builder, Graph
from graphc.ir.kernel import extent
from graphc.passes.reductions import chunk_count, product_chunks
from tests.passes.models import tensor
from tests.passes.programs import build, execute, kernel_count

Case = tuple[str, tuple[int, ...], tuple[int, ...], int]

CASES: tuple[Case, ...] = (
    ("sum", (512, 512), (0, 1), 2),
    ("sum", (262_147,), (0,), 2),
    ("sum", (30_011, 10), (0,), 2),
    ("max", (2, 200_000), (1,), 2),
    ("argmax", (3, 100_001), (1,), 2),
    ("argmin", (150_000,), (0,), 2),
    ("prod", (70_000, 3), (0,), 2),
    ("sum", (24, 6, 40, 40), (0, 2, 3), 2),
    ("sum", (6, 24, 40, 40), (1, 2, 3), 1),
    ("sum", (600, 600), (1,), 1),
    ("sum", (600, 600), (0,), 1),
    ("sum", (200, 200), (0, 1), 1),
)
"""Op, shape, axes, and the number of kernels."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reduction(case: Case) -> None:
    name, shape, axes, kernels = case
    graph = Graph(name)
    x = graph.add_input(tensor("f32", *shape))
    b = Builder(graph)
    doubled = b.mul(x, x)
    result = b.create(REGISTRY[name], [doubled], axes=axes).result
    graph.outputs = [doubled, b.add(result, 1)]
    rng = np.random.default_rng(5)
    array = (1 + 0.001 * rng.standard_normal(shape)).astype(np.float32)
    _, program = build(graph)
    assert kernel_count(program) == kernels
    for got, want in zip(execute(graph, [array]), run(graph, array), strict=True):
        if name.startswith("arg"):
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, rtol=2e-4)


def test_reading_it_back_does_not_change_how_a_sum_is_cut() -> None:
    """Work on the operand after the reduction goes to a third kernel: the sum keeps its chunks."""
    graph = Graph("norm")
    x = graph.add_input(tensor("f32", 300_000))
    b = Builder(graph)
    graph.outputs = [b.div(x, b.broadcast_to(b.sum(x, axes=(0,)), (300_000,)))]
    _, program = build(graph)
    assert kernel_count(program) == 3
    array = np.random.default_rng(0).random(300_000).astype(np.float32)
    np.testing.assert_allclose(execute(graph, [array])[0], array / array.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("results", "reduced", "along", "images", "chunks"),
    (
        (1, 1 << 20, True, False, 16),
        (1, 1 << 16, True, True, 1),
        (64, 1 << 16, True, True, 1),
        (10, 60_000, False, False, 9),
        (0, 9, True, True, 1),
        (6, 50_176, True, False, 1),
        (6, 50_176, True, True, 4),
        (8, 50_176, True, True, 1),
    ),
)
def test_chunk_count(results: int, reduced: int, along: bool, images: bool, chunks: int) -> None:
    assert chunk_count(results, reduced, along, images) == chunks


WINDOWS: tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...] = (
    ((32, 3, 20, 20), (32, 6, 16, 16), 16),
    ((12, 6, 20, 20), (12, 16, 16, 16), 6),
    ((9, 6, 26, 26), (9, 16, 22, 22), 3),
    ((2, 6, 34, 34), (2, 16, 30, 30), 2),
    ((8, 2, 8, 8), (8, 2, 4, 4), 1),
)
"""Shapes of images and gradients of windows of 5×5, and into how many chunks their product is cut: few results, many
terms, and the images divide evenly, by an even number where they can."""


@pytest.mark.parametrize("viewed", (False, True))
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_weight_gradient(case: tuple[tuple[int, ...], tuple[int, ...], int], viewed: bool) -> None:
    """How its images are read and what reads its result change nothing."""
    images, gradients, chunks = case
    graph = Graph("weights")
    flat = (images[0] * images[1], *images[2:]) if viewed else images
    x, g = graph.add_input(tensor("f32", *flat)), graph.add_input(tensor("f32", *gradients))
    b = Builder(graph)
    result = b.conv2d_weight_grad(b.reshape(x, shape=images) if viewed else x, g, size=(5, 5))
    graph.outputs = [b.mul(result, 2)]
    _, program = build(graph)
    kernels = [c.kernel for p in program.phases for c in p.calls]
    assert [extent(k.stages[0].axes[0]) for k in kernels] == [images[0] // chunks, *[chunks] * (chunks > 1)]
    rng = np.random.default_rng(7)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in (x, g)]
    for got, want in zip(execute(graph, arrays), run(graph, *arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("images", "gradients", "size", "chunks"),
    (
        ((8, 64, 18, 18), (8, 64, 16, 16), (3, 3), 4),
        ((8, 96, 18, 18), (8, 96, 16, 16), (3, 3), 1),
        ((8, 64, 10, 10), (8, 64, 8, 8), (3, 3), 1),
        ((64, 16, 16, 16), (64, 32, 16, 16), (1, 1), 16),
    ),
)
def test_product_chunks(
    images: tuple[int, ...], gradients: tuple[int, ...], size: tuple[int, int], chunks: int
) -> None:
    """Too many results or too few terms are not cut."""
    graph = Graph("weights")
    x, g = graph.add_input(tensor("f32", *images)), graph.add_input(tensor("f32", *gradients))
    made = Builder(graph).conv2d_weight_grad(x, g, size=size)
    assert made.op is not None
    assert product_chunks(made.op) == chunks
