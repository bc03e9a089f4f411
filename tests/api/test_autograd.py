"""`autograd`: functions with a backward of the user's, anomaly mode, checks, derivatives of functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, 3)), RNG.standard_normal((2, 3))


def both(f: Callable[[Any], list[Any]]) -> None:
    """`f(package)` gives equal arrays for graphc and PyTorch."""
    for got, expected in zip(f(graphc), f(torch), strict=True):
        if expected is None:
            assert got is None
        else:
            np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-12)


def functions(m: Any) -> dict[str, Any]:
    """The same functions over either package."""
    once = sys.modules[f"{m.__name__}.autograd.function"].once_differentiable

    class Cube(m.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any, power: int) -> Any:
            ctx.save_for_backward(x)
            ctx.power = power
            return x**power

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            (x,) = ctx.saved_tensors
            return gradient * ctx.power * x ** (ctx.power - 1), None

    class Exp(m.autograd.Function):  # type: ignore[misc, name-defined]
        """Saves its result; written with setup_context."""

        @staticmethod
        def forward(x: Any) -> Any:
            return x.exp()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(output)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient * ctx.saved_tensors[0]

    class Pair(m.autograd.Function):  # type: ignore[misc, name-defined]
        """Two arguments, three results, one of which has no gradient."""

        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            ctx.save_for_backward(x, y)
            order = x > y
            ctx.mark_non_differentiable(order)
            return x * y, x + y, order

        @staticmethod
        def backward(ctx: Any, by_product: Any, by_sum: Any, by_order: Any) -> Any:
            x, y = ctx.saved_tensors
            by_x = by_product * y + by_sum if ctx.needs_input_grad[0] else None
            by_y = by_product * x + by_sum if ctx.needs_input_grad[1] else None
            return by_x, by_y

    class Once(m.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @once
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient * ctx.saved_tensors[0].cos()

    class Unfilled(m.autograd.Function):  # type: ignore[misc, name-defined]
        """Gets None for results without gradient."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx: Any, a: Any, b: Any) -> Any:
            assert b is None
            return a * 2

    return {"cube": Cube, "exp": Exp, "pair": Pair, "once": Once, "unfilled": Unfilled}


@pytest.mark.parametrize("evaluated", [False, True])
def test_functions(evaluated: bool) -> None:
    def run(m: Any) -> list[Any]:
        f = functions(m)
        x, y = (m.tensor(a, requires_grad=True) for a in (X, Y))
        product, total, order = f["pair"].apply(x, y)
        assert not order.requires_grad and product.requires_grad
        z = f["cube"].apply(f["exp"].apply(product) * total, 3).sum() + f["unfilled"].apply(x)[0].sum()
        if evaluated:
            z.item()
        first = m.autograd.grad(z, [x, y], create_graph=True)
        if evaluated:
            first[0].detach().numpy()
        second = m.autograd.grad((first[0] * first[1]).sum(), [x, y], create_graph=True)
        third = m.autograd.grad((second[0].sin() * second[1]).sum(), [x, y])
        return [z, *first, *second, *third]

    both(run)


def test_function_in_a_compiled_step() -> None:
    f = functions(graphc)

    def step(x: Any) -> Any:
        y = f["exp"].apply(x).square().sum()
        y.backward()
        return y

    x = graphc.tensor(X, requires_grad=True)
    value = graphc.compile(step)(x)
    np.testing.assert_allclose(value.detach().numpy(), np.exp(2 * X).sum(), rtol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp(2 * X), rtol=1e-12)


def test_no_tape_without_need() -> None:
    f = functions(graphc)
    assert not f["exp"].apply(graphc.tensor(X)).requires_grad
    with graphc.no_grad():
        assert not f["exp"].apply(graphc.tensor(X, requires_grad=True)).requires_grad


def test_once_differentiable() -> None:
    def run(m: Any) -> list[Any]:
        x = m.tensor(X, requires_grad=True)
        (g,) = m.autograd.grad(functions(m)["once"].apply(x).square().sum(), [x], create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            g.sum().backward()
        return [g]

    both(run)


def test_a_second_backward_is_refused() -> None:
    for m in (graphc, torch):
        x = m.tensor(X, requires_grad=True)
        y = functions(m)["cube"].apply(x, 2).sum()
        y.backward(retain_graph=True)
        y.backward()
        with pytest.raises(RuntimeError, match="second time"):
            y.backward()
        np.testing.assert_allclose(x.grad.numpy(), 4 * X)


def bad(m: Any, result: Callable[[Any], Any]) -> Any:
    class Bad(m.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return result(gradient)

    return Bad


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda g: (g, g), "incorrect number of gradients"),
        (lambda g: g[:, :2], "invalid gradient at index 0"),
    ],
)
def test_bad_gradients(result: Callable[[Any], Any], message: str) -> None:
    for m in (graphc, torch):
        x = m.tensor(X, requires_grad=True)
        with pytest.raises(RuntimeError, match=message):
            bad(m, result).apply(x).sum().backward()


