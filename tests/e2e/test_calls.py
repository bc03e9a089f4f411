"""Calls of compiled functions: what a call is, what is seen without compiling again, and what comes back.

Longer than most files: one short test for each promise of a call.
"""

from __future__ import annotations

import platform
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.nn import functional as F
from tests.e2e.models import MLP, SEED, batches, state_bits, tensors, training

BATCHES = [tensors(b) for b in batches(6)]


def profiled(call: Callable[[], Any]) -> list[tuple[str, str]]:
    """The events of `sys.setprofile` during `call()`, without those of the lambda itself."""
    events: list[tuple[str, str]] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        name = frame.f_code.co_name if event in ("call", "return") else getattr(argument, "__name__", "?")
        events.append((event, name))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return [
        e for e in events if e not in (("call", "<lambda>"), ("return", "<lambda>"), ("c_call", "setprofile"))
    ]


# -- one native call ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_step_is_one_c_call(model: str, optimizer: str) -> None:
    step = training(model, optimizer).step
    x, y = BATCHES[0]
    step(x, y)
    step(x, y)
    kinds = [event for event, _ in profiled(lambda: step(x, y))]
    assert kinds in (["c_call", "c_return"], []), "a call must make no Python frame"


@pytest.mark.parametrize(
    "arguments",
    [lambda x, y: ((x, y), {}), lambda x, y: ((x,), {"y": y}), lambda x, y: ((x.numpy(), y.numpy()), {})],
    ids=["tensors", "keyword", "arrays"],
)
def test_spellings_of_arguments_stay_native(arguments: Any) -> None:
    step = training().step
    args, kwargs = arguments(*BATCHES[0])
    step(*args, **kwargs)
    step(*args, **kwargs)
    assert not [e for e, _ in profiled(lambda: step(*args, **kwargs)) if e == "call"]


# -- numbers of optimisers ----------------------------------------------------------------------------


def rates_by_hand(run: Any) -> Callable[[int], None]:
    def change(i: int) -> None:
        run.optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)

    return change


def rates_by_scheduler(run: Any) -> Callable[[int], None]:
    scheduler = optim.lr_scheduler.StepLR(run.optimizer, step_size=1, gamma=0.5)
    return lambda i: scheduler.step()


def other_numbers(run: Any) -> Callable[[int], None]:
    def change(i: int) -> None:
        run.optimizer.param_groups[0]["weight_decay"] = 0.01 * (i + 1)
        run.optimizer.param_groups[0]["momentum"] = 0.5 + 0.05 * i

    return change


def eager(run: Any, x: Any, y: Any) -> Any:
    run.optimizer.zero_grad()
    loss = F.cross_entropy(run.model(x), y)
    loss.backward()
    run.optimizer.step()
    return loss


@pytest.mark.parametrize("schedule", [rates_by_hand, rates_by_scheduler, other_numbers])
def test_numbers_take_effect_without_compiling(schedule: Callable[[Any], Callable[[int], None]]) -> None:
    run, plain = training("mlp", "sgd"), training("mlp", "sgd")
    change, change_plain = schedule(run), schedule(plain)
    run.step(*BATCHES[0])
    eager(plain, *BATCHES[0])
    info = run.step.cache_info()
    for i, batch in enumerate(BATCHES):
        change(i)
        change_plain(i)
        found, expected = run.step(*batch).item(), eager(plain, *batch).item()
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    after = run.step.cache_info()
    assert (
        (after.misses, after.size, after.recompiles) == (info.misses, info.size, info.recompiles) == (1, 1, 0)
    )
    assert after.hits == info.hits + len(BATCHES)
    fixed = training("mlp", "sgd")
    losses = [fixed.step(*b).item() for b in (BATCHES[0], *BATCHES)]
    assert losses[-1] != pytest.approx(found, rel=1e-6), "the numbers must matter"


def test_a_learning_rate_of_a_group(tmp_path: Any) -> None:
    a, b = nn.Parameter(graphc.ones(3)), nn.Parameter(graphc.ones(3))
    optimizer = optim.SGD([{"params": [a], "lr": 0.5}, {"params": [b]}], lr=0.25)

    @graphc.compile
    def step() -> None:
        optimizer.zero_grad()
        (a.sum() + b.sum()).backward()
        optimizer.step()

    step()
    optimizer.param_groups[1]["lr"] = 1.0
    step()
    assert (a.tolist(), b.tolist()) == ([0.0] * 3, [-0.25] * 3)
    assert step.cache_info().misses == 1


