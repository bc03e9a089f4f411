"""Sums of columns that are made along rows have the bits of those that are made column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.backends.llvm.compile import host_target
from graphc.compiler.driver import lower_graph, make_context
from graphc.ir.columns import walks_rows

NARROW = 24
"""Columns whose rows are too short for sums along rows, and that are too few elements for sums in chunks."""


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = graphc.get_num_threads()
    yield
    graphc.set_num_threads(before)


def plain(x: Any) -> Any:
    return x.sum(0)


def fused(x: Any) -> Any:
    return (x * x).sum(0).exp() + 1


@pytest.mark.parametrize(
    ("shape", "dtype", "function"),
    [
        ((64, 2304), "float32", plain),
        ((71, 2112), "float32", plain),
        ((1000, 300), "float32", plain),
        ((2085, 1030), "float32", fused),
        ((1025, 400), "float64", plain),
        ((1000, 613), "float16", plain),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_bits(
    shape: tuple[int, int], dtype: str, function: Callable[[Any], Any], threads: int, restored_threads: None
) -> None:
    graphc.set_num_threads(threads)
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype) / 8
    run = graphc.compile(function)
    whole = run(graphc.tensor(values)).numpy()
    parts = [
        run(graphc.tensor(np.ascontiguousarray(values[:, at : at + NARROW]))).numpy()
        for at in range(0, shape[1], NARROW)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_large_matrices_are_walked_along_rows() -> None:
    def folds(shape: tuple[int, int]) -> list[bool]:
        graph = graphc.compile(plain).trace(graphc.zeros(*shape))
        program = lower_graph(graph, make_context()).program
        return [walks_rows(c.kernel, host_target()) for phase in program.phases for c in phase.calls]

    assert any(folds((1000, 1000)))
    assert not any(folds((1000, NARROW)))
