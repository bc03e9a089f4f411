"""Recurrent layers against PyTorch: outputs, states, every gradient, ten optimiser steps, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn

torch = pytest.importorskip("torch")

T, B, N, H = 5, 3, 4, 6

# layer, keyword arguments ("double" for all in float64), shape of the input, whether initial states are given
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
    ("LSTM", {"proj_size": 3, "bidirectional": True, "num_layers": 2, "batch_first": True}, (B, T, N), True),
    ("LSTM", {"proj_size": 2, "bias": False}, (T, N), True),
    ("LSTM", {"num_layers": 3, "dropout": 1.0}, (T, B, N), True),
    ("GRU", {"num_layers": 2, "dropout": 1.0, "bidirectional": True}, (T, B, N), False),
    ("GRU", {"num_layers": 3}, (T, N), True),
    (
        "RNN",
        {"nonlinearity": "relu", "bidirectional": True, "num_layers": 2, "batch_first": True},
        (B, T, N),
        True,
    ),
    ("RNN", {"bias": False, "num_layers": 2, "dropout": 1.0}, (T, B, N), True),
    ("LSTM", {"double": True, "num_layers": 2, "bidirectional": True, "proj_size": 2}, (T, B, N), True),
    ("GRU", {"double": True, "batch_first": True}, (B, T, N), True),
    ("RNN", {"double": True, "nonlinearity": "relu"}, (T, N), True),
]


def pair(layer: str, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The layer in PyTorch and here, with the same parameters."""
    torch.manual_seed(3)
    arguments = dict(arguments)
    double = arguments.pop("double", False)
    theirs = getattr(torch.nn, layer)(N, H, **arguments)
    ours = getattr(nn, layer)(N, H, **arguments)
    if double:
        theirs, ours = theirs.double(), ours.double()
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
        weights = np.cos(np.arange(int(np.prod(v.shape))) + n).astype(x.dtype).reshape(tuple(v.shape))
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
    if arguments.get("double"):
        x, states = x.astype(np.float64), [s.astype(np.float64) for s in states]
    wanted = run(torch, theirs, x, states)
    if compiled:
        forward = graphc.compile(ours)
        got = run(graphc, _Called(forward, ours), x, states)
    else:
        got = run(graphc, ours, x, states)
    exact = 1e-12 if arguments.get("double") else 2e-5
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=exact, atol=exact)


class _Called:
    """A compiled layer with its parameters."""

    def __init__(self, forward: Any, layer: Any) -> None:
        self.forward, self.layer = forward, layer

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)

    def parameters(self) -> Any:
        return self.layer.parameters()


# layer, keyword arguments, whether the step is compiled
TRAINED: list[tuple[str, dict[str, Any], bool]] = [
    ("LSTM", {"num_layers": 2}, False),
    ("LSTM", {"num_layers": 2}, True),
    ("LSTM", {"proj_size": 3, "bidirectional": True}, True),
    ("GRU", {"num_layers": 2, "bidirectional": True}, True),
    ("GRU", {"bias": False}, False),
    ("RNN", {"nonlinearity": "relu"}, True),
    ("RNN", {"double": True, "num_layers": 2}, True),
    ("LSTMCell", {}, True),
    ("GRUCell", {}, True),
    ("RNNCell", {}, True),
]


@pytest.mark.parametrize(("layer", "arguments", "compiled"), TRAINED)
def test_ten_adam_steps(layer: str, arguments: dict[str, Any], compiled: bool) -> None:
    """A classifier takes PyTorch's path through ten steps of Adam."""
    rng = np.random.default_rng(2)
    dtype = np.float64 if arguments.get("double") else np.float32
    x, y = rng.standard_normal((T, B, N)).astype(dtype), np.array([0, 2, 1])
    theirs, ours = pair(layer, arguments)
    torch.manual_seed(4)
    width = (arguments.get("proj_size") or H) * (2 if arguments.get("bidirectional") else 1)
    their_head, our_head = torch.nn.Linear(width, 3), nn.Linear(width, 3)
    if dtype is np.float64:
        their_head, our_head = their_head.double(), our_head.double()
    our_head.load_state_dict({k: graphc.tensor(v.numpy()) for k, v in their_head.state_dict().items()})
    losses: list[list[float]] = []
    for library, made, head in ((torch, theirs, their_head), (graphc, ours, our_head)):
        optimizer = library.optim.Adam([*made.parameters(), *head.parameters()], lr=0.02)
        step = _training_step(library, made, head, optimizer)
        if compiled and library is graphc:
            step = graphc.compile(step)
        losses.append([step(library.tensor(x), library.tensor(y)).item() for _ in range(10)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-11 if dtype is np.float64 else 2e-4)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=2e-4)
    assert losses[1][9] < losses[1][0]


