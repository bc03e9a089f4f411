"""Calls with arguments that were not seen before: no Python runs for them, and they mean what they mean uncompiled."""

from __future__ import annotations

import gc
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.nn import functional as F
from graphc.runtime import buffers

Pair = namedtuple("Pair", ["first", "second"])
N = 8


def values(i: int) -> np.ndarray[Any, Any]:
    """Numbers that differ from call to call."""
    return np.arange(N, dtype=np.float32) + i


def frames(call: Callable[[], Any]) -> list[str]:
    """Names of the Python functions that `call()` enters."""
    entered: list[str] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            entered.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered[1:]


BIG = np.arange(64 * N, dtype=np.float32).reshape(64, N)
ROWS = graphc.tensor(BIG)

ARGUMENTS: dict[str, Callable[[int], Any]] = {
    "tensor": lambda i: graphc.tensor(values(i)),
    "list of numbers": lambda i: graphc.tensor(values(i).tolist()),
    "from_numpy": lambda i: graphc.from_numpy(values(i)),
    "array": values,
    "read-only array": lambda i: _read_only(values(i)),
    "rows of an array": lambda i: BIG[i],
    "rows of a tensor": lambda i: ROWS[i : i + 1].reshape(N) if i < 0 else ROWS[2 * i : 2 * i + 2],
    "zeros": lambda i: graphc.full((N,), float(i)),
    "detached": lambda i: graphc.tensor(values(i)).detach(),
    "in a tuple": lambda i: (graphc.tensor(values(i)), values(i)),
    "in a list": lambda i: [values(i), graphc.tensor(values(i))],
    "in a dict": lambda i: {"x": values(i), "y": graphc.tensor(values(i))},
    "in a named tuple": lambda i: Pair(values(i), values(i)),
    "in nests of nests": lambda i: {"x": [values(i), (values(i), {"z": values(i)})], "y": (), "n": 3},
}


def _read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


def leaves(nest: Any) -> Iterator[Any]:
    """Tensors of a nest, arrays as tensors."""
    if isinstance(nest, dict):
        nest = list(nest.values())
    if isinstance(nest, (list, tuple)):
        for x in nest:
            yield from leaves(x)
    elif isinstance(nest, np.ndarray):
        yield graphc.tensor(nest)
    elif not isinstance(nest, int):
        yield nest


def weighted(nest: Any) -> Any:
    """A number in which every element has a weight of its own."""
    total = graphc.zeros(())
    for i, x in enumerate(leaves(nest), 1):
        total = total + i * (x * graphc.arange(x.numel()).reshape(x.shape)).sum()
    return total


@pytest.mark.parametrize("make", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_a_new_argument_enters_no_python(make: Callable[[int], Any]) -> None:
    call = graphc.compile(weighted)
    wanted = [weighted(make(i)).item() for i in range(4)]
    call(make(0))
    got: list[Any] = []
    for i in range(1, 4):
        given = make(i)
        assert frames(lambda: got.append(call(given))) == []  # noqa: B023
    assert [x.item() for x in got] == wanted[1:]
    assert call.cache_info().misses == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda i: graphc.tensor(values(i)).clone(),
        lambda i: graphc.tensor(values(i)) + 1,
        lambda i: ROWS.t()[:, i],
        lambda i: ROWS[:N, i],
        lambda i: BIG[:N, i],
        lambda i: BIG[i, ::-1],
        lambda i: values(i).astype(">f4"),
        lambda i: np.frombuffer(b"\0" * 4 + values(i).tobytes(), np.float32, N, 4),
        lambda i: [graphc.tensor(values(i)) * 2, BIG[:N, i]],
    ],
    ids=["clone", "sum", "column", "gaps", "gaps of an array", "reversed", "swapped", "unaligned", "nested"],
)
def test_other_new_arguments_mean_the_same(make: Callable[[int], Any]) -> None:
    call = graphc.compile(weighted)
    for i in range(4):
        assert call(make(i)).item() == weighted(make(i)).item()
    assert call.cache_info()[:2] == (3, 1)


