"""Losses of two operands of one shape, reduced by "mean", "sum" or "none".

The loss is computed elementwise in the accumulator dtype and reduced there; a mean of nothing is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.families import FLOATS, Attrs, Composite, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import SHAPES, narrow, on_wide, size_value, widen
from graphc.ir.types import DTYPES, TensorType

__all__ = ["REDUCTIONS", "BceWithLogits", "L1Loss", "MseLoss", "check_reduction", "reduce_loss"]

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(name: str, attrs: Attrs) -> None:
    """Raises ValueError for a reduction that is none of `REDUCTIONS`."""
    if attrs["reduction"] not in REDUCTIONS:
        raise ValueError(
            f"{name}: {attrs['reduction']!r} is not a valid value for reduction; expected one of {REDUCTIONS}"
        )


def reduce_loss(b: Any, loss: Any, reduction: str) -> Any:
    """Elementwise losses reduced to rank 0, or as they are."""
    if reduction == "none":
        return loss
    return (b.mean if reduction == "mean" else b.sum)(loss, axes=tuple(range(loss.type.rank)))


class PairLoss(Composite):
    """Base: `elementwise` and its derivatives `slopes`; reduction and its derivative are here."""

    operand_names: ClassVar[tuple[str, ...]] = ("input", "target")
    attributes = {"reduction": "mean"}
    dtypes = FLOATS
    ulp = {"f16": 1, "bf16": 1, "f32": 12, "f64": 12}
    numpy: ClassVar[Callable[..., Any]]
    target_draw: ClassVar[str] = "normal"

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        check_reduction(cls.name, attrs)
        if any(t.dtype is not x.dtype for t in types):
            raise RuntimeError(f"{cls.name}: expected one dtype, got {', '.join(map(str, types))}")
        if x.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {x.dtype}')
        if any(t.shape != x.shape for t in types):
            raise ValueError(f"{cls.name}: operands must have one shape, got {', '.join(map(str, types))}")
        return (x if attrs["reduction"] == "none" else x.with_shape(()),)

    def elementwise(self, b: Any, *x: Any) -> Any:
        """The loss of each element, from operands in the accumulator dtype."""
        raise NotImplementedError

    def slopes(self, b: Any, *x: Any) -> Sequence[Any]:
        """Derivatives of `elementwise` by each operand; None where there is none."""
        raise NotImplementedError

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        loss = self.elementwise(b, *widen(b, *self.operands))
        result = narrow(b, reduce_loss(b, loss, self.attrs["reduction"]), self.operands[0])
        assert result is not None
        return result

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        assert cotangents[0] is not None
        g, *x = widen(b, cotangents[0], *self.operands)
        shape = x[0].type.shape
        if self.attrs["reduction"] == "mean":
            g = b.div(g, size_value(b, shape, g.type.dtype))
        g = b.broadcast_to(g, shape)
        return [
            narrow(b, None if s is None else b.mul(s, g), v)
            for s, v in zip(self.slopes(b, *x), self.operands, strict=True)
        ]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        function = cls.numpy

        def reduced(*x: Any) -> Any:
            loss = function(*x)
            total = loss.sum()
            if attrs["reduction"] == "mean":
                total = total / np.asarray(loss.size, total.dtype)
            return loss if attrs["reduction"] == "none" else total

        return on_wide(reduced, *arrays, precise=True)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for reduction in REDUCTIONS:
                for shape in SHAPES:
                    t = TensorType(DTYPES[name], shape)
                    yield Sample((t, t), {"reduction": reduction}, ("normal", cls.target_draw))


class MseLoss(PairLoss):
    """(input - target)²."""

    name = "mse_loss"
    numpy = staticmethod(lambda x, y: np.square(x - y))

    def elementwise(self, b: Any, *x: Any) -> Any:
        d = b.sub(x[0], x[1])
        return b.mul(d, d)

    def slopes(self, b: Any, *x: Any) -> Sequence[Any]:
        slope = b.mul(b.sub(x[0], x[1]), 2)
        return [slope, b.neg(slope)]


class L1Loss(PairLoss):
    """|input - target|; the derivative is 0 where they are equal."""

    name = "l1_loss"
    numpy = staticmethod(lambda x, y: np.abs(x - y))

    def elementwise(self, b: Any, *x: Any) -> Any:
        return b.abs(b.sub(x[0], x[1]))

    def slopes(self, b: Any, *x: Any) -> Sequence[Any]:
        slope = b.sign(b.sub(x[0], x[1]))
        return [slope, b.neg(slope)]


def _bce(x: Any, y: Any, *weight: Any) -> Any:
    scale = 1 + (weight[0] - 1) * y if weight else np.ones_like(y)
    return (1 - y) * x + scale * (np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0))


class BceWithLogits(PairLoss):
    """Binary cross entropy of sigmoid(input), stable: (1 - t)·x + (1 + (w - 1)·t)·log(1 + exp(-x)).

    `positive_weight` w (optional, of the operands' shape) weighs positive targets; it has no derivative.
    """

    name = "bce_with_logits"
    operand_names = ("input", "target", "positive_weight")
    no_gradient: ClassVar[Mapping[str, str]] = {"positive_weight": "a constant of the loss, as in PyTorch"}
    variadic = True
    numpy = staticmethod(_bce)
    target_draw = "unit"

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if len(types) > 3:
            raise TypeError(f"{cls.name}: expected at most one positive_weight, got {len(types) - 2}")
        return super().infer(types, attrs)

    @staticmethod
    def _scale(b: Any, *x: Any) -> Any:
        return b.add(b.mul(b.sub(x[2], 1), x[1]), 1) if len(x) > 2 else None

    def elementwise(self, b: Any, *x: Any) -> Any:
        softplus = b.add(b.log1p(b.exp(b.neg(b.abs(x[0])))), b.maximum(b.neg(x[0]), 0))
        scale = self._scale(b, *x)
        return b.add(b.mul(b.sub(1, x[1]), x[0]), softplus if scale is None else b.mul(scale, softplus))

    def slopes(self, b: Any, *x: Any) -> Sequence[Any]:
        if len(x) == 2:
            return [b.sub(b.sigmoid(x[0]), x[1]), b.neg(x[0])]
        # d softplus(-x)/dx = -sigmoid(-x)
        by_input = b.sub(b.sub(1, x[1]), b.mul(self._scale(b, *x), b.sigmoid(b.neg(x[0]))))
        softplus = b.add(b.log1p(b.exp(b.neg(b.abs(x[0])))), b.maximum(b.neg(x[0]), 0))
        return [by_input, b.sub(b.mul(b.sub(x[2], 1), softplus), x[0]), None]

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        # (1 - t)·x and the rest may cancel.
        x, y, *w = (a.astype(np.float64) for a in arrays)
        scale = np.abs(1 + (w[0] - 1) * y) if w else 1
        size = np.abs((1 - y) * x) + scale * (np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0))
        if attrs["reduction"] == "none":
            return size
        with np.errstate(all="ignore"):
            return size.mean() if attrs["reduction"] == "mean" and size.size else size.sum()

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for sample in super().samples():
            yield sample
            t = sample.operands[0]
            yield Sample((t, t, t), sample.attrs, ("normal", "unit", "positive"))