def _walk(layer: Any, x: Any) -> Any:
    """The last output of a layer, or of a cell that is called step by step."""
    if not type(layer).__name__.endswith("Cell"):
        output, _ = layer(x)
        return output[-1]
    state = None
    for row in x:
        state = layer(row, state)
    return state[0] if isinstance(state, tuple) else state


def _training_step(library: Any, layer: Any, head: Any, optimizer: Any) -> Any:
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = library.nn.functional.cross_entropy(head(_walk(layer, x)), y)
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
            leaves = [library.tensor(a, requires_grad=True) for a in (x, *given)]
            state = tuple(leaves[1:])
            result = layer(leaves[0], *([state if len(state) == 2 else state[0]] if state else []))
            results = result if isinstance(result, tuple) else (result,)
            for p in layer.parameters():
                p.grad = None
            sum((t * t).sum() for t in results).backward()
            found.append(
                [t.detach().numpy() for t in results]
                + [t.grad.numpy() for t in (*leaves, *layer.parameters())]
            )
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-6)


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
    ("LSTM", {"num_layers": -1}, (T, B, N), []),
    ("LSTM", {"proj_size": -1}, (T, B, N), []),
    ("LSTM", {"proj_size": 2}, (T, B, N), [(1, B, H), (1, B, H)]),
    ("LSTM", {"batch_first": True}, (B, T, N), [(1, T, H), (1, T, H)]),
    ("LSTM", {}, (2, T, B, N), []),
    ("LSTM", {}, (0, B, N), []),
    ("GRU", {}, (0, N), []),
    ("GRU", {}, (T, N), [(1, B, H)]),
    ("GRU", {"bidirectional": True}, (T, B, N), [(1, B, H)]),
    ("RNN", {}, (T, N), [(1, H + 1)]),
    ("RNN", {}, (T, B, N), [(1, B, H, 1)]),
    ("GRU", {"dropout": True}, (T, B, N), []),
    ("GRU", {"dropout": "a"}, (T, B, N), []),
    ("RNN", {"double": True}, (T, B, N), []),
    ("LSTMCell", {}, (B, N + 1), []),
    ("LSTMCell", {}, (T, B, N), []),
    ("LSTMCell", {}, (B, N), [(B, H)]),
    ("LSTMCell", {}, (B, N), [(B, H + 1), (B, H)]),
    ("LSTMCell", {}, (B, N), [(B + 1, H), (B + 1, H)]),
    ("LSTMCell", {}, (N,), [(B, H), (B, H)]),
    ("GRUCell", {}, (B, N), [(H,)]),
    ("GRUCell", {}, (N,), [(B, H)]),
    ("GRUCell", {"double": True}, (B, N), []),
    ("RNNCell", {}, (B, N), [(B, H, 1)]),
    ("RNNCell", {"nonlinearity": "sine"}, (B, N), []),
]


@pytest.mark.parametrize(("layer", "arguments", "shape", "states"), MISUSED)
def test_errors(layer: str, arguments: dict[str, Any], shape: tuple[int, ...], states: list[Any]) -> None:
    """The kinds of PyTorch's errors."""
    caught = []
    for library in (torch, graphc):
        given_arguments = {k: v for k, v in arguments.items() if k != "double"}
        with pytest.raises(Exception) as info:
            made = getattr(library.nn, layer)(N, H, **given_arguments)
            made = made.double() if "double" in arguments else made
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


@pytest.mark.parametrize("layer", ["LSTM", "LSTMCell"])
@pytest.mark.parametrize("count", [None, 1, 3])
def test_states_of_an_lstm_are_a_pair(layer: str, count: int | None) -> None:
    """Anything else is refused by name, not taken apart row by row."""
    state = graphc.zeros(1, B, H) if layer == "LSTM" else graphc.zeros(B, H)
    x = graphc.zeros(T, B, N) if layer == "LSTM" else graphc.zeros(B, N)
    with pytest.raises(TypeError, match=r"must be a tuple of two Tensors \(h_0, c_0\)"):
        getattr(nn, layer)(N, H)(x, state if count is None else (state,) * count)