def test_the_result_of_one_call_is_the_argument_of_the_next() -> None:
    call = graphc.compile(lambda x: x * 0.5)
    x = call(graphc.full((N,), 2.0**20))
    for _ in range(3):
        x = call(x)
    got: list[Any] = []
    assert frames(lambda: got.append(call(x))) == []
    assert got[0].tolist() == [2.0**15] * N


def test_a_training_step_takes_new_batches() -> None:
    def trained(compiled: bool) -> list[float]:
        graphc.manual_seed(3)
        model = nn.Linear(4, 2)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def step(batch: dict[str, Any]) -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch["x"]), batch["y"])
            loss.backward()
            optimizer.step()
            return loss

        run = graphc.compile(step) if compiled else step
        rng = np.random.default_rng(0)
        losses = []
        for _ in range(6):
            x, y = rng.standard_normal((5, 4)).astype(np.float32), rng.integers(0, 2, 5)
            batch = {"x": graphc.from_numpy(x), "y": graphc.tensor(y)}
            losses.append(run(batch).item())
        return losses

    np.testing.assert_allclose(trained(True), trained(False), rtol=1e-5)


# -- what must not be taken for the same --------------------------------------------------------------------


def test_the_same_tensor_twice_and_two_tensors() -> None:
    call = graphc.compile(lambda a, b: (a * b).sum())
    x, y = graphc.full((N,), 2.0), graphc.full((N,), 3.0)
    z = x.detach()
    for a, b, wanted in [(x, x, 4), (x, y, 6), (y, x, 6), (x, z, 4), (y, y, 9), (x, y, 6), (z, y, 6)]:
        assert call(a, b).item() == N * wanted


def test_the_same_tensor_twice_in_nests() -> None:
    call = graphc.compile(lambda p, k: (p["a"] * p["b"][0] * k).sum())
    x, y = graphc.full((N,), 2.0), graphc.full((N,), 3.0)
    for a, b, k, wanted in [(x, x, x, 8), (x, y, x, 12), (x, x, y, 12), (y, x, x, 12), (x, x, x, 8)]:
        assert call({"a": a, "b": [b]}, k).item() == N * wanted


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ({"b": 1.0, "a": 2.0}, 4.0),
        ({"a": 1.0}, None),
        ({"a": 1.0, "c": 2.0}, None),
        ([("a", 1.0), ("b", 2.0)], None),
    ],
)
def test_other_nests(other: Any, wanted: float | None) -> None:
    call = graphc.compile(lambda d: d["a"] * 2 + d["b"] * 0)
    one = {"a": graphc.tensor(1.0), "b": graphc.tensor(2.0)}
    for _ in range(2):
        assert call(one).item() == 2
    given = (
        {k: graphc.tensor(v) for k, v in other.items()} if isinstance(other, dict) else [graphc.tensor(1.0)]
    )
    if wanted is None:
        with pytest.raises((KeyError, TypeError, IndexError)):
            call(given)
    else:
        assert call(given).item() == wanted
    assert call(one).item() == 2


@pytest.mark.filterwarnings("ignore:.*shares memory")
def test_an_argument_that_is_a_state() -> None:
    state = graphc.ones(N)

    def f(x: Any) -> Any:
        state.add_(1)
        return (x * state).sum()

    plain, call = f, graphc.compile(f)
    call(graphc.ones(N))
    for make in (
        lambda: state,
        lambda: state[0:N],
        lambda: state.detach(),
        lambda: state.numpy(),
        lambda: graphc.ones(N),
    ):
        with graphc.no_grad():
            before = state.clone()
            wanted = plain(make()).item()
            state.copy_(before)
        assert call(make()).item() == wanted


