"""Micro rows of the benchmark: single operations at many sizes, forward and gradients, on one thread.

Rows of convolutions' gradients (`-dw`, `-dx`) compute the gradient alone: compiled code drops the unused forward
pass, and eager frameworks have recorded theirs before the clock starts. Where a gradient uses the forward result,
the row (`-and-dx`) is both passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.floor import Floor
from tests.benchmarks.models import Framework
from tests.benchmarks.workloads import Work, Workload

__all__ = ["MICRO"]

_F32 = 4
_Function = Callable[..., Any]
_Shape = tuple[int, ...]


def _values(shapes: Sequence[_Shape | np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [s if isinstance(s, np.ndarray) else rng.standard_normal(s).astype(np.float32) for s in shapes]


def _forward(function: Callable[[Framework], _Function], shapes: Sequence[_Shape | np.ndarray]) -> _Builder:
    def build(f: Framework) -> Work:
        made = tuple(map(f.tensor, _values(shapes)))
        f.torch.set_grad_enabled(False)
        run = f.compile(function(f))
        return Work(lambda: run(*made), inputs=made)

    return build


def _gradient(
    function: Callable[[Framework], _Function], shapes: Sequence[_Shape | np.ndarray], wanted: Sequence[int],
    *, forward: bool = False,
) -> _Builder:  # fmt: skip
    """Gradients of the function's result with respect to the arguments `wanted`; the incoming one is random.

    Where `forward`, the result is computed and returned too: for functions whose gradient uses it.
    """

    def build(f: Framework) -> Work:
        f.torch.set_grad_enabled(True)
        made = tuple(map(f.tensor, _values(shapes)))
        compute, grad = function(f), f.torch.autograd.grad
        for n in wanted:
            made[n].requires_grad_()
        result = compute(*made)
        incoming = f.tensor(np.random.default_rng(1).standard_normal(tuple(result.shape)).astype(np.float32))
        sources = [made[n] for n in wanted]
        if f.eager and not forward:
            return Work(lambda: grad(result, sources, incoming, retain_graph=True), inputs=made)

        @f.compile
        def gradients(g: Any, *arguments: Any) -> Any:
            value = compute(*arguments)
            found = grad(value, [arguments[n] for n in wanted], g)
            return (value.detach(), *found) if forward else found

        return Work(lambda: gradients(incoming, *made), inputs=made)

    return build


_Builder = Callable[[Framework], Work]


def _micro(name: str, build: _Builder, flops: float, read: float, written: float) -> Workload:
    """`read` and `written` are in float32 elements."""
    return Workload(
        name, name, "micro", build, Floor(flops, _F32 * (read + written), _F32 * written), threads=1
    )


def _size(*shapes: _Shape) -> int:
    return sum(map(math.prod, shapes))


# Matrix products ------------------------------------------------------------------------------------


def _matmul(name: str, a: _Shape, b: _Shape, transposed: str = "") -> Workload:
    def function(f: Framework) -> _Function:
        def product(x: Any, y: Any) -> Any:
            x = x.transpose(-1, -2) if "a" in transposed else x
            return f.torch.matmul(x, y.transpose(-1, -2) if "b" in transposed else y)

        return product

    x, y = (np.empty(s, np.int8) for s in (a, b))
    x = x.swapaxes(-1, -2) if "a" in transposed else x
    y = y.swapaxes(-1, -2) if "b" in transposed else y
    result = (x @ y).shape if _size(a, b) < 1 << 14 else _product_shape(x.shape, y.shape)
    return _micro(
        f"matmul-{name}",
        _forward(function, [a, b]),
        2.0 * math.prod(result) * x.shape[-1],
        _size(a, b),
        _size(result),
    )


def _product_shape(a: _Shape, b: _Shape) -> _Shape:
    return (*a[:-1], b[-1]) if len(b) > 1 else a[:-1]


_MATMULS = [
    *(_matmul(str(n), (n, n), (n, n)) for n in (64, 128, 256, 512, 1024, 2048)),
    _matmul("skinny-k16", (1024, 16), (16, 1024)),
    _matmul("skinny-n16", (1024, 1024), (1024, 16)),
    _matmul("skinny-m16", (16, 1024), (1024, 1024)),
    _matmul("tall-4096x64x64", (4096, 64), (64, 64)),
    _matmul("batched-24x128x128x64", (24, 128, 64), (24, 128, 64), "b"),
    _matmul("batched-24x128x64x128", (24, 128, 128), (24, 128, 64)),
    _matmul("batched-256x16x16x16", (256, 16, 16), (256, 16, 16)),
    _matmul("transposed-b-512", (512, 512), (512, 512), "b"),
    _matmul("transposed-a-512", (512, 512), (512, 512), "a"),
    _matmul("transposed-ab-512", (512, 512), (512, 512), "ab"),
    _matmul("linear-512x1152x384", (512, 384), (1152, 384), "b"),
    _matmul("vector-1024x1024", (1024, 1024), (1024,)),
    _matmul("vector-4096x4096", (4096, 4096), (4096,)),
    _matmul("row-1x768x768", (1, 768), (768, 768), "b"),
]


# Convolutions ---------------------------------------------------------------------------------------


def _convolutions(
    name: str, batch: int, inputs: int, side: int, outputs: int, kernel: int, stride: int = 1, pad: int = 0,
    groups: int = 1, parts: Sequence[str] = ("", "-dw", "-dx"),
) -> list[Workload]:  # fmt: skip
    """The forward pass and both gradients of one convolution without bias."""
    x, w = (batch, inputs, side, side), (outputs, inputs // groups, kernel, kernel)
    after = (side + 2 * pad - kernel) // stride + 1
    y = (batch, outputs, after, after)
    flops = 2.0 * math.prod(y) * math.prod(w[1:])

    def function(f: Framework) -> _Function:
        return lambda a, b: f.functional.conv2d(a, b, stride=stride, padding=pad, groups=groups)

    made = {
        "": lambda: _micro(f"conv-{name}", _forward(function, [x, w]), flops, _size(x, w), _size(y)),
        "-dw": lambda: _micro(
            f"conv-{name}-dw", _gradient(function, [x, w], [1]), flops, _size(x, y), _size(w)
        ),
        "-dx": lambda: _micro(
            f"conv-{name}-dx", _gradient(function, [x, w], [0]), flops, _size(w, y), _size(x)
        ),
    }
    return [made[p]() for p in parts]


_CONVOLUTIONS = [
    *_convolutions("stem-7x7/2-224", 1, 3, 224, 64, 7, 2, 3, parts=("", "-dw")),
    *(row for n, c in ((56, 64), (28, 128), (14, 256), (7, 512)) for row in _convolutions(f"3x3-{n}x{c}", 1, c, n, c, 3, 1, 1)),
    *(row for n, c in ((56, 64), (28, 128), (14, 256)) for row in _convolutions(f"3x3/2-{n}x{c}", 1, c, n, 2 * c, 3, 2, 1)),
    *(row for n, c in ((56, 64), (28, 128), (14, 256)) for row in _convolutions(f"1x1/2-{n}x{c}", 1, c, n, 2 * c, 1, 2)),
    *_convolutions("stem-7x7/2-64-batch8", 8, 3, 64, 64, 7, 2, 3, parts=("", "-dw")),
    *(row for n, c in ((16, 64), (8, 128), (4, 256), (2, 512)) for row in _convolutions(f"3x3-{n}x{c}-batch8", 8, c, n, c, 3, 1, 1)),
    *_convolutions("1x1-56x64x256", 1, 64, 56, 256, 1),
    *_convolutions("depthwise-3x3-28x128", 1, 128, 28, 128, 3, 1, 1, groups=128),
    *_convolutions("lenet1-5x5-batch64", 64, 3, 32, 6, 5, parts=("", "-dw")),
    *_convolutions("lenet2-5x5-batch64", 64, 6, 14, 16, 5),
]  # fmt: skip


# Normalisation, losses, pointwise chains --------------------------------------------------------------


def _rowwise(
    name: str, function: Callable[[Framework], _Function], shapes: Sequence[_Shape]
) -> list[Workload]:
    """A function of one matrix along its rows, alone and with its gradient."""
    made = []
    for shape in shapes:
        title, n = f"{name}-{shape[0]}x{shape[1]}", math.prod(shape)
        made.append(_micro(title, _forward(function, [shape]), 0.0, n, n))
        both = _gradient(function, [shape], [0], forward=True)
        made.append(_micro(f"{title}-and-dx", both, 0.0, 2 * n, 2 * n))
    return made


def _softmax(f: Framework) -> _Function:
    return lambda x: f.functional.softmax(x, dim=-1)


def _layer_norm(f: Framework) -> _Function:
    return lambda x: f.functional.layer_norm(x, x.shape[-1:])


def _gelu(f: Framework) -> _Function:
    return lambda x: f.functional.gelu(x * 1.5 + 0.5, approximate="tanh") * x


def _cross_entropy(rows: int, classes: int) -> list[Workload]:
    y = np.random.default_rng(2).integers(0, classes, rows)
    n = rows * classes

    def function(f: Framework) -> _Function:
        return lambda x, t: f.functional.cross_entropy(x, t)

    name = f"cross-entropy-{rows}x{classes}"
    shapes: list[_Shape | np.ndarray] = [(rows, classes), y]
    return [
        _micro(name, _forward(function, shapes), 0.0, n, 0),
        _micro(f"{name}-and-dx", _gradient(function, shapes, [0], forward=True), 0.0, n, n),
    ]


_ROWWISE = [
    *_rowwise("softmax", _softmax, [(64, 10), (1024, 1000), (4096, 4096)]),
    *_rowwise("layer-norm", _layer_norm, [(512, 384), (8192, 1024)]),
    *_rowwise("gelu-chain", _gelu, [(512, 1536), (4096, 4096)]),
    *_cross_entropy(64, 10), *_cross_entropy(512, 65), *_cross_entropy(512, 50257),
]  # fmt: skip


# Attention --------------------------------------------------------------------------------------------


def _attention(tokens: int, causal: bool) -> list[Workload]:
    """Six heads of 64, batch 1; causal attention needs half of the scores."""
    shape = (1, 6, tokens, 64)
    flops = 4.0 * 6 * 64 * (tokens * (tokens + 1) / 2 if causal else tokens * tokens)
    n = math.prod(shape)

    def function(f: Framework) -> _Function:
        return lambda q, k, v: f.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    name = f"attention-{tokens}{'-causal' * causal}"
    return [
        _micro(name, _forward(function, [shape] * 3), flops, 3 * n, n),
        _micro(
            f"{name}-and-grads",
            _gradient(function, [shape] * 3, [0, 1, 2], forward=True),
            3.5 * flops,
            4 * n,
            4 * n,
        ),
    ]


_ATTENTION = [
    w for t in (64, 128, 256, 512, 1024, 2048) for causal in (False, True) for w in _attention(t, causal)
]


# Optimisers, embeddings, reductions -------------------------------------------------------------------


def _adam(name: str, shapes: Sequence[_Shape]) -> Workload:
    def build(f: Framework) -> Work:
        parameters = [f.nn.Parameter(f.tensor(v)) for v in _values(shapes)]
        for p in parameters:
            p.grad = f.torch.ones_like(p.detach())
        optimizer = f.optim.Adam(parameters, lr=0.001)

        @f.compile
        def step() -> None:
            optimizer.step()

        return Work(step)

    n = _size(*shapes)
    return _micro(f"adam-{name}", build, 0.0, 4 * n, 3 * n)


def _embedding(vocabulary: int, width: int, tokens: int) -> Workload:
    ids = np.random.default_rng(3).integers(0, vocabulary, tokens)

    def function(f: Framework) -> _Function:
        return lambda w, i: f.functional.embedding(i, w)

    name = f"embedding-{vocabulary}x{width}-{tokens}-dw"
    size = vocabulary * width
    return _micro(name, _gradient(function, [(vocabulary, width), ids], [0]), 0.0, tokens * width, size)


def _reduction(name: str, shape: _Shape, axis: int | None) -> Workload:
    def function(f: Framework) -> _Function:
        return (lambda x: x.sum()) if axis is None else (lambda x: x.sum(axis))

    written = 1 if axis is None else math.prod(shape) // shape[axis]
    return _micro(
        f"sum-{name}-{shape[0]}x{shape[1]}", _forward(function, [shape]), 0.0, math.prod(shape), written
    )


_GPT_SHAPES = [
    (65, 384),
    *[(1152, 384), (1152,), (384, 384), (384,), (1536, 384), (1536,), (384, 1536), (384,)] * 6,
]

_OTHERS = [
    _adam("one-1e6", [(1000, 1000)]),
    _adam("many-200x(64x64)", [(64, 64)] * 200),
    _adam("gpt-49", _GPT_SHAPES),
    _embedding(65, 384, 512), _embedding(50257, 384, 512),
    *(
        _reduction(name, shape, axis)
        for shape in ((64, 128), (1024, 1024), (8192, 4096))
        for name, axis in (("row", 1), ("column", 0), ("whole", None))
    ),
]  # fmt: skip

MICRO: tuple[Workload, ...] = (*_MATMULS, *_CONVOLUTIONS, *_ROWWISE, *_ATTENTION, *_OTHERS)
"""All micro rows."""
