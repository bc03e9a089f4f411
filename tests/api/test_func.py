"""Function transforms against closed forms, and the public namespace."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import numpy as np
import pytest

import graphc as torch
from graphc import func, nn

X = np.array([0.5, -1.0, 2.0], np.float32)


def close(found: Any, expected: Any) -> None:
    assert np.allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-6)


def test_gradients() -> None:
    x = torch.tensor(X)
    close(func.grad(lambda v: (v**3).sum())(x), 3 * X**2)
    close(func.grad(lambda a, v: (a * v).sum(), argnums=1)(x, x), X)
    gradient, (value, aux) = func.grad_and_value(lambda v: (v.sum(), v * 2), has_aux=True)(x)
    close(gradient, np.ones(3))
    close(value, X.sum())
    close(aux, 2 * X)
    assert not value.requires_grad and not gradient.requires_grad


def test_higher_derivatives() -> None:
    x = torch.tensor(1.5)
    close(func.grad(func.grad(lambda v: v**3))(x), 9.0)
    close(func.grad(func.grad(func.grad(lambda v: torch.sin(v))))(x), -np.cos(1.5))
    close(func.hessian(lambda v: (v**3).sum())(torch.tensor(X)), np.diag(6 * X))


def test_jacobians_and_products() -> None:
    x = torch.tensor(X)
    close(func.jacrev(lambda v: v**2)(x), np.diag(2 * X))
    output, pull = func.vjp(lambda v: v * 3, x)
    close(output, 3 * X)
    close(pull(torch.ones(3))[0], np.full(3, 3.0))


def test_functional_call() -> None:
    net = nn.Linear(3, 1)
    params = {"weight": torch.ones(1, 3), "bias": torch.zeros(1)}
    x = torch.tensor(X)[None]
    close(func.functional_call(net, params, x), [[X.sum()]])
    gradients = func.grad(lambda p: func.functional_call(net, p, (x,)).sum())(params)
    close(gradients["weight"], X[None])
    assert net.weight.requires_grad
    with pytest.raises(RuntimeError, match="'nothing'"):
        func.functional_call(net, {"nothing": torch.ones(1)}, x, strict=True)


def test_no_module_hides_a_function() -> None:
    """A submodule with the name of a public function would replace it when imported."""
    modules = {m.name for m in pkgutil.iter_modules(torch.__path__)}
    for name in modules:
        importlib.import_module(f"graphc.{name}")
    assert [n for n in torch.__all__ if not hasattr(torch, n)] == []
    assert {n for n in torch.__all__ if callable(getattr(torch, n))} & modules == set()


def test_ordinary_probes() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.ones(2, device=device).device == device and not torch.accelerator.is_available()
    state = torch.get_rng_state()
    a = torch.rand(3).tolist()
    torch.set_rng_state(state)
    assert torch.rand(3).tolist() == a


def test_gradient_by_a_detached_leaf() -> None:
    """A leaf made with `detach` is its own, also after its results were evaluated."""
    x = torch.tensor(X)
    for evaluated in (False, True):
        leaf = x.detach().requires_grad_()
        total = (leaf * 3).sum()
        if evaluated:
            total.item()
        close(torch.autograd.grad(total, leaf)[0], np.full(3, 3.0))
        assert not x.requires_grad
