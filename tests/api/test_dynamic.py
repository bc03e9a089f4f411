"""`compile(dynamic=…)`: one program for every size, against PyTorch, and what is refused, at which line."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
import graphc.nn.functional as F
from graphc import nn

torch = pytest.importorskip("torch")

SIZES = (2, 0, 1, 3, 7, 64, 1000)
BATCH = {"x": {0: "batch"}}
_rng = np.random.default_rng(7)


def _floats(*shape: int) -> Any:
    return _rng.standard_normal(shape).astype(np.float32)


def _close(got: Any, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(
        torch.from_numpy(np.array(got.detach().numpy())), expected.detach(), **tolerance
    )


# -- one program for every size -----------------------------------------------------------------


def _attention(n: Any) -> Any:
    """One block of a GPT, over [batch, time, 16]."""

    class Block(n.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = n.LayerNorm(16), n.LayerNorm(16)
            self.into, self.out = n.Linear(16, 48), n.Linear(16, 16)
            self.up, self.down = n.Linear(16, 64), n.Linear(64, 16)

        def forward(self, x: Any) -> Any:
            functional = F if n is nn else torch.nn.functional
            batch, time, width = x.shape
            q, k, v = (
                part.view(batch, time, 2, width // 2).transpose(1, 2)
                for part in self.into(self.norm1(x)).chunk(3, -1)
            )
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
            return x + self.down(functional.gelu(self.up(self.norm2(x))))

    return Block()


MODELS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "MLP": (lambda n: n.Sequential(n.Linear(20, 32), n.ReLU(), n.Linear(32, 10), n.Softmax(-1)), (20,)),
    "CNN": (
        lambda n: n.Sequential(
            n.Conv2d(3, 8, 3, padding=1),
            n.ReLU(),
            n.MaxPool2d(2),
            n.Conv2d(8, 8, 3),
            n.Flatten(),
            n.Linear(32, 5),
        ),
        (3, 8, 8),
    ),
    "batch norm": (lambda n: n.Sequential(n.Conv2d(3, 4, 1), n.BatchNorm2d(4), n.ReLU()).eval(), (3, 4, 4)),
    "GPT block": (_attention, (6, 16)),
}


def _pair(make: Callable[[Any], Any]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model, twin = make(nn), make(torch.nn)
    model.load_state_dict({k: graphc.from_numpy(v.numpy().copy()) for k, v in twin.state_dict().items()})
    return model, twin


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    make, shape = MODELS[name]
    model, twin = _pair(make)
    compiled = graphc.compile(model, dynamic={0: {0: "batch"}})
    for size in (*SIZES, *SIZES):
        x = _floats(size, *shape)
        _close(compiled(x), twin(torch.from_numpy(x)), rtol=1e-4, atol=1e-5)
    info = compiled.cache_info()
    assert (info.misses, info.recompiles, info.size) == (1, 0, 1)
    assert info.hits == 2 * len(SIZES) - 1


def test_a_training_step() -> None:
    model, twin = _pair(lambda n: n.Sequential(n.Linear(20, 32), n.Tanh(), n.Linear(32, 10)))
    mine, theirs = (
        graphc.optim.Adam(model.parameters(), lr=0.01),
        torch.optim.Adam(twin.parameters(), lr=0.01),
    )

    def step(x: Any, y: Any) -> Any:
        mine.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        mine.step()
        return loss

    compiled = graphc.compile(step, dynamic={"x": {0: "batch"}, "y": {0: "batch"}})
    for size in (2, 1, 3, 7, 64, 1000, 7):
        x, y = _floats(size, 20), _rng.integers(0, 10, size)
        theirs.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        theirs.step()
        _close(compiled(x, y), loss, rtol=1e-4, atol=1e-5)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            _close(p, q, rtol=1e-3, atol=1e-4)
    assert compiled.cache_info().misses == 1
    assert np.isnan(float(compiled(_floats(0, 20), np.zeros(0, np.int64)))), "the mean of nothing"


def test_a_training_step_with_batch_statistics() -> None:
    model, twin = _pair(
        lambda n: n.Sequential(
            n.Conv2d(3, 8, 3, padding=1, bias=False),
            n.BatchNorm2d(8),
            n.ReLU(),
            n.MaxPool2d(2),
            n.Flatten(),
            n.Linear(32, 5),
        )
    )
    mine, theirs = graphc.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(twin.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        mine.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        mine.step()
        return loss, x.shape[0]

    compiled = graphc.compile(step, dynamic={"x": {0: "batch"}, "y": {0: "batch"}})
    for size in (3, 1, 2, 7, 64, 1000, 7):
        x, y = _floats(size, 3, 4, 4), _rng.integers(0, 5, size)
        theirs.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        theirs.step()
        found, count = compiled(x, y)
        assert count == size
        _close(found, loss, rtol=1e-4, atol=1e-4)
        for key, value in twin.state_dict().items():
            _close(model.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    assert compiled.cache_info().misses == 1


def test_recurrent_layers() -> None:
    model, twin = _pair(lambda n: n.LSTM(4, 6, 2, bidirectional=True))
    compiled = graphc.compile(lambda x: model(x)[0], dynamic={"x": {1: "batch"}})
    for size in (3, 1, 64, 7):
        x = _floats(5, size, 4)
        _close(compiled(x), twin(torch.from_numpy(x))[0], rtol=1e-4, atol=1e-5)
    assert compiled.cache_info().misses == 1


def test_a_loop_over_a_dynamic_axis() -> None:
    def function(x: Any) -> Any:
        return graphc.fori_loop(0, x.shape[0], lambda i, total: total * 0.5 + x[i], graphc.zeros(3))

    compiled = graphc.compile(function, dynamic=BATCH)
    for size in (3, 0, 1, 20):
        x = graphc.from_numpy(_floats(size, 3))
        assert compiled(x).tolist() == pytest.approx(function(x).tolist(), rel=1e-5)
    assert compiled.cache_info().misses == 1


def test_gradients_that_leave_the_call() -> None:
    compiled = graphc.compile(lambda x, w: (x * w).sum(1), dynamic=BATCH)
    w = graphc.ones(4, requires_grad=True)
    for size in (3, 1, 5, 0):
        x = graphc.from_numpy(_floats(size, 4)).requires_grad_()
        w.grad = None
        compiled(x, w).square().sum().backward()
        y, v = (torch.from_numpy(t.detach().numpy().copy()).requires_grad_() for t in (x, w))
        (y * v).sum(1).square().sum().backward()
        _close(x.grad, y.grad)
        _close(w.grad, v.grad)
    assert compiled.cache_info().misses == 1


def test_two_names() -> None:
    compiled = graphc.compile(lambda x, y: x @ y, dynamic={"x": {0: "m", 1: "k"}, 1: {0: "k", -1: "n"}})
    for m, k, n in ((2, 3, 4), (5, 1, 2), (1, 8, 1), (3, 0, 2), (40, 33, 65)):
        x, y = _floats(m, k), _floats(k, n)
        _close(compiled(x, y), torch.from_numpy(x @ y), rtol=1e-4, atol=1e-5)
    assert compiled.cache_info().misses == 1


def test_a_size_is_a_number() -> None:
    def function(x: Any) -> Any:
        n = x.shape[0]
        ranks = graphc.arange(n).unsqueeze(1)
        return (
            x.sum(0) / (n + 1)
            + n * 2
            - x.numel() // 4
            + graphc.full((4,), n)
            + ranks.sum()
            + graphc.tensor(n)
        )

    compiled = graphc.compile(function, dynamic=BATCH)
    for size in SIZES:
        x = graphc.from_numpy(_floats(size, 4))
        assert compiled(x).tolist() == pytest.approx(function(x).tolist(), rel=1e-5)


# -- what is declared ----------------------------------------------------------------------------


def test_dims() -> None:
    assert graphc.Dim("n", min=2) == graphc.Dim("n", min=2, max=None) != graphc.Dim("n")
    assert repr(graphc.Dim("n", max=8)) == "Dim('n', min=0, max=8)"
    for args, options, kind, expected in (
        ((3,), {}, TypeError, "name must be a str, got int"),
        (("a b",), {}, ValueError, "must be an identifier like 'batch', got 'a b'"),
        (("n",), {"min": 1.5}, TypeError, "min must be an int, got float"),
        (("n",), {"max": True}, TypeError, "max must be an int, got bool"),
        (("n",), {"min": 4, "max": 3}, ValueError, "expected 0 <= min <= max, got min=4, max=3"),
        (("n",), {"min": -1}, ValueError, "expected 0 <= min <= max"),
    ):
        with pytest.raises(kind, match=expected):
            graphc.Dim(*args, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dynamic", "kind", "expected"),
    [
        (3, TypeError, "dynamic must map a parameter's name or position"),
        ({"x": 0}, TypeError, r"dynamic\['x'\] must map axes to names"),
        ({"x": {"0": "n"}}, TypeError, "an axis must be an int, got str"),
        ({"x": {0: 4}}, TypeError, r"dynamic\['x'\]\[0\] must be a name or a graphc.Dim, got int"),
        ({"z": {0: "n"}}, ValueError, "no parameter of this name, only x, y"),
        ({2: {0: "n"}}, ValueError, "the function has parameters x, y"),
        ({1.5: {0: "n"}}, TypeError, "a key of dynamic must be a parameter's name or position, got float"),
        ({"x": {0: "n"}, 0: {1: "m"}}, ValueError, "names the parameter 'x' twice"),
        ({"x": {0: graphc.Dim("n", max=4), 1: graphc.Dim("n")}}, ValueError, "gives 'n' two ranges"),
        ({"x": {0: "not a name"}}, ValueError, "must be an identifier"),
    ],
)
def test_bad_declarations(dynamic: Any, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind, match=expected):
        graphc.compile(lambda x, y: x, dynamic=dynamic)


def test_nothing_dynamic() -> None:
    assert graphc.compile(lambda x: x + 1, dynamic={"x": {}})(_floats(2)).shape == (2,)


# -- calls outside of what is declared ---------------------------------------------------------


def _raised(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as found:
        call()
    return found.value


def _line(function: Callable[..., Any], marked: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return next(first + i for i, line in enumerate(lines) if marked in line)


def test_calls_outside_of_the_range() -> None:
    compiled = graphc.compile(
        lambda x, y: x.sum() + y.sum(),
        dynamic={"x": {0: graphc.Dim("batch", min=2, max=8)}, "y": {1: "batch"}},
    )
    good = _floats(4, 3), _floats(3, 4)
    compiled(*good)

    def check(x: Any, y: Any, kind: type[Exception], *expected: str) -> None:
        error: Any = _raised(lambda: compiled(x, y))
        assert type(error) is kind
        for text in expected:
            assert text in str(error), str(error)
        assert error.filename == __file__

    check(_floats(9, 3), _floats(3, 9), ValueError, "axis 0 of x is 9", "'batch' is 2 to 8")
    check(_floats(1, 3), _floats(3, 1), ValueError, "axis 0 of x is 1", "'batch' is 2 to 8")
    check(_floats(4, 3), _floats(3, 5), ValueError, "axis 1 of y is 5", "axis 0 of x", "must agree")
    check(_floats(4), _floats(4), IndexError, "y is f32[4], which has no such axis")
    check(4, _floats(3, 4), TypeError, "argument x is no Tensor", "whose Tensors are y")
    compiled(*good)
    assert compiled.cache_info().misses == 1


def _pinned(x: Any) -> Any:
    return [x + i for i in range(x.shape[0])]  # here


def _converted(x: Any) -> Any:
    return x * int(x.shape[0])  # here


def _counted(x: Any) -> Any:
    return x * len(x)  # here


def _branched(x: Any) -> Any:
    return x if x.shape[0] > 4 else -x  # here


def _truth(x: Any) -> Any:
    return x if x.shape[0] else -x  # here


def _equal(x: Any) -> Any:
    return x if x.shape[0] == 1 else -x  # here


def _unbound(x: Any) -> Any:
    return x.unbind(0)  # here


def _iterated(x: Any) -> Any:
    return [row * 2 for row in x]  # here


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (_pinned, ("size batch is wanted as a Python number", "pin batch", "range()")),
        (_converted, ("size batch is wanted as a Python number",)),
        (_counted, ("size batch is wanted as a Python number", "x.shape")),
        (_branched, ("whether batch > 4 depends on the size", 'Dim("batch", min=…, max=…)', "graphc._check")),
        (_truth, ("whether batch != 0 depends on the size",)),
        (_equal, ("whether batch == 1 depends on the size",)),
        (_unbound, ("unbind: the size batch is wanted as a Python number",)),
        (_iterated, ("the size batch is wanted as a Python number",)),
    ],
)
def test_what_pins_a_size(function: Callable[[Any], Any], expected: tuple[str, ...]) -> None:
    error: Any = _raised(lambda: graphc.compile(function, dynamic=BATCH)(_floats(5, 3)))
    assert type(error) is graphc.TraceError
    for text in expected:
        assert text in str(error), str(error)
    assert (error.filename, error.lineno) == (__file__, _line(function, "# here"))


def test_comparisons_that_bounds_decide() -> None:
    def function(x: Any) -> Any:
        n = x.shape[0]
        assert n >= 2 and n > 1 and 2 <= n <= 8 and n != 0 and n != 9 and n < 9
        assert n == x.size(0) and n * 2 != n * 2 + 1 and -n < 0 and bool(n)
        assert isinstance(n, graphc.SymInt)
        assert isinstance(n > 4, graphc.SymBool)
        assert graphc.sym_max(n, 1) == n and graphc.sym_min(n, 100) == n
        assert (n + n) // 2 == n and (4 * n) % 2 == 0 and divmod(6 * n, 3) == (2 * n, 0)
        return x * n**2

    compiled = graphc.compile(function, dynamic={"x": {0: graphc.Dim("n", min=2, max=8)}})
    assert compiled(np.ones((3, 1), np.float32)).tolist() == [[9.0]] * 3


def _assumed(x: Any) -> Any:
    n = x.shape[0]
    graphc._check(n % 4 == 0, lambda: "blocks of four")  # here
    graphc._check(n >= 4)
    assert n > 2
    assert n + 1 >= 5
    return x.view(n // 4, 4, -1).sum(1)


def _tail(x: Any) -> Any:
    return x[x.shape[0] - 3 :] * 2  # here


def _squeezed(x: Any) -> Any:
    return x.squeeze()  # here


def _blocks(x: Any) -> Any:
    return x.view(-1, 2, 3)  # here


def _sum_of_largest(x: Any) -> Any:
    return x.amax(0).sum()  # here


@pytest.mark.parametrize(
    ("function", "good", "bad", "kind", "expected"),
    [
        (_assumed, (4, 8, 20), (3, 6, 0), RuntimeError, "blocks of four"),
        (_tail, (3, 4, 9), (2, 0), IndexError, "must lie inside of a dimension of size batch"),
        (_squeezed, (2, 0, 9), (1,), RuntimeError, "must not be 1"),
        (_blocks, (2, 0, 10), (3, 1), RuntimeError, "is invalid for input of size"),
        (_sum_of_largest, (1, 5), (0,), IndexError, "non-zero size"),
    ],
)
def test_what_calls_are_checked_for(
    function: Callable[[Any], Any], good: Any, bad: Any, kind: type[Exception], expected: str
) -> None:
    compiled = graphc.compile(function, dynamic=BATCH)
    for size in good:
        x = graphc.from_numpy(_floats(size, 3))
        assert np.allclose(compiled(x).numpy(), function(x).numpy(), rtol=1e-5)
    for size in bad:
        error: Any = _raised(lambda size=size: compiled(_floats(size, 3)))  # type: ignore[misc]
        assert isinstance(error, kind)
        if function is not _assumed or size == 3:
            assert expected in str(error), str(error)
            assert (error.filename, error.lineno) == (__file__, _line(function, "# here"))
        assert f"batch={size}" in str(error)
    assert compiled.cache_info().misses == 1


def test_names_that_do_not_broadcast() -> None:
    compiled = graphc.compile(lambda x, y: x + y, dynamic={"x": {0: "m"}, "y": {0: "n"}})
    with pytest.raises(RuntimeError, match=r"size of tensor a \(m\) must match the size of tensor b \(n\)"):
        compiled(_floats(3), _floats(3))


def test_a_check_of_what_is_known() -> None:
    graphc._check(True)
    with pytest.raises(RuntimeError, match="Expected cond to be True"):
        graphc._check(False)
    with pytest.raises(RuntimeError, match="said"):
        graphc._check(False, lambda: "said")


def test_a_gradient_of_a_dynamic_argument_is_not_kept() -> None:
    def function(x: Any) -> Any:
        loss = (x * x).sum()
        loss.backward()  # here
        return loss

    with pytest.raises(graphc.TraceError, match=r"sets \.grad of an argument with dynamic dimensions"):
        graphc.compile(function, dynamic=BATCH)(graphc.ones(3, 2, requires_grad=True))


def test_one_tensor_as_a_dynamic_and_a_fixed_argument() -> None:
    x = graphc.ones(3)
    with pytest.raises(graphc.TraceError, match="one tensor is two arguments"):
        graphc.compile(lambda x, y: x + y, dynamic=BATCH)(x, x)


# -- a program for each shape -----------------------------------------------------------------


def test_many_shapes_are_warned_of_once() -> None:
    compiled = graphc.compile(lambda x, y: x + y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for size in range(1, 12):
            compiled(_floats(size, 2), _floats(2))
    (warning,) = [w for w in caught if "dynamic=" in str(w.message)]
    assert warning.filename == __file__
    assert "axis 0 of x was 1, 2, 3" in str(warning.message)
    assert 'dynamic={"x": {0: "x_0"}}' in str(warning.message)
    assert "of y" not in str(warning.message)
    assert compiled.cache_info().misses == 11


# -- looking ------------------------------------------------------------------------------------


def test_stages_print_symbols() -> None:
    compiled = graphc.compile(nn.Linear(4, 5), dynamic={0: {0: graphc.Dim("batch", max=64)}})
    stages = compiled.stages(_floats(3, 4))
    assert "f32[batch, 4]" in str(stages["trace"])
    assert "where batch: 0..64" in str(stages["optimise"])
    assert all(str(value) for value in stages.values())
    assert compiled.cost(_floats(3, 4)).flops == 3 * 4 * 5 * 2 + 3 * 5
    assert compiled.cache_info().size == 0