def test_saved_and_written() -> None:
    for m in (graphc, torch):
        x = m.tensor(X, requires_grad=True) * 1
        y = functions(m)["cube"].apply(x, 2).sum()
        x.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


def test_missing_methods() -> None:
    class Nothing(graphc.autograd.Function):
        pass

    with pytest.raises(NotImplementedError, match="forward"):
        Nothing.apply(graphc.tensor(X))
    with pytest.raises(TypeError, match="save_for_backward can only save variables"):
        functions(graphc)["cube"].forward(_Ctx(), 3, 2)


class _Ctx:
    def save_for_backward(self, *tensors: Any) -> None:
        graphc.autograd.function.FunctionCtx(()).save_for_backward(*tensors)


@pytest.mark.parametrize("evaluated", [False, True])
def test_anomaly(evaluated: bool) -> None:
    """The line whose gradient is NaN is named."""
    x = graphc.tensor([4.0, 0.0], requires_grad=True)
    with graphc.autograd.detect_anomaly():
        y = x * 2
        root = (y * 0).sqrt()  # the named line
        total = (root * x).sum()
        if evaluated:
            total.item()
        with pytest.raises(RuntimeError, match="returned nan values") as caught:
            total.backward()
    line = next(
        i
        for i, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if text.endswith("# the named line")
    )
    assert f"{__file__}:{line}" in str(caught.value)
    graphc.tensor([0.0], requires_grad=True).sqrt().mul(0).sum().backward()
    with graphc.autograd.set_detect_anomaly(True):
        (x * x).sum().backward()
    assert not graphc.is_anomaly_enabled()


def test_gradcheck() -> None:
    x, y = (graphc.tensor(a, requires_grad=True) for a in (X, Y))
    assert graphc.autograd.gradcheck(lambda a, b: (a.sin() * b, a @ b.T), (x, y))
    assert graphc.autograd.gradgradcheck(lambda a, b: (a.sin() * b).exp(), (x, y))
    wrong = bad(graphc, lambda g: g * 3)
    with pytest.raises(
        graphc.autograd.GradcheckError, match="Jacobian mismatch for output 0 with respect to input 0"
    ):
        graphc.autograd.gradcheck(wrong.apply, (x,))
    assert not graphc.autograd.gradcheck(wrong.apply, (x,), raise_exception=False)
    with pytest.raises(ValueError, match="at least one input tensor to require gradient"):
        graphc.autograd.gradcheck(lambda a: a, (graphc.tensor(X),))


def test_functional() -> None:
    def run(m: Any) -> list[Any]:
        x, y = m.tensor(X), m.tensor(Y)
        f = m.autograd.functional

        def scalar(a: Any, b: Any) -> Any:
            return (a.sin() * b**2).sum()

        def several(a: Any) -> Any:
            return a.exp().sum(1), a[0] * 2

        found = list(f.jacobian(several, x))
        found += [h for row in f.hessian(scalar, (x, y)) for h in row]
        found.append(f.hessian(lambda a: (a**3).sum(), x))
        for product in (f.vjp, f.vhp, f.hvp):
            v = None if product is f.vjp else (y, x)
            value, products = product(scalar, (x, y), v)
            found += [value, *products]
        value, pushed = f.jvp(several, x, y)
        found += [*value, *pushed]
        value, pushed = f.jvp(lambda a: m.ones(2).double(), x, y)
        found += [value, pushed]
        leaf = m.tensor(X, requires_grad=True)
        graph = f.jacobian(lambda a: (a**3).sum(0), leaf, create_graph=True)
        found += m.autograd.grad((graph**2).sum(), [leaf])
        return found

    both(run)


def test_functional_errors() -> None:
    for m in (graphc, torch):
        f, x = m.autograd.functional, m.tensor(X)
        with pytest.raises(RuntimeError, match="strict mode"):
            f.jacobian(lambda a, b: a * 2, (x, x), strict=True)
        with pytest.raises(RuntimeError, match="v can only be None"):
            f.vjp(lambda a: a * 2, x)
        with pytest.raises(TypeError, match="must be either a Tensor or a tuple of Tensors"):
            f.jacobian(lambda a: 3, x)
        with pytest.raises(RuntimeError, match="single element"):
            f.hessian(lambda a: a * 2, x)
