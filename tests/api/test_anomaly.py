"""Anomaly mode in compiled functions, loops and maps: NaN on the way back fails the call at the forward line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import graphc
from graphc import autograd, nn


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    autograd.set_detect_anomaly(False)


def root(x: Any) -> Any:
    return x.sqrt()


def gradient(x: Any) -> Any:
    return autograd.grad((root(x) * 0 + x).sum(), [x])[0]


def scanned(x: Any) -> Any:
    last = graphc.scan(lambda c, row: ((c * 0 + row.sum() * 0).sqrt(), c), graphc.zeros(()), x)[0]
    return autograd.grad(last, [x])[0]


GOOD, BAD = (graphc.tensor([[a, 4.0]], requires_grad=True) for a in (1.0, 0.0))
LINE = root.__code__.co_firstlineno + 1


# what is run, the function that is named, the line of the forward pass
ROWS: list[tuple[Callable[[], Any], str, int]] = [
    (lambda: graphc.compile(gradient)(BAD), "SqrtBackward0", LINE),
    (lambda: graphc.compile(gradient, passes="")(BAD), "SqrtBackward0", LINE),
    (lambda: graphc.vmap(graphc.func.grad(lambda r: (root(r) * 0).sum()))(BAD), "SqrtBackward0", LINE),
    (lambda: graphc.compile(scanned)(BAD), "ScanBackward0", scanned.__code__.co_firstlineno + 1),
]


@pytest.mark.parametrize(("run", "name", "line"), ROWS, ids=["compiled", "no passes", "mapped", "loop"])
def test_nan(run: Callable[[], Any], name: str, line: int) -> None:
    with autograd.detect_anomaly(), pytest.raises(RuntimeError, match=name) as caught:
        run().tolist()
    assert (caught.value.filename, caught.value.lineno) == (__file__, line)  # type: ignore[attr-defined]


def test_another_program_while_it_is_on() -> None:
    """The mode is looked at before each call; both programs stay."""
    compiled = graphc.compile(gradient)
    for _ in range(2):
        assert str(compiled(BAD).tolist()) == "[[nan, 1.0]]"
        with autograd.set_detect_anomaly(True):
            assert compiled(GOOD).tolist() == [[1.0, 1.0]]
            with pytest.raises(RuntimeError, match="SqrtBackward0"):
                compiled(BAD)
        with autograd.detect_anomaly(check_nan=False):
            assert str(compiled(BAD).tolist()) == "[[nan, 1.0]]"
    assert compiled.cache_info().misses == 2
    text = str(compiled.stages(GOOD)["differentiate"])
    assert "checked" not in text


def test_a_step_that_fails_changes_nothing() -> None:
    net = nn.Linear(2, 1)
    optimizer = graphc.optim.Adam(net.parameters(), lr=0.1)

    @graphc.compile
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (net(x) * 0).sqrt().sum()
        loss.backward()
        optimizer.step()
        return loss

    before = [p.tolist() for p in net.parameters()]
    with autograd.detect_anomaly(), pytest.raises(RuntimeError, match="MulBackward0"):
        step(graphc.ones(1, 2))
    assert [p.tolist() for p in net.parameters()] == before
