"""`cond`, `while_loop`, `fori_loop` and `map`: what they give, their derivatives, state, and what they refuse.

Longer than most files: four functions, each with all of these.
"""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.core import recording

torch = pytest.importorskip("torch")

Function = Callable[..., Any]


def ramp(*shape: int) -> Any:
    return (np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 7 - 3) / 4


class Plain:
    """The same functions in Python, for PyTorch tensors."""

    @staticmethod
    def cond(pred: Any, true_fn: Function, false_fn: Function, operands: Any = ()) -> Any:
        return (true_fn if bool(pred) else false_fn)(*operands)

    @staticmethod
    def while_loop(
        test: Function, step: Function, operands: Any, *, max_iterations: int | None = None
    ) -> Any:
        count = 0
        while (max_iterations is None or count < max_iterations) and bool(test(*operands)):
            found = step(*operands)
            operands = found if isinstance(found, tuple) else (found,)
            count += 1
        return operands

    @staticmethod
    def fori_loop(lower: Any, upper: Any, body: Function, value: Any) -> Any:
        for i in range(int(lower), int(upper)):
            value = body(torch.tensor(i), value)
        return value

    @staticmethod
    def map(f: Function, xs: Any) -> Any:
        return torch.stack([f(x) for x in xs])


def nested(g: Any, x: Any, w: Any) -> Any:
    """A branch in a loop in a branch."""

    def step(i: Any, v: Any) -> Any:
        return i + 1, g.cond(v.sum() > 0, lambda: v * w - 1, lambda: v.cos() + w)

    def many() -> Any:
        return g.while_loop(lambda i, v: i < 4, step, (x.sum() * 0, x), max_iterations=6)[1]

    return g.cond(x.sum() < 100, many, lambda: x)


