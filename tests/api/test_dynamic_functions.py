"""Functions of dynamic arguments as users write them, values and gradients at many sizes, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import graphc
import graphc.nn.functional as F

torch = pytest.importorskip("torch")

_rng = np.random.default_rng(17)


def _floats(*shape: int) -> Any:
    return _rng.standard_normal(shape).astype(np.float32)


KERNEL, TABLE, HEAD = _floats(4, 3, 3, 3), _floats(11, 6), _floats(11, 6)


def _given(m: Any, array: Any) -> Any:
    return graphc.from_numpy(array) if m is graphc else torch.from_numpy(array)


def _functional(m: Any) -> Any:
    return F if m is graphc else torch.nn.functional


def _windows(m: Any, x: Any) -> Any:
    f = _functional(m)
    y = f.conv2d(x, _given(m, KERNEL), stride=2, padding=1)
    return f.max_pool2d(y.relu(), 2), f.avg_pool2d(y, 2)


def _language_model(m: Any, tokens: Any) -> Any:
    """Positions, a mask made of them, and a loss over batch and time."""
    f = _functional(m)
    b, t = tokens.shape
    h = f.embedding(tokens, _given(m, TABLE)) + m.arange(t).unsqueeze(1) / 10
    mask = m.arange(t).unsqueeze(0) <= m.arange(t).unsqueeze(1)
    scores = (h @ h.transpose(1, 2)).masked_fill(~mask, float("-inf"))
    logits = f.linear(scores.softmax(-1) @ h, _given(m, HEAD))
    return f.cross_entropy(logits.reshape(b * t, 11), tokens.reshape(b * t))


def _joined(m: Any, x: Any) -> Any:
    n = x.shape[0]
    return _functional(m).pad(x, (2, 3, 1, 4)), m.cat([x, x.flip(0), x * n]).reshape(3, n, -1)


def _heads(_: Any, x: Any) -> Any:
    b, n, d = x.shape
    return x.view(b, n, 2, d // 2).transpose(1, 2).reshape(b * 2, n, d // 2).sum(1).view(b, 2 * (d // 2))


def _halves(m: Any, x: Any) -> Any:
    n = x.shape[0]
    return x[: n // 2] + x[n - n // 2 :], m.stack([x[: n // 2], x[n // 2 : n // 2 * 2]]).mean(0)


def _turned(m: Any, x: Any) -> Any:
    n = x.shape[0]
    at = m.arange(n - 1, -1, -1)
    return x[at], x.index_select(0, at), x.gather(0, at.unsqueeze(1).expand(n, 4))


def _repeated(m: Any, x: Any) -> Any:
    return x.repeat(2, 1), x.repeat_interleave(2, 0), m.tril(x @ x.t())


CASES: dict[
    str, tuple[Callable[..., Any], Any, Callable[..., tuple[Any, ...]], Sequence[tuple[int, ...]]]
] = {
    "windows": (
        _windows,
        {"x": {0: "b", 2: "h", 3: "w"}},
        lambda b, h, w: (_floats(b, 3, h, w),),
        ((1, 8, 8), (3, 5, 9), (2, 16, 7), (1, 33, 12)),
    ),
    "language model": (
        _language_model,
        {"x": {0: "b", 1: "t"}},
        lambda b, t: (_rng.integers(0, 11, (b, t)),),
        ((2, 5), (1, 1), (3, 17), (4, 64)),
    ),
    "joined": (_joined, {"x": {0: "n"}}, lambda n: (_floats(n, 4),), ((3,), (1,), (2,), (20,))),
    "heads": (
        _heads,
        {"x": {0: "b", 1: "n"}},
        lambda b, n: (_floats(b, n, 8),),
        ((2, 3), (1, 1), (5, 9), (0, 2), (2, 0)),
    ),
    "halves": (_halves, {"x": {0: "n"}}, lambda n: (_floats(n, 4),), ((4,), (5,), (0,), (1,), (9,))),
    "one name of two arguments": (
        lambda m, x, y: ((x * y).sum(0), m.cat([x, y]).mean(), x @ y.t()),
        {"x": {0: "n"}, "y": {0: "n"}},
        lambda n: (_floats(n, 4), _floats(n, 4)),
        ((4,), (1,), (33,), (70,)),
    ),
    "causal attention": (
        lambda m, x: _functional(m).scaled_dot_product_attention(x, x * 2, x + 1, is_causal=True),
        {"x": {2: "t"}},
        lambda t: (_floats(2, 2, t, 8),),
        ((4,), (1,), (7,), (64,), (65,)),
    ),
    "turned": (_turned, {"x": {0: "n"}}, lambda n: (_floats(n, 4),), ((4,), (1,), (33,))),
    "repeated": (_repeated, {"x": {0: "n"}}, lambda n: (_floats(n, 4),), ((4,), (1,), (0,), (33,))),
    "batched products": (
        lambda m, x: (m.bmm(x, x.transpose(1, 2)), m.einsum("btd,bsd->bts", x, x)),
        {"x": {0: "b", 1: "t"}},
        lambda b, t: (_floats(b, t, 4),),
        ((2, 3), (1, 1), (3, 40), (0, 3)),
    ),
}


def _parts(found: Any) -> list[Any]:
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("name", CASES)
def test_against_pytorch(name: str) -> None:
    function, dynamic, make, sizes = CASES[name]

    def both(x: Any, *rest: Any) -> Any:
        found = _parts(function(graphc, x, *rest))
        if not x.dtype.is_floating_point:
            return found, None
        return found, graphc.autograd.grad(sum((y * y).sum() for y in found), x)[0]

    if len(dynamic) == 2:
        compiled = graphc.compile(lambda x, y: both(x, y), dynamic=dynamic)
    else:
        compiled = graphc.compile(lambda x: both(x), dynamic=dynamic)
    for size in sizes:
        arrays = make(*size)
        mine, theirs = (
            [graphc.from_numpy(a.copy()) for a in arrays],
            [torch.from_numpy(a.copy()) for a in arrays],
        )
        floating = theirs[0].is_floating_point()
        for x in (mine[0], theirs[0]):
            x.requires_grad_(floating)
        found, gradient = compiled(*mine)
        expected = _parts(function(torch, *theirs))
        for got, want in zip(found, expected, strict=True):
            assert tuple(got.shape) == tuple(want.shape), size
            np.testing.assert_allclose(
                got.detach().numpy(), want.detach().numpy(), 2e-4, 1e-4, err_msg=str(size)
            )
        if floating:
            sum((y * y).sum() for y in expected).backward()
            np.testing.assert_allclose(
                gradient.numpy(), theirs[0].grad.numpy(), 2e-3, 2e-3, err_msg=str(size)
            )
    assert compiled.cache_info().misses == 1
