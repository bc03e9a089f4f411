"""`.grad` between functions, against PyTorch: each row says which functions there are and in which order they are called.

A function is what its letters do, one after the other. Whatever of it is compiled, losses, parameters and what is left
in `.grad` are PyTorch's, but for gradients that a call made and used itself: these are kept where `keep_grads=True` asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

ROWS = [
    # backward, step and zero_grad, each a function of its own
    "B S Z: 012 012 012",
    "B S Z: 00122 001 02 1",
    "Z B S: 012 0112 1 0 0122",
    "B SZ: 01 001 1 01",
    "ZB S: 01 01 101",
    "ZBC S: 01 01",
    "BS Z: 0 0 1 0 1 1 0",
    "B S K: 2 012 0012 2 1",
    # several functions add to what others drop
    "B D S Z: 01 2 3 10 2 0 3 2 01 2",
    "B D ZS: 2 0 2 1 2 01 2",
    "ZBS D S: 0 1 0 1 1",
    "ZBS B Z S: 0 0 2 1 3 0",
    # None or a tensor, as seen by the function itself
    "I B Z: 0 1 0 2 0 1 0",
    "RB IB: 1 1 0 0",
    "KI B: 0 1 0",
    "S B Z: 0 1 0 2 0 1 0",
    "R BCS: 0 0 1 0",
    # gradients that are set
    "ASZ B: 0 0 1 0 1",
    "A B S: 0 1 2 1 2 0",
    "X S: 0 1 0 1",
    "PP B: 1 0 1 0",
    "V S B: 0 1 2 1 0 1",
    "BN S: 0 1 0 1",
    "KSS C BCBA PR: 0 3 0 1 3 2 3",
    "DBMP BSM KCN AZBX: 0 0 1 0 3 1 3 2",
]


def functions(library: Any) -> tuple[Any, Any, dict[str, Callable[[Any], Any]]]:
    """Two parameters, and what a letter does."""
    w = library.tensor(np.array([[0.5, -1, 2], [1, 0.3, -0.7]]), requires_grad=True)
    b = library.tensor(np.array([0.1, 0.2]), requires_grad=True)
    optimizer = library.optim.SGD([w, b], lr=0.1, momentum=0.9)
    held = library.ones(2, 3, dtype=library.float64) * 3
    held.sum().item()

    def add(x: Any) -> Any:
        loss = (x @ w.t() + b).square().mean()
        loss.backward()
        return loss

    def add_to_one(x: Any) -> Any:
        loss = (x @ w.t()).square().mean()
        loss.backward()
        return loss

    def drop_one(x: Any) -> None:
        w.grad = None

    def scale(x: Any) -> None:
        if b.grad is not None:
            b.grad.mul_(0.5)

    def scaled(x: Any) -> None:
        if b.grad is not None:
            b.grad = b.grad * 0.5

    def ones(x: Any) -> None:
        w.grad = library.ones(2, 3, dtype=library.float64) * 2

    def outside(x: Any) -> None:
        w.grad = held

    def explicit(x: Any) -> None:
        (w.grad,) = library.autograd.grad((x @ w.t()).square().sum(), [w])

    return (
        w,
        b,
        {
            "B": add,
            "D": add_to_one,
            "S": lambda x: optimizer.step(),
            "Z": lambda x: optimizer.zero_grad(),
            "K": lambda x: optimizer.zero_grad(set_to_none=False),
            "N": drop_one,
            "C": lambda x: library.nn.utils.clip_grad_norm_([w, b], 0.5),
            "M": scale,
            "P": scaled,
            "A": ones,
            "V": outside,
            "X": explicit,
            "R": lambda x: None if w.grad is None else w.grad.sum(),
            "I": lambda x: 1.0 if w.grad is None else 2.0,
        },
    )


def run(library: Any, row: str, wrap: Callable[[int, Any], Any]) -> list[Any]:
    """Everything that can be seen after each call; a gradient that is not kept is "lost"."""
    w, b, letters = functions(library)
    names, calls = row.split(":")

    def function(letters_of: str) -> Callable[[Any], list[Any]]:
        return lambda x: [letters[n](x) for n in letters_of]

    made = [wrap(i, function(n)) for i, n in enumerate(names.split())]
    seen: list[Any] = []
    for k, i in enumerate(calls.replace(" ", "")):
        x = library.tensor(np.random.default_rng(k % 3).standard_normal((4, 3)))
        seen += made[int(i)](x)
        seen += [w.detach().clone(), b.detach().clone()]
        for p in (w, b):
            try:
                seen.append(None if p.grad is None else p.grad.clone())
            except graphc.TraceError:
                seen.append("lost")
    return seen


def check(row: str, wrap: Callable[[int, Any], Any]) -> None:
    wanted = run(torch, row, lambda i, f: f)
    got = run(graphc, row, wrap)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert not isinstance(a, str), "a gradient was not kept"
        assert (a is None) == (b is None)
        if a is not None:
            values = [v.detach().numpy() if hasattr(v, "detach") else v for v in (a, b)]
            np.testing.assert_allclose(*values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("row", ROWS)
def test_all_compiled_and_kept(row: str) -> None:
    check(row, lambda i, f: graphc.compile(f, keep_grads=True))


@pytest.mark.parametrize("odd", [0, 1], ids=["even functions compiled", "odd functions compiled"])
@pytest.mark.parametrize("row", ROWS)
def test_some_compiled(row: str, odd: int) -> None:
    check(row, lambda i, f: graphc.compile(f, keep_grads=True) if i % 2 == odd else f)


@pytest.mark.parametrize("row", [r for r in ROWS if not r.startswith(("ZBS", "ASZ", "R BCS"))])
def test_what_no_call_has_used_is_kept(row: str) -> None:
    check(row, lambda i, f: graphc.compile(f))


@pytest.mark.parametrize(
    ("row", "fails"),
    [
        ("ZBS S: 0 1", True),
        ("ZBS R: 0 1", True),
        ("ZBS B S: 0 1 2", True),
        ("ZBS BR: 0 1", True),
        ("ZBS ZR: 0 1", False),
        ("ZBS KR: 0 1", False),
        ("ZBS B: 0 1 1", False),
        ("ZBS B ZBR: 0 1 2", False),
    ],
)
@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain"])
def test_a_gradient_that_is_not_kept_is_an_error_where_it_matters(row: str, fails: bool, plain: bool) -> None:
    def wrap(i: int, function: Any) -> Any:
        return function if plain and i else graphc.compile(function)

    if fails:
        with pytest.raises(graphc.TraceError, match=r"keep_grads=True.*zero_grad"):
            run(graphc, row, wrap)
    else:
        run(graphc, row, wrap)


def test_functions_settle() -> None:
    """A round of calls that was made before compiles nothing again."""
    _, _, letters = functions(graphc)
    made = [graphc.compile(letters[n]) for n in "BDSZ"]
    x = graphc.ones(4, 3, dtype=graphc.float64)
    counts = []
    for _ in range(4):
        for f in made:
            f(x)
        counts.append([f.cache_info().misses for f in made])
    assert counts[0] == counts[-1] == [1, 1, 1, 1]


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
def test_gradients_of_arguments(compiled: bool) -> None:
    """`backward` inside adds to `.grad` of the tensors of that call, not of those that were traced."""

    def grads(library: Any) -> list[Any]:
        w = library.ones(3, requires_grad=True)

        def function(x: Any) -> Any:
            loss = (x * x * w).sum()
            loss.backward()
            return loss

        f = graphc.compile(function) if compiled and library is graphc else function
        inputs = [library.tensor(np.arange(3, dtype=np.float32) + i).requires_grad_() for i in range(3)]
        for _ in range(2):
            for x in inputs:
                f(x)
        inputs[1].grad = None
        f(inputs[1])
        return [w.grad, *(x.grad for x in inputs)]

    for a, b in zip(grads(graphc), grads(torch), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


def test_a_failed_call_leaves_no_gradient() -> None:
    w = graphc.ones(3, requires_grad=True)

    @graphc.compile
    def function(x: Any, i: Any) -> Any:
        loss = (x * w)[i].sum()
        loss.backward()
        return loss

    x = graphc.ones(3)
    with pytest.raises(IndexError):
        function(x, graphc.tensor([5]))
    assert w.grad is None
    function(x, graphc.tensor([1]))
    assert w.grad.tolist() == [0, 1, 0]


def test_a_gradient_set_to_an_argument() -> None:
    w = graphc.ones(3, requires_grad=True)

    @graphc.compile
    def function(x: Any) -> None:
        w.grad = x

    with pytest.raises(graphc.TraceError, match="clone"):
        function(graphc.ones(3))


def weighed(library: Any, w: Any, compiled: Any) -> Callable[[Any], Any]:
    return compiled(lambda p: (w * p).sum())  # type: ignore[no-any-return]


def weighed_within(library: Any, w: Any, compiled: Any) -> Callable[[Any], Any]:
    def function(p: Any) -> Any:
        loss = (w * p.sin()).sum()
        loss.backward()
        return loss.detach()

    return compiled(function)  # type: ignore[no-any-return]


def stepped(library: Any, w: Any, compiled: Any) -> Callable[[Any], Any]:
    optimizer = library.optim.SGD([w], lr=0.1)

    def function(p: Any) -> Any:
        optimizer.zero_grad()
        loss = (p * p).sum() + w.sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return compiled(function, keep_grads=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
@pytest.mark.parametrize("order", ["wqw", "qwq", "ww", "qqwwq", "dqw"])
@pytest.mark.parametrize("make", [weighed, weighed_within, stepped])
def test_an_argument_that_the_function_has_otherwise(make: Any, order: str, compiled: bool) -> None:
    """`w` is closed over and an argument of some calls; `q` is another tensor, `d` is `w.detach()`."""

    def seen(library: Any) -> list[Any]:
        w = library.tensor(np.array([1.0, -1, 2]), requires_grad=True)
        q = library.tensor(np.array([1.0, 2, 3]), requires_grad=True)
        wrap = graphc.compile if compiled and library is graphc else lambda f, **_: f
        function = make(library, w, wrap)
        found: list[Any] = []
        for letter in order:
            out = function({"w": w, "q": q, "d": w.detach()}[letter])
            if out.requires_grad:
                out.backward()
            found += [out.detach().clone(), w.detach().clone()]
            found += [None if p.grad is None else p.grad.clone() for p in (w, q)]
        return found

    for a, b in zip(seen(graphc), seen(torch), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*is a view of another tensor")
@pytest.mark.parametrize("inside", [False, True])
def test_a_leaf_over_a_part_of_a_tensor(inside: bool) -> None:
    def seen(library: Any) -> list[Any]:
        leaf = library.arange(6, dtype=library.float32)[2:5].detach().requires_grad_()

        def function(x: Any) -> Any:
            loss = (x * x).sum()
            if inside:
                loss.backward()
            return loss

        f = graphc.compile(function) if library is graphc else function
        for _ in range(2):
            loss = f(leaf)
            if not inside:
                loss.backward()
        return [loss, leaf.grad]

    for a, b in zip(seen(graphc), seen(torch), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy())
