"""Hooks, seeds that are leaves, transforms and their errors: each row is run with PyTorch and with graphc."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

X, W = (np.random.default_rng(i).standard_normal((4, 3)) for i in range(2))
Row = Callable[[Any], Any]
ROWS: dict[str, Row] = {}


def row(f: Row) -> Row:
    ROWS[f.__name__] = f
    return f


def network(m: Any) -> Any:
    net = m.nn.Sequential(m.nn.Linear(3, 4), m.nn.Tanh(), m.nn.Linear(4, 2)).to(m.float64)
    rng = np.random.default_rng(1)
    net.load_state_dict(
        {k: m.tensor(rng.standard_normal(tuple(v.shape))) for k, v in net.state_dict().items()}
    )
    return net


def function(m: Any) -> Any:
    class Scaled(m.autograd.Function):  # type: ignore[misc,name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any, k: float) -> Any:
            ctx.save_for_backward(x)
            ctx.k = k
            return x**2 * k

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * 2 * x * ctx.k, None

    return Scaled


@row
def module_hook_on_a_leaf(m: Any) -> Any:
    """The argument of the module is a leaf itself."""
    net, x = network(m), m.tensor(X, requires_grad=True)
    net[0].register_full_backward_hook(lambda module, gi, go: (gi[0] * 2,))
    net(x).sum().backward()
    return x.grad


@row
def module_hook_that_looks_only(m: Any) -> Any:
    net, x, seen = network(m), m.tensor(X, requires_grad=True), []
    net[0].register_full_backward_hook(lambda module, gi, go: seen.append((gi[0], go[0])))
    net(x).sum().backward()
    return x.grad, seen


@row
def module_hook_of_another_length(m: Any) -> Any:
    net, x = network(m), m.tensor(X, requires_grad=True)
    net[0].register_full_backward_hook(lambda module, gi, go: (gi[0], gi[0]))
    net(x).sum().backward()


@row
def module_pre_hook_of_another_length(m: Any) -> Any:
    net, x = network(m), m.tensor(X, requires_grad=True)
    net[0].register_full_backward_pre_hook(lambda module, go: (go[0], go[0]))
    net(x).sum().backward()


@row
def second_derivative_by_the_seed(m: Any) -> Any:
    """The cotangent that a user's backward gets is still the leaf that was given."""
    x, seed = m.tensor(X, requires_grad=True), m.tensor(W, requires_grad=True)
    (g,) = m.autograd.grad(function(m).apply(x, 3.0), x, seed, create_graph=True)
    return m.autograd.grad((g * g).sum(), [x, seed])


@row
def gradgradcheck_of_a_function(m: Any) -> Any:
    return m.autograd.gradgradcheck(lambda x: function(m).apply(x, 3.0), (m.tensor(X, requires_grad=True),))


@row
def seed_that_comes_through(m: Any) -> Any:
    """The gradient is the seed itself, and depends on it."""
    x, seed = m.tensor(X, requires_grad=True), m.tensor(W, requires_grad=True)
    (g,) = m.autograd.grad(x, x, seed, create_graph=True)
    return m.autograd.grad((g * g).sum(), seed)


@row
def seed_accumulated(m: Any) -> Any:
    x, seed = m.tensor(X, requires_grad=True), m.tensor(W, requires_grad=True)
    x.backward(seed, create_graph=True)
    return m.autograd.grad((x.grad * x.grad).sum(), seed)


@row
def write_behind_a_function(m: Any) -> Any:
    """What was given to the function is written afterwards; its gradient is that of what it was."""
    x = m.tensor(X, requires_grad=True)
    y = x * 2
    z = function(m).apply(y.clone(), 3.0)
    y.mul_(3)
    (z.sum() + y.sum()).backward()
    return x.grad


@row
def hook_behind_accumulation(m: Any) -> Any:
    x, seen = m.tensor(X, requires_grad=True), []
    handle = x.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    (x * 2).sum().backward()
    (x * 2).sum().backward()
    handle.remove()
    (x * 2).sum().backward()
    return seen