# name, function of a library, x and w
CASES: list[tuple[str, Callable[[Any, Any, Any], Any]]] = [
    ("first", lambda g, x, w: g.cond(x.sum() < 100, lambda a: (a * w).exp(), lambda a: a.sin(), (x,))),
    ("second", lambda g, x, w: g.cond(x.sum() > 100, lambda a: (a * w).exp(), lambda a: a.sin() * a, (x,))),
    ("predicate of one element", lambda g, x, w: g.cond((x[:1] < 100), lambda: x * w, lambda: x / w)),
    ("a slice of flags", lambda g, x, w: g.cond((x > -9)[2], lambda: x * w, lambda: x / w)),
    ("nest", lambda g, x, w: g.cond(w[0] > 9, lambda: (x, {"a": w}), lambda: (w * 2, {"a": x * w}))[1]["a"]),
    ("operands returned", lambda g, x, w: g.cond(w[0] > 9, lambda a, b: (b, a), lambda a, b: (a, b), (x * 2, w))[0]),
    ("constants", lambda g, x, w: g.cond(w[0] > 9, lambda: x * 0 + 1, lambda: x * 0 + 2) * w),
    ("matrix products", lambda g, x, w: g.cond(w[0] < 9, lambda: (x[:, None] @ w[None, :]).sin(), lambda: x[:, None] * w)),
    ("branch in branch", lambda g, x, w: g.cond(w[0] < 9, lambda: g.cond(x[0] > 9, lambda: x, lambda: x * w * w), lambda: w)),
    ("two branches", lambda g, x, w: g.cond(w[0] < 9, lambda: x.exp(), lambda: w) * g.cond(w[0] > 9, lambda: x, lambda: x.sin())),
    ("while", lambda g, x, w: g.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v * w + v.cos()), (x.sum() * 0, x), max_iterations=5)[1]),
    ("while, the limit ends it", lambda g, x, w: g.while_loop(lambda v: v.sum() < 1e9, lambda v: v * w + v.cos(), (x,), max_iterations=4)[0]),
    ("while, no step", lambda g, x, w: g.while_loop(lambda v: v.sum() > 1e9, lambda v: v * w, (x,), max_iterations=4)[0] * w),
    ("while, limit 0", lambda g, x, w: g.while_loop(lambda v: v.sum() < 1e9, lambda v: v * w, (x,), max_iterations=0)[0] * w),
    ("while, limit 1", lambda g, x, w: g.while_loop(lambda v: v.sum() < 1e9, lambda v: v * w, (x,), max_iterations=1)[0] * w),
    ("fori", lambda g, x, w: g.fori_loop(2, 6, lambda i, v: v * w + i, x)),
    ("fori, no step", lambda g, x, w: g.fori_loop(6, 2, lambda i, v: v * w + i, x)),
    ("fori in fori", lambda g, x, w: g.fori_loop(0, 3, lambda i, v: g.fori_loop(0, 2, lambda j, u: u * w + i * j, v), x)),
    ("map", lambda g, x, w: g.map(lambda a: (a * w).exp(), x)),
    ("map of branches", lambda g, x, w: g.map(lambda a: g.cond(a > 0, lambda: a * w, lambda: w / 2), x)),
    ("all at once", nested),
]  # fmt: skip


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
@pytest.mark.parametrize(("name", "f"), CASES, ids=[c[0] for c in CASES])
def test_against_python(name: str, f: Callable[[Any, Any, Any], Any], compiled: bool) -> None:
    """Results and gradients are those of PyTorch with Python's control flow."""

    def ours(x: Any, w: Any) -> Any:
        return f(graphc, x, w)

    arrays = ramp(5) + 0.1, ramp(5) + 1.5
    mine = [graphc.tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    got, wanted = (graphc.compile(ours) if compiled else ours)(*mine), f(Plain, *theirs)
    np.testing.assert_allclose(got.detach().numpy(), wanted.detach().numpy(), rtol=1e-5, atol=1e-6)
    (got * got).sum().backward()
    (wanted * wanted).sum().backward()
    for a, b in zip(mine, theirs, strict=True):
        gradient = np.zeros(5) if a.grad is None else a.grad.numpy()
        expected = np.zeros(5) if b.grad is None else b.grad.numpy()
        np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["first", "branch in branch", "while", "all at once"])
