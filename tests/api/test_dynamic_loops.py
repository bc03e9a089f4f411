"""Loops whose number of steps each call brings: one program for every length, against PyTorch and the same loop
recorded for each length alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn

torch = pytest.importorskip("torch")

LENGTHS = (3, 0, 1, 2, 7, 100, 8)
TIME = {"x": {0: "time"}}
_rng = np.random.default_rng(11)


def _floats(*shape: int) -> Any:
    return graphc.from_numpy(_rng.standard_normal(shape).astype(np.float32))


def _flat(found: Any) -> list[Any]:
    """Tensors in a nest of tuples."""
    if isinstance(found, tuple):
        return [v for part in found for v in _flat(part)]
    return [] if found is None else [found]


def _agree(function: Callable[..., Any], dynamic: Any, calls: Any, **tolerance: float) -> None:
    """Compares the one compiled program with the function itself, on the arguments of each call."""
    compiled = graphc.compile(function, dynamic=dynamic)
    for args in calls:
        for got, want in zip(_flat(compiled(*args)), _flat(function(*args)), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(
                got.detach().numpy(), want.detach().numpy(), **(tolerance or {"rtol": 1e-6, "atol": 1e-6})
            )
    assert compiled.cache_info().misses == 1


def _turns(x: Any) -> Any:
    """Two values that change places: which of two buffers comes first depends on the length."""
    return graphc.scan(lambda c, v: ((c[1] + v, c[0] * 0.5), c[0]), (graphc.zeros(3), graphc.ones(3)), x)


def _numbered(x: Any) -> Any:
    return graphc.fori_loop(1, x.shape[0], lambda i, total: total * 0.5 + x[i], graphc.ones(3))


def _nested(x: Any) -> Any:
    n = x.shape[0]
    return graphc.scan(lambda c, v: (graphc.fori_loop(0, n, lambda i, a: a * 0.5 + v, c), c), x.sum(0), x)


def _drawn(x: Any) -> Any:
    """Writes a tensor from outside in each step."""
    total = graphc.zeros(3)

    def step(c: Any, v: Any) -> Any:
        total.add_(v * c)
        return c * 0.5 + v, total.sum()

    return graphc.scan(step, graphc.ones(3), x), total


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "scan": lambda x: graphc.scan(lambda c, v: (c * 0.5 + v, c * v), graphc.zeros(3), x),
    "reverse": lambda x: graphc.scan(lambda c, v: (c * 0.5 + v, c * v), graphc.zeros(3), x, reverse=True),
    "two values": _turns,
    "unread slices": lambda x: graphc.scan(lambda c, v: (c * 0.5 + 1, c), graphc.zeros(3), x)[1],
    "length alone": lambda x: graphc.scan(
        lambda c, _: (c * 0.5 + 1, None), x.sum(0), None, length=x.shape[0] * 2 + 1
    ),
    "half": lambda x: graphc.scan(lambda c, v: (c + v, c), graphc.ones(3), x[: x.shape[0] // 2]),
    "map": lambda x: graphc.map(lambda v: (v.exp(), v.sum()), x),
    "numbered": _numbered,
    "nested": _nested,
    "written": _drawn,
    "branch": lambda x: graphc.scan(
        lambda c, v: (graphc.cond(c.sum() > 0, lambda: c - v, lambda: c + v), c), graphc.ones(3), x
    ),
    "product": lambda x: graphc.scan(
        lambda c, v: ((v @ graphc.full((3, 3), 0.25)) + c, c), graphc.ones(3), x
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lengths(name: str) -> None:
    _agree(FUNCTIONS[name], TIME, [(_floats(n, 3),) for n in LENGTHS])


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients(reverse: bool) -> None:
    def function(x: Any, w: Any) -> Any:
        def step(c: Any, v: Any) -> Any:
            return graphc.tanh(w @ c + v), c * v

        last, parts = graphc.scan(step, w.sum(0), x, reverse=reverse)
        loss = last.square().sum() + (parts * parts).sum()
        return loss, graphc.autograd.grad(loss, [x, w])

    def leaf(*shape: int) -> Any:
        return _floats(*shape).requires_grad_()

    calls = [(leaf(n, 3), leaf(3, 3)) for n in LENGTHS]
    _agree(function, TIME, calls, rtol=1e-4, atol=1e-4)


def test_two_dynamic_axes() -> None:
    def function(x: Any, y: Any) -> Any:
        return graphc.scan(lambda c, v: (c + v[0] * v[1], c), x.sum(0), (x, y))

    dynamic = {"x": {0: "time", 1: "batch"}, "y": {0: "time", 1: "batch"}}
    sizes = ((3, 2), (0, 4), (5, 0), (1, 1), (64, 7))
    _agree(function, dynamic, [(_floats(t, b, 3), _floats(t, b, 3)) for t, b in sizes], rtol=1e-5, atol=1e-5)


def test_what_a_step_without_steps_would_refuse() -> None:
    """An index that is out of range fails a loop only where there is a step."""
    table, at = graphc.ones(4, 3), graphc.tensor([9])
    compiled = graphc.compile(
        lambda x: graphc.scan(lambda c, v: (c + v * table[at].sum(), None), graphc.zeros(3), x)[0],
        dynamic=TIME,
    )
    assert compiled(_floats(0, 3)).tolist() == [0, 0, 0]
    with pytest.raises(IndexError, match="index 9 is out of bounds"):
        compiled(_floats(2, 3))


def test_slices_of_other_lengths() -> None:
    def function(x: Any, y: Any) -> Any:
        return graphc.scan(lambda c, v: (c + v[0] * v[1], None), graphc.zeros(3), (x, y))[0]

    compiled = graphc.compile(function, dynamic={"x": {0: "a"}, "y": {0: "b"}})
    assert compiled(graphc.ones(4, 3), graphc.ones(4, 3)).tolist() == [4, 4, 4]
    with pytest.raises(RuntimeError, match=r"a steps expected of each of xs.*\(with a=4, b=3\)"):
        compiled(graphc.ones(4, 3), graphc.ones(3, 3))
    fixed = graphc.compile(function, dynamic={"x": {0: "a"}})
    assert fixed(graphc.ones(4, 3), graphc.ones(4, 3)).tolist() == [4, 4, 4]
    with pytest.raises(RuntimeError, match=r"a steps expected of each of xs.*\(with a=2\)"):
        fixed(graphc.ones(2, 3), graphc.ones(4, 3))


MODULES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "LSTM": (lambda n: n.LSTM(5, 8, bidirectional=True), False),
    "LSTM projected": (lambda n: n.LSTM(5, 8, proj_size=3, batch_first=True), True),
    "GRU": (lambda n: n.GRU(5, 8, batch_first=True), True),
    "RNN": (lambda n: n.RNN(5, 8, nonlinearity="relu"), False),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("batched", [False, True])
def test_recurrent_modules(name: str, batched: bool) -> None:
    """Outputs, and parameters after training steps, for sequences of many lengths (and batches)."""
    make, first = MODULES[name]
    torch.manual_seed(0)
    model, twin = make(nn), make(torch.nn)
    model.load_state_dict({k: graphc.from_numpy(v.numpy().copy()) for k, v in twin.state_dict().items()})
    time, batch = (1, 0) if first else (0, 1)
    dynamic = {"x": {time: "time", **({batch: "batch"} if batched else {})}}
    mine = graphc.optim.SGD(model.parameters(), lr=0.1)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        y, states = model(x)
        loss = y.square().mean() + sum(s.mean() for s in _flat(states))
        mine.zero_grad()
        loss.backward()
        mine.step()
        return y, loss

    compiled = graphc.compile(step, dynamic=dynamic)
    lengths = [(3, 4), (1, 4), (2, 4), (7, 4), (100, 4)] + ([(4, 1), (3, 9), (5, 64)] if batched else [])
    for t, b in lengths:
        x = _floats(*((b, t) if first else (t, b)), 5)
        y, loss = compiled(x)
        expected, states = twin(torch.from_numpy(x.numpy().copy()))
        wanted = expected.square().mean() + sum(s.mean() for s in _flat(states))
        theirs.zero_grad()
        wanted.backward()
        theirs.step()
        np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), 1e-4, 1e-5)
        assert float(loss) == pytest.approx(wanted.item(), rel=1e-4)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), 1e-3, 1e-4)
    assert compiled.cache_info().misses == 1
    with pytest.raises(RuntimeError, match="expected a sequence length larger than 0"):
        compiled(_floats(*((4, 0) if first else (0, 4)), 5))