def test_memory_that_is_used_again() -> None:
    """A tensor of another type or shape at the address of one that is gone."""
    call = graphc.compile(lambda x: x.sum())
    made: list[Callable[[], Any]] = [
        lambda: graphc.ones(16),
        lambda: graphc.ones(16, dtype=graphc.int32),
        lambda: graphc.ones(4, 4),
        lambda: graphc.ones(8, dtype=graphc.float64),
        lambda: np.ones(16, np.float32),
        lambda: np.ones(16, np.int32),
    ]
    for _ in range(3):
        for make in made:
            x = make()
            got = call(x)
            assert got.item() == x.sum()
            assert got.dtype == graphc.as_tensor(x).sum().dtype
            del x
    assert call.cache_info().misses == 4


def test_requires_grad_comes_and_goes() -> None:
    call = graphc.compile(lambda x: (x * x).sum())
    x = graphc.tensor(values(1))
    for on in (False, True, False, True):
        x.requires_grad_(on)
        got = call(x)
        assert got.requires_grad == on
        if on:
            x.grad = None
            got.backward()
            assert x.grad is not None
            assert x.grad.tolist() == (2 * values(1)).tolist()


def test_values_written_between_calls() -> None:
    call = graphc.compile(lambda x: x.sum())
    array = values(0)
    x = graphc.from_numpy(array)
    view = graphc.ones(2, N)
    for i in range(4):
        array += 1
        assert call(x).item() == array.sum()
        assert call(array).item() == array.sum()
        x.add_(1)
        assert call(x).item() == array.sum()
        view[1] += i
        assert call(view[1:2]).item() == view.numpy()[1].sum()
        assert call(view[1]).item() == view.numpy()[1].sum()


def test_a_read_only_array_is_not_written() -> None:
    def f(x: Any) -> Any:
        x.add_(1)
        return x.sum()

    call = graphc.compile(f)
    for i in range(3):
        given = values(i)
        assert call(given).item() == (values(i) + 1).sum()
        assert given.tolist() == (values(i) + 1).tolist()
    with pytest.raises(ValueError, match="read-only"):
        call(_read_only(values(0)))


def test_empty_tensors_and_single_numbers() -> None:
    call = graphc.compile(lambda x, y: x.sum() + y)
    for i in range(3):
        assert call(graphc.zeros(0), graphc.tensor(float(i))).item() == i
        assert call(np.zeros((0,), np.float32), np.array(float(i), np.float32)).item() == i
        assert call(graphc.zeros(3, 0), graphc.tensor(float(i))).item() == i


def test_a_compiled_function_in_a_compiled_function() -> None:
    """It is recorded, even where the native entry could serve it."""
    weights = graphc.ones(N)
    inner = graphc.compile(lambda x: x * 2)
    inner(weights)
    outer = graphc.compile(lambda x: inner(weights) + inner(graphc.tensor([1.0] * N)) + x)
    for i in range(3):
        assert outer(graphc.ones(N)).tolist() == [2.0 * (i + 1) + 3] * N
        with graphc.no_grad():
            weights.add_(1)


def test_writes_of_native_calls_are_seen_by_the_tape() -> None:
    x = graphc.ones(N)
    weights = graphc.ones(N, requires_grad=True)
    write = graphc.compile(lambda y: x.add_(y).sum())
    write(graphc.ones(N))
    for _ in range(2):
        product = (weights * x).sum()
        product.item()
        write(graphc.ones(N))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()


def test_arguments_in_nests_live_as_long_as_the_call() -> None:
    call = graphc.compile(lambda p: p[0] + p[1])
    call([values(0), values(1)])
    gc.collect()
    blocks = buffers.live_blocks()
    for i in range(200):
        given = [graphc.tensor(values(i)), values(i)]
        before = [sys.getrefcount(x) for x in given]
        result = call(given)
        assert [sys.getrefcount(x) for x in given] == before
        assert result.tolist() == (2 * values(i)).tolist()
    del given, result
    gc.collect()
    assert buffers.live_blocks() <= blocks


