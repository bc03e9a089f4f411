"""Recurrent layers against PyTorch: outputs, states, every gradient, ten optimiser steps, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn

torch = pytest.importorskip("torch")

T, B, N, H = 5, 3, 4, 6

# layer, keyword arguments, shape of the input, whether initial states are given
LAYERS: list[tuple[str, dict[str, Any], tuple[int, ...], bool]] = [
    ("LSTM", {}, (T, B, N), False),
    ("LSTM", {"num_layers": 2}, (T, B, N), True),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}, (B, T, N), True),
    ("LSTM", {"bias": False, "bidirectional": True}, (T, N), True),
    ("LSTM", {"proj_size": 2, "num_layers": 2}, (T, B, N), True),
    ("LSTM", {}, (1, 1, N), False),
    ("LSTM", {}, (T, N), False),
    ("GRU", {}, (T, B, N), True),
    ("GRU", {"num_layers": 2, "bidirectional": True, "bias": False}, (T, B, N), False),
    ("GRU", {"batch_first": True}, (B, T, N), True),
    ("RNN", {}, (T, B, N), True),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2}, (T, B, N), False),
    ("RNN", {"bidirectional": True}, (T, N), True),
]


def pair(layer: str, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The layer in PyTorch and here, with the same parameters."""
    torch.manual_seed(3)
    theirs = getattr(torch.nn, layer)(N, H, **arguments)
    ours = getattr(nn, layer)(N, H, **arguments)
    missing = ours.load_state_dict({k: graphc.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    assert not missing.missing_keys and not missing.unexpected_keys
    return theirs, ours


def states_of(layer: str, arguments: dict[str, Any], shape: tuple[int, ...], rng: Any) -> list[Any]:
    count = arguments.get("num_layers", 1) * (2 if arguments.get("bidirectional") else 1)
    batch = () if len(shape) == 2 else (shape[0] if arguments.get("batch_first") else shape[1],)
    widths = [arguments.get("proj_size") or H, H][: 2 if layer == "LSTM" else 1]
    return [rng.standard_normal((count, *batch, w)).astype(np.float32) for w in widths]


def run(library: Any, layer: Any, x: Any, states: list[Any]) -> list[Any]:
    """Outputs, last states, and gradients of a weighted sum of all by input, states and parameters."""
    leaves = [library.tensor(a, requires_grad=True) for a in (x, *states)]
    for p in layer.parameters():
        p.grad = None
    given = tuple(leaves[1:])
    if given:
        output, last = layer(leaves[0], given if len(given) == 2 else given[0])
    else:
        output, last = layer(leaves[0])
    found = [output, *(last if isinstance(last, tuple) else (last,))]
    total = None
    for n, v in enumerate(found):
        weights = np.cos(np.arange(int(np.prod(v.shape))) + n).astype(np.float32).reshape(tuple(v.shape))
        term = (v * library.tensor(weights)).sum()
        total = term if total is None else total + term
    total.backward()
    gradients = [t.grad for t in (*leaves, *layer.parameters())]
    return [t.detach().numpy() for t in (*found, *gradients)]


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
@pytest.mark.parametrize(("layer", "arguments", "shape", "given"), LAYERS)
def test_layer(
    layer: str, arguments: dict[str, Any], shape: tuple[int, ...], given: bool, compiled: bool
) -> None:
    rng = np.random.default_rng(1)
    theirs, ours = pair(layer, arguments)
    x = rng.standard_normal(shape).astype(np.float32)
    states = states_of(layer, arguments, shape, rng) if given else []
    wanted = run(torch, theirs, x, states)
    if compiled:
        forward = graphc.compile(ours)
        got = run(graphc, _Called(forward, ours), x, states)
    else:
        got = run(graphc, ours, x, states)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


class _Called:
    """A compiled layer with its parameters."""

    def __init__(self, forward: Any, layer: Any) -> None:
        self.forward, self.layer = forward, layer

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)

    def parameters(self) -> Any:
        return self.layer.parameters()


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
def test_ten_adam_steps(compiled: bool) -> None:
    """A classifier over two layers takes PyTorch's path through ten steps of Adam."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((T, B, N)).astype(np.float32), np.array([0, 2, 1])
    theirs, ours = pair("LSTM", {"num_layers": 2})
    torch.manual_seed(4)
    their_head, our_head = torch.nn.Linear(H, 3), nn.Linear(H, 3)
    our_head.load_state_dict({k: graphc.tensor(v.numpy()) for k, v in their_head.state_dict().items()})
    losses: list[list[float]] = []
    for library, layer, head in ((torch, theirs, their_head), (graphc, ours, our_head)):
        optimizer = library.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
        step = _training_step(library, layer, head, optimizer)
        if compiled and library is graphc:
            step = graphc.compile(step)
        losses.append([step(library.tensor(x), library.tensor(y)).item() for _ in range(10)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-4)
    assert losses[1][9] < losses[1][0]


def _training_step(library: Any, layer: Any, head: Any, optimizer: Any) -> Any:
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        output, _ = layer(x)
        loss = library.nn.functional.cross_entropy(head(output[-1]), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


CELLS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("LSTMCell", {}, (B, N)),
    ("LSTMCell", {"bias": False}, (N,)),
    ("GRUCell", {}, (B, N)),
    ("RNNCell", {"nonlinearity": "relu"}, (B, N)),
    ("RNNCell", {}, (N,)),
]


@pytest.mark.parametrize(("cell", "arguments", "shape"), CELLS)
def test_cell(cell: str, arguments: dict[str, Any], shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    theirs, ours = pair(cell, arguments)
    x, h, c = (rng.standard_normal((*shape[:-1], w)).astype(np.float32) for w in (N, H, H))
    for given in ([], [h, c] if cell == "LSTMCell" else [h]):
        found = []
        for library, layer in ((torch, theirs), (graphc, ours)):
            state = tuple(library.tensor(a) for a in given)
            result = layer(library.tensor(x), *([state if len(state) == 2 else state[0]] if state else []))
            found.append([t.detach().numpy() for t in (result if isinstance(result, tuple) else (result,))])
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


# layer, keyword arguments, shape of the input, shapes of the states
MISUSED: list[tuple[str, dict[str, Any], tuple[int, ...], list[tuple[int, ...]]]] = [
    ("LSTM", {}, (T, B, N + 1), []),
    ("LSTM", {}, (N,), []),
    ("LSTM", {}, (T, B, N), [(1, H), (1, H)]),
    ("LSTM", {}, (T, N), [(1, B, H), (1, B, H)]),
    ("LSTM", {}, (T, B, N), [(2, B, H), (1, B, H)]),
    ("LSTM", {}, (T, B, N), [(1, B, H), (1, B, H + 1)]),
    ("GRU", {}, (T, B, N), [(1, H)]),
    ("GRU", {}, (T, B, N), [(1, B + 1, H)]),
    ("RNN", {"nonlinearity": "sine"}, (T, B, N), []),
    ("GRU", {"proj_size": 2}, (T, B, N), []),
    ("LSTM", {"proj_size": H}, (T, B, N), []),
    ("LSTM", {"dropout": 1.5}, (T, B, N), []),
    ("LSTM", {"num_layers": 0}, (T, B, N), []),
    ("LSTM", {"num_layers": 1.0}, (T, B, N), []),
]


@pytest.mark.parametrize(("layer", "arguments", "shape", "states"), MISUSED)
def test_errors(layer: str, arguments: dict[str, Any], shape: tuple[int, ...], states: list[Any]) -> None:
    """The kinds of PyTorch's errors."""
    caught = []
    for library in (torch, graphc):
        with pytest.raises(Exception) as info:
            made = getattr(library.nn, layer)(N, H, **arguments)
            given = tuple(library.zeros(*s) for s in states)
            made(library.zeros(*shape), *([given if len(given) == 2 else given[0]] if given else []))
        caught.append(info.type)
    assert caught[0] is caught[1]


def test_written_out() -> None:
    """Arguments and parameters as PyTorch shows them."""
    for arguments in ({}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5}, {"proj_size": 3}):
        theirs, ours = pair("LSTM", arguments)
        assert str(ours) == str(theirs)
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        assert [[tuple(w.shape) for w in row] for row in ours.all_weights] == [
            [tuple(w.shape) for w in row] for row in theirs.all_weights
        ]


def test_dropout_between_layers() -> None:
    """Only while training, and only between layers."""
    layer = nn.LSTM(N, H, num_layers=2, dropout=1.0)
    x = graphc.randn(T, B, N)
    dropped, (h, _) = layer(x)
    assert not np.allclose(h[0].detach().numpy(), 0)
    kept, _ = layer.eval()(x)
    assert not np.allclose(dropped.detach().numpy(), kept.detach().numpy())
