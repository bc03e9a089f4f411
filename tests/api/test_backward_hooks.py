"""Hooks that see and replace gradients: what they are called with, and in which order, as in PyTorch.

Every program is written once and run on both packages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn

Program = Callable[[Any, list[Any]], list[Any]]
"""Notes what hooks saw in its second argument; gives the gradients at the end."""


def leaf(p: Any) -> Any:
    return p.tensor([1.0, 2.0, 3.0], requires_grad=True)


def on_a_leaf(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    w.register_hook(lambda g: seen.append(g.tolist()))
    handle = w.register_hook(lambda g: g * 2)
    (w * w).sum().backward()
    handle.remove()
    (w * w).sum().backward()
    return [w.grad]


def on_a_value(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    h = w * 3
    h.register_hook(lambda g: seen.append(("first", g.tolist())))
    h.register_hook(lambda g: g + 1)
    h.register_hook(lambda g: seen.append(("third", g.tolist())))
    (h * h + w).sum().backward()
    return [w.grad]


def after_it_was_used(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    h = w.exp()
    y = (h * h).sum() + h.sum()
    h.register_hook(lambda g: seen.append(g.tolist()))
    h.register_hook(lambda g: -g)
    (y + h.sum()).backward()
    return [w.grad]


def one_behind_another(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    a = w * 2
    b = a.sin()
    a.register_hook(lambda g: seen.append(("a", g.tolist())))
    b.register_hook(lambda g: g.clamp(max=0.5))
    b.register_hook(lambda g: seen.append(("b", g.tolist())))
    (a * b).sum().backward()
    return [w.grad]


def on_the_root(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    loss = (w * w).sum()
    loss.register_hook(lambda g: g * 10)
    loss.backward()
    return [w.grad]


def on_a_view(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    h = (w * 2).view(3, 1)
    h.register_hook(lambda g: seen.append(g.tolist()))
    (h * h).sum().backward()
    return [w.grad]


def value_read_before_backward(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    a = w * 2
    a.register_hook(lambda g: g * 3)
    b = a * a
    b.register_hook(lambda g: seen.append(g.tolist()))
    loss = (b * a + w).sum()
    loss.item()
    loss.backward()
    return [w.grad]


def read_between(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    a = w * 2
    a.register_hook(lambda g: g * 3)
    a.sum().item()
    b = a * a * w
    b.register_hook(lambda g: seen.append(g.tolist()))
    b.sum().item()
    (b * a).sum().backward()
    return [w.grad]


def retained_and_twice(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    a = w * w
    a.register_hook(lambda g: seen.append(g.tolist()))
    loss = (a * a).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    return [w.grad]


def asked_for(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    a = w * w
    a.register_hook(lambda g: g * 2)
    w.register_hook(lambda g: g + 1)
    return list(p.autograd.grad((a * a).sum(), [a, w]))


def second_derivatives(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    a = w * w
    a.register_hook(lambda g: g * g)
    (g,) = p.autograd.grad((a * a).sum(), w, create_graph=True)
    return [g.detach(), *p.autograd.grad(g.sum(), w)]


def kept_gradients(p: Any, seen: list[Any]) -> list[Any]:
    w = leaf(p)
    a = w * w
    a.retain_grad()
    a.retain_grad()
    seen.append(a.retains_grad)
    (a * a).sum().backward()
    return [a.grad, w.grad]


def layers(p: Any) -> Any:
    model = p.nn.Sequential(p.nn.Linear(3, 4), p.nn.Tanh(), p.nn.Linear(4, 2))
    with p.no_grad():
        for i, v in enumerate(model.parameters()):
            v.copy_(p.arange(float(v.numel())).reshape(v.shape) / 10 - 0.1 * i)
    return model


def rounded(gradients: Any) -> Any:
    return [None if g is None else np.round(g.detach().numpy().astype(float), 5).tolist() for g in gradients]


def on_modules(p: Any, seen: list[Any]) -> list[Any]:
    model = layers(p)
    for i, layer in enumerate(model):
        layer.register_full_backward_hook(lambda m, gi, go, i=i: seen.append((i, rounded(gi), rounded(go))))
    model[1].register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))
    model[2].register_full_backward_pre_hook(lambda m, go: (go[0] + 1,))
    model(p.ones(5, 3)).square().sum().backward()
    return [v.grad for v in model.parameters()]


class Pair:
    """Two arguments and two results."""

    @staticmethod
    def make(p: Any) -> Any:
        class Both(p.nn.Module):  # type: ignore[misc]
            def forward(self, a: Any, b: Any, factor: float) -> Any:
                return a * b, a.sin() * factor

        return Both()


def on_several(p: Any, seen: list[Any]) -> list[Any]:
    module, w, v = Pair.make(p), leaf(p), leaf(p)
    module.register_full_backward_hook(lambda m, gi, go: seen.append((rounded(gi), rounded(go))))
    module.register_full_backward_hook(lambda m, gi, go: (gi[1], gi[0], None))
    a, b = module(w * 1, v * 2, 3.0)
    (a * b).sum().backward()
    return [w.grad, v.grad]


PROGRAMS = [
    on_a_leaf, on_a_value, after_it_was_used, one_behind_another, on_the_root, on_a_view,
    value_read_before_backward, read_between, retained_and_twice, asked_for, second_derivatives, kept_gradients,
    on_modules, on_several,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_as_in_pytorch(program: Program) -> None:
    torch = pytest.importorskip("torch")
    ours: list[Any] = []
    theirs: list[Any] = []
    found, expected = program(graphc, ours), program(torch, theirs)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-5)
    compare(ours, theirs)


def compare(a: Any, b: Any) -> None:
    """Nested lists and tuples of numbers that are close, and equal otherwise."""
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            compare(x, y)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4)
    else:
        assert a == b


def test_hooks_are_traced_into_compiled_steps() -> None:
    w = nn.Parameter(graphc.tensor([1.0, 2.0]))

    @graphc.compile(keep_grads=True)
    def step(x: Any) -> Any:
        w.grad = None
        h = w * x
        h.register_hook(lambda g: g * 5)
        loss = (h * h).sum()
        loss.backward()
        return loss

    x = graphc.tensor([2.0, 3.0])
    for _ in range(2):
        step(x)
        assert w.grad.tolist() == [5 * 2 * 2.0 * 2.0, 5 * 2 * 6.0 * 3.0]
    handle = w.register_hook(lambda g: g + 1)
    step(x)
    assert w.grad.tolist() == [41.0, 181.0]
    handle.remove()
    step(x)
    assert w.grad.tolist() == [40.0, 180.0]


def test_errors() -> None:
    with pytest.raises(RuntimeError, match="doesn't require gradient"):
        graphc.ones(2).register_hook(lambda g: None)
    w = graphc.ones(2, requires_grad=True)
    h = w * 2
    h.sum().item()
    with pytest.raises(RuntimeError, match="computed already"):
        h.register_hook(lambda g: None)
    k = w * 2
    k.register_hook(lambda g: g.sum())
    with pytest.raises(RuntimeError, match="changed the type"):
        k.sum().backward()
