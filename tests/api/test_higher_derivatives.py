"""First, second and third derivatives of whole expressions, against PyTorch in float64.

Every order is evaluated before the next is asked for, and what was evaluated is differentiated: the
derivatives may not take what an evaluation kept for constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X, W, V = (RNG.standard_normal((4, 6)) for _ in range(3))
TARGET = [0, 1, 2, 3]

# fmt: off
EXPRESSIONS: dict[str, Callable[[Any, Any], Any]] = {
    "linear": lambda m, x: m.nn.functional.linear(x, m.tensor(W)).tanh(),
    "softmax": lambda m, x: m.nn.functional.softmax(x, -1),
    "log_softmax": lambda m, x: m.nn.functional.log_softmax(x, -1) ** 2,
    "cross_entropy": lambda m, x: m.nn.functional.cross_entropy(x * x, m.tensor(TARGET), label_smoothing=0.1),
    "bce": lambda m, x: m.nn.functional.binary_cross_entropy_with_logits(x, m.tensor(W)),
    "gelu": lambda m, x: m.nn.functional.gelu(x),
    "gelu tanh": lambda m, x: m.nn.functional.gelu(x, approximate="tanh"),
    "silu": lambda m, x: m.nn.functional.silu(x),
    "elu": lambda m, x: m.nn.functional.elu(x),
    "softplus": lambda m, x: m.nn.functional.softplus(x),
    "leaky_relu": lambda m, x: m.nn.functional.leaky_relu(x) ** 3,
    "logsumexp": lambda m, x: m.logsumexp(x, 1),
    "norm": lambda m, x: x.norm(dim=1),
    "std": lambda m, x: x.std(1),
    "prod": lambda m, x: x.prod(1),
    "cumsum": lambda m, x: x.cumsum(1) ** 3,
    "max": lambda m, x: x.max(1).values ** 3,
    "convolution": lambda m, x: m.nn.functional.conv2d(x.reshape(1, 1, 4, 6), x[:3, :3].reshape(1, 1, 3, 3), padding=1) ** 2,
    "max_pool": lambda m, x: m.nn.functional.max_pool2d(x.reshape(1, 1, 4, 6), 2) ** 3,
    "avg_pool": lambda m, x: m.nn.functional.avg_pool2d(x.reshape(1, 1, 4, 6), 2) ** 3,
    "embedding": lambda m, x: m.nn.functional.embedding(m.tensor([0, 2, 2]), x) ** 3,
    "gather": lambda m, x: x.gather(1, m.tensor([[0, 1], [2, 3], [0, 0], [5, 5]])) ** 3,
    "index": lambda m, x: x[m.tensor([0, 0, 1])] ** 3,
    "attention": lambda m, x: m.nn.functional.scaled_dot_product_attention(x[None], x[None].sin(), x[None].cos()),
    "causal attention": lambda m, x: m.nn.functional.scaled_dot_product_attention(x[None], x[None].sin(), x[None].cos(), is_causal=True),
    "products": lambda m, x: (x @ x.T).exp().log1p(),
    "power": lambda m, x: (x.abs() + 1) ** x,
    "where": lambda m, x: m.where(x > 0, x**3, x**2),
    "in place": lambda m, x: x.clone().mul_(x).exp_(),
}
# fmt: on


def orders(m: Any, f: Callable[[Any, Any], Any], count: int = 3) -> list[Any]:
    """The gradient of ⟨f(x), weights⟩, of that gradient along V, and so on, each evaluated at once."""
    x = m.tensor(X, requires_grad=True)
    y = f(m, x)
    total = (y * m.tensor(np.cos(np.arange(y.numel(), dtype=np.float64)).reshape(tuple(y.shape)))).sum()
    found = []
    for _ in range(count):
        total.item()
        (gradient,) = m.autograd.grad(total, [x], create_graph=True)
        found.append(gradient.detach().numpy().copy())
        total = (gradient * m.tensor(V)).sum()
    return found


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_three_orders(name: str) -> None:
    for got, expected in zip(
        orders(graphc, EXPRESSIONS[name]), orders(torch, EXPRESSIONS[name]), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("name", ["layer_norm", "batch_norm"])
def test_normalisation(name: str) -> None:
    """The third order is held against difference quotients of the second: PyTorch's is not exact there."""

    def f(m: Any, x: Any) -> Any:
        layer = m.nn.functional
        return (
            layer.layer_norm(x, (6,))
            if name == "layer_norm"
            else layer.batch_norm(x, None, None, training=True)
        )

    found = orders(graphc, f)
    for got, expected in zip(found[:2], orders(torch, f, 2), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)

    def second(x: Any) -> float:
        leaf = graphc.tensor(x, requires_grad=True)
        y = f(graphc, leaf)
        total = (y * graphc.tensor(np.cos(np.arange(24.0)).reshape(4, 6))).sum()
        for _ in range(2):
            (gradient,) = graphc.autograd.grad(total, [leaf], create_graph=True)
            total = (gradient * graphc.tensor(V)).sum()
        return float(total.item())

    quotient = (second(X + 1e-5 * W) - second(X - 1e-5 * W)) / 2e-5
    assert float((found[2] * W).sum()) == pytest.approx(quotient, rel=1e-6)


