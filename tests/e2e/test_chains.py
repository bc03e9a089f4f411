"""Chains of products and rows have the bits of their kernels one by one, and none of what they leave out is looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.compiler.driver import CompiledGraph, lower_graph, make_context
from graphc.core.storage import allocate_memory, memory_of
from graphc.ir.kernel import Kernel
from graphc.ir.kernel_parser import parse_kernel
from graphc.nn import functional as F
from graphc.passes.context import Options

Shapes = tuple[tuple[int, ...], ...]


def array(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def qkv(batch: tuple[int, ...], rows: int, columns: int, width: int, values: int) -> list[Any]:
    return [
        array(*batch, *shape, seed=n)
        for n, shape in enumerate(((rows, width), (columns, width), (columns, values)))
    ]


def outputs(traced: Any, arrays: list[Any], options: Options) -> tuple[list[Kernel], list[Any]]:
    """The kernels of a traced function under these options, and what it gives."""
    context = replace(make_context(), options=options)
    compiled = CompiledGraph(traced, lower_graph(traced.copy(), context))
    results = [allocate_memory(v.type) for v in traced.outputs]
    compiled.run([memory_of(a.copy(), share=False) for a in arrays], results)
    kernels = [call.kernel for phase in compiled.program.phases for call in phase.calls]
    return kernels, [m.array.copy() for m in results]


def attention(**options: Any) -> Any:
    return lambda q, k, v, *mask: F.scaled_dot_product_attention(q, k, v, *mask, **options)


def gradients(q: Any, k: Any, v: Any) -> Any:
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out, *graphc.autograd.grad((out * out).sum(), (q, k, v))


CASES: dict[str, tuple[Any, list[Any]]] = {
    "plain": (attention(), qkv((2, 3), 70, 90, 16, 24)),
    "causal": (attention(is_causal=True), qkv((2, 3), 128, 128, 16, 16)),
    "causal, several blocks": (attention(is_causal=True), qkv((1, 2), 300, 320, 64, 64)),
    "causal, sums in runs": (attention(is_causal=True), qkv((2,), 160, 2048, 8, 8)),
    "causal, fewer columns": (attention(is_causal=True), qkv((3,), 150, 64, 20, 33)),
    "causal, ragged": (attention(is_causal=True), qkv((2, 2), 101, 77, 5, 7)),
    "additive mask": (attention(), [*qkv((2, 2), 60, 64, 16, 16), array(60, 64)]),
    "mask by entry": (attention(), [*qkv((2, 2), 60, 64, 16, 16), array(2, 1, 60, 64) > -1]),
    "gradients": (gradients, qkv((2, 2), 96, 96, 16, 16)),
}


@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_the_kernels_alone(case: str) -> None:
    function, arrays = CASES[case]
    traced = graphc.compile(function).trace(*arrays)
    kernels, found = outputs(traced, arrays, Options())
    apart, expected = outputs(traced, arrays, Options(fuse=False))
    assert any(k.links for k in kernels)
    assert not any(k.links for k in apart)
    for a, b in zip(found, expected, strict=True):
        assert a.tobytes() == b.tobytes()
    for k in kernels:
        assert str(parse_kernel(str(k))) == str(k)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_what_is_left_out_is_not_looked_at(threads: int) -> None:
    """The first entries leave NaN in scratch memory, and so do later keys of the second ones."""
    q, k, v = qkv((2, 4), 256, 256, 32, 32)
    expected = F.scaled_dot_product_attention(*map(graphc.tensor, (q, k, v)), is_causal=True).numpy()
    for x in (q, k, v):
        x[0] = np.nan
    k[1, :, 200:] = v[1, :, 200:] = np.nan
    before = graphc.get_num_threads()
    graphc.set_num_threads(threads)
    got = F.scaled_dot_product_attention(*map(graphc.tensor, (q, k, v)), is_causal=True).numpy()
    graphc.set_num_threads(before)
    assert np.isnan(got[0]).all() and np.isnan(got[1, :, 200:]).all()
    np.testing.assert_array_equal(got[1, :, :200], expected[1, :, :200])


def test_scores_that_are_not_finite() -> None:
    q, k, v = qkv((2, 2), 96, 96, 8, 8)
    q[0, 0, 3], q[0, 0, 40], q[0, 1, 64] = 3e38, -3e38, np.inf
    function = attention(is_causal=True)
    traced = graphc.compile(function).trace(q, k, v)
    (_, found), (_, expected) = (
        outputs(traced, [q, k, v], options) for options in (Options(), Options(fuse=False))
    )
    assert np.isnan(expected[0]).any()
    np.testing.assert_array_equal(found[0], expected[0])


def test_weights_that_are_a_result_are_whole() -> None:
    def weights_too(q: Any, k: Any, v: Any) -> Any:
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        return weights, weights @ v

    arrays = qkv((4,), 64, 96, 16, 16)
    traced = graphc.compile(weights_too).trace(*arrays)
    (kernels, found), (_, expected) = (
        outputs(traced, arrays, options) for options in (Options(), Options(fuse=False))
    )
    assert any(k.links for k in kernels)
    for a, b in zip(found, expected, strict=True):
        assert a.tobytes() == b.tobytes()
