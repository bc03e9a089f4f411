"""The tables of the parity tests: functions, Modules, losses and optimisers, one line each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tests.api.parity import Data, ModuleRow, OptimiserRow, bools, double, ints, normal, positive, row, unit

__all__ = ["FUNCTIONS", "LOSSES", "MODULES", "OPTIMISERS"]

HALF, BYTE, SHORT, DOUBLE = np.float16, np.uint8, np.int16, np.float64

_UNARY_FLOAT = [
    "exp",
    "expm1",
    "tanh",
    "sigmoid",
    "erf",
    "sin",
    "cos",
    "square",
    "neg",
    "abs",
    "relu",
    "tan",
    "sinh",
    "cosh",
    "exp2",
    "reciprocal",
]
_UNARY_POSITIVE = ["log", "log1p", "log2", "log10", "sqrt", "rsqrt"]
_UNARY_FLAT = ["sign", "floor", "ceil", "trunc", "round", "frac", "isnan", "isinf", "isfinite", "logical_not"]
_BINARY = ["add", "sub", "mul", "div", "minimum", "maximum", "remainder", "fmod"]
_COMPARE = ["eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"]
_REDUCE = ["sum", "mean", "amax", "amin", "var", "std", "logsumexp", "norm"]


def _named(name: str) -> Any:
    return lambda t, *x: getattr(t, name)(*x)


def _method(name: str, *args: Any, **kwargs: Any) -> Any:
    return lambda t, x: getattr(x, name)(*args, **kwargs)


def _in_place(t: Any, x: Any, name: str, *args: Any) -> Any:
    y = x * 1
    assert getattr(y, name + "_")(*args) is y
    return y


# fmt: off
FUNCTIONS = [
    *[row(n, _named(n), (3, 5)) for n in _UNARY_FLOAT],
    *[row(n, _named(n), positive(3, 5)) for n in _UNARY_POSITIVE],
    *[row(n, _named(n), (3, 5)) for n in _UNARY_FLAT],
    *[row(f"{n} of integers", _named(n), ints(3, 5, low=1)) for n in ("exp", "sqrt", "sigmoid", "neg", "abs", "sign", "floor", "round", "square", "isnan", "relu")],
    *[row(n, _named(n), (3, 5), positive(3, 5)) for n in _BINARY],
    *[row(f"{n} broadcast", _named(n), (3, 1), positive(5)) for n in _BINARY],
    *[row(f"{n} of integers", _named(n), ints(3, 5), ints(3, 5, low=1)) for n in _BINARY],
    *[row(n, _named(n), (3, 5), (3, 5)) for n in _COMPARE],
    *[row(f"{n} promoted", _named(n), (3, 5), ints(5)) for n in _COMPARE],
    row("add alpha", lambda t, x, y: t.add(x, y, alpha=2.5), (3, 5), (3, 5)),
    row("sub alpha", lambda t, x, y: x.sub(y, alpha=2), (3, 5), (5,)),
    row("rsub number", lambda t, x: 2 - x, (3, 5)),
    row("operators with numbers", lambda t, x: (x + 1, 1 + x, x - 2, 3 * x, x / 2, 1.5 / x, x**2, -x, abs(x), +x), (3, 5)),
    row("operators of integers", lambda t, x: (x + 1, x * 2.5, x / 2, x // 3, x % 3, x**2, 7 // x, 7 % x, -x), ints(3, 5, low=1)),
    row("integers with a negative divisor", lambda t, x: (x // -3, x % -3, t.div(x, -3, rounding_mode="trunc"), t.fmod(x, -3)), ints(3, 5, low=-9)),
    row("bool arithmetic", lambda t, x, y: (x + y, x * y, x & y, x | y, x ^ y, ~x, x + 1, x * 1.5), bools(3, 5), bools(3, 5)),
    row("bitwise", lambda t, x, y: (x & y, x | y, x ^ y, ~x, x << 2, x >> 1), ints(3, 5), ints(3, 5)),
    row("div floor", lambda t, x, y: t.div(x, y, rounding_mode="floor"), (3, 5), positive(3, 5)),
    row("div trunc", lambda t, x, y: t.div(x, y, rounding_mode="trunc"), (3, 5), positive(3, 5)),
    *[row(f"pow {e}", lambda t, x, e=e: x**e, positive(3, 5)) for e in (2, 3, 0.5, -0.5, -1, -2, 1.7, 0, 1)],
    row("pow tensor", lambda t, x, y: t.pow(x, y), positive(3, 5), (3, 5)),
    row("pow of a number", lambda t, x: 2**x, (3, 5)),
    row("where", lambda t, c, x, y: t.where(c, x, y), bools(3, 5), (3, 5), (5,)),
    row("where numbers", lambda t, c, x: (t.where(c, x, 0.0), t.where(c, 1, x), t.where(c, 1, 0)), bools(3, 5), (3, 5)),
    row("masked_fill", lambda t, x, m: x.masked_fill(m, -1.5), (3, 5), bools(5)),
    row("clamp", lambda t, x: (x.clamp(-0.5, 0.5), x.clamp(min=0), x.clamp(max=0.3), t.clamp(x, -0.5)), (3, 5)),
    row("clamp tensors", lambda t, x, y: t.clamp(x, min=y), (3, 5), (5,)),
    row("clamp integers", lambda t, x: (x.clamp(2, 7), x.clamp(min=4)), ints(3, 5)),
    row("lerp addcmul addcdiv", lambda t, x, y, z: (t.lerp(x, y, 0.3), t.addcmul(x, y, z, value=0.5), t.addcdiv(x, y, z, value=2)), (3, 5), (3, 5), positive(3, 5)),
    row("nan_to_num", lambda t, x: t.nan_to_num(t.log(x)), (3, 5)),
    row("isclose allclose equal", lambda t, x: (t.isclose(x, x + 1e-9), t.allclose(x, x), t.equal(x, x), t.equal(x, x + 1)), (3, 5), grad=False),
    *[row(n, lambda t, x, n=n: getattr(t, n)(x) if n != "logsumexp" else t.logsumexp(x, (0, 1)), (3, 5)) for n in _REDUCE],
    *[row(f"{n} dim", lambda t, x, n=n: (getattr(x, n)(dim=1), getattr(x, n)(dim=-2, keepdim=True)), (3, 5)) for n in _REDUCE],
    row("sum of several dims", lambda t, x: (x.sum((0, 2)), x.mean((-1, 0), keepdim=True), x.sum(dim=[])), (2, 3, 4)),
    row("prod", lambda t, x: (x.prod(), x.prod(1), x.prod(0, keepdim=True)), (3, 5)),
    row("sum prod of integers", lambda t, x: (x.sum(), x.prod(1), x.sum(dtype=t.float64)), ints(3, 5, low=1, dtype=np.int32)),
    row("all any", lambda t, x: (x.all(), x.any(), x.all(1), x.any(0, keepdim=True), t.all(x.float())), bools(3, 5)),
    row("max min", lambda t, x: (x.max(), x.min(), x.max(1), x.min(0, keepdim=True), t.max(x, dim=-1)), (3, 5)),
    row("max of two", lambda t, x, y: (t.max(x, y), t.min(x, y)), (3, 5), (3, 5)),
    row("max min of integers", lambda t, x: (x.max(), x.min(), x.max(1), x.min(0)), ints(3, 50, high=1000)),
    row("argmax argmin", lambda t, x: (x.argmax(), x.argmin(1), t.argmax(x, dim=0, keepdim=True)), (3, 5)),
    row("var std unbiased", lambda t, x: (x.var(unbiased=False), x.std(0, unbiased=False), x.var(1, correction=0), t.var_mean(x, 1), t.std_mean(x)), (3, 5)),
    row("norms", lambda t, x: (x.norm(), x.norm(1), x.norm(p=3, dim=1), x.norm(math.inf), x.norm(dim=0, keepdim=True)), (3, 5)),
    row("softmax log_softmax", lambda t, x: (t.softmax(x, 1), x.softmax(-2), t.log_softmax(x, dim=0)), (3, 5)),
    row("cumsum count_nonzero", lambda t, x: (x.cumsum(1), x.cumsum(0), t.count_nonzero(x > 0)), (3, 5)),
    row("reductions of nothing", lambda t, x: (x.sum(), x.sum(1), x.mean(), x.prod(0), x.all()), (0, 5)),
    row("reshape view flatten", lambda t, x: (x.reshape(6, 4), x.view(2, -1), x.flatten(1), t.flatten(x), x.ravel(), x.unflatten(2, (2, 2))), (2, 3, 4)),
    row("squeeze unsqueeze", lambda t, x: (x.squeeze(), x.squeeze(0), x.squeeze(1), x.unsqueeze(0), t.unsqueeze(x, -1)), (1, 3, 1, 4)),
    row("transpose permute", lambda t, x: (x.transpose(0, 2), x.permute(2, 0, 1), t.permute(x, (1, 2, 0)), x.mT, x.movedim(0, -1)), (2, 3, 4)),
    row("T t", lambda t, x: (x.T, x.t(), x.T.contiguous(), x.T.reshape(-1)), (3, 5)),
    row("expand broadcast_to", lambda t, x: (x.expand(4, 3, 5), x.expand(-1, 3, 5), t.broadcast_to(x, (2, 1, 3, 5))), (1, 1, 5)),
    row("cat stack", lambda t, x, y: (t.cat((x, y)), t.cat([x, y], dim=1), t.stack([x, y]), t.stack((x, y), -1), t.hstack((x, y)), t.vstack((x, y))), (3, 5), (3, 5)),
    row("cat promoted", lambda t, x, y: t.cat((x, y), 0), (2, 5), ints(3, 5)),
    row("split chunk unbind", lambda t, x: (x.split(2), x.split([1, 4], 1), t.chunk(x, 2, 1), x.unbind(1)), (3, 5)),
    row("flip roll", lambda t, x: (x.flip(0), t.flip(x, (0, 1)), x.roll(2, 1), t.roll(x, 3)), (3, 5)),
    row("repeat tile", lambda t, x: (x.repeat(2, 1, 3), t.tile(x, (2,)), x.repeat_interleave(2, 1), t.repeat_interleave(x, 3)), (2, 3)),
    row("narrow select", lambda t, x: (x.narrow(1, 1, 3), x.select(0, -1), t.select(x, 1, 2)), (3, 5)),
    row("tril triu diag", lambda t, x: (x.tril(), t.triu(x, 1), x.tril(-1), t.diag(x), t.diag(x[0], 1), t.diagonal(x, 1)), (4, 5)),
    row("meshgrid", lambda t, x, y: (t.meshgrid(x, y, indexing="ij"), t.meshgrid(x, y, indexing="xy")), (3,), (4,)),
    row("index basic", lambda t, x: (x[0], x[-1, 1], x[1:], x[:, ::2], x[..., -1], x[None, 1], x[:, None], x[1:2, 1:3], x[:, -2:]), (3, 5)),
    row("index tensors", lambda t, x, i: (x[i], x[:, i % 4], x[i, i % 4], x[i, :, i % 2], x[[0, 2]], x[i[0]], x[i.reshape(2, 2)], x[-i]), (3, 4, 2), ints(4, high=3)),
    row("index masks", lambda t, x, m: (x[m], x[m, 1:], x[x > 0], x[:, t.tensor([True, False, True])]), (4, 3), bools(4)),
    row("index_select gather take", lambda t, x, i: (x.index_select(0, i), x.index_select(1, i), x.gather(0, i[None].expand(2, 4)), x.gather(1, t.stack([i, i])), t.take(x, i), t.take_along_dim(x, i[None], 1)), (5, 5), ints(4, high=5)),
    row("scatter_add index_add", lambda t, x, i, s: (x.scatter_add(0, i, s), t.zeros(4, 5).index_add(0, i[:, 0], s)), (4, 5), ints(3, 5, high=4), (3, 5)),
    row("scatter", lambda t, x, s: (x.scatter(1, t.tensor([[0, 2], [3, 1]]), s), x.scatter(0, t.tensor([[1, 0]]), 7.0)), (3, 4), (2, 2)),
    row("setitem", lambda t, x, y: _written(t, x, y), (3, 5), (5,)),
    row("setitem tensors", lambda t, x, y: _written_at(t, x, y), (4, 3), (2, 3)),
    row("matmul", lambda t, x, y: (x @ y, t.mm(x, y), x.matmul(y)), (3, 5), (5, 4)),
    row("matmul vectors", lambda t, x, y, z: (x @ y, y @ z, z @ y.T if False else y.T @ z, t.dot(y[0], y[0]), t.mv(x, y[:, 0]), t.outer(z, y[0])), (3, 5), (5, 5), (5,)),
    row("matmul batches", lambda t, x, y: (x @ y, t.bmm(x, y), x @ y[0], x[0] @ y, y.mT @ x.mT), (2, 3, 5), (2, 5, 4)),
    row("matmul broadcast", lambda t, x, y: x @ y, (2, 1, 3, 5), (4, 5, 2)),
    row("matmul float64", lambda t, x, y: x @ y, double(3, 5), double(5, 4)),
    row("addmm baddbmm", lambda t, x, y, z: (t.addmm(x, y, z), t.addmm(x, y, z, beta=0.5, alpha=2)), (4,), (3, 5), (5, 4)),
    row("tensordot einsum", lambda t, x, y: (t.tensordot(x, y, 2), t.einsum("abc,bcd->ad", x, y), t.einsum("abc,bce->eb", x, y)), (2, 3, 4), (3, 4, 5)),
    row("casts", lambda t, x: (x.double(), x.half(), x.bfloat16(), x.long(), x.int(), x.bool(), x.to(t.float64), x.to(t.float16).float()), (3, 5)),
    row("half arithmetic", lambda t, x, y: (x + y, x * 2, x @ y.T, x.sum(1), x.softmax(1)), normal(3, 5, dtype=HALF), normal(3, 5, dtype=HALF)),
    row("promotion", lambda t, x, y, z: (x + y, y + z, x * z, x + 1, y + 1.5, z + 1, y * True), (3, 5), ints(3, 5, dtype=BYTE), ints(3, 5, dtype=SHORT, low=-5)),
    row("promotion with rank 0", lambda t, x, y: (x + y, y + x[0, 0].double(), x.half() + y, y.int() * t.tensor(2.5)), (3, 5), replace(double(), grad=False)),
    row("float64", lambda t, x: (x.exp(), x.sin(), x.tanh(), x.sum(), x + 1, x.erf()), double(3, 5)),
    row("zeros ones full", lambda t: (t.zeros(2, 3), t.ones((2,)), t.full((2, 2), 7), t.full((2,), 1.5), t.zeros(0), t.ones(2, dtype=t.int32), t.zeros(())), grad=False),
    row("likes", lambda t, x: (t.zeros_like(x), t.ones_like(x, dtype=t.long), t.full_like(x, 2), x.new_zeros(2), x.new_full((1,), 3), x.new_tensor([1, 2])), (3, 5), grad=False),
    row("arange linspace eye", lambda t: (t.arange(5), t.arange(1, 9, 3), t.arange(0, 1, 0.25), t.arange(5, 0, -2), t.linspace(0, 1, 7), t.linspace(-2, 3, 4, dtype=t.float64), t.eye(3), t.eye(2, 4)), grad=False),
    row("tensor", lambda t: (t.tensor(1), t.tensor(2.5), t.tensor(True), t.tensor([[1, 2], [3, 4]]), t.tensor([1.0, 2]), t.tensor([]), t.tensor([1, 2], dtype=t.float16), t.as_tensor([True, False])), grad=False),
    row("facts", lambda t, x: (x.dim(), x.ndim, x.numel(), tuple(x.shape), x.size(1), x.element_size(), x.is_floating_point(), x.stride(), x.T.stride(), x.T.is_contiguous(), len(x), x[:, 0].is_contiguous()), (3, 5), grad=False),
    row("python numbers", lambda t, x: (x.sum().item() == x.sum().item(), x.tolist() == x.tolist(), bool(x[0, 0] != 0), int(t.tensor(3.7)), float(t.tensor(2))), (3, 5), grad=False),
    *[row(f"{n}_", lambda t, x, n=n: _in_place(t, x, n), positive(3, 5)) for n in ("exp", "sqrt", "neg", "abs", "log", "sigmoid", "tanh", "relu", "floor")],
    *[row(f"{n}_", lambda t, x, y, n=n: _in_place(t, x, n, y), positive(3, 5), positive(5)) for n in ("add", "sub", "mul", "div", "pow")],
    # Overwritten values: PyTorch gives their old value a gradient of zeros, graphc none.
    *[row(f"{n}_", lambda t, x, y, n=n: _in_place(t, x, n, y), (3, 5), (5,), grad=False) for n in ("copy", "lt", "ge", "eq")],
    row("copy_ gradient", lambda t, x, y: _in_place(t, x.detach(), "copy", y), (3, 5), (5,)),
    row("views in place", lambda t, x: [f(x * 1) for f in (lambda y: y.t_(), lambda y: y.unsqueeze_(1), lambda y: y.unsqueeze_(0).squeeze_(), lambda y: y.transpose_(0, 1).mul_(2))], (3, 5)),
    row("fill_diagonal_", lambda t, x: (x * 1).fill_diagonal_(7), (4, 4)),
    row("zero_", lambda t, x: _in_place(t, x, "zero"), (3, 5), grad=False),
    row("in place with numbers", lambda t, x: (_in_place(t, x, "add", 1), _in_place(t, x, "fill", 2), _in_place(t, x, "clamp", 0, 1), _in_place(t, x, "mul", 3)), (3, 5)),
    row("in place through views", lambda t, x: _through_views(t, x), (3, 4)),
    row("augmented assignment", lambda t, x, y: _augmented(t, x, y), (3, 5), positive(3, 5)),
    row("retained views", lambda t, x: _view_of_view(t, x), (2, 6)),
    row("Tensor.type", lambda t, x: (x.type(t.float64), x.type("torch.LongTensor"), (x > 0).type(t.float).sum(), x.type().split(".")[1]), (3, 5)),
    row("Python's types as dtypes", lambda t, x: (x.to(int), x.to(float), t.ones(2, dtype=float), t.zeros(2, dtype=int), t.tensor([1, 0], dtype=bool), t.full((2,), 3, dtype=float), t.arange(3, dtype=float)), (3, 5)),
    row("div by a number", lambda t, x: (x / -1, -1 / (x + 1), x / 300), ints(3, 5, dtype=BYTE)),
    row("F.linear", lambda t, x, w, b: (t.nn.functional.linear(x, w, b), t.nn.functional.linear(x, w)), (2, 3, 5), (4, 5), (4,)),
    row("F.pad", lambda t, x: (t.nn.functional.pad(x, (1, 2)), t.nn.functional.pad(x, (0, 1, 2, 0), value=1.5), t.nn.functional.pad(x, (-1, 1))), (3, 5)),
    row("F.pad modes", lambda t, x: (t.nn.functional.pad(x, (1, 2), mode="reflect"), t.nn.functional.pad(x, (1, 2), mode="replicate"), t.nn.functional.pad(x, (2, 1), mode="circular")), (2, 3, 5)),
    row("F.one_hot", lambda t, x: (t.nn.functional.one_hot(x, 10), t.nn.functional.one_hot(x)), ints(3, 4)),
    row("F.normalize cosine", lambda t, x, y: (t.nn.functional.normalize(x), t.nn.functional.cosine_similarity(x, y)), (3, 5), (3, 5)),
    row("F.conv2d", lambda t, x, w, b: (t.nn.functional.conv2d(x, w, b, stride=2, padding=1), t.nn.functional.conv2d(x, w, padding="same")), (2, 3, 6, 7), (4, 3, 3, 3), (4,)),
    row("F.conv1d", lambda t, x, w, b: t.nn.functional.conv1d(x, w, b, padding=1), (2, 3, 7), (4, 3, 3), (4,)),
    row("F.attention with a mask, repeated heads", lambda t, q, k, v, m, b: (t.nn.functional.scaled_dot_product_attention(q, k, v, m, scale=0.3, enable_gqa=True), t.nn.functional.scaled_dot_product_attention(q, k, v, b > 0, enable_gqa=True)), (2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 8), (5, 7), bools(2, 1, 5, 7)),
    row("F.attention", lambda t, q, k, v: (t.nn.functional.scaled_dot_product_attention(q, k, v), t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)), (2, 2, 4, 8), (2, 2, 4, 8), (2, 2, 4, 8)),
    row("F.max_pool2d indices", lambda t, x: t.nn.functional.max_pool2d(x, 2, return_indices=True), (2, 3, 6, 6)),
    row("F.avg_pool2d", lambda t, x: (t.nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False), t.nn.functional.avg_pool2d(x, 2, divisor_override=3), t.nn.functional.adaptive_avg_pool2d(x, (2, 3))), (2, 3, 6, 6)),
    row("F.elu softplus logsigmoid", lambda t, x: (t.nn.functional.elu(x), t.nn.functional.softplus(x), t.nn.functional.logsigmoid(x), t.nn.functional.hardtanh(x), t.nn.functional.mish(x), t.nn.functional.hardswish(x), t.nn.functional.softsign(x), t.nn.functional.selu(x)), (3, 5)),
    row("clip_grad_norm_", lambda t, x: _clipped(t, x), (3, 5)),
]
# fmt: on


def _written(t: Any, x: Any, y: Any) -> Any:
    z = x * 1
    z[0] = 2.5
    z[1, 1:3] = y[:2] * 2
    z[:, -1] = 0
    z[2:, ::2] += 1
    return z


def _written_at(t: Any, x: Any, y: Any) -> Any:
    z = x * 1
    z[t.tensor([1, 3])] = y
    w = x * 1
    w[w > 0.5] = -1.0
    w[t.tensor([0, 2]), 1] = 5.0
    v = x * 1
    v[t.tensor([True, False, False, True])] = y
    return z, w, v


def _through_views(t: Any, x: Any) -> Any:
    z = x * 1
    z.view(-1)[1:3].mul_(2)
    z.t()[0].add_(1)
    z[1].copy_(t.arange(4.0))
    z.select(1, 2).zero_()
    return z


def _augmented(t: Any, x: Any, y: Any) -> Any:
    z = x * 1
    z += y
    z *= 2
    z -= 1
    z /= y
    return z


def _view_of_view(t: Any, x: Any) -> Any:
    base = x * 1
    view = base.view(3, 4)[1:].t()
    base[0].add_(10)
    return view, view.reshape(-1), view[2]


def _clipped(t: Any, x: Any) -> Any:
    p = t.nn.Parameter(x.detach().clone())
    (p * p).sum().backward()
    total = t.nn.utils.clip_grad_norm_([p], 1.0)
    return total, p.grad


# fmt: off
MODULES = [
    ModuleRow("Linear", lambda t: t.nn.Linear(5, 4), ((3, 5),)),
    ModuleRow("Linear without bias", lambda t: t.nn.Linear(5, 4, bias=False), ((2, 3, 5),)),
    ModuleRow("Conv2d", lambda t: t.nn.Conv2d(3, 4, 3, padding=1), ((2, 3, 6, 5),)),
    ModuleRow("Conv2d strided", lambda t: t.nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2, bias=False), ((2, 4, 7, 6),)),
    ModuleRow("Conv2d reflect", lambda t: t.nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), ((1, 2, 5, 5),)),
    ModuleRow("MaxPool2d", lambda t: t.nn.MaxPool2d(2), ((2, 3, 6, 6),)),
    ModuleRow("MaxPool2d padded", lambda t: t.nn.MaxPool2d(3, stride=2, padding=1), ((2, 3, 7, 6),)),
    ModuleRow("AvgPool2d", lambda t: t.nn.AvgPool2d(2, stride=1, padding=1), ((2, 3, 6, 6),)),
    ModuleRow("BatchNorm1d", lambda t: t.nn.BatchNorm1d(5), ((8, 5),)),
    ModuleRow("BatchNorm1d sequences", lambda t: t.nn.BatchNorm1d(3, momentum=None), ((4, 3, 5),)),
    ModuleRow("BatchNorm2d", lambda t: t.nn.BatchNorm2d(3), ((4, 3, 5, 4),)),
    ModuleRow("BatchNorm2d plain", lambda t: t.nn.BatchNorm2d(3, affine=False, track_running_stats=False), ((4, 3, 5, 4),)),
    ModuleRow("LayerNorm", lambda t: t.nn.LayerNorm(5), ((4, 5),)),
    ModuleRow("LayerNorm several dims", lambda t: t.nn.LayerNorm((3, 5), elementwise_affine=False), ((2, 3, 5),)),
    ModuleRow("Dropout in evaluation", lambda t: t.nn.Dropout(0.5), ((4, 5),), modes=(False,)),
    ModuleRow("Dropout of 0 and 1", lambda t: t.nn.Sequential(t.nn.Dropout(0.0), t.nn.Linear(5, 2), t.nn.Dropout(1.0)), ((4, 5),)),
    ModuleRow("Embedding", lambda t: t.nn.Embedding(10, 4), (ints(3, 5),)),
    ModuleRow("Embedding padding", lambda t: t.nn.Embedding(10, 4, padding_idx=-1), (ints(3, 5),)),
    ModuleRow("MultiheadAttention", lambda t: t.nn.MultiheadAttention(8, 2), ((5, 3, 8), (7, 3, 8), (7, 3, 8))),
    ModuleRow("MultiheadAttention with padding", lambda t: t.nn.MultiheadAttention(8, 4, bias=False, kdim=6, vdim=5, batch_first=True), ((3, 5, 8), (3, 7, 6), (3, 7, 5), Data((3, 7), lambda rng, s: np.arange(7) > rng.integers(1, 7, (3, 1))))),
    ModuleRow("MultiheadAttention of one sequence", lambda t: t.nn.MultiheadAttention(6, 1), ((5, 6), (5, 6), (5, 6))),
    ModuleRow("Flatten", lambda t: t.nn.Flatten(), ((2, 3, 4),)),
    ModuleRow("Unflatten", lambda t: t.nn.Unflatten(1, (2, 3)), ((4, 6),)),
    ModuleRow("Identity", lambda t: t.nn.Identity(3, unused=1), ((2, 3),)),
    ModuleRow("ReLU", lambda t: t.nn.ReLU(), ((3, 5),)),
    ModuleRow("ReLU in place", lambda t: t.nn.Sequential(t.nn.Linear(5, 4), t.nn.ReLU(inplace=True)), ((3, 5),)),
    ModuleRow("LeakyReLU", lambda t: t.nn.LeakyReLU(0.2), ((3, 5),)),
    ModuleRow("GELU", lambda t: t.nn.GELU(), ((3, 5),)),
    ModuleRow("GELU tanh", lambda t: t.nn.GELU(approximate="tanh"), ((3, 5),)),
    ModuleRow("SiLU", lambda t: t.nn.SiLU(), ((3, 5),)),
    ModuleRow("Sigmoid", lambda t: t.nn.Sigmoid(), ((3, 5),)),
    ModuleRow("Tanh", lambda t: t.nn.Tanh(), ((3, 5),)),
    ModuleRow("Softmax", lambda t: t.nn.Softmax(dim=1), ((3, 5),)),
    ModuleRow("LogSoftmax", lambda t: t.nn.LogSoftmax(dim=-1), ((3, 5),)),
    ModuleRow("ELU Softplus PReLU", lambda t: t.nn.Sequential(t.nn.ELU(), t.nn.Softplus(), t.nn.PReLU()), ((3, 5),)),
    ModuleRow("Sequential", lambda t: t.nn.Sequential(t.nn.Linear(5, 8), t.nn.ReLU(), t.nn.Linear(8, 2)), ((3, 5),)),
    ModuleRow("ModuleList", lambda t: _stack_of(t), ((3, 5),)),
    ModuleRow("Bilinear", lambda t: t.nn.Bilinear(3, 4, 2), ((5, 3), (5, 4))),
    ModuleRow("AdaptiveAvgPool2d", lambda t: t.nn.AdaptiveAvgPool2d(2), ((2, 3, 6, 4),)),
    ModuleRow("Conv1d", lambda t: t.nn.Conv1d(3, 4, 3, padding=1), ((2, 3, 7),)),
    ModuleRow("MLP with norms", lambda t: t.nn.Sequential(t.nn.Linear(6, 8), t.nn.BatchNorm1d(8), t.nn.GELU(), t.nn.LayerNorm(8), t.nn.Linear(8, 3)), ((7, 6),)),
    ModuleRow("CNN", lambda t: t.nn.Sequential(t.nn.Conv2d(1, 4, 3, padding=1), t.nn.ReLU(), t.nn.MaxPool2d(2), t.nn.Flatten(), t.nn.Linear(64, 3)), ((4, 1, 8, 8),)),
]
# fmt: on


def _stack_of(t: Any) -> Any:
    class Stack(t.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = t.nn.ModuleList([t.nn.Linear(5, 5) for _ in range(3)])
            self.scale = t.nn.Parameter(t.ones(1))
            self.register_buffer("shift", t.zeros(5))

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = t.tanh(layer(x))
            return x * self.scale + self.shift

    return Stack()


CLASS_WEIGHTS = replace(ints(10, low=1, high=5, dtype=np.float32), grad=False)

# fmt: off
LOSSES = [
    row("CrossEntropyLoss", lambda t, x, y: (t.nn.CrossEntropyLoss()(x, y), t.nn.CrossEntropyLoss(reduction="sum")(x, y), t.nn.CrossEntropyLoss(reduction="none")(x, y)), (6, 10), ints(6)),
    row("CrossEntropyLoss options", lambda t, x, y, w: (t.nn.CrossEntropyLoss(weight=w)(x, y), t.nn.CrossEntropyLoss(ignore_index=3)(x, y), t.nn.CrossEntropyLoss(label_smoothing=0.1)(x, y), t.nn.CrossEntropyLoss(w, label_smoothing=0.2, reduction="none")(x, y)), (6, 10), ints(6), CLASS_WEIGHTS),
    row("CrossEntropyLoss planes", lambda t, x, y: t.nn.functional.cross_entropy(x, y), (2, 5, 3, 4), ints(2, 3, 4, high=5)),
    row("CrossEntropyLoss probabilities", lambda t, x, y: (t.nn.functional.cross_entropy(x, y.softmax(1)), t.nn.functional.cross_entropy(x, y.softmax(1), label_smoothing=0.1, reduction="sum")), (6, 10), (6, 10)),
    row("CrossEntropyLoss of one", lambda t, x, y: t.nn.functional.cross_entropy(x, y), (10,), ints()),
    row("NLLLoss", lambda t, x, y, w: (t.nn.NLLLoss()(x.log_softmax(1), y), t.nn.NLLLoss(w, reduction="sum")(x, y), t.nn.NLLLoss(ignore_index=2, reduction="none")(x, y)), (6, 10), ints(6), CLASS_WEIGHTS),
    row("MSELoss", lambda t, x, y: (t.nn.MSELoss()(x, y), t.nn.MSELoss(reduction="sum")(x, y), t.nn.MSELoss(reduction="none")(x, y)), (3, 5), (3, 5)),
    row("L1Loss SmoothL1Loss HuberLoss", lambda t, x, y: (t.nn.L1Loss()(x, y), t.nn.SmoothL1Loss(beta=0.5)(x, y), t.nn.HuberLoss(delta=0.7)(x, y)), (3, 5), (3, 5)),
    row("BCEWithLogitsLoss", lambda t, x, y: (t.nn.BCEWithLogitsLoss()(x, y), t.nn.BCEWithLogitsLoss(reduction="sum")(x, y), t.nn.BCEWithLogitsLoss(reduction="none")(x, y)), (3, 5), unit(3, 5)),
    row("BCEWithLogitsLoss weights", lambda t, x, y, w: (t.nn.BCEWithLogitsLoss(pos_weight=w)(x, y), t.nn.BCEWithLogitsLoss(weight=w)(x, y)), (3, 10), ints(3, 10, high=2, dtype=np.float32), CLASS_WEIGHTS),
    row("BCELoss", lambda t, x, y: t.nn.BCELoss()(x, y), unit(3, 5), ints(3, 5, high=2, dtype=np.float32)),
    row("KLDivLoss", lambda t, x, y: (t.nn.KLDivLoss(reduction="batchmean")(x.log_softmax(1), y.softmax(1)), t.nn.functional.kl_div(x, y, log_target=True, reduction="sum")), (3, 5), (3, 5)),
]

OPTIMISERS = [
    OptimiserRow("SGD", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1)),
    OptimiserRow("SGD momentum", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)),
    OptimiserRow("SGD nesterov", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)),
    OptimiserRow("SGD weight decay", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.01, momentum=0.5)),
    OptimiserRow("SGD maximize", lambda t, net: t.optim.SGD(net.parameters(), lr=0.01, maximize=True)),
    OptimiserRow("SGD groups", lambda t, net: t.optim.SGD([{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.01}], lr=0.1)),
    OptimiserRow("Adam", lambda t, net: t.optim.Adam(net.parameters(), lr=0.01)),
    OptimiserRow("Adam options", lambda t, net: t.optim.Adam(net.parameters(), lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    OptimiserRow("Adam amsgrad", lambda t, net: t.optim.Adam(net.parameters(), lr=0.01, amsgrad=True)),
    OptimiserRow("AdamW", lambda t, net: t.optim.AdamW(net.parameters(), lr=0.01)),
    OptimiserRow("AdamW decay", lambda t, net: t.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.3, maximize=True)),
    OptimiserRow("StepLR", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1), lambda t, o: t.optim.lr_scheduler.StepLR(o, 3, 0.5)),
    OptimiserRow("ExponentialLR", lambda t, net: t.optim.Adam(net.parameters(), lr=0.01), lambda t, o: t.optim.lr_scheduler.ExponentialLR(o, 0.9)),
    OptimiserRow("CosineAnnealingLR", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1), lambda t, o: t.optim.lr_scheduler.CosineAnnealingLR(o, 4, 0.001)),
    OptimiserRow("LambdaLR", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1), lambda t, o: t.optim.lr_scheduler.LambdaLR(o, lambda e: 1 / (1 + e))),
    OptimiserRow("LinearLR", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1), lambda t, o: t.optim.lr_scheduler.LinearLR(o, 0.5, 1.0, 5)),
    OptimiserRow("MultiStepLR", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1), lambda t, o: t.optim.lr_scheduler.MultiStepLR(o, [2, 5])),
    OptimiserRow("OneCycleLR", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), lambda t, o: t.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=12)),
    OptimiserRow("OneCycleLR Adam", lambda t, net: t.optim.Adam(net.parameters(), lr=0.1), lambda t, o: t.optim.lr_scheduler.OneCycleLR(o, [0.02], epochs=2, steps_per_epoch=5, three_phase=True, anneal_strategy="linear")),
    OptimiserRow("OneCycleLR rates", lambda t, net: t.optim.SGD(net.parameters(), lr=0.1), lambda t, o: t.optim.lr_scheduler.OneCycleLR(o, 0.2, 20, cycle_momentum=False)),
]
# fmt: on
