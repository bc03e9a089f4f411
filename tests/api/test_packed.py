"""Sequences of different lengths against PyTorch: padding, packing, recurrent layers over packed data, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn

torch = pytest.importorskip("torch")

T, B, N, H = 5, 4, 3, 6
LENGTHS = [[5, 3, 2, 1], [2, 5, 1, 3], [4, 4, 4, 4], [1, 1, 1, 1]]

# layer, keyword arguments, whether initial states are given, lengths, whether compiled
LAYERS: list[tuple[str, dict[str, Any], bool, list[int], bool]] = [
    ("LSTM", {}, False, LENGTHS[0], True),
    ("LSTM", {"num_layers": 2, "bidirectional": True}, True, LENGTHS[1], False),
    ("LSTM", {"proj_size": 2, "bias": False}, True, LENGTHS[1], False),
    ("GRU", {"bidirectional": True}, True, LENGTHS[1], True),
    ("GRU", {"num_layers": 2, "batch_first": True}, False, LENGTHS[2], False),
    ("RNN", {"nonlinearity": "relu", "bidirectional": True}, True, LENGTHS[0], False),
]


def value(x: Any) -> Any:
    """Tensors of either library as arrays, nests as tuples."""
    if isinstance(x, (tuple, list)):
        return tuple(value(v) for v in x)
    return x.detach().numpy() if hasattr(x, "detach") else x


def same(ours: Any, theirs: Any) -> None:
    """Two nests hold the same arrays."""
    assert type(ours) is type(theirs)
    if isinstance(ours, tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif isinstance(ours, np.ndarray):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
        assert ours.dtype == theirs.dtype
    else:
        assert ours == theirs


def padded(library: Any) -> Any:
    rng = np.random.default_rng(0)
    return library.tensor(rng.standard_normal((T, B, N)).astype(np.float32))


FUNCTIONS: list[Callable[[Any, Any], Any]] = [
    *[lambda t, r, n=n: r.pack_padded_sequence(padded(t), n, enforce_sorted=False) for n in LENGTHS],
    lambda t, r: r.pack_padded_sequence(padded(t), LENGTHS[0]),
    lambda t, r: r.pack_padded_sequence(padded(t), t.tensor(LENGTHS[0])),
    lambda t, r: r.pack_padded_sequence(padded(t), [4, 3, 2, 2, 1], batch_first=True),
    lambda t, r: r.pad_packed_sequence(
        r.pack_padded_sequence(padded(t), LENGTHS[1], enforce_sorted=False),
        batch_first=True,
        padding_value=-1.5,
        total_length=7,
    ),
    lambda t, r: r.pad_packed_sequence(r.pack_padded_sequence(padded(t), LENGTHS[2])),
    lambda t, r: r.pad_sequence([padded(t)[:2, 0], padded(t)[:, 1], padded(t)[:1, 2]]),
    lambda t, r: r.pad_sequence(
        [t.arange(3), t.arange(5)], batch_first=True, padding_value=7, padding_side="left"
    ),
    lambda t, r: r.pad_sequence(padded(t)),
    lambda t, r: r.unpad_sequence(padded(t), t.tensor(LENGTHS[1])),
    lambda t, r: r.unpack_sequence(r.pack_sequence([t.arange(2), t.arange(5)], enforce_sorted=False)),
    lambda t, r: r.pack_sequence([t.arange(5), t.arange(2)]),
    lambda t, r: r.invert_permutation(t.tensor([2, 0, 1])),
    lambda t, r: r.PackedSequence((padded(t)[:, 0], t.tensor([3, 2]))),
    lambda t, r: r.pack_padded_sequence(padded(t), LENGTHS[0]).double(),
]


@pytest.mark.parametrize("number", range(len(FUNCTIONS)))
def test_function(number: int) -> None:
    function: Any = FUNCTIONS[number]
    same(value(function(graphc, graphc.nn.utils.rnn)), value(function(torch, torch.nn.utils.rnn)))


WRONG: list[Callable[[Any, Any], Any]] = [
    lambda t, r: r.pack_padded_sequence(padded(t), [4, 3]),
    lambda t, r: r.pack_padded_sequence(padded(t), [4, 3, 1, 0]),
    lambda t, r: r.pack_padded_sequence(padded(t), [3, 4, 1, 1]),
    lambda t, r: r.pack_padded_sequence(padded(t), t.tensor([LENGTHS[0]])),
    lambda t, r: r.pack_padded_sequence(padded(t)[0, 0], [1]),
    lambda t, r: r.pack_padded_sequence(padded(t)[:, :0], []),
    lambda t, r: r.pad_packed_sequence(r.pack_padded_sequence(padded(t), LENGTHS[0]), total_length=3),
    lambda t, r: r.pad_sequence([]),
    lambda t, r: r.pad_sequence(3),
    lambda t, r: r.pad_sequence([padded(t)], padding_side="up"),
    lambda t, r: r.pad_sequence([t.zeros(2, 3), t.zeros(2, 4)]),
    lambda t, r: r.PackedSequence(padded(t)),
    lambda t, r: t.nn.LSTM(N + 2, H)(r.pack_padded_sequence(padded(t), LENGTHS[0])),
    lambda t, r: t.nn.GRU(N, H)(r.pack_padded_sequence(padded(t), LENGTHS[0]), t.zeros(1, B - 1, H)),
    lambda t, r: t.nn.LSTM(N, H)(r.PackedSequence(t.zeros(3, N), t.tensor([3, 4]))),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_error(number: int) -> None:
    function: Any = WRONG[number]
    with pytest.raises(Exception) as theirs:
        function(torch, torch.nn.utils.rnn)
    with pytest.raises(theirs.type):
        function(graphc, graphc.nn.utils.rnn)


def test_length_beyond_the_input() -> None:
    with pytest.raises(RuntimeError, match="a length is 6, but input has 5 steps"):
        nn.utils.rnn.pack_padded_sequence(padded(graphc), [6, 2, 1, 1])


def run(library: Any, layer: Any, lengths: list[int], given: bool, forward: Any) -> list[Any]:
    """Packed outputs, last states and gradients of a weighted sum by input, states and parameters."""
    rng = np.random.default_rng(1)
    directions, layers = 2 if layer.bidirectional else 1, layer.num_layers
    widths = [layer.proj_size or H, H] if layer.mode == "LSTM" else [H]
    shapes = [(layers * directions, B, w) for w in widths] if given else []
    leaves = [
        library.tensor(rng.standard_normal(s).astype(np.float32), requires_grad=True)
        for s in ((T, B, N), *shapes)
    ]
    x = leaves[0].transpose(0, 1) if layer.batch_first else leaves[0]
    packed = library.nn.utils.rnn.pack_padded_sequence(
        x, lengths, batch_first=layer.batch_first, enforce_sorted=False
    )
    states = () if not given else (tuple(leaves[1:]) if len(shapes) == 2 else leaves[1],)
    output, last = forward(packed, *states)
    found = [output.data, *(last if isinstance(last, tuple) else (last,))]
    total = None
    for n, v in enumerate(found):
        weights = np.cos(np.arange(v.numel()) + n).astype(np.float32).reshape(tuple(v.shape))
        term = (v * library.tensor(weights)).sum()
        total = term if total is None else total + term
    total.backward()
    rows, _ = library.nn.utils.rnn.pad_packed_sequence(output)
    return [value(v) for v in (rows, *found, *(t.grad for t in (*leaves, *layer.parameters())))]


@pytest.mark.parametrize(("layer", "arguments", "given", "lengths", "compiled"), LAYERS)
def test_layer(
    layer: str, arguments: dict[str, Any], given: bool, lengths: list[int], compiled: bool
) -> None:
    torch.manual_seed(3)
    theirs = getattr(torch.nn, layer)(N, H, **arguments)
    ours = getattr(nn, layer)(N, H, **arguments)
    ours.load_state_dict({k: graphc.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    wanted = run(torch, theirs, lengths, given, theirs)
    got = run(graphc, ours, lengths, given, graphc.compile(ours) if compiled else ours)
    same(tuple(got), tuple(wanted))


def test_compiled_for_each_set_of_lengths() -> None:
    """A packed argument of the same lengths is the same program, other lengths are another."""
    layer = nn.GRU(N, H)
    forward = graphc.compile(layer)
    pack = nn.utils.rnn.pack_padded_sequence
    for lengths, misses in (([5, 3, 2, 1], 1), ([5, 3, 2, 1], 1), ([5, 2, 2, 1], 2)):
        packed = pack(padded(graphc), lengths)
        wanted, got = layer(packed), forward(packed)
        assert got[0].packing() == packed.packing()
        same(value(got), value(wanted))
        assert forward.cache_info().misses == misses
