"""`graphc.scan`: what it gives, its derivatives, and what it refuses, at the user's line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

Case = tuple[str, Callable[[Any, Any], Any], Any, Any, dict[str, Any]]


def ramp(*shape: int) -> Any:
    return (np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 7 - 3) / 4


def leaves(nest: Any) -> list[Any]:
    if nest is None:
        return []
    if isinstance(nest, dict):
        nest = tuple(nest.values())
    return [x for part in nest for x in leaves(part)] if isinstance(nest, (tuple, list)) else [nest]


def mapped(f: Callable[[Any], Any], nest: Any) -> Any:
    if nest is None:
        return None
    if isinstance(nest, dict):
        return {k: mapped(f, v) for k, v in nest.items()}
    if isinstance(nest, (tuple, list)):
        return type(nest)(mapped(f, x) for x in nest)
    return f(nest)


W = ramp(3, 3)

# name, f written for any library, init, xs, keyword arguments
CASES: list[Case] = [
    ("sum", lambda c, x: (c + x, c), ramp(3), ramp(4, 3), {}),
    ("reverse", lambda c, x: (c * 0.5 + x, c * x), ramp(3), ramp(4, 3), {"reverse": True}),
    ("nest", lambda c, x: ({"a": c["b"], "b": c["a"] * x[0]}, (x[1] - c["a"], c["b"])),
     {"a": ramp(2), "b": ramp(2) + 1}, (ramp(5, 2), ramp(5, 2) + 2), {}),
    ("no slices", lambda c, x: (c * c, c.sum()), ramp(3), None, {"length": 3}),
    ("no carry", lambda c, x: (None, x * x), None, ramp(4, 3), {}),
    ("no output", lambda c, x: (c + x.exp(), None), ramp(3), ramp(4, 3), {}),
    ("unchanged", lambda c, x: (c, c * x), ramp(3), ramp(4, 3), {}),
    ("swapped", lambda c, x: ((c[1], c[0]), c[0] + x), (ramp(3), ramp(3) + 1), ramp(4, 3), {}),
    ("captured", lambda c, x: ((c @ type_of(c)(W)).tanh() + x, c), ramp(2, 3), ramp(4, 2, 3), {}),
    ("one step", lambda c, x: (c + x, c * x), ramp(3), ramp(1, 3), {}),
    ("no steps", lambda c, x: (c + x, c * x), ramp(3), ramp(0, 3), {}),
    ("scalars", lambda c, x: (c * x + 1, c), np.float32(2), ramp(6), {}),
    ("constant output", lambda c, x: (c + x, x), ramp(3), ramp(4, 3), {}),
    ("large", lambda c, x: ((c @ x / 9).sin(), (c * c).sum()), ramp(40, 40), ramp(3, 40, 40), {}),
]  # fmt: skip


def type_of(tensor: Any) -> Any:
    """Makes a tensor of the library that `tensor` is of."""
    return graphc.tensor if isinstance(tensor, graphc.Tensor) else torch.tensor


torch = pytest.importorskip("torch")


def unrolled(f: Any, init: Any, xs: Any, length: int | None = None, reverse: bool = False) -> Any:
    """The same loop in PyTorch, step by step."""
    steps = len(leaves(xs)[0]) if length is None else length
    carry, out = init, []
    for i in range(steps)[:: -1 if reverse else 1]:
        carry, y = f(carry, mapped(lambda t, i=i: t[i], xs))
        out.append(leaves(y))
    out = out[::-1] if reverse else out
    return leaves(carry), [torch.stack(part) for part in zip(*out, strict=True)]


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_against_unrolled(case: Case, compiled: bool) -> None:
    """Results and gradients are those of the unrolled loop."""
    _, f, init, xs, arguments = case

    def ours(init: Any, xs: Any) -> list[Any]:
        carry, out = graphc.scan(f, init, xs, **arguments)
        return [*leaves(carry), *leaves(out)]

    given = [mapped(lambda a: graphc.tensor(a, requires_grad=True), nest) for nest in (init, xs)]
    got = (graphc.compile(ours) if compiled else ours)(*given)
    total(graphc, got).backward()
    theirs = [mapped(lambda a: torch.tensor(a, requires_grad=True), nest) for nest in (init, xs)]
    carry, out = unrolled(f, *theirs, **arguments)
    wanted = carry + out
    for a, b in zip(got, wanted, strict=False):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)
    total(torch, wanted).backward()
    for a, b in zip(leaves(given), leaves(theirs), strict=True):
        gradient = np.zeros_like(a.detach().numpy()) if a.grad is None else a.grad.numpy()
        expected = np.zeros_like(gradient) if b.grad is None else b.grad.numpy()
        np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=1e-5)


def total(library: Any, values: list[Any]) -> Any:
    """A weighted sum of all elements."""
    found = library.tensor(0.0, requires_grad=True) * 1
    for n, v in enumerate(values):
        found = found + (v * v).sum() * (n + 1)
    return found


def test_nested() -> None:
    """A loop in a loop, with a value of the outer one read in the inner."""

    def outer(c: Any, row: Any) -> Any:
        inner, _ = graphc.scan(lambda s, x: (s * 0.5 + x * c, None), c, row)
        return inner, inner

    x = graphc.tensor(ramp(4, 3), requires_grad=True)
    carry, ys = graphc.scan(outer, graphc.tensor(1.5), x)
    (ys.sum() + carry).backward()
    c, t = torch.tensor(1.5), torch.tensor(ramp(4, 3), requires_grad=True)
    out = []
    for i in range(4):
        s = c
        for j in range(3):
            s = s * 0.5 + t[i, j] * c
        c = s
        out.append(c)
    (torch.stack(out).sum() + c).backward()
    np.testing.assert_allclose(ys.detach().numpy(), torch.stack(out).detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-5)


def test_module_in_a_step() -> None:
    """Running statistics are carried from step to step; gradients of a module's parameters are those of PyTorch."""
    x, found = ramp(5, 8, 3) ** 3 + ramp(8, 3), []
    for library in (graphc, torch):
        layer, norm = library.nn.Linear(3, 3), library.nn.BatchNorm1d(3)
        with library.no_grad():
            layer.weight.copy_(library.tensor(W + 0.1))
            layer.bias.copy_(library.tensor(ramp(3)))

        def step(c: Any, x: Any, layer: Any = layer, norm: Any = norm) -> Any:
            h = norm(layer(x + c)).tanh()
            return h, h

        given = library.tensor(x, requires_grad=True)
        if library is graphc:
            _, ys = graphc.compile(lambda x, f=step: graphc.scan(f, graphc.zeros(8, 3), x))(given)
        else:
            _, (ys,) = unrolled(step, torch.zeros(8, 3), given)
        (ys * ys * ys).sum().backward()
        state = [given.grad, layer.weight.grad, norm.weight.grad, norm.running_mean, norm.running_var]
        found.append([t.detach().numpy() for t in (ys, *state, norm.num_batches_tracked)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_second_derivative() -> None:
    x = graphc.tensor(ramp(4, 3), requires_grad=True)
    carry, _ = graphc.scan(lambda c, x: (c * x + x * x, None), graphc.ones(3), x)
    (first,) = graphc.autograd.grad(carry.sum(), x, create_graph=True)
    (first * first).sum().backward()
    t = torch.tensor(ramp(4, 3), requires_grad=True)
    c = torch.ones(3)
    for i in range(4):
        c = c * t[i] + t[i] * t[i]
    (other,) = torch.autograd.grad(c.sum(), t, create_graph=True)
    (other * other).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_threads_and_lengths() -> None:
    """The same bits on any number of threads; the compiled program does not grow with the length."""
    x = graphc.tensor(ramp(5, 300, 300))
    w = graphc.tensor(ramp(300, 300) / 20, requires_grad=True)
    found = []
    before = graphc.get_num_threads()
    try:
        for threads in (1, 2, 4):
            graphc.set_num_threads(threads)
            w.grad = None
            carry, ys = graphc.scan(lambda c, x: ((c @ w).tanh() + x, c.sum(1)), x[0], x)
            (carry.sum() + ys.sum()).backward()
            found.append([a.detach().numpy().tobytes() for a in (carry, ys, w.grad)])
    finally:
        graphc.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    sizes = []
    for steps in (10, 1000):
        compiled = graphc.compile(lambda x: graphc.scan(lambda c, x: (c + x.exp(), c), x[0], x))
        sizes.append(len(str(compiled.stages(graphc.zeros(steps, 3))["schedule"])))
    assert abs(sizes[0] - sizes[1]) < 40


# what is passed, the exception, part of the message
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: graphc.scan(lambda c, x: (c[:2], x), graphc.zeros(3), graphc.zeros(4, 2)), RuntimeError, "carried value 0 is f32[3] before a step and f32[2] after"),
    (lambda: graphc.scan(lambda c, x: (c.double(), x), graphc.zeros(3), graphc.zeros(4, 2)), RuntimeError, "f64[3] after"),
    (lambda: graphc.scan(lambda c, x: ((c, c), x), graphc.zeros(3), graphc.zeros(4, 2)), RuntimeError, "nested like"),
    (lambda: graphc.scan(lambda c, x: c, graphc.zeros(3), graphc.zeros(4, 2)), TypeError, "pair"),
    (lambda: graphc.scan(lambda c, x: (c, 1.0), graphc.zeros(3), graphc.zeros(4, 2)), TypeError, "got float"),
    (lambda: graphc.scan(lambda c, x: (c, x), 3, graphc.zeros(4, 2)), TypeError, "got int"),
    (lambda: graphc.scan(lambda c, x: (c, x), graphc.zeros(3), (graphc.zeros(4), graphc.zeros(5))), RuntimeError, "sizes [4, 5]"),
    (lambda: graphc.scan(lambda c, x: (c, x), graphc.zeros(3), graphc.zeros(4), length=5), RuntimeError, "5 steps"),
    (lambda: graphc.scan(lambda c, x: (c, x), graphc.zeros(3), graphc.tensor(1.0)), RuntimeError, "rank-0"),
    (lambda: graphc.scan(lambda c, x: (c, None), graphc.zeros(3), None), TypeError, "give length"),
    (lambda: graphc.scan(lambda c, x: (c, c.item()), graphc.zeros(()), graphc.zeros(4)), graphc.TraceError, "a value was asked for"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "exception", "message"), REFUSED)
