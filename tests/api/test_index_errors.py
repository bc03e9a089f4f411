"""Indices out of range, found when a program runs: PyTorch's exception with PyTorch's words and number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import graphc
from graphc.nn import functional as F

Make = Callable[[Any], Any]


def table(p: Any) -> Any:
    return p.arange(12.0).reshape(4, 3)


def written(p: Any) -> Any:
    x = table(p)
    x[p.tensor([1, 7])] = 1.0
    return x


CASES: dict[str, Make] = {
    "cross_entropy": lambda p: p.nn.functional.cross_entropy(p.zeros(2, 10), p.tensor([3, 10])),
    "cross_entropy below": lambda p: p.nn.functional.cross_entropy(p.zeros(2, 10), p.tensor([-1, 1])),
    "cross_entropy of images": lambda p: p.nn.functional.cross_entropy(p.zeros(1, 5, 2, 2), p.full((1, 2, 2), 7)),
    "nll_loss": lambda p: p.nn.functional.nll_loss(p.zeros(2, 10), p.tensor([12, 1])),
    "subscript": lambda p: table(p)[p.tensor([0, 4])],
    "subscript below": lambda p: table(p)[p.tensor([0, -5])],
    "subscripts": lambda p: table(p)[p.tensor([0, 1]), p.tensor([0, 3])],
    "assignment": written,
    "gather": lambda p: p.gather(table(p), 1, p.tensor([[0], [5], [1], [1]])),
    "gather below": lambda p: p.gather(table(p), 0, p.tensor([[0], [-1]])),
    "scatter_add": lambda p: p.zeros(4, 3).scatter_add(0, p.tensor([[6]]), p.ones(1, 1)),
    "index_add": lambda p: p.zeros(4, 3).index_add(0, p.tensor([8]), p.ones(1, 3)),
    "index_select": lambda p: p.index_select(table(p), 0, p.tensor([9])),
    "take": lambda p: p.take(table(p), p.tensor([77])),
    "embedding": lambda p: p.nn.functional.embedding(p.tensor([9]), table(p)),
}  # fmt: skip


def raised(make: Make, package: Any) -> tuple[str, str]:
    with pytest.raises(Exception) as caught:
        make(package).tolist()
    return type(caught.value).__name__, str(caught.value).splitlines()[0]


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_words_of_pytorch(make: Make) -> None:
    torch = pytest.importorskip("torch")
    assert raised(make, graphc) == raised(make, torch)


@pytest.mark.parametrize("target", [10, -3, 2**45, -(2**45)])
def test_compiled_calls_name_the_number(target: int) -> None:
    @graphc.compile
    def loss(x: Any, y: Any) -> Any:
        return F.cross_entropy(x, y)

    x = graphc.zeros(64, 10)
    labels = graphc.full((64,), 3)
    loss(x, labels)
    labels[50] = target
    shown = max(-(2**39), min(2**39 - 1, target))
    with pytest.raises(IndexError, match=rf"^Target {shown} is out of bounds\.") as caught:
        loss(x, labels)
    assert caught.value.filename == __file__  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_least_number_is_named_whatever_threads_found_it(threads: int) -> None:
    before = graphc.get_num_threads()
    graphc.set_num_threads(threads)
    try:
        index = graphc.arange(200_000) % 100
        for at, value in ((3, 170), (190_000, 140), (100_000, 150)):
            index[at] = value
        with pytest.raises(RuntimeError, match="index 140 is out of bounds for dimension 0 with size 100"):
            graphc.gather(graphc.zeros(100), 0, index).tolist()
    finally:
        graphc.set_num_threads(before)