@row
def steps_behind_accumulation(m: Any) -> Any:
    """An optimiser for each parameter that runs within `backward`."""
    net = network(m)
    optimisers = {p: m.optim.SGD([p], lr=0.1) for p in net.parameters()}

    def step(p: Any) -> None:
        optimisers[p].step()
        optimisers[p].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(2):
        net(m.tensor(X)).square().sum().backward()
    return [[p, p.grad] for p in net.parameters()]


@row
def hook_behind_accumulation_of_no_leaf(m: Any) -> Any:
    (m.tensor(X, requires_grad=True) * 2).register_post_accumulate_grad_hook(lambda p: None)


@row
def mapped_write(m: Any) -> Any:
    def f(x: Any, y: Any) -> Any:
        x.add_(y)
        return x * 2

    x, y = m.tensor(X), m.tensor(W[0])
    return m.vmap(f, in_dims=(0, None))(x, y), x


@row
def mapped_write_along_another_axis(m: Any) -> Any:
    x = m.tensor(X)
    return m.vmap(lambda v: v.zero_(), in_dims=1)(x), x


@row
def mapped_item(m: Any) -> Any:
    return m.vmap(lambda x: x.sum().item())(m.tensor(X))


@row
def mapped_branch(m: Any) -> Any:
    return m.vmap(lambda x: x if x.sum() > 0 else -x)(m.tensor(X))


@row
def call_with_unknown_names(m: Any) -> Any:
    given = {"0.bias": m.zeros(4, dtype=m.float64), "nowhere": m.zeros(1)}
    return m.func.functional_call(network(m), given, (m.tensor(X),))


@row
def call_strictly(m: Any) -> Any:
    given = {"0.bias": m.zeros(4, dtype=m.float64)}
    return m.func.functional_call(network(m), given, (m.tensor(X),), strict=True)


@row
def call_with_a_name_twice(m: Any) -> Any:
    given = {"0.bias": m.zeros(4, dtype=m.float64)}
    return m.func.functional_call(network(m), (given, given), (m.tensor(X),))


@row
def call_with_tied_weights(m: Any) -> Any:
    net = m.nn.Sequential(m.nn.Linear(3, 3), m.nn.Linear(3, 3)).to(m.float64)
    net[1].weight = net[0].weight
    zeros = {"0.bias": m.zeros(3, dtype=m.float64), "1.bias": m.zeros(3, dtype=m.float64)}
    given = {**zeros, "0.weight": m.eye(3, dtype=m.float64) * 2}
    return m.func.functional_call(net, given, (m.tensor(X),))


@row
def gradient_by_a_number(m: Any) -> Any:
    return m.func.grad(lambda x: x * 2)(3.0)


@row
def gradient_by_a_name(m: Any) -> Any:
    return m.func.grad(lambda x: x.sum(), argnums="x")(m.tensor(X))


def flat(x: Any) -> list[Any]:
    if isinstance(x, (list, tuple)):
        return [v for item in x for v in flat(item)]
    return [np.asarray(x.detach().numpy()) if hasattr(x, "detach") else x]


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    """The same values, or the same kind of error."""
    try:
        expected = flat(ROWS[name](torch))
    except Exception as error:
        with pytest.raises(type(error)):
            ROWS[name](graphc)
        return
    for got, value in zip(flat(ROWS[name](graphc)), expected, strict=True):
        if value is None or isinstance(value, bool):
            assert got is value
        else:
            np.testing.assert_allclose(got, value, rtol=1e-9, atol=1e-12)


def test_overwritten_before_backward() -> None:
    """PyTorch refuses this, since `exp` keeps its result; here values are immutable until they are evaluated, and the
    gradient is right. Once it was evaluated, the overwritten residual is refused as in PyTorch."""
    x = graphc.tensor(X, requires_grad=True)
    y = x.exp()
    y.add_(1)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.exp(X), rtol=1e-12)
    y = x.exp()
    total = y.sum()
    total.item()
    with graphc.no_grad():
        y.detach().add_(1)
    y.realize()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
