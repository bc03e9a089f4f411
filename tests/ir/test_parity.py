"""The ops' references and gradients against PyTorch's, on ordinary and on special values.

A row is one op, its attributes, its operands, and PyTorch's spelling. The gradient of every float
operand is compared with autograd's for one random cotangent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from graphc.backends.reference import interpreter
from graphc.ir.builder import Builder
from graphc.ir.families import REGISTRY
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType, dtype_of
from graphc.passes.differentiate import differentiate

torch = pytest.importorskip("torch")
F = torch.nn.functional

RNG = np.random.default_rng(7)
NAN, INF = np.nan, np.inf
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, INF, -INF, NAN, 1e30, -1e-30, 87.0, -110.0])
PAIRS = np.array([(a, b) for a in (0.0, 1.0, -2.5, 7.0, INF, -INF, NAN) for b in (1.0, -2.0, 3.5, INF, NAN)])
TIES = np.array([[1.0, 2.0, 2.0, -1.0], [3.0, 3.0, 3.0, 3.0], [-INF, -INF, 0.0, 0.0]])
LOGITS = RNG.standard_normal((4, 5))
TARGET = np.array([0, 4, 1, 1])


def normal(*shape: int) -> Any:
    """Standard normal numbers."""
    return RNG.standard_normal(shape)


@dataclass(frozen=True)
class Row:
    """One comparison. `gradient` False compares results alone."""

    op: str
    operands: tuple[Any, ...]
    expected: Callable[..., Any]
    attrs: dict[str, Any] = field(default_factory=dict)
    gradient: bool = True
    label: str = ""


def unary(op: str, expected: Callable[..., Any], *, gradient: bool = True, **attrs: Any) -> Row:
    return Row(op, (SPECIAL,), expected, attrs, gradient)


def pairs(op: str, expected: Callable[..., Any], *, gradient: bool = True) -> Row:
    return Row(op, (PAIRS[:, 0], PAIRS[:, 1]), expected, gradient=gradient)


def image(op: str, expected: Callable[..., Any], shape: tuple[int, ...] = (2, 3, 7, 8), **attrs: Any) -> Row:
    return Row(op, (normal(*shape),), expected, attrs, label=str(attrs))


def convolution(xs: tuple[int, ...], ws: tuple[int, ...], **attrs: Any) -> Row:
    return Row(
        "conv2d", (normal(*xs), normal(*ws)), lambda x, w: F.conv2d(x, w, **attrs), attrs, label=str(attrs)
    )


def loss(op: str, expected: Callable[..., Any], *operands: Any, **attrs: Any) -> Row:
    return Row(op, operands, lambda *x: expected(*x, **attrs), attrs, label=str(attrs))


def classes(weighted: bool, **attrs: Any) -> Row:
    weight = (np.abs(normal(5)),) if weighted else ()
    return loss(
        "cross_entropy",
        lambda x, t, w=None, **k: F.cross_entropy(x, t, None if w is None else w.detach(), **k),
        LOGITS,
        TARGET,
        *weight,
        **attrs,
    )


ROWS = [
    unary("exp", torch.exp),
    unary("expm1", torch.expm1),
    unary("log", torch.log),
    unary("log1p", torch.log1p),
    unary("log2", torch.log2),
    unary("log10", torch.log10),
    unary("tanh", torch.tanh),
    unary("sigmoid", torch.sigmoid),
    unary("erf", torch.erf),
    unary("sqrt", torch.sqrt),
    unary("rsqrt", torch.rsqrt),
    unary("sin", torch.sin),
    unary("cos", torch.cos),
    unary("abs", torch.abs),
    unary("neg", torch.neg),
    unary("sign", torch.sign),
    unary("reciprocal", torch.reciprocal),
    unary("square", torch.square),
    unary("floor", torch.floor),
    unary("ceil", torch.ceil),
    unary("trunc", torch.trunc),
    unary("round", torch.round),
    unary("relu", torch.relu),
    unary("silu", F.silu, gradient=False),
    unary("leaky_relu", F.leaky_relu, slope=0.01),
    Row("silu", (normal(9),), F.silu),
    Row("gelu", (normal(9),), F.gelu),
    Row("gelu", (normal(9),), lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
    unary("is_nan", torch.isnan, gradient=False),
    unary("isinf", torch.isinf, gradient=False),
    unary("isfinite", torch.isfinite, gradient=False),
    pairs("add", torch.add),
    pairs("sub", torch.sub),
    pairs("mul", torch.mul),
    pairs("div", torch.div),
    pairs("maximum", torch.maximum),
    pairs("minimum", torch.minimum),
    pairs("pow", torch.pow, gradient=False),
    pairs("remainder", torch.remainder, gradient=False),
    pairs("rem", torch.fmod, gradient=False),
    pairs("floor_div", torch.floor_divide, gradient=False),
    pairs("lt", torch.lt, gradient=False),
    pairs("ne", torch.ne, gradient=False),
    Row("maximum", (TIES[0], TIES[1]), torch.maximum),
    Row("pow", (np.array([2.0, 0.0, 0.0, 3.0, 1.5]), np.array([3.0, 2.0, 0.0, 0.0, -1.0])), torch.pow),
    Row("pow", (np.array([2, -3, 1, -1, 5, 0]), np.array([3, 3, 60, 61, 30, 0])), torch.pow),
    Row("floor_div", (np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])), torch.floor_divide),
    Row("remainder", (np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])), torch.remainder),
    Row("rem", (np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])), torch.fmod),
    Row(
        "trunc_div",
        (np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])),
        lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    ),
    Row("shift_left", (np.array([5, -5, 1, 1]), np.array([2, 2, 64, 63])), torch.bitwise_left_shift),
    Row("shift_right", (np.array([5, -5, -1, 1]), np.array([1, 1, 70, 63])), torch.bitwise_right_shift),
    Row("clamp", (normal(20), np.full(20, -0.5), np.full(20, 0.7)), torch.clamp),
    Row("clamp", (normal(20), normal(20), normal(20)), torch.clamp),
    Row("where", (normal(6) > 0, normal(6), normal(6)), torch.where),
    Row("max", (TIES,), lambda x: torch.amax(x, 1), {"axes": (1,)}),
    Row("min", (TIES,), lambda x: torch.amin(x, 1), {"axes": (1,)}),
    Row("argmax", (TIES,), lambda x: torch.argmax(x, 1), {"axes": (1,)}),
    Row("argmin", (np.array([3.0, NAN, 1.0, NAN]),), lambda x: torch.argmin(x, 0), {"axes": (0,)}),
    Row(
        "prod",
        (np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0], [2.0, 3.0, 4.0]]),),
        lambda x: torch.prod(x, 1),
        {"axes": (1,)},
    ),
    Row("mean", (normal(3, 4),), lambda x: torch.mean(x, 0), {"axes": (0,)}),
    Row("mean", (normal(0, 4),), lambda x: torch.mean(x, 0), {"axes": (0,)}),
    Row("var", (normal(3, 4),), lambda x: torch.var(x, 1), {"axes": (1,), "correction": 1}),
    Row("var", (normal(1, 4),), lambda x: torch.var(x, 0), {"axes": (0,), "correction": 1}),
    Row("softmax", (normal(3, 4),), lambda x: torch.softmax(x, 1), {"axis": 1}),
    Row(
        "softmax",
        (np.array([[-INF, 0.0, 1.0], [-INF, -INF, -INF]]),),
        lambda x: torch.softmax(x, 1),
        {"axis": 1},
    ),
    Row("log_softmax", (normal(3, 4),), lambda x: torch.log_softmax(x, 0), {"axis": 0}),
    convolution((2, 3, 6, 7), (4, 3, 3, 3), padding=(1, 1)),
    convolution((1, 4, 9, 8), (6, 2, 3, 2), stride=(2, 3), padding=(1, 0), groups=2),
    convolution((1, 4, 9, 9), (4, 1, 3, 3), dilation=(2, 1), groups=4),
    image("max_pool2d", lambda x: F.max_pool2d(x, 2, return_indices=True), kernel=(2, 2), stride=(2, 2)),
    image(
        "max_pool2d",
        lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True, return_indices=True),
        kernel=(3, 2),
        stride=(2, 1),
        padding=(1, 0),
        dilation=(1, 2),
        ceil_mode=True,
    ),
    Row(
        "max_pool2d",
        (np.array([[[[1.0, NAN, 2.0, 2.0], [NAN, 0.0, 2.0, 2.0], [-INF] * 4, [-INF] * 4]]]),),
        lambda x: F.max_pool2d(x, 2, return_indices=True),
        {"kernel": (2, 2), "stride": (2, 2)},
        gradient=False,
    ),
    image(
        "max_pool2d_values",
        lambda x: F.max_pool2d(x, 3, 2, 1),
        kernel=(3, 3),
        stride=(2, 2),
        padding=(1, 1),
    ),
    image("avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1), kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    image(
        "avg_pool2d",
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        (1, 2, 8, 8),
        kernel=(3, 3),
        stride=(2, 2),
        padding=(1, 1),
        ceil_mode=True,
        count_include_pad=False,
    ),
    image(
        "avg_pool2d",
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        (1, 2, 8, 8),
        kernel=(3, 3),
        stride=(2, 2),
        padding=(1, 1),
        ceil_mode=True,
    ),
    image(
        "avg_pool2d",
        lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        kernel=(2, 2),
        stride=(2, 2),
        divisor_override=3,
    ),
    *(
        classes(weighted, reduction=reduction, ignore_index=ignore, label_smoothing=smoothing)
        for weighted in (False, True)
        for reduction in ("none", "mean", "sum")
        for ignore in (-100, 1)
        for smoothing in (0.0, 0.2)
    ),
    loss(
        "cross_entropy", F.cross_entropy, normal(2, 5, 3), np.array([[0, 1, 4], [2, 2, 3]]), reduction="mean"
    ),
    loss("cross_entropy", F.cross_entropy, normal(0, 5), np.zeros(0, np.int64), reduction="mean"),
    loss("cross_entropy", F.cross_entropy, LOGITS, np.full(4, -100), reduction="mean"),
    loss("nll_loss", F.nll_loss, LOGITS, TARGET, reduction="mean"),
    *(loss("mse_loss", F.mse_loss, normal(3, 4), normal(3, 4), reduction=r) for r in ("none", "mean", "sum")),
    *(loss("l1_loss", F.l1_loss, normal(3, 4), normal(3, 4), reduction=r) for r in ("none", "mean", "sum")),
    loss(
        "bce_with_logits",
        F.binary_cross_entropy_with_logits,
        normal(3, 4) * 30,
        RNG.random((3, 4)),
        reduction="mean",
    ),
    Row(
        "bce_with_logits",
        (normal(3, 4), RNG.random((3, 4)), np.abs(normal(3, 4))),
        lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, pos_weight=w.detach()),
        {"reduction": "mean"},
    ),
    Row(
        "layer_norm",
        (normal(3, 4, 5), normal(4, 5), normal(4, 5)),
        lambda x, w, b: F.layer_norm(x, (4, 5), w, b),
        {"rank": 2},
    ),
    Row("layer_norm", (normal(3, 5),), lambda x: F.layer_norm(x, (5,)), {"rank": 1}),
    Row(
        "batch_norm",
        (normal(4, 3, 2, 2), normal(3), normal(3)),
        lambda x, w, b: (
            F.batch_norm(x, None, None, w, b, True),
            x.mean((0, 2, 3)),
            x.var((0, 2, 3), correction=0),
        ),
    ),
    Row(
        "batch_norm_inference",
        (normal(4, 3, 2), normal(3), np.abs(normal(3)), normal(3), normal(3)),
        lambda x, m, v, w, b: F.batch_norm(x, m.detach(), v.detach(), w, b),
        gradient=False,
    ),
    Row("linear", (normal(2, 3, 5), normal(4, 5), normal(4)), F.linear),
    Row(
        "embedding",
        (normal(6, 3), np.array([[0, 5], [2, 2]])),
        lambda w, i: F.embedding(i, w, 2),
        {"padding_idx": 2},
    ),
    Row(
        "gather", (normal(3, 5), RNG.integers(0, 5, (2, 4))), lambda x, i: torch.gather(x, 1, i), {"axis": 1}
    ),
    Row(
        "scatter_add",
        (normal(3, 5), RNG.integers(0, 3, (4, 5)), normal(4, 5)),
        lambda x, i, s: torch.scatter_add(x, 0, i, s),
        {"axis": 0},
    ),
    Row("take", (normal(6, 3), np.array([1, 1, 5])), lambda x, i: torch.index_select(x, 0, i), {"axis": 0}),
    Row(
        "take_add",
        (normal(6, 3), np.array([1, 1, 5]), normal(3, 3)),
        lambda x, i, s: torch.index_add(x, 0, i, s),
        {"axis": 0},
    ),
    Row("flip", (normal(3, 4),), lambda x: torch.flip(x, (1,)), {"axes": (1,)}),
    Row(
        "pad",
        (normal(3, 4),),
        lambda x: F.pad(x, (2, -1, -1, 1), value=3.0),
        {"low": (-1, 2), "high": (1, -1), "value": 3.0},
    ),
    Row("concat", (normal(2, 3), normal(4, 3)), lambda *x: torch.cat(x), {"axis": 0}),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("row", ROWS, ids=[f"{i}-{r.op}" for i, r in enumerate(ROWS)])
def test_parity(row: Row, dtype: Any) -> None:
    """Results, and gradients where the row says so, are PyTorch's."""
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in map(np.asarray, row.operands)]
    graph = Graph()
    inputs = [graph.add_input(TensorType(dtype_of(a.dtype), a.shape)) for a in arrays]
    op = Builder(graph).create(REGISTRY[row.op], inputs, **row.attrs)
    theirs = [torch.tensor(a, requires_grad=row.gradient and a.dtype.kind == "f") for a in arrays]
    expected = row.expected(*theirs)
    expected = list(expected) if isinstance(expected, tuple) else [expected]
    graph.outputs = list(op.results)
    for ours, other in zip(interpreter.run(graph, *arrays), expected, strict=True):
        # Integer results of PyTorch may be of another integer type; the values count.
        torch.testing.assert_close(
            torch.tensor(ours.copy()),
            other.detach(),
            equal_nan=True,
            msg=lambda m: f"{row.op} {row.attrs}: {m}",
        )
    floats = [i for i, r in enumerate(expected) if r.requires_grad]
    if not floats:
        return
    drawn = [np.asarray(RNG.standard_normal(tuple(expected[i].shape))).astype(dtype) for i in floats]
    cotangents = [graph.add_input(op.results[i].type) for i in floats]
    wrt = [i for i, t in enumerate(theirs) if t.requires_grad]
    found = differentiate(graph, [op.results[i] for i in floats], cotangents, [graph.inputs[i] for i in wrt])
    graph.outputs = [v for v in found if v is not None]
    ours = iter(interpreter.run(graph, *arrays, *drawn))
    gradients = torch.autograd.grad(
        [expected[i] for i in floats],
        [theirs[i] for i in wrt],
        [torch.tensor(c) for c in drawn],
        allow_unused=True,
    )
    for value, gradient, i in zip(found, gradients, wrt, strict=True):
        mine = np.zeros_like(arrays[i]) if value is None else next(ours)
        other = torch.zeros_like(theirs[i]) if gradient is None else gradient
        torch.testing.assert_close(
            torch.tensor(mine.copy()),
            other,
            equal_nan=True,
            msg=lambda m: f"{row.op} {row.attrs} gradient: {m}",
        )
