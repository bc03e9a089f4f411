"""`utils.checkpoint`: PyTorch's results, the bits of the same program without checkpoints, and less memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint

import graphc
from graphc.ir.marks import is_clone
from graphc.utils.checkpoint import checkpoint, checkpoint_sequential

WIDTH, ROWS, DEPTH = 32, 12, 3
Call = Callable[..., Any]


def values(p: Any) -> tuple[Any, list[Any], Any]:
    """A batch, square weights that require grad and a vector that does."""
    rng = np.random.default_rng(0)
    x = p.tensor(rng.standard_normal((ROWS, WIDTH)).astype(np.float32))
    weights = []
    for _ in range(DEPTH):
        w = p.tensor((rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32))
        weights.append(w.requires_grad_())
    return x, weights, p.tensor(rng.standard_normal(WIDTH).astype(np.float32)).requires_grad_()


def layer(p: Any, h: Any, w: Any) -> Any:
    return p.nn.functional.gelu(h @ w).tanh() * h


# Each program takes a package and what calls a function in a checkpoint, and gives what is compared.


def deep(p: Any, call: Call) -> list[Any]:
    x, weights, _ = values(p)
    for w in weights:
        x = call(lambda x, w: layer(p, x, w), x, w)
    x.square().mean().backward()
    return [x, *(w.grad for w in weights)]


def read_between(p: Any, call: Call) -> list[Any]:
    x, weights, _ = values(p)
    for w in weights:
        x = call(lambda x, w: layer(p, x, w), x, w)
    loss = x.square().mean()
    loss.item()
    loss.backward()
    return [x, *(w.grad for w in weights)]


def read_inside(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)

    def two(x: Any, w: Any) -> Any:
        h = layer(p, x, w)
        return layer(p, h * h.sum().item(), w) + b

    x = call(two, x, weights[0])
    x.square().mean().backward()
    return [x, weights[0].grad, b.grad]


def nested(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)

    def outer(x: Any) -> Any:
        for w in weights:
            x = call(lambda x, w: layer(p, x, w).sigmoid(), x * b, w)
        return x.sin()

    x = call(outer, x)
    x.square().mean().backward()
    return [x, b.grad, *(w.grad for w in weights)]


def nested_values(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)

    def run(pair: Any, *, scale: Any) -> dict[str, Any]:
        return {"a": layer(p, pair[0], pair[1]) * scale, "b": pair[0].sin()}

    found = call(run, (x, weights[0]), scale=b)
    (found["a"] + found["b"]).square().mean().backward()
    return [weights[0].grad, b.grad]


def used_inside_and_outside(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)

    def run(x: Any, w: Any) -> tuple[Any, Any]:
        h = (x @ w).exp()
        return h, (h * b).tanh()

    h, t = call(run, x, weights[0])
    (h.sin() * t).mean().backward()
    return [h, t, weights[0].grad, b.grad]


def by_grad(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)
    y = call(lambda x: layer(p, x * b, weights[0]), x)
    return list(p.autograd.grad(y.square().mean(), [weights[0], b]))


def twice(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)
    y = call(lambda x: layer(p, x * b, weights[0]), x)
    (g,) = p.autograd.grad(y.square().mean(), b, create_graph=True)
    (g.square().sum() + call(lambda g: g.sin().exp(), g).sum()).backward()
    return [g, b.grad, weights[0].grad]


def kept_graph(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)
    loss = call(lambda x: layer(p, x * b, weights[0]), x).square().mean()
    loss.backward(retain_graph=True)
    loss.backward()
    return [b.grad, weights[0].grad]


def with_hooks(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)

    def run(x: Any) -> Any:
        h = layer(p, x * b, weights[0])
        h.register_hook(lambda g: g * 2)
        return layer(p, h, weights[1])

    call(run, x).square().mean().backward()
    return [b.grad, weights[0].grad, weights[1].grad]


def without_grad(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)

    def run(x: Any) -> Any:
        with p.no_grad():
            scale = layer(p, x, weights[1]).exp()
        return layer(p, x * b, weights[0]) * scale + b.detach()

    call(run, x).square().mean().backward()
    return [b.grad, weights[0].grad]


def in_module(p: Any, call: Call) -> list[Any]:
    x, weights, b = values(p)
    norm = p.nn.BatchNorm1d(WIDTH, momentum=None)
    module = p.nn.Sequential(p.nn.LayerNorm(WIDTH), p.nn.Softmax(-1))
    y = call(lambda x: norm(module(x * b) @ weights[0]), x)
    y.tanh().sum().backward()
    return [b.grad, weights[0].grad, module[0].weight.grad, norm.weight.grad]


PROGRAMS = [
    deep,
    read_between,
    read_inside,
    nested,
    nested_values,
    used_inside_and_outside,
    by_grad,
    twice,
    kept_graph,
    with_hooks,
    without_grad,
    in_module,
]


def plain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def ours(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(function, *args, use_reentrant=False, **kwargs)


def theirs(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)


def arrays(found: list[Any]) -> list[np.ndarray[Any, Any]]:
    return [t.detach().numpy().copy() for t in found]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_parity(program: Callable[[Any, Call], list[Any]]) -> None:
    found = arrays(program(graphc, ours))
    for got, same, expected in zip(
        found, arrays(program(graphc, plain)), arrays(program(torch, theirs)), strict=True
    ):
        assert np.array_equal(got, same)
        np.testing.assert_allclose(got, expected, rtol=1.3e-6 * 8, atol=1e-5)


def gelu_blocks(width: int, count: int) -> list[graphc.nn.Module]:
    nn = graphc.nn
    return [
        nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(4 * width, width),
            nn.LayerNorm(width),
        )
        for _ in range(count)
    ]


class Encoder(graphc.nn.Module):
    """Attention and a perceptron, both added to what they read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = graphc.nn.LayerNorm(width)
        self.attention = graphc.nn.MultiheadAttention(width, 4, dropout=0.1, batch_first=True)
        self.rest = gelu_blocks(width, 1)[0]

    def forward(self, x: graphc.Tensor) -> graphc.Tensor:
        h = self.norm(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        found: graphc.Tensor = x + self.rest(x)
        return found


def in_loop(blocks: list[graphc.nn.Module], x: graphc.Tensor, call: Call) -> graphc.Tensor:
    for block in blocks:
        x = call(block, x)
    return x


def in_sequence(blocks: list[graphc.nn.Module], x: graphc.Tensor, call: Call) -> graphc.Tensor:
    if call is plain:
        return in_loop(blocks, x, call)
    found: graphc.Tensor = checkpoint_sequential(
        graphc.nn.Sequential(*blocks), len(blocks), x, use_reentrant=False
    )
    return found


def in_scan(blocks: list[graphc.nn.Module], x: graphc.Tensor, call: Call) -> graphc.Tensor:
    found, _ = graphc.scan(lambda h, _: (call(blocks[0], h), h.sum()), x, length=5)
    return found


DEEP = [
    (lambda: gelu_blocks(96, 6), in_loop, (256, 96), 0.5),
    (lambda: gelu_blocks(96, 6), in_sequence, (256, 96), 0.6),
    (lambda: [Encoder(64) for _ in range(4)], in_loop, (8, 64, 64), 0.6),
    (lambda: gelu_blocks(64, 1), in_scan, (256, 64), 1.0),
]


def trained(
    build: Callable[[], list[graphc.nn.Module]], forward: Any, shape: tuple[int, ...], call: Call
) -> tuple[list[Any], int]:
    """Losses and parameters after compiled steps with random numbers, and the bytes of temporaries."""
    graphc.manual_seed(3)
    blocks = build()
    x = graphc.randn(*shape)
    parameters = [p for b in blocks for p in b.parameters()]
    optimizer = graphc.optim.SGD(parameters, lr=0.1)

    @graphc.compile
    def step(x: graphc.Tensor) -> graphc.Tensor:
        optimizer.zero_grad()
        loss = forward(blocks, x, call).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    found = [step(x) for _ in range(3)]
    ((program,),) = step._programs.values()
    return arrays([*found, *parameters]), program.compiled.program.arena_bytes


@pytest.mark.parametrize(
    ("build", "forward", "shape", "share"), DEEP, ids=["mlp", "sequence", "encoder", "scan"]
)
def test_compiled_steps_keep_their_bits_and_take_less(
    build: Any, forward: Any, shape: Any, share: float
) -> None:
    expected, whole = trained(build, forward, shape, plain)
    got, less = trained(build, forward, shape, ours)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    assert less < share * whole


def kept_between(call: Call) -> int:
    """Bytes of rows that wait for `backward` in recorded mode when the loss has been read."""
    graphc.manual_seed(0)
    blocks = gelu_blocks(32, 6)
    loss = in_loop(blocks, graphc.randn(48, 32), call).square().mean()
    loss.item()
    tape = loss._read().tape[0]
    return sum(n.type.nbytes for n in tape.residuals if n.type.shape[:1] == (48,))


def test_recorded_steps_keep_inputs_of_checkpoints_alone() -> None:
    # The input of each block and the last one's result.
    assert kept_between(ours) <= 7 * 48 * 32 * 4 < 0.2 * kept_between(plain)


def test_random_numbers_are_drawn_once() -> None:
    def run(call: Call) -> list[Any]:
        graphc.manual_seed(7)
        w = graphc.ones(64, requires_grad=True)
        y = call(lambda w: graphc.nn.functional.dropout(w, 0.5) * w + graphc.rand(64), w)
        y.sum().backward()
        return arrays([y, w.grad, graphc.rand(4)])  # type: ignore[list-item]

    assert all(np.array_equal(a, b) for a, b in zip(run(ours), run(plain), strict=True))


def test_running_statistics_are_written_once() -> None:
    norm, x = graphc.nn.BatchNorm1d(4), graphc.randn(8, 4)
    ours(norm, x).sum().backward()
    assert norm.num_batches_tracked.item() == 1


def test_no_clone_without_grad() -> None:
    x, weights, _ = values(graphc)

    @graphc.compile
    def f(x: graphc.Tensor) -> graphc.Tensor:
        with graphc.no_grad():
            found: graphc.Tensor = ours(lambda x: layer(graphc, x, weights[0]), x)
            return found

    assert not any(is_clone(op) for op in f.trace(x).ops)


BAD: list[tuple[str, Callable[[Any, Any], Any], bool]] = [
    ("keyword", lambda c, x: c.checkpoint(lambda x, k: x, x, use_reentrant=True, k=1), True),
    ("context", lambda c, x: c.checkpoint(lambda x: x, x, use_reentrant=True, context_fn=lambda: None), True),
    ("debug", lambda c, x: c.checkpoint(lambda x: x, x, use_reentrant=True, debug=True), True),
    (
        "both",
        lambda c, x: c.checkpoint(
            lambda x: x, x, use_reentrant=False, debug=True, context_fn=lambda: c.noop_context_fn()
        ),
        True,
    ),
    ("check", lambda c, x: c.checkpoint(lambda x: x, x, use_reentrant=False, determinism_check="sha"), True),
    ("sequential", lambda c, x: c.checkpoint_sequential([abs], 1, x, use_reentrant=False, k=1), True),
    ("segments", lambda c, x: c.checkpoint_sequential([abs], 2, x, use_reentrant=False), False),
]


@pytest.mark.parametrize(("name", "call", "words"), BAD, ids=[b[0] for b in BAD])
def test_errors(name: str, call: Callable[[Any, Any], Any], words: bool) -> None:
    with pytest.raises(ValueError) as theirs:
        call(torch.utils.checkpoint, torch.ones(2, requires_grad=True))
    with pytest.raises(ValueError) as ours:
        call(graphc.utils.checkpoint, graphc.ones(2, requires_grad=True))
    if words:
        assert str(ours.value) == str(theirs.value)


def test_unsaid_variant_warns() -> None:
    x = graphc.ones(2, requires_grad=True)
    with pytest.warns(UserWarning, match="use_reentrant parameter should be passed explicitly"):
        checkpoint(lambda x: x * 2, x)


def test_reentrant_needs_an_argument_with_grad() -> None:
    w = graphc.ones(2, requires_grad=True)
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad=True"):
        y = checkpoint(lambda x: x * w, graphc.ones(2), use_reentrant=True)
    assert not y.requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint(lambda x: x * w, w, use_reentrant=True).requires_grad
