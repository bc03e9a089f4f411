"""Arguments of compiled functions that are views, or share memory with what the function writes: PyTorch's values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

Compile = Callable[[Any], Any]


def ramp(p: Any, n: int = 64) -> Any:
    return p.tensor(np.arange(n, dtype=np.float32))


def written_views(p: Any, compiled: Compile) -> Iterator[Any]:
    """A view is written in place: contiguous, with gaps, transposed, unaligned, empty, twice removed."""
    bump = compiled(lambda v: v.add_(1).sum())
    x = ramp(p)
    for _ in range(3):
        for view in (x[0:16], x[::2], x.view(8, 8).t(), x[1:9], x[5:5], x.view(8, 8)[2:4, ::3], x):
            yield bump(view)
            yield x.clone()


def part_and_whole(p: Any, compiled: Compile) -> Iterator[Any]:
    """A part and the whole in one call, one of them written."""

    def f(part: Any, whole: Any) -> Any:
        whole.add_(part.sum())
        return part * 2

    g, x = compiled(f), ramp(p)
    for _ in range(3):
        yield g(x[0:16], x)
        yield g(ramp(p, 16), x)
        yield g(x[0:16], ramp(p))
        yield g(x[8:24], x[16:32])
        yield x.clone()


def same_twice(p: Any, compiled: Compile) -> Iterator[Any]:
    """The same tensor as both arguments, and different ones afterwards."""

    def f(a: Any, b: Any) -> Any:
        a.mul_(2)
        return a + b

    g, x, y = compiled(f), ramp(p), ramp(p) + 1
    for pair in ((x, x), (x, y), (y, x), (x, x), (y, y)):
        yield g(*pair)
        yield x.clone()
        yield y.clone()


def argument_and_state(p: Any, compiled: Compile) -> Iterator[Any]:
    """A tensor that the function writes by itself is passed to it, before and after others are."""
    buffer, other = p.ones(3), p.ones(3) * 5

    def f(a: Any) -> Any:
        buffer.add_(a)
        return (a * 1).sum() + buffer

    for order in ((buffer, other, buffer, other, other), (other, other, other, buffer, other)):
        g = compiled(f)
        for tensor in order:
            yield g(tensor)
            yield buffer.clone()


def outputs_as_state(p: Any, compiled: Compile) -> Iterator[Any]:
    """A result of a compiled call becomes state of another function, and its argument."""
    make = compiled(lambda t: t * 2)
    make(ramp(p, 4))
    cache = make(ramp(p, 4))

    def f(a: Any) -> Any:
        cache.mul_(2)
        return a + 1

    step = compiled(f)
    for tensor in (ramp(p, 4), ramp(p, 4), cache, ramp(p, 4), cache[0:4], cache):
        yield step(tensor)
    yield cache.clone()


def views_afterwards(p: Any, compiled: Compile) -> Iterator[Any]:
    """Views made before compiled writes show them."""
    x = ramp(p, 12)
    views = [x[::3], x.view(3, 4).t(), x[1:4], x[4:8]]
    yield from (v * 1 for v in views)
    for write in (compiled(lambda: x.add_(1).sum()), compiled(lambda: x.mul_(2).sum())):
        for _ in range(3):
            yield write()
            yield from (v * 1 for v in views)


CASES = [written_views, part_and_whole, same_twice, argument_and_state, outputs_as_state, views_afterwards]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_aliases(case: Any) -> None:
    wanted = [v.numpy().copy() for v in case(torch, lambda f: f)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = [v.numpy().copy() for v in case(graphc, graphc.compile)]
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_said() -> None:
    """A call that does not run the compiled program says so at the user's line."""
    x = ramp(graphc)
    f = graphc.compile(lambda part, whole: whole.add_(part.sum()).sum())
    with pytest.warns(UserWarning, match="shares memory with another tensor") as record:
        f(x[0:16], x)
    assert record[0].filename == __file__


def test_arrays() -> None:
    """Arrays of NumPy are written where they are, with gaps too, and may be a tensor's own memory."""
    f = graphc.compile(lambda a: a.add_(1).sum())
    a = np.arange(12, dtype=np.float32)
    assert f(a).item() == 78
    assert f(a[::2]).item() == 42
    assert a.tolist() == [2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12]
    x = graphc.zeros(4)
    g = graphc.compile(lambda a: x.add_(a + 1).sum() + a.sum())
    other = np.zeros(4, np.float32)
    assert [g(other).item() for _ in range(2)] == [4, 8]
    with pytest.warns(UserWarning, match="shares memory"):
        assert g(x.numpy()).item() == 40
    assert x.tolist() == [5, 5, 5, 5]


def test_reading_stays_compiled() -> None:
    """Parts of what is only read are no reason to leave the program, and need none of their own."""
    x = ramp(graphc)
    f = graphc.compile(lambda a, b: (a * b).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [f(x[i : i + 8], x[8:16]).item() for i in range(0, 32, 8)]
    assert found == [float(np.arange(i, i + 8) @ np.arange(8, 16)) for i in range(0, 32, 8)]
    assert f.cache_info().misses == 1