# -- arguments and results ----------------------------------------------------------------------------


class Pair(NamedTuple):
    first: Any
    second: Any


Point = namedtuple("Point", "x y")


@dataclass
class Batch:
    x: Any
    scale: float


def text(value: Any) -> Any:
    """A result with tensors as lists, for comparison."""
    if isinstance(value, graphc.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {k: text(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(text, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(text, value))
    if isinstance(value, Batch):
        return Batch(text(value.x), value.scale)
    return value


A, B = graphc.tensor([1.0, 2.0]), graphc.tensor([3.0, 5.0])

SIGNATURES: list[tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    ("one tensor", lambda a: a * 2, (A,), {}),
    ("keyword", lambda a, *, b: a - b, (A,), {"b": B}),
    ("keywords in another order", lambda a, b: a - b, (), {"b": B, "a": A}),
    ("default", lambda a, k=3: a * k, (A,), {}),
    ("static number", lambda a, k: a * k, (A, 3), {}),
    ("static float", lambda a, k: a * k, (A, 0.5), {}),
    ("static bool", lambda a, k: a * 2 if k else a, (A, True), {}),
    ("static text", lambda a, op: a + a if op == "double" else a, (A, "double"), {}),
    ("none", lambda a, b: a if b is None else a + b, (A, None), {}),
    ("static tuple", lambda a, shape: a.reshape(shape), (A, (2, 1)), {}),
    ("array", lambda a: a + 1, (np.array([1.0, 2.0]),), {}),
    ("integers", lambda a: a // 2, (np.array([5, 7]),), {}),
    ("variadic", lambda *xs: sum(xs), (A, B, A), {}),
    ("variadic keywords", lambda **k: k["a"] * k["b"], (), {"a": A, "b": B}),
    ("nested tuple", lambda p: p[0] * p[1][0], ((A, (B,)),), {}),
    ("list", lambda xs: xs[0] + xs[1], ([A, B],), {}),
    ("dict", lambda d: d["x"] * d["k"], ({"x": A, "k": 4},), {}),
    ("named tuple", lambda p: p.first / p.second, (Pair(A, B),), {}),
    ("dataclass", lambda b: b.x * b.scale, (Batch(A, 0.25),), {}),
    ("same tensor twice", lambda a, b: a + 2 * b, (A, A), {}),
    ("view", lambda a: a * 2, (graphc.arange(6.0).reshape(2, 3).t(),), {}),
    ("slice", lambda a: a.sum(), (graphc.arange(6.0)[1::2],), {}),
    ("scalar", lambda a: a.exp(), (graphc.tensor(0.5),), {}),
    ("empty", lambda a: a.sum(), (graphc.zeros(0, 3),), {}),
    ("returns none", lambda a: None, (A,), {}),
    ("returns tuple", lambda a, b: (a + b, a), (A, B), {}),
    ("returns list", lambda a, b: [a, a * b], (A, B), {}),
    ("returns dict", lambda a: {"y": a + 1, "n": 3, "s": "t"}, (A,), {}),
    ("returns named tuple", lambda a, b: Pair(a * b, None), (A, B), {}),
    ("returns old-style named tuple", lambda a, b: Point(a, a + b), (A, B), {}),
    ("returns dataclass", lambda a: Batch(a + 1, 0.5), (A,), {}),
    ("returns nest", lambda a, b: {"p": (a, [b, {"q": a - b}])}, (A, B), {}),
    ("returns one twice", lambda a: (a + 1,) * 2, (A,), {}),
    ("returns empty tuple", lambda a: (), (A,), {}),
    ("returns number", lambda a: 7, (A,), {}),
    ("returns shape", lambda a: a.shape[0], (A,), {}),
]


@pytest.mark.parametrize(("name", "function", "args", "kwargs"), SIGNATURES, ids=[s[0] for s in SIGNATURES])
def test_signatures(name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    compiled = graphc.compile(function)
    expected = text(function(*[_tensor(a) for a in args], **kwargs))
    for _ in range(3):
        assert text(compiled(*args, **kwargs)) == expected
    assert compiled.cache_info()[:2] == (2, 1)


def _tensor(value: Any) -> Any:
    return graphc.from_numpy(value) if isinstance(value, np.ndarray) else value


def test_results_are_fresh_at_each_call() -> None:
    compiled = graphc.compile(lambda a: a * 2)
    inputs = [graphc.full((3,), float(i)) for i in range(5)]
    results = [compiled(a) for a in inputs]
    assert [r.tolist() for r in results] == [[2.0 * i] * 3 for i in range(5)]


def test_signatures_are_kept_apart() -> None:
    traces: list[Any] = []

    @graphc.compile
    def f(x: Any, k: Any = 1) -> Any:
        traces.append((tuple(x.shape), x.dtype, k))
        return x * k

    wide, narrow = graphc.ones(4), graphc.ones(2)
    calls: list[tuple[Any, ...]] = [
        (wide,),
        (narrow,),
        (wide, 2),
        (wide, 2.0),
        (wide, True),
        (wide.double(),),
        (wide.int(),),
    ]
    for _ in range(3):
        for call in calls:
            k = call[1] if len(call) > 1 else 1
            assert f(*call).tolist() == [1.0 * k] * call[0].shape[0]
    assert len(traces) == len(calls)
    info = f.cache_info()
    assert (info.hits, info.misses, info.recompiles, info.size) == (2 * len(calls), len(calls), 0, len(calls))
    f.cache_clear()
    assert f.cache_info() == (0, 0, 0, 0, 0)
    assert f(wide).tolist() == [1.0] * 4


def test_wrong_calls_are_python_errors() -> None:
    f = graphc.compile(lambda a, b: a + b)
    f(A, B)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        f(A)
    with pytest.raises(TypeError, match="unexpected keyword"):
        f(A, B, c=1)
    with pytest.raises(TypeError, match="nest of these, got set"):
        f(A, {1})


# -- what a call sees ---------------------------------------------------------------------------------


def test_eval_and_train_switch_programs() -> None:
    graphc.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    compiled = graphc.compile(model)
    x = graphc.randn(8, 4)
    compiled(x)
    model.eval()
    first = compiled(x).tolist()
    assert compiled(x).tolist() == first
    assert compiled.cache_info().misses == 2
    for _ in range(2):
        model.train()
        noisy = compiled(x).tolist()
        assert compiled(x).tolist() != noisy
        model.eval()
        compiled(x)
    info = compiled.cache_info()
    assert (info.misses, info.size) == (2, 2)


def test_freezing_is_seen() -> None:
    """A leaf that stops requiring grad, in a Module or not, is another program; back again is the first."""
    found = []
    for wrap in (graphc.compile, lambda f: f):
        run, scale = training("mlp", "sgd"), graphc.full((), 1.5, requires_grad=True)

        def step(x: Any, y: Any, run: Any = run, scale: Any = scale) -> Any:
            run.optimizer.zero_grad()
            loss = F.cross_entropy(run.model(x) * scale, y)
            loss.backward()
            run.optimizer.step()
            with graphc.no_grad():
                if scale.grad is not None:
                    scale -= 0.1 * scale.grad
                scale.grad = None
            return loss

        called = wrap(step)
        parts = [None, run.model.hidden, None, scale, None]
        losses = []
        for part in parts:
            if part is not None:
                part.requires_grad_(False)
            losses += [called(*BATCHES[i]).item() for i in range(2)]
            if part is not None:
                part.requires_grad_(True)
        found.append([*losses, scale.item(), *run.model.hidden.weight[0].tolist()])
        if wrap is graphc.compile:
            assert called.cache_info().misses == 3
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-7)


def test_attributes_of_modules_are_seen() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(graphc.ones(3))
            self.scale = 2.0

        def forward(self, x: Any) -> Any:
            return x * self.weight * self.scale

    model = Scaled()
    compiled = graphc.compile(model)
    x = graphc.ones(3)
    assert compiled(x).tolist() == [2.0] * 3
    model.scale = 3.0
    assert compiled(x).tolist() == [3.0] * 3
    model.weight = nn.Parameter(graphc.full((3,), 2.0))
    assert compiled(x).tolist() == [6.0] * 3
    misses = compiled.cache_info().misses
    with graphc.no_grad():
        model.weight.fill_(5.0)
        assert compiled(x).tolist() == [15.0] * 3
    assert compiled(x).tolist() == [15.0] * 3
    model.load_state_dict({"weight": graphc.full((3,), 7.0)})
    assert compiled(x).tolist() == [21.0] * 3
    assert compiled.cache_info().misses <= misses + 1, "new values need no program, but for another grad mode"


def test_a_module_replaced_inside_of_a_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    compiled = graphc.compile(model)
    x = graphc.tensor([[-1.0, 2.0]])
    compiled(x)
    model[1] = nn.Identity()
    assert compiled(x).tolist() == model(x).tolist()
    model.append(nn.Sigmoid())
    assert compiled(x).tolist() == model(x).tolist()


def test_grad_modes_have_their_programs() -> None:
    model = nn.Linear(2, 2)
    compiled = graphc.compile(model)
    x = graphc.ones(1, 2)
    compiled(x)
    with graphc.no_grad():
        compiled(x)
        compiled(x)
    compiled(x)
    assert compiled.cache_info()[:2] == (2, 2)


def test_bound_methods_and_decorated_methods() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(graphc.full((2,), 3.0))

        @graphc.compile
        def double(self, x: Any) -> Any:
            return x * self.weight * 2

        def triple(self, x: Any) -> Any:
            return x * self.weight * 3

    one, two = Net(), Net()
    with graphc.no_grad():
        two.weight.fill_(5.0)
    x = graphc.ones(2)
    triple = graphc.compile(one.triple)
    for _ in range(3):
        assert one.double(x).tolist() == [6.0] * 2
        assert two.double(x).tolist() == [10.0] * 2
        assert triple(x).tolist() == [9.0] * 2
    assert triple.cache_info()[:2] == (2, 1)


def test_compile_inside_of_compile() -> None:
    inner = graphc.compile(lambda a: a * 2)

    @graphc.compile
    def outer(a: Any) -> Any:
        return inner(a) + graphc.compile(lambda b: b + 1)(a)

    assert outer(A).tolist() == [4.0, 7.0]
    assert inner.cache_info().misses == 0, "inside of a trace it is the plain function"
    assert inner(A).tolist() == [2.0, 4.0]


def test_compiled_keeps_the_looks_of_the_function() -> None:
    @graphc.compile
    def useful(x: Any) -> Any:
        """Does something."""
        return x

    assert useful.__name__ == "useful" and useful.__doc__ == "Does something."
    assert "useful" in repr(useful)
    model = MLP()
    assert graphc.compile(model).hidden is model.hidden


# -- gradients ----------------------------------------------------------------------------------------


def linear_parts() -> tuple[Any, Any, Any]:
    graphc.manual_seed(SEED)
    model = nn.Linear(3, 1)
    return model, graphc.randn(4, 3), graphc.randn(4, 1)


def test_lost_gradients_name_the_way_out() -> None:
    run = training("mlp", "sgd")
    run.step(*BATCHES[0])
    with pytest.raises(RuntimeError, match="keep_grads=True"):
        _ = run.model.hidden.weight.grad
    run.optimizer.zero_grad()
    assert run.model.hidden.weight.grad is None


def test_kept_gradients() -> None:
    run, plain = training("mlp", "sgd", keep_grads=True), training("mlp", "sgd")
    for batch in BATCHES[:3]:
        run.step(*batch)
        eager(plain, *batch)
        for p, q in zip(run.model.parameters(), plain.model.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_gradients_accumulate_over_calls() -> None:
    model, x, y = linear_parts()
    backward = graphc.compile(lambda a, b: F.mse_loss(model(a), b).backward())
    F.mse_loss(model(x), y).backward()
    single = model.weight.grad.numpy().copy()
    model.zero_grad()
    for i in range(1, 5):
        backward(x, y)
        np.testing.assert_allclose(model.weight.grad.numpy(), i * single, rtol=1e-5)
    for to_none in (True, False):
        model.zero_grad(set_to_none=to_none)
        assert (model.weight.grad is None) == to_none
        backward(x, y)
        np.testing.assert_allclose(model.weight.grad.numpy(), single, rtol=1e-5)
    assert backward.cache_info().misses <= 2


def test_zero_grad_and_step_outside() -> None:
    model, x, y = linear_parts()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    other, _, _ = linear_parts()
    plain = optim.SGD(other.parameters(), lr=0.1, momentum=0.5)

    @graphc.compile
    def backward(a: Any, b: Any) -> Any:
        loss = F.mse_loss(model(a), b)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.zero_grad()
        found = backward(x, y)
        optimizer.step()
        plain.zero_grad()
        expected = F.mse_loss(other(x), y)
        expected.backward()
        plain.step()
        np.testing.assert_allclose(found.item(), expected.item(), rtol=1e-5)
    assert backward.cache_info().misses <= 2


def test_zero_grad_to_zeros_inside() -> None:
    model, x, y = linear_parts()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @graphc.compile
    def step(a: Any, b: Any) -> Any:
        optimizer.zero_grad(set_to_none=False)
        loss = F.mse_loss(model(a), b)
        loss.backward()
        optimizer.step()
        return loss

    losses = [step(x, y).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)


def test_in_place_writes_to_arguments() -> None:
    @graphc.compile
    def grow(total: Any, x: Any) -> None:
        total += x

    total = graphc.zeros(3)
    for i in range(1, 4):
        grow(total, graphc.ones(3))
        assert total.tolist() == [float(i)] * 3


def test_losses_in_a_list() -> None:
    run, plain = training("mlp", "sgd"), training("mlp", "sgd")
    losses = [run.step(*b) for b in BATCHES]
    expected = [eager(plain, *b).item() for b in BATCHES]
    np.testing.assert_allclose([loss.item() for loss in losses], expected, rtol=1e-5)


# -- looking changes nothing --------------------------------------------------------------------------


@pytest.mark.parametrize("look", ["trace", "stages", "llvm_ir", "assembly", "cost"])
@pytest.mark.parametrize("called", [False, True], ids=["before the first call", "after a call"])
def test_looking_changes_nothing(look: str, called: bool) -> None:
    run, plain = training("cnn", "adam"), training("cnn", "adam")
    if called:
        run.step(*BATCHES[0])
        plain.step(*BATCHES[0])
    before, info, state = state_bits(run.model), run.step.cache_info(), graphc.get_rng_state().tolist()
    assert str(getattr(run.step, look)(*BATCHES[1]))
    assert state_bits(run.model) == before
    assert run.step.cache_info() == info
    assert graphc.get_rng_state().tolist() == state
    if not called:
        assert all(p.grad is None for p in run.model.parameters())
    for batch in BATCHES:
        assert run.step(*batch).item() == plain.step(*batch).item()
    assert state_bits(run.model) == state_bits(plain.model)


# -- options ------------------------------------------------------------------------------------------


def test_targets_that_do_not_run_here() -> None:
    foreign = graphc.compile(
        lambda a: a.exp(), target="x86-64" if platform.machine() == "aarch64" else "aarch64"
    )
    assert "exp" in str(foreign.trace(A))
    assert foreign.assembly(A)
    with pytest.raises(graphc.CompileError, match="does not run on this machine"):
        foreign(A)


def test_pipelines_in_text_form() -> None:
    for passes in ("", "dce", "canonicalise,fold,cse,dce", "decompose,cse"):
        assert graphc.compile(lambda a: (a * 1 + 0).softmax(0), passes=passes)(A).tolist() == pytest.approx(
            A.softmax(0).tolist()
        )


def test_bad_options() -> None:
    for options, kind, expected in (
        ({"passes": "nonsense"}, ValueError, "expected a pass at 'nonsense'"),
        ({"target": "z80"}, ValueError, "unknown target 'z80'; expected host, x86-64"),
        ({"threads": 0}, RuntimeError, "from 1 to"),
        ({"dynamic": {"x": {0: "n"}}}, ValueError, "no parameter of this name, only a"),
        ({"tune": True, "target": "x86-64-v3"}, ValueError, "tune measures on this machine"),
    ):
        with pytest.raises(kind, match=expected):
            graphc.compile(lambda a: a, **options)
    with pytest.raises(TypeError, match="expects a function or a Module, got int"):
        graphc.compile(3)  # type: ignore[call-overload]