@pytest.mark.parametrize("written", ["part", "whole", "leaf"])
def test_gradients_that_come_by_another_name(written: str) -> None:
    """A tensor comes to require grad through a view of it, or a view through its base: also where it was seen before."""
    call = graphc.compile(lambda x: (x * 2).sum())
    weights = graphc.ones(2, requires_grad=True)
    x, other = graphc.ones(4), graphc.ones(4)
    part = x[0:4]
    for t in (x, part, other):
        call(t)
    if written == "leaf":
        x.requires_grad_()
    elif written == "part":
        x[0:2].mul_(weights)
    else:
        x.mul_(weights.repeat(2))
    call(other)
    assert call(x).requires_grad
    assert call(part).requires_grad
    assert not call(other).requires_grad
    call(part).backward()
    assert (x if written == "leaf" else weights).grad is not None


# -- results on the tape ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda i: graphc.tensor(values(i)),
        values,
        lambda i: ROWS[2 * i],
        lambda i: graphc.tensor(values(i), requires_grad=True),
        lambda i: graphc.tensor(values(i), requires_grad=True) * 2,
        lambda i: {"x": values(i), "y": [graphc.tensor(values(i), requires_grad=True)]},
    ],
    ids=["tensor", "array", "row", "leaf", "on the tape", "nest"],
)
def test_new_arguments_of_a_forward_pass(make: Callable[[int], Any]) -> None:
    weights = graphc.ones(N, requires_grad=True)

    def forward(nest: Any) -> Any:
        products = [x * weights for x in leaves(nest)]
        return sum((p * p).sum() for p in products), products[0]

    def gradients(function: Callable[[Any], Any]) -> list[Any]:
        found: list[Any] = []
        for i in range(4):
            nest = make(i)
            weights.grad = None
            loss, product = function(nest)
            (loss + product.sum()).backward()
            found += [loss.item(), product.tolist(), weights.grad.tolist()]  # type: ignore[attr-defined]
            found += [x.grad.tolist() for x in leaves(nest) if x.is_leaf and x.grad is not None]
        return found

    call = graphc.compile(forward)
    assert gradients(call) == gradients(forward)
    assert call.cache_info().misses == 1
    nest = make(1)
    graphc.realize(*leaves(nest))
    call(nest)
    assert "_slow" not in frames(lambda: call(nest))


def test_a_forward_pass_that_writes_what_its_tape_needs() -> None:
    state, weights = graphc.ones(N), graphc.ones(N, requires_grad=True)

    def forward(x: Any) -> Any:
        state.add_(x)
        return (state * weights).sum()

    call = graphc.compile(forward)
    call(graphc.ones(N))
    for i in range(3):
        results = [call(graphc.ones(N)), call(values(0) * 0 + 1)]
        for n, result in enumerate(results):
            weights.grad = None
            result.backward()
            assert weights.grad is not None
            assert weights.grad.tolist() == [3.0 + 2 * i + n] * N


@pytest.mark.parametrize("compiled", [False, True])
def test_writes_of_native_calls_between_forth_and_back(compiled: bool) -> None:
    state, weights, one = graphc.ones(N), graphc.ones(N, requires_grad=True), graphc.ones(N)

    def forward(x: Any) -> Any:
        return (state * weights * x).sum()

    call = graphc.compile(forward) if compiled else forward
    write = graphc.compile(lambda x: state.add_(x).sum())
    call(one).item()
    write(one)
    write(one)
    for _ in range(3):
        result = call(one)
        result.item()
        write(one)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.backward()
        weights.grad = None
        call(one).backward()
        assert weights.grad is not None
        assert weights.grad.tolist() == state.tolist()


def test_results_on_the_tape_are_arguments() -> None:
    weights = graphc.full((N,), 2.0, requires_grad=True)
    call = graphc.compile(lambda x: x * weights)
    x = graphc.ones(N)
    for _ in range(3):
        y = call(call(call(x)))
        weights.grad = None
        y.sum().backward()
        assert y.tolist() == [8.0] * N
        assert weights.grad is not None
        assert weights.grad.tolist() == [12.0] * N
    with graphc.no_grad():
        assert not call(x).requires_grad
    assert call(x).requires_grad