def test_second_derivative(name: str) -> None:
    f = dict(CASES)[name]
    found = []
    for library, g in ((graphc, graphc), (torch, Plain)):
        x, w = (library.tensor(a, requires_grad=True) for a in (ramp(5) + 0.1, ramp(5) + 1.5))
        (first,) = library.autograd.grad(f(g, x, w).sum(), x, create_graph=True)
        (first * first).sum().backward()
        found.append([np.zeros(5) if t.grad is None else t.grad.numpy() for t in (x, w)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_one_program_for_both_branches() -> None:
    """The predicate is read when the program runs: nothing is compiled again, and the other branch is not run."""
    table = graphc.tensor(ramp(4, 3))

    @graphc.compile
    def f(flag: Any, i: Any) -> Any:
        return graphc.cond(flag, lambda: graphc.index_select(table, 0, i), lambda: graphc.zeros(1, 3))

    inside, outside = graphc.tensor([2]), graphc.tensor([9])
    assert f(graphc.tensor(True), inside).tolist() == ramp(4, 3)[2:3].tolist()
    assert f(graphc.tensor(False), inside).tolist() == [[0, 0, 0]]
    assert f(graphc.tensor(False), outside).tolist() == [[0, 0, 0]]
    with pytest.raises(IndexError, match="out of range") as info:
        f(graphc.tensor(True), outside)
    assert getattr(info.value, "filename", "") == __file__
    assert f.cache_info().misses == 1


def test_state() -> None:
    """What a branch or a step writes is written where it is run, and else is not."""
    counts = graphc.zeros(3)

    def f(flag: Any) -> Any:
        def bump() -> Any:
            counts[1] += 1
            return counts * 2

        return graphc.cond(flag, bump, lambda: counts * 3)

    for function in (f, graphc.compile(f)):
        counts.zero_()
        found = [function(graphc.tensor(flag)).tolist() for flag in (True, False, True)]
        assert found == [[0, 2, 0], [0, 3, 0], [0, 4, 0]]
        assert counts.tolist() == [0, 2, 0]

    def g(steps: Any) -> Any:
        def step(i: Any) -> Any:
            counts.add_(i)
            return i + counts[0].long()

        return graphc.while_loop(lambda i: i < steps, step, (graphc.tensor(1),))

    for function in (g, graphc.compile(g)):
        counts.zero_()
        # 1, then 1 + 1, then 2 + 3, then 5 + 8
        assert function(graphc.tensor(10))[0].item() == 13
        assert counts.tolist() == [8, 8, 8]
        assert not counts.requires_grad


def test_training_in_a_loop() -> None:
    """All steps of a training in one loop: the parameters that it writes in place are what it carries."""
    xs = ramp(6, 3) + 1

    def trained(library: Any, loop: Any) -> list[Any]:
        w = library.nn.Parameter(library.tensor(ramp(3)))

        def step(carry: Any, x: Any) -> Any:
            loss = ((w * x).sum() - 1) ** 2
            (gradient,) = library.autograd.grad(loss, w)
            with library.no_grad():
                w.sub_(gradient * 0.02)
            return carry, loss.detach()

        losses = loop(step, library.tensor(xs))
        assert w.is_leaf
        assert w.requires_grad
        return [losses.tolist(), w.tolist()]

    wanted = trained(torch, lambda f, xs: torch.stack([f(None, x)[1] for x in xs]))
    for loop in (
        lambda f, xs: graphc.scan(f, None, xs)[1],
        lambda f, xs: graphc.compile(lambda xs: graphc.scan(f, None, xs)[1])(xs),
        lambda f, xs: graphc.scan(f, None, xs.flip(0), reverse=True)[1].flip(0),
    ):
        for a, b in zip(trained(graphc, loop), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_no_steps() -> None:
    """A loop without steps writes and draws nothing."""
    counts = graphc.zeros(2)

    def body(c: Any, x: Any) -> Any:
        counts.add_(1)
        return c + graphc.rand(()), x

    graphc.manual_seed(1)
    carry, ys = graphc.scan(body, graphc.zeros(()), graphc.zeros(0, 3))
    assert (carry.item(), ys.shape, counts.tolist()) == (0, (0, 3), [0, 0])
    drawn = graphc.rand(2).tolist()
    graphc.manual_seed(1)
    assert graphc.rand(2).tolist() == drawn


def test_modules_in_branches() -> None:
    """Running statistics and gradients of a module that one branch uses."""
    results = []
    for library, g in ((graphc, graphc), (torch, Plain)):
        norm, x = library.nn.BatchNorm1d(3), library.tensor(ramp(4, 3) ** 2 + 1)
        for flag in (True, False, True):
            y = g.cond(library.tensor(flag), lambda n=norm, x=x: n(x), lambda x=x: x * 2)
            (y * x).sum().backward() if flag else None
        state = [
            norm.running_mean,
            norm.running_var,
            norm.num_batches_tracked,
            norm.weight.grad,
            norm.bias.grad,
        ]
        results.append([np.asarray(t.numpy()) for t in state])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_in_a_training_step() -> None:
    """A compiled step whose loss branches; each branch reaches the parameters that it uses, and only those."""
    results = []
    for library, g in ((graphc, graphc), (torch, Plain)):
        library.manual_seed(0)
        first, second = library.nn.Linear(3, 2), library.nn.Linear(3, 2)
        for n, p in enumerate([*first.parameters(), *second.parameters()]):
            with library.no_grad():
                p.copy_(library.tensor(ramp(*p.shape) + n / 8))
        optimizer = library.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)

        def step(flag: Any, x: Any, a: Any = first, b: Any = second, o: Any = optimizer, g: Any = g) -> Any:
            o.zero_grad()
            loss = g.cond(flag, lambda: a(x).tanh().sum(), lambda: (b(x) ** 2).sum())
            loss.backward()
            o.step()
            return loss

        run = graphc.compile(step) if library is graphc else step
        x = library.tensor(ramp(4, 3))
        losses = [float(run(library.tensor(flag), x).detach()) for flag in (True, False, False, True)]
        results.append(losses + [p.detach().numpy() for p in (*first.parameters(), *second.parameters())])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def draws(n: int) -> Any:
    return graphc.rand(n), graphc.randn(2)


def test_random_numbers() -> None:
    """A loop draws what the same loop in Python draws, a branch what it draws alone; any thread count."""
    graphc.manual_seed(3)
    wanted = [[t.numpy() for t in draws(3)] for _ in range(4)]
    after = graphc.rand(2).tolist()

    def scanned() -> Any:
        return graphc.scan(lambda c, _: (c, draws(3)), None, None, length=4)[1]

    def looped() -> Any:
        def step(i: Any, a: Any, b: Any) -> Any:
            x, y = draws(3)
            chosen = (graphc.arange(4) == i).float()
            return i + 1, a + chosen[:, None] * x, b + chosen[:, None] * y

        start = (graphc.tensor(0), graphc.zeros(4, 3), graphc.zeros(4, 2))
        return graphc.while_loop(lambda i, a, b: i < 4, step, start)[1:]

    def branched() -> Any:
        parts = [
            graphc.cond(graphc.tensor(n < 9), lambda: draws(3), lambda: (graphc.zeros(3), graphc.zeros(2)))
            for n in range(4)
        ]
        graphc.cond(graphc.tensor(False), lambda: draws(3)[0], lambda: graphc.zeros(3))
        return [graphc.stack(p) for p in zip(*parts, strict=True)]

    before = graphc.get_num_threads()
    try:
        for threads in (1, 3):
            graphc.set_num_threads(threads)
            for f in (scanned, looped, branched):
                for function in (f, graphc.compile(f)):
                    graphc.manual_seed(3)
                    for i, part in enumerate(function()):
                        assert part.tolist() == np.stack([w[i] for w in wanted]).tolist(), f.__name__
                    assert graphc.rand(2).tolist() == after, f.__name__
    finally:
        graphc.set_num_threads(before)


def test_dropout_in_a_loop() -> None:
    """The derivative of a step drops what the step dropped."""
    x = graphc.ones(6, 50, requires_grad=True)
    _, ys = graphc.scan(lambda c, x: (c, graphc.nn.functional.dropout(x, 0.5)), None, x)
    ys.sum().backward()
    assert x.grad.tolist() == ys.tolist()
    assert len({tuple(row) for row in ys.tolist()}) == 6


def test_length_does_not_show() -> None:
    """The program of a loop is the same text for 10 steps and 10,000, but for the numbers of its length."""
    for f in (
        lambda x: graphc.map(lambda r: graphc.rand(3) + r, x)[-1],
        lambda x: graphc.fori_loop(0, x.shape[0], lambda i, v: v * 2 + i, x[0]),
        lambda x: graphc.while_loop(
            lambda v: v.sum() < 9, lambda v: v * 2, (x[0],), max_iterations=x.shape[0]
        )[0],
    ):
        sizes = []
        for steps in (10, 10_000):
            stages = graphc.compile(f).stages(graphc.ones(steps, 3))
            sizes.append([len(str(stages[name]).splitlines()) for name in ("optimise", "schedule", "plan")])
        assert sizes[0] == sizes[1]


def test_unbounded() -> None:
    """A loop nobody knows the length of: no compiling again, no reverse mode, but all else."""
    w = graphc.tensor(2.0, requires_grad=True)

    def f(n: Any) -> Any:
        return graphc.while_loop(lambda i, v: i < n, lambda i, v: (i + 1, v * w), (n * 0, w * 1))[1]

    compiled = graphc.compile(f)
    assert [compiled(graphc.tensor(n)).item() for n in (0, 1, 5, 64)] == [2, 4, 64, 2.0**65]
    assert compiled.cache_info().misses == 1
    recorded = f(graphc.tensor(5))
    assert recorded.item() == 64
    for call in (
        lambda: recorded.backward(),
        lambda: graphc.compile(lambda n: f(n).backward())(graphc.tensor(3)),
    ):
        with pytest.raises(RuntimeError, match="give max_iterations") as info:
            call()
        assert getattr(info.value, "filename", "") == __file__
    with pytest.raises(RuntimeError, match="give max_iterations") as info:
        graphc.map(lambda x: f(graphc.tensor(3)) * x, w.reshape(1)).sum().backward()
        w.grad.tolist()
    assert getattr(info.value, "filename", "") == __file__
    with graphc.no_grad():
        assert graphc.map(lambda x: f(graphc.tensor(3)) * x, w.reshape(1)).tolist() == [32]


def test_threads() -> None:
    """The same bits on any number of threads."""
    x, w = graphc.tensor(ramp(300, 300)), graphc.tensor(ramp(300, 300) / 20, requires_grad=True)

    def f(x: Any) -> Any:
        def step(i: Any, v: Any) -> Any:
            return i + 1, graphc.cond(v.sum() > 0, lambda: (v @ w).tanh(), lambda: v.sin() + w)

        return graphc.while_loop(lambda i, v: i < 5, step, (graphc.tensor(0), x), max_iterations=7)[1]

    found, before = [], graphc.get_num_threads()
    try:
        for threads in (1, 2, 4):
            graphc.set_num_threads(threads)
            w.grad = None
            y = f(x)
            (y * y).sum().backward()
            found.append((y.detach().numpy().tobytes(), w.grad.numpy().tobytes()))
    finally:
        graphc.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_failure_in_a_step() -> None:
    """An index out of range in some step of a loop: the error is at the user's line, and no state is written."""
    table, state = graphc.tensor(ramp(4, 3)), graphc.tensor(ramp(3))

    def walk(start: Any) -> Any:
        def step(i: Any, v: Any) -> Any:
            state.mul_(2)
            return i + 1, v + graphc.index_select(table, 0, i.reshape(1))[0]

        return graphc.while_loop(lambda i, v: i < start + 3, step, (start, graphc.zeros(3)))[1]

    for function in (walk, graphc.compile(walk)):
        function(graphc.tensor(1)).tolist()
        before = state.tolist()
        with pytest.raises(IndexError, match="out of range") as info:
            function(graphc.tensor(2)).tolist()
        assert getattr(info.value, "filename", "") == __file__
        assert state.tolist() == before


def test_exported(tmp_path: pathlib.Path) -> None:
    """A library with loops and branches has the bits of the process, and its state."""
    w, count = graphc.tensor(ramp(5) + 1.5), graphc.tensor(0)

    def forward(x: Any, n: Any) -> Any:
        def step(i: Any, v: Any) -> Any:
            count.add_(1)
            return i + 1, graphc.cond(v.sum() > 0, lambda: v * w - 1, lambda: v.cos() + w)

        return graphc.while_loop(lambda i, v: i < n, step, (n * 0, x))[1]

    x = graphc.tensor(ramp(5))
    graphc.export_library(forward, (x, graphc.tensor(3)), tmp_path / "libwalk.so", name="walk")
    library = graphc.load_library(tmp_path / "libwalk.so")
    compiled = graphc.compile(forward)
    for n in (0, 1, 4, 9):
        assert library(x, graphc.tensor(n)).tobytes() == compiled(x, graphc.tensor(n)).numpy().tobytes()
    assert count.item() == 14


def descent(g: Any, rate: Any) -> Any:
    """Steps of gradient descent in a loop, to be differentiated by their rate."""

    def step(i: Any, v: Any) -> Any:
        (gradient,) = (graphc if g is graphc else torch).autograd.grad(
            ((v * v).sum() - 1) ** 2, v, create_graph=True
        )
        return v - rate * gradient

    return g.fori_loop(0, 3, step, rate * 2 + rate * rate)


def test_gradients_inside() -> None:
    """`autograd.grad` in the body of a loop or branch, differentiated once more by what is outside."""
    found = []
    for library, g in ((graphc, graphc), (torch, Plain)):
        rate = library.tensor(ramp(5) / 9 + 0.2, requires_grad=True)
        y = descent(g, rate)
        y.sum().backward()
        found.append((y.detach().numpy(), rate.grad.numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    p = graphc.tensor(ramp(3), requires_grad=True)

    @graphc.compile
    def slope(flag: Any) -> Any:
        return graphc.cond(flag, lambda: graphc.autograd.grad((p * p * p).sum(), p)[0], lambda: p * 1)

    np.testing.assert_allclose(slope(graphc.tensor(True)).detach().numpy(), 3 * ramp(3) ** 2, rtol=1e-6)
    assert slope(graphc.tensor(False)).tolist() == ramp(3).tolist()


def test_long_traces_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unrolled loop of many operations names what keeps a program short, once, at the user's line."""
    monkeypatch.setattr(recording, "MOST_TRACED", 100)

    def unrolled(x: Any) -> Any:
        for _ in range(110):
            x = x * 2
        return x

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graphc.compile(unrolled).trace(graphc.ones(2))
        graphc.compile(lambda x: graphc.fori_loop(0, 110, lambda i, v: v * 2, x)).trace(graphc.ones(2))
    (warning,) = caught
    assert "graphc.scan" in str(warning.message)
    assert warning.filename == __file__


def test_pictures(tmp_path: pathlib.Path) -> None:
    """Regions are frames in pictures of graphs; the plan says when a phase is run."""
    stages = graphc.compile(lambda x, w: nested(graphc, x, w)).stages(graphc.ones(5), graphc.ones(5))
    for name, words in (
        ("optimise", ("if true", "if false", "while", "step")),
        ("fuse", ("if true", "if false", "while", "step")),
        ("plan", (" · × 6 · if t", " · × 6 · if t", "unless t")),
    ):
        text = graphc.visualize(stages[name], tmp_path / f"{name}.dot").read_text()
        assert all(word in text for word in words), name


def test_exported_training(tmp_path: pathlib.Path) -> None:
    """A training step whose loss branches trains in a library as it does in the process."""
    w = graphc.nn.Parameter(graphc.tensor(ramp(3)))
    optimizer = graphc.optim.SGD([w], lr=0.1)

    def train(x: Any, flag: Any) -> Any:
        loss = graphc.cond(flag, lambda: ((w * x).sum() - 1) ** 2, lambda: (w * w).sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    x = graphc.tensor(ramp(3) + 1)
    graphc.export_library(train, (x, graphc.tensor(True)), tmp_path / "libstep.so", name="step")
    library = graphc.load_library(tmp_path / "libstep.so")
    compiled = graphc.compile(train)
    for flag in (True, False, False, True):
        assert library(x, graphc.tensor(flag)).tobytes() == compiled(x, graphc.tensor(flag)).numpy().tobytes()


X = graphc.zeros(3)
W = graphc.ones(3, requires_grad=True)


# what is called, the exception, part of the message
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: graphc.cond(X.sum() > 0, lambda: X, lambda: X.double()), RuntimeError, "output 0 is f32[3] in true_fn and f64[3] in false_fn"),
    (lambda: graphc.cond(X.sum() > 0, lambda: X, lambda: X[:2]), RuntimeError, "f32[2] in false_fn"),
    (lambda: graphc.cond(X.sum() > 0, lambda: X, lambda: (X, X)), RuntimeError, "same structure, got 1 Tensors from true_fn and 2"),
    (lambda: graphc.cond(X.sum() > 0, lambda: X, lambda: 1.0), TypeError, "what false_fn returns must be Tensors"),
    (lambda: graphc.cond(X.sum(), lambda: X, lambda: X), RuntimeError, "pred must be bool, got f32[]; compare it"),
    (lambda: graphc.cond(X > 0, lambda: X, lambda: X), RuntimeError, "must have one element, got bool[3]; reduce it"),
    (lambda: graphc.cond(1, lambda: X, lambda: X), RuntimeError, "bool Tensor of one element, got int"),
    (lambda: graphc.cond(X.sum() > 0, X, lambda: X), RuntimeError, "callable"),
    (lambda: graphc.cond(X.sum() > 0, lambda a: a, lambda a: a, X), TypeError, "operands must be a tuple"),
    (lambda: graphc.cond(X.sum() > 0, lambda: X.requires_grad_().sum().backward(), lambda: X), graphc.TraceError, "cannot call backward"),
    (lambda: graphc.compile(lambda x: x if x.sum() > 0 else -x)(W), graphc.TraceError, "graphc.cond"),
    (lambda: graphc.while_loop(lambda v: v.sum() < 3, lambda v: v[:2], (X,)), RuntimeError, "carried value 0 is f32[3] before a step and f32[2] after"),
    (lambda: graphc.while_loop(lambda v: v.sum() < 3, lambda v: v.double(), (X,)), RuntimeError, "cast or reshape it in body_fn"),
    (lambda: graphc.while_loop(lambda v: v.sum() < 3, lambda v: (v, v), (X,)), RuntimeError, "nested like"),
    (lambda: graphc.while_loop(lambda v: v.sum(), lambda v: v, (X,)), RuntimeError, "what cond_fn returns must be bool"),
    (lambda: graphc.while_loop(lambda v: v < 1, lambda v: v, (X,)), RuntimeError, "must have one element"),
    (lambda: graphc.while_loop(lambda v: True, lambda v: v, (X,)), RuntimeError, "got bool"),
    (lambda: graphc.while_loop(lambda v: graphc.rand(()) < 1, lambda v: v, (X,)), RuntimeError, "cond_fn must not write"),
    (lambda: graphc.while_loop(lambda v: v.sum() < 3, lambda v: v, X), TypeError, "operands must be a tuple"),
    (lambda: graphc.while_loop(lambda v: v.sum() < 3, lambda v: v, (X,), max_iterations=-1), ValueError, "max_iterations"),
    (lambda: graphc.fori_loop(0, 3, lambda i, v: v.double(), X), RuntimeError, "fori_loop: carried value 0"),
    (lambda: graphc.fori_loop(0, 2.5, lambda i, v: v, X), TypeError, "upper must be an int"),
    (lambda: graphc.fori_loop(graphc.tensor([1, 2]), 3, lambda i, v: v, X), TypeError, "lower must be an int"),
    (lambda: graphc.map(lambda a: a, graphc.tensor(1.0)), RuntimeError, "map: xs must have a first axis"),
    (lambda: graphc.map(lambda a, b: a, (graphc.zeros(2), graphc.zeros(3))), RuntimeError, "map: 2 steps expected"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "exception", "message"), REFUSED, ids=[r[2] for r in REFUSED])
def test_refused(call: Callable[[], Any], exception: type[Exception], message: str) -> None:
    with pytest.raises(exception) as info:
        call()
    assert message in str(info.value)
    place = getattr(info.value, "filename", ""), getattr(info.value, "lineno", 0)
    assert place == (__file__, call.__code__.co_firstlineno)
    # What was refused leaves nothing behind.
    assert (graphc.ones(2) + 1).tolist() == [2, 2]