@pytest.mark.parametrize("name", ["softmax", "convolution", "in place"])
def test_in_a_compiled_function(name: str) -> None:
    """Gradients of gradients inside of a compiled function, and by backward outside of it."""
    f = EXPRESSIONS[name]

    def penalty(x: Any) -> Any:
        (gradient,) = graphc.autograd.grad(f(graphc, x).square().sum(), [x], create_graph=True)
        return gradient.square().sum()

    def gradient_of(function: Callable[[Any], Any]) -> Any:
        x = graphc.tensor(X, requires_grad=True)
        function(x).backward()
        return x.grad.numpy()

    def inside(x: Any) -> Any:
        return graphc.autograd.grad(penalty(x), [x])[0]

    expected = gradient_of(penalty)
    np.testing.assert_allclose(gradient_of(graphc.compile(penalty)), expected, rtol=1e-12, atol=1e-12)
    got = graphc.compile(inside)(graphc.tensor(X, requires_grad=True))
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_results_of_a_compiled_function() -> None:
    """A compiled call's way back can be differentiated itself."""
    compiled = graphc.compile(lambda x: (x.exp() * x).sin())

    def second(m: Any, function: Callable[[Any], Any]) -> Any:
        x = m.tensor(X, requires_grad=True)
        (gradient,) = m.autograd.grad(function(x).sum(), [x], create_graph=True)
        return m.autograd.grad(gradient.square().sum(), [x])[0].numpy()

    expected = second(torch, lambda x: (x.exp() * x).sin())
    np.testing.assert_allclose(second(graphc, compiled), expected, rtol=1e-9, atol=1e-9)


def test_gradient_by_an_evaluated_value() -> None:
    """Values that were evaluated together can be differentiated by, and their gradients are whole."""

    def found(m: Any) -> list[Any]:
        x = m.tensor(X, requires_grad=True)
        y = x.exp()
        z = y * y
        total = z.sum()
        total.item()
        results = [*m.autograd.grad(total, [y, z], retain_graph=True)]
        results += m.autograd.grad([total, y], [y, x], [None, y.detach()], retain_graph=True)
        results += m.autograd.grad(z.sum(), [y, x], create_graph=True)
        unused = m.autograd.grad(y.sum(), [z], retain_graph=True, allow_unused=True)
        assert unused == (None,)
        results += m.autograd.grad(results[-2].square().sum(), [x])
        return [g.detach().numpy() for g in results]

    for got, expected in zip(found(graphc), found(torch), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_live_array_does_not_cut_the_tape() -> None:
    """Gradients flow through tensors whose memory an array shares."""
    x = graphc.tensor(X, requires_grad=True)
    array = x.detach().numpy()
    y = x * 2
    shown = y.detach().numpy()
    total = (y[0] * x[0] + y[1]).sum()
    (by_y,) = graphc.autograd.grad(total, [y], retain_graph=True)
    total.backward()
    np.testing.assert_allclose(by_y.numpy()[:2], np.stack([array[0], np.ones(6)]))
    np.testing.assert_allclose(x.grad.numpy()[:2], np.stack([2 * shown[0], np.full(6, 2.0)]))


def test_random_numbers_are_drawn_again() -> None:
    """A second derivative through dropout sees the numbers that the first evaluation drew."""
    x = graphc.tensor(X, requires_grad=True)
    y = graphc.nn.functional.dropout(x.exp(), 0.5)
    kept = y.detach().numpy() / np.exp(X)
    total = (y * y).sum()
    (gradient,) = graphc.autograd.grad(total, [x], create_graph=True)
    (second,) = graphc.autograd.grad(gradient.sum(), [x])
    np.testing.assert_allclose(second.numpy(), 4 * (kept * np.exp(X)) ** 2, rtol=1e-12)


def test_create_graph_after_a_write() -> None:
    """What the way back would be computed from was overwritten: PyTorch's in-place error."""
    w = graphc.tensor(X, requires_grad=True)
    total = (w.exp() * 2).sum()
    total.item()
    with graphc.no_grad():
        w.add_(1)
        w.realize()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        graphc.autograd.grad(total, [w], create_graph=True)
