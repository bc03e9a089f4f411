"""`autograd.Function`s and hooks in the bodies of loops and branches and under `vmap`: what the unrolled loop gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

X = np.random.default_rng(0).standard_normal((4, 3))


def functions(m: Any) -> dict[str, Callable[[Any], Any]]:
    """Functions of a tensor whose derivative is the user's, and not the true one."""

    class OldStyle(m.autograd.Function):  # type: ignore[misc,name-defined]
        generate_vmap_rule = False

        @staticmethod
        def forward(ctx: Any, x: Any, k: float) -> Any:
            middle = x.exp()
            ctx.save_for_backward(x, middle)
            ctx.k = k
            return middle * k

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, middle = ctx.saved_tensors
            return g * (x + middle) * ctx.k, None

    class TwoResults(m.autograd.Function):  # type: ignore[misc,name-defined]
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Any, y: Any) -> Any:
            return x * y, (x > y).to(m.int64)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs, output[0])
            ctx.mark_non_differentiable(output[1])

        @staticmethod
        def backward(ctx: Any, g: Any, _: Any) -> Any:
            x, y, product = ctx.saved_tensors
            return g * y * 2, g * (x + product)

    class Reads(m.autograd.Function):  # type: ignore[misc,name-defined]
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Any) -> Any:
            return x + outer

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * outer * 3

    outer = m.tensor(X[0] * 2)

    def hooked(x: Any) -> Any:
        y = x * 2
        z = y.sin()
        y.register_hook(lambda g: g * 3)
        y.register_hook(lambda g: g.clamp(-1, 1))
        return z + y

    def two(x: Any) -> Any:
        product, positions = TwoResults.apply(x, x.sin())
        return product + positions.to(m.float64)

    return {
        "saved intermediate": lambda x: OldStyle.apply(x * 0.5, 3.0),
        "two results": two,
        "outer tensor": lambda x: Reads.apply(x.cos()),
        "hooks": hooked,
    }


NAMES = list(functions(graphc))


def unrolled(m: Any, f: Callable[[Any], Any], x: Any) -> Any:
    carry, total = m.zeros(3, dtype=m.float64), m.zeros((), dtype=m.float64)
    for row in x.unbind(0):
        carry = f(carry * 0.5 + row).sin()
        total = total + carry.sum()
    return total


def scanned(f: Callable[[Any], Any], x: Any) -> Any:
    def step(carry: Any, row: Any) -> Any:
        carry = f(carry * 0.5 + row).sin()
        return carry, carry.sum()

    return graphc.scan(step, graphc.zeros(3, dtype=graphc.float64), x)[1].sum()


def gradients(m: Any, f: Callable[[Any], Any]) -> list[Any]:
    """The gradient, and the gradient of its squares."""
    x = m.tensor(X, requires_grad=True)
    (first,) = m.autograd.grad(f(x), x, create_graph=True)
    (second,) = m.autograd.grad(first.square().sum(), x)
    return [first.detach().numpy(), second.numpy()]


def same(got: list[Any], expected: list[Any]) -> None:
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_in_a_loop(name: str) -> None:
    f = functions(graphc)[name]
    expected = gradients(torch, lambda x: unrolled(torch, functions(torch)[name], x))
    same(gradients(graphc, lambda x: unrolled(graphc, f, x)), expected)
    same(gradients(graphc, lambda x: scanned(f, x)), expected)
    same(gradients(graphc, graphc.compile(lambda x: scanned(f, x))), expected)


@pytest.mark.parametrize("name", NAMES)
def test_in_a_branch(name: str) -> None:
    f = functions(graphc)[name]

    def g(x: Any) -> Any:
        return graphc.cond(x.sum() > 100, lambda v: v, lambda v: f(v), (x,)).sum()

    same(gradients(graphc, g), gradients(torch, lambda x: functions(torch)[name](x).sum()))


@pytest.mark.parametrize("name", NAMES)
def test_mapped(name: str) -> None:
    """Gradients of each instance, within and through the map, and gradients by autograd.grad in the body."""
    f = functions(graphc)[name]
    x = torch.tensor(X, requires_grad=True)
    rows = [functions(torch)[name](row).sum() for row in x.unbind(0)]
    (expected,) = torch.autograd.grad(sum(rows), x)

    def one(row: Any) -> Any:
        return f(row).sum()

    same([graphc.vmap(graphc.func.grad(one))(graphc.tensor(X)).numpy()], [expected.numpy()])
    y = graphc.tensor(X, requires_grad=True)
    mapped = graphc.vmap(one)(y)
    np.testing.assert_allclose(mapped.detach().numpy(), [r.item() for r in rows], rtol=1e-12)
    mapped.sum().backward()
    same([y.grad.numpy()], [expected.numpy()])

    def step(_: Any, row: Any) -> Any:
        with graphc.enable_grad():
            return graphc.zeros(()), graphc.autograd.grad(one(row), [row])[0]

    found = graphc.scan(step, graphc.zeros(()), graphc.tensor(X))[1]
    same([found.detach().numpy()], [expected.numpy()])


class Draws(graphc.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x + graphc.rand(3, dtype=graphc.float64)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g


def removed(x: Any) -> Any:
    y = x * 2
    y.register_hook(lambda g: g).remove()
    return y


WATCHED = graphc.nn.Linear(3, 3).to(graphc.float64)
WATCHED.register_full_backward_hook(lambda module, gi, go: None)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (Draws.apply, "draws random numbers; give it what it needs as arguments"),
        (removed, "cannot be removed again"),
        (WATCHED, "register hooks on tensors there"),
        (lambda x: x.sum().backward(), "use autograd.grad there"),
    ],
)
def test_refused(f: Callable[[Any], Any], message: str) -> None:
    """What a region cannot hold says what to do instead."""
    with pytest.raises(graphc.TraceError, match=message):
        graphc.map(f, graphc.tensor(X, requires_grad=True))
