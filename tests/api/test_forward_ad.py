"""`autograd.forward_ad` against PyTorch: tangents of results, recorded and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad

import graphc

Rule = Callable[[Any, Any, Any], Any]


def one(p: Any, a: Any, b: Any) -> Any:
    fw = p.autograd.forward_ad
    with fw.dual_level():
        x = fw.make_dual(a, b)
        return tuple(fw.unpack_dual((x * x).sin() @ b.t()))


def two(p: Any, a: Any, b: Any) -> Any:
    fw = p.autograd.forward_ad
    with fw.dual_level():
        x, y = fw.make_dual(a, b), fw.make_dual(b, a)
        return [
            fw.unpack_dual(f).tangent for f in (x * y, x.exp(), y.relu(), x, (x / (2 + y * y)).softmax(1))
        ]


def in_place(p: Any, a: Any, b: Any) -> Any:
    fw = p.autograd.forward_ad
    with fw.dual_level():
        x = fw.make_dual(a, b)
        z = x * 2
        z[0] = 1
        z[:, 1].mul_(x[:, 0])
        return list(fw.unpack_dual(z))


def without_dependence(p: Any, a: Any, b: Any) -> Any:
    fw = p.autograd.forward_ad
    with fw.dual_level():
        x = fw.make_dual(a, b)
        w = (b * 1).requires_grad_()
        assert fw.unpack_dual(b).tangent is None
        assert fw.unpack_dual(w * 2).tangent is None
    assert fw.unpack_dual(x).tangent is None
    return [x.detach()]


def over_reverse(p: Any, a: Any, b: Any) -> Any:
    """A Hessian's product: the tangent of a gradient."""
    fw = p.autograd.forward_ad
    w = (a * 1).detach().requires_grad_()
    with fw.dual_level():
        x = fw.make_dual(w, b)
        (g,) = p.autograd.grad((x.sin() * x).sum(), x, create_graph=True)
        return [fw.unpack_dual(g).tangent]


def under_reverse(p: Any, a: Any, b: Any) -> Any:
    """The gradient of a tangent."""
    fw = p.autograd.forward_ad
    w, t = (a * 1).detach().requires_grad_(), (b * 1).detach().requires_grad_()
    with fw.dual_level():
        tangent = fw.unpack_dual(fw.make_dual(w, t).pow(3)).tangent
        return [tangent.detach(), *p.autograd.grad(tangent.sum(), [w, t])]


def without_grad(p: Any, a: Any, b: Any) -> Any:
    fw = p.autograd.forward_ad
    with p.no_grad(), fw.dual_level():
        return [fw.unpack_dual(p.nn.functional.layer_norm(fw.make_dual(a, b), (4,)).tanh()).tangent]


RULES = [one, two, in_place, without_dependence, over_reverse, under_reverse, without_grad]


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
@pytest.mark.parametrize("rule", RULES, ids=lambda f: f.__name__)
def test_parity(rule: Rule, compiled: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 4)) for _ in range(2)]
    expected = rule(torch, *map(torch.tensor, arrays))

    def ours(a: Any, b: Any) -> Any:
        return rule(graphc, a, b)

    got = (graphc.compile(ours) if compiled else ours)(*map(graphc.tensor, arrays))
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x.detach().numpy(), y.detach().numpy(), rtol=1e-10, atol=1e-12)


BAD: list[tuple[Callable[[Any], Any], type[Exception]]] = [
    (lambda p: p.autograd.forward_ad.make_dual(p.ones(2), p.ones(2)), RuntimeError),
    (lambda p: p.autograd.forward_ad.exit_dual_level(), RuntimeError),
    (lambda p: inside(p, lambda fw: fw.make_dual(p.ones(2), p.ones(3))), RuntimeError),
    (lambda p: inside(p, lambda fw: fw.make_dual(p.ones(2, dtype=p.int64), p.ones(2))), ValueError),
    (lambda p: inside(p, lambda fw: fw.make_dual(p.ones(2), p.ones(2, dtype=p.int64))), ValueError),
    (lambda p: inside(p, lambda fw: fw.enter_dual_level()), RuntimeError),
]


def inside(p: Any, call: Callable[[Any], Any]) -> Any:
    fw = p.autograd.forward_ad
    with fw.dual_level():
        return call(fw)


@pytest.mark.parametrize(("call", "error"), BAD)
def test_errors(call: Callable[[Any], Any], error: type[Exception]) -> None:
    for p in (torch, graphc):
        with pytest.raises(error):
            call(p)