def test_refused(call: Callable[[], Any], exception: type[Exception], message: str) -> None:
    with pytest.raises(exception) as info:
        call()
    assert message in str(info.value)
    place = getattr(info.value, "filename", ""), getattr(info.value, "lineno", 0)
    assert place == (__file__, call.__code__.co_firstlineno)
    # A refused loop leaves nothing behind.
    assert (graphc.ones(2) + 1).tolist() == [2, 2]


def test_in_place_inside() -> None:
    """What a body makes it may write."""

    def f(c: Any, x: Any) -> Any:
        y = x.clone()
        y += c
        y[0] = 0
        return y, y

    carry, ys = graphc.scan(f, graphc.zeros(3), graphc.tensor(ramp(4, 3)))
    expected = np.cumsum(ramp(4, 3), 0)
    expected[:, 0] = 0
    np.testing.assert_allclose(ys.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(carry.numpy(), expected[-1], rtol=1e-6)


def test_failure_in_a_step() -> None:
    """An index out of range in some step: the error is at the user's line and no state is written."""
    table, state = graphc.tensor(ramp(4, 3)), graphc.zeros(3)

    def looked_up(rows: Any) -> Any:
        carry, _ = graphc.scan(
            lambda c, i: (c + graphc.index_select(table, 0, i), None), graphc.zeros(1, 3), rows
        )
        state.add_(carry[0])
        return carry

    compiled = graphc.compile(looked_up)
    compiled(graphc.tensor([[0], [1], [3]]))
    before = state.tolist()
    with pytest.raises(IndexError, match="out of range") as info:
        compiled(graphc.tensor([[0], [7], [3]]))
    assert getattr(info.value, "filename", "").endswith("test_scan.py")
    assert state.tolist() == before == (ramp(4, 3)[0] + ramp(4, 3)[1] + ramp(4, 3)[3]).tolist()


def test_exported(tmp_path: Any) -> None:
    """A library with a loop in instances gives the bits of the process."""
    layer = graphc.nn.LSTM(8, 32, num_layers=2).eval()
    x = graphc.tensor(ramp(28, 20, 8))

    def forward(x: Any) -> Any:
        with graphc.no_grad():
            return layer(x)[0]

    compiled = graphc.compile(forward)
    assert compiled.stages(x)["plan"].together
    graphc.export_library(forward, (x,), tmp_path / "liblayer.so", name="layer")
    library = graphc.load_library(tmp_path / "liblayer.so")
    assert library(x).tobytes() == compiled(x).numpy().tobytes()
