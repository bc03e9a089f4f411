"""Convolutions through transformed tiles have one meaning: compiled or plain, in inference or training, fused or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.nn import functional as F

RNG = np.random.default_rng(3)


def values(*shape: int) -> Any:
    return graphc.tensor(RNG.standard_normal(shape).astype(np.float32))


X, W, BIAS, SKIP = values(2, 64, 19, 22), values(64, 64, 3, 3), values(64), values(2, 64, 19, 22)


def engines(compiled: Any, *arguments: Any) -> set[str]:
    return {c.kernel.schedule.engine for p in compiled.stages(*arguments)["plan"].phases for c in p.calls}


def plain(x: Any, w: Any) -> Any:
    return F.conv2d(x, w, padding=1)


CASES: dict[str, tuple[Any, Any]] = {
    "epilogue": (lambda x, w: (x, w), lambda y: (y + BIAS[:, None, None] + SKIP).relu()),
    "permuted": (lambda x, w: (x * 2 - 1, w), lambda y: y.permute(0, 2, 3, 1).exp()),
    "flat": (lambda x, w: (x, w), lambda y: y.flatten(1) * 3),
    "sliced": (lambda x, w: (x[:, :, 1:, ::2], w.transpose(0, 1)), lambda y: y + 1),
    "padded": (lambda x, w: (F.pad(x, (2, 1, 0, 3)), w), lambda y: y.sum((2, 3))),
    "images expanded": (lambda x, w: (x[:1].expand(3, 64, 19, 22), w), lambda y: -y),
    "weights expanded": (lambda x, w: (x, w[:1].expand(64, 64, 3, 3)), lambda y: -y),
    "half": (lambda x, w: (x.half(), w.half()), lambda y: y.float()),
}


GRADIENTS = [name for name in CASES if name not in ("images expanded", "weights expanded")]


def input_gradient(stride: int) -> Any:
    def compute(g: Any, w: Any) -> Any:
        height, width = (stride * n for n in g.shape[2:])
        x = graphc.zeros(g.shape[0], w.shape[1], height, width, dtype=g.dtype, requires_grad=True)
        return graphc.autograd.grad(F.conv2d(x, w, padding=1, stride=stride), [x], g)[0]

    return compute


@pytest.mark.parametrize(
    ("name", "convolution"),
    [(n, plain) for n in CASES] + [(n, input_gradient(s)) for n in GRADIENTS for s in (1, 2)],
)
def test_fusion_changes_no_bit(name: str, convolution: Any) -> None:
    before, after = CASES[name]
    if convolution is not plain and "epilogue" in name:
        before, after = (lambda x, w: (x.relu() + 1, w)), (lambda y: (y * 2 + BIAS[:, None, None]).relu())
    fused = graphc.compile(lambda x, w: after(convolution(*before(x, w))))
    alone = graphc.compile(convolution)
    operands = [v.clone() for v in graphc.compile(before)(X, W)]
    assert "tiled_windows" in engines(fused, X, W) & engines(alone, *operands)
    apart = graphc.compile(after)(alone(*operands))
    assert fused(X, W).numpy().tobytes() == apart.numpy().tobytes()


def test_training_and_inference_agree() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
    with graphc.no_grad():
        inference = graphc.compile(lambda x: model(x))(X).numpy()
    trained = model(X)
    trained.square().mean().backward()
    assert trained.detach().numpy().tobytes() == inference.tobytes()
    expected = F.conv2d(X.double(), model[0].weight.double(), model[0].bias.double(), padding=1).relu()
    first = model[1](model[0](X)).double()
    assert (first - expected).abs().max().item() < 1e-5


def test_other_values_of_the_weights_are_seen() -> None:
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    run = graphc.compile(lambda x: layer(x))
    with graphc.no_grad():
        before = run(X).numpy().copy()
        layer.weight.mul_(2)
        assert np.array_equal(run(X).numpy(), 2 * before)
