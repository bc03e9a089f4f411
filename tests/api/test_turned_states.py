"""What a compiled call keeps of the states that it reads: used again in the next call, made again after every kind of write."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, optim

ROWS, INPUTS, OUTPUTS = 28, 100, 200


def model() -> Any:
    """A layer whose weight is read in another order of axes than it has."""
    return nn.Linear(INPUTS, OUTPUTS)


def sample(seed: int = 0) -> Any:
    return graphc.tensor(np.random.default_rng(seed).standard_normal((ROWS, INPUTS)).astype(np.float32))


def other_weight(layer: Any) -> Any:
    """Another weight than the layer has now."""
    return layer.weight.detach() * 0.5 + 1.0


def expected(layer: Any, x: Any) -> np.ndarray:
    weight, bias = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    return np.asarray(x.numpy().astype(np.float64) @ weight.T.astype(np.float64) + bias)


def check(layer: Any, forward: Any, x: Any, previous: Any = None) -> np.ndarray:
    """The call's result is that of the weights now, and has changed where `previous` is given."""
    found = forward(x).numpy().copy()
    np.testing.assert_allclose(found, expected(layer, x), rtol=1e-4, atol=1e-4)
    assert previous is None or not np.array_equal(found, previous)
    return found  # type: ignore[no-any-return]


def inference(layer: Any) -> Any:
    @graphc.compile
    def forward(x: Any) -> Any:
        with graphc.no_grad():
            return layer(x)

    return forward


def in_place(layer: Any) -> None:
    with graphc.no_grad():
        layer.weight.mul_(2.0)


def copied(layer: Any) -> None:
    layer.weight.data.copy_(other_weight(layer))


def replaced(layer: Any) -> None:
    layer.weight.data = other_weight(layer)


def loaded(layer: Any) -> None:
    layer.load_state_dict({"weight": other_weight(layer), "bias": layer.bias.detach().clone()})


def through_numpy(layer: Any) -> None:
    layer.weight.detach().numpy()[...] *= 3.0


def through_part(layer: Any) -> None:
    layer.weight.detach()[7:9].numpy()[...] += 1.0


def through_address(layer: Any) -> None:
    address = layer.weight.data_ptr()
    (ctypes.c_float * 4).from_address(address)[0] += 5.0


def later_through_address() -> Callable[[Any], None]:
    """The address is asked for at the first write, and used at the others too."""
    addresses: dict[int, int] = {}

    def write(layer: Any) -> None:
        address = addresses.get(id(layer)) or addresses.setdefault(id(layer), layer.weight.data_ptr())
        (ctypes.c_float * 4).from_address(address)[0] += 5.0

    return write


def trained(layer: Any) -> None:
    optimizer = optim.SGD(layer.parameters(), lr=0.5)
    layer(sample(3)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def compiled_step(layer: Any, lr: float) -> Any:
    optimizer = optim.SGD(layer.parameters(), lr=lr)

    @graphc.compile
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = layer(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def trained_compiled(layer: Any) -> None:
    step = compiled_step(layer, 0.5)
    for seed in range(3):
        step(sample(seed))


WRITES: list[Callable[[Any], None]] = [
    in_place, copied, replaced, loaded, through_numpy, through_part, through_address, later_through_address(), trained, trained_compiled
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES, ids=lambda f: f.__name__)
def test_a_write_is_seen(write: Callable[[Any], None]) -> None:
    layer, x = model(), sample()
    forward = inference(layer)
    found = check(layer, forward, x)
    for _ in range(2):
        for _ in range(3):  # native calls, before the write too
            assert np.array_equal(forward(x).numpy(), found)
        write(layer)
        found = check(layer, forward, x, found)
        assert np.array_equal(check(layer, forward, x), found)


def test_two_programs_of_one_step_and_a_view_of_numpy() -> None:
    """Training and inference in turns through native calls, and writes through an array that outlives several calls."""
    layer, x = model(), sample()
    forward = inference(layer)
    step = compiled_step(layer, 0.1)
    found = None
    for _ in range(4):
        found = check(layer, forward, x, found)
        step(x)
    array = layer.weight.detach().numpy()
    for _ in range(3):
        array += 0.25
        found = check(layer, forward, x, found)
    array -= 0.5
    del array
    found = check(layer, forward, x, found)
    assert np.array_equal(check(layer, forward, x), found)


def test_memory_that_a_user_shares_is_read_in_every_call() -> None:
    array = np.random.default_rng(2).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    layer, x = model(), sample()
    layer.weight = nn.Parameter(graphc.from_numpy(array))
    forward = inference(layer)
    found = check(layer, forward, x)
    for _ in range(3):
        array *= 1.5
        found = check(layer, forward, x, found)


def test_dump_and_bits() -> None:
    """The plan says what is kept; results are those of a function that keeps nothing, to the last bit."""
    layer, x = model(), sample()
    forward = inference(layer)
    text = str(forward.stages(x)["plan"])
    assert ".kept: phase 0; else" in text
    with graphc.no_grad():
        eager = layer(x).numpy()
    for _ in range(3):
        assert np.array_equal(forward(x).numpy(), eager)
