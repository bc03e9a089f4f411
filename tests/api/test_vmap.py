"""`vmap` against PyTorch and against a loop; forward derivatives and Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")
func: Any = graphc.func

RNG = np.random.default_rng(0)
X, Y, W = RNG.standard_normal((5, 3, 4)), RNG.standard_normal((5, 3, 4)), RNG.standard_normal((4, 4))
INDEX = RNG.integers(0, 3, (5, 2))
IMAGES, KERNELS = RNG.standard_normal((5, 2, 3, 6, 6)), RNG.standard_normal((5, 4, 3, 3, 3))


def flat(x: Any) -> list[Any]:
    """All tensors of a nest as arrays."""
    if isinstance(x, dict):
        return [a for v in x.values() for a in flat(v)]
    if isinstance(x, (tuple, list)):
        return [a for v in x for a in flat(v)]
    return [x.detach().numpy()]


def same(f: Callable[[Any], Any]) -> None:
    """`f(package)` gives equal nests for graphc and PyTorch."""
    for got, expected in zip(flat(f(graphc)), flat(f(torch)), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


F: Callable[[Any], Any] = lambda m: m.nn.functional  # noqa: E731

# fmt: off
MAPPED: dict[str, Callable[[Any], Any]] = {
    "elementwise": lambda m: m.func.vmap(lambda x, y: x.sin() * y + 1)(m.tensor(X), m.tensor(Y)),
    "one for all": lambda m: m.func.vmap(lambda x, w: (x @ w).softmax(-1), in_dims=(0, None))(m.tensor(X), m.tensor(W)),
    "captured": lambda m: m.func.vmap(lambda x: x @ m.tensor(W) + x.sum())(m.tensor(X)),
    "axes": lambda m: m.func.vmap(lambda x, y: x.T @ y, in_dims=(1, -2), out_dims=2)(m.tensor(X), m.tensor(Y)),
    "nests": lambda m: m.func.vmap(lambda d, p: {"a": d["x"] * p[0], "b": (p[1],)}, in_dims=({"x": 0}, (0, None)))({"x": m.tensor(X)}, (m.tensor(Y), m.tensor(W))),
    "out of two": lambda m: m.func.vmap(lambda x: (x.sum(0), x.max(1).values), out_dims=(1, 0))(m.tensor(X)),
    "constant result": lambda m: m.func.vmap(lambda x: m.ones(2).double())(m.tensor(X)),
    "nested": lambda m: m.func.vmap(m.func.vmap(lambda x, y: (x * y).sum(), in_dims=(0, None)), in_dims=(None, 0))(m.tensor(X[0]), m.tensor(Y[0])),
    "batched matmul": lambda m: m.func.vmap(lambda x, y: x @ y.T)(m.tensor(X), m.tensor(Y)),
    "indexing": lambda m: m.func.vmap(lambda x: x[m.tensor([2, 0])])(m.tensor(X)),
    "gather": lambda m: m.func.vmap(lambda x, i: x.gather(0, i[:, None].expand(2, 4)))(m.tensor(X), m.tensor(INDEX)),
    "select": lambda m: m.func.vmap(lambda x, i: x.index_select(0, i))(m.tensor(X), m.tensor(INDEX)),
    "convolution": lambda m: m.func.vmap(lambda x, w: F(m).conv2d(x, w, padding=1))(m.tensor(IMAGES), m.tensor(KERNELS)),
    "images": lambda m: m.func.vmap(lambda x: F(m).max_pool2d(F(m).conv2d(x, m.tensor(KERNELS[0])).relu(), 2))(m.tensor(IMAGES)),
    "kernels": lambda m: m.func.vmap(lambda w: F(m).conv2d(m.tensor(IMAGES[0]), w), chunk_size=2)(m.tensor(KERNELS)),
    "layer": lambda m: m.func.vmap(lambda x: F(m).layer_norm(x, (4,)))(m.tensor(X)),
    "in place": lambda m: m.func.vmap(lambda x: x.clone().mul_(2).add_(x))(m.tensor(X)),
    "joins": lambda m: m.func.vmap(lambda x, y: m.stack([m.cat([x, y], 1).flip(0)[1:], F(m).pad(x, (2, 2))[:2]]))(m.tensor(X), m.tensor(Y)),
    "sorts of sums": lambda m: m.func.vmap(lambda x: (x.cumsum(0).argmax(1), x.var(0), x.prod(1), x.logsumexp(0)))(m.tensor(X)),
    "gradients": lambda m: m.func.vmap(m.func.grad(lambda x, w: ((x @ w).tanh() ** 2).sum(), argnums=(0, 1)), in_dims=(0, None))(m.tensor(X), m.tensor(W)),
    "second": lambda m: m.func.vmap(m.func.hessian(lambda x: (x**3).sum() * x[0].exp()))(m.tensor(X[:, 0])),
    "of convolutions": lambda m: m.func.vmap(m.func.grad(lambda w, x: F(m).conv2d(x, w).sin().sum()), in_dims=(None, 0))(m.tensor(KERNELS[0]), m.tensor(IMAGES)),
    "pulled": lambda m: m.func.vmap(m.func.vjp(lambda x: x.sin() @ m.tensor(W), m.tensor(X[0]))[1])(m.tensor(Y)),
    "rows": lambda m: m.func.jacrev(lambda x: (x.sin() @ m.tensor(W), x.sum()))(m.tensor(X[0])),
    "columns": lambda m: m.func.jacfwd(lambda x, y: {"p": x * y, "s": y.exp().sum(0)}, argnums=(0, 1))(m.tensor(X[0]), m.tensor(Y[0])),
    "chunks": lambda m: m.func.jacrev(lambda x: x.sin().cumsum(0), chunk_size=5)(m.tensor(X[0])),
    "aux": lambda m: m.func.jacfwd(lambda x: (x**2, x.sum()), has_aux=True)(m.tensor(X[0, 0])),
    "hessian": lambda m: m.func.hessian(lambda x, y: (x @ y).exp().sum(), argnums=(0, 1))(m.tensor(X[0, 0]), m.tensor(Y[0, 0])),
    "pushed": lambda m: m.func.jvp(lambda x, y: (x.sin() * y, F(m).softmax(x, 1)), (m.tensor(X), m.tensor(Y)), (m.tensor(Y), m.tensor(X))),
    "pushed twice": lambda m: m.func.jvp(lambda x: m.func.jvp(lambda t: t**3 * x.exp(), (x,), (m.ones(3, 4).double(),))[1], (m.tensor(X[0]),), (m.tensor(Y[0]),)),
    "mapped pushes": lambda m: m.func.vmap(lambda x, t: m.func.jvp(lambda v: v.exp() * v, (x,), (t,))[1])(m.tensor(X), m.tensor(Y)),
    "linear": lambda m: m.func.linearize(lambda x: x.sin() * x, m.tensor(X))[1](m.tensor(Y)),
    "gradient of mapped": lambda m: m.func.grad(lambda w: m.func.vmap(lambda x: (x @ w).relu().sum())(m.tensor(X)).square().sum())(m.tensor(W)),
}
# fmt: on


@pytest.mark.parametrize("name", MAPPED)
def test_against_pytorch(name: str) -> None:
    same(MAPPED[name])


def test_in_a_compiled_function() -> None:
    def per_sample(w: Any, x: Any) -> Any:
        return func.vmap(func.grad(lambda v, r: (r @ v).tanh().sum()), in_dims=(None, 0))(w, x)

    w, x = graphc.tensor(W), graphc.tensor(X)
    np.testing.assert_allclose(graphc.compile(per_sample)(w, x).numpy(), per_sample(w, x).numpy(), rtol=1e-12)

    def step(w: Any, x: Any) -> Any:
        loss = func.vmap(lambda r: (r @ w).square().mean())(x).sum()
        loss.backward()
        return loss

    grads = []
    for run in (step, graphc.compile(step)):
        w = graphc.tensor(W, requires_grad=True)
        run(w, x)
        grads.append(w.grad.numpy())
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-12)


def test_loops_and_branches_inside() -> None:
    def f(x: Any, y: Any) -> Any:
        last, _ = graphc.scan(lambda c, r: (c * r + y.sum(), c), x[0], x)
        return graphc.cond(y.sum() > 0, lambda v: v.sin(), lambda v: v * 2, (last,))

    got = func.vmap(f)(graphc.tensor(X), graphc.tensor(Y)).numpy()
    expected = [f(graphc.tensor(a), graphc.tensor(b)).numpy() for a, b in zip(X, Y, strict=True)]
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-12)


def test_randomness() -> None:
    x = graphc.tensor(X)

    def noisy(r: Any) -> Any:
        return graphc.nn.functional.dropout(r, 0.5) + graphc.rand(2).sum()

    with pytest.raises(RuntimeError, match="randomness error mode"):
        func.vmap(noisy)(x)
    graphc.manual_seed(3)
    one = func.vmap(lambda r: graphc.rand(4), randomness="same")(x).numpy()
    after = graphc.rand(4).numpy()
    graphc.manual_seed(3)
    np.testing.assert_array_equal(one, np.stack([graphc.rand(4).numpy()] * 5))
    np.testing.assert_array_equal(after, graphc.rand(4).numpy())
    graphc.manual_seed(3)
    many = func.vmap(lambda r: graphc.rand(4), randomness="different")(x).numpy()
    later = graphc.rand(4).numpy()
    assert len({tuple(row) for row in [*many, later]}) == 6
    np.testing.assert_array_equal(many[0], one[0])
    graphc.manual_seed(3)
    again = graphc.compile(lambda v: func.vmap(lambda r: graphc.rand(4), randomness="different")(v))(x)
    np.testing.assert_array_equal(again.numpy(), many)


def test_models_in_an_ensemble() -> None:
    def run(m: Any) -> Any:
        models = [m.nn.Linear(4, 2).double() for _ in range(3)]
        with m.no_grad():
            for i, model in enumerate(models):
                model.weight.copy_(m.tensor(W[:2] * (i + 1)))
                model.bias.copy_(m.tensor(W[0, :2]))
        parameters, buffers = m.func.stack_module_state(models)
        assert parameters["weight"].requires_grad
        out = m.func.vmap(
            lambda p, b, x: m.func.functional_call(models[0], (p, b), (x,)), in_dims=(0, 0, None)
        )(parameters, buffers, m.tensor(X[0]))
        out.square().sum().backward()
        return out, parameters["weight"].grad

    same(run)


BAD: list[tuple[str, Callable[[Any], Any], type[Exception], str]] = [
    ("no axes", lambda m: m.func.vmap(lambda x: x, in_dims=None)(m.tensor(X)), ValueError, "in_dims"),
    ("sizes", lambda m: m.func.vmap(lambda x, y: x)(m.tensor(X), m.tensor(W)), ValueError, "same size in the mapped dimension"),
    ("axis", lambda m: m.func.vmap(lambda x: x, in_dims=3)(m.tensor(X)), ValueError, "Got in_dim=3 for some input"),
    ("number", lambda m: m.func.vmap(lambda x, n: x)(m.tensor(X), 2.0), ValueError, "cannot vmap over non-Tensor"),
    ("structure", lambda m: m.func.vmap(lambda x: x, in_dims=(0, 0))(m.tensor(X)), ValueError, "not compatible with the structure"),
    ("returns", lambda m: m.func.vmap(lambda x: 3)(m.tensor(X)), ValueError, "must only return Tensors"),
    ("out structure", lambda m: m.func.vmap(lambda x: x, out_dims=(0, 0))(m.tensor(X)), ValueError, "out_dims"),
    ("out axis", lambda m: m.func.vmap(lambda x: x, out_dims=4)(m.tensor(X)), IndexError, "out of range"),
    ("randomness", lambda m: m.func.vmap(lambda x: x, randomness="some")(m.tensor(X)), RuntimeError, "Only allowed values"),
    ("chunk", lambda m: m.func.vmap(lambda x: x, chunk_size=0)(m.tensor(X)), ValueError, "chunk_size"),
    ("value", lambda m: m.func.vmap(lambda x: x * x.sum().item())(m.tensor(X)), RuntimeError, ""),
    ("tangents", lambda m: m.func.jvp(lambda x: x, (m.tensor(X),), (m.tensor(W),)), RuntimeError, ""),
    ("primals", lambda m: m.func.jvp(lambda x: x, m.tensor(X), m.tensor(X)), RuntimeError, "tuple"),
    ("no models", lambda m: m.func.stack_module_state([]), RuntimeError, "at least one model"),
]  # fmt: skip


@pytest.mark.parametrize(("f", "kind", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_errors(f: Callable[[Any], Any], kind: type[Exception], message: str) -> None:
    for m in (graphc, torch):
        with pytest.raises(kind, match=message):
            f(m)


def test_a_pull_from_outside_is_refused() -> None:
    """A result that was computed outside cannot be differentiated by what is mapped; the error says what to do."""
    x = graphc.tensor(X[0], requires_grad=True)
    y = x.sin()
    with pytest.raises(RuntimeError, match=r"func\.vjp"):
        func.vmap(lambda s: graphc.autograd.grad(y, [x], s)[0])(graphc.tensor(X))
