"""Losses of class scores [N, C, …] against class numbers [N, …]: cross_entropy and nll_loss.

Rank-1 scores [C] have a rank-0 target. A target equal to `ignore_index` contributes nothing; any
other outside of [0, C) fails the call. `weight` (optional, [C]) weighs classes and has no derivative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.families import FLOATS, Attrs, Composite, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.composite.loss import REDUCTIONS, check_reduction
from graphc.ir.ops.composite.softmax import normalised, shifted_exponentials
from graphc.ir.ops.elementwise import narrow, on_wide, size_value, widen
from graphc.ir.types import DTYPES, TensorType, int64, uint8

__all__ = ["CrossEntropy", "NllLoss"]

TARGET_CHECK = "IndexError: Target {index} is out of bounds."


class ClassLoss(Composite):
    """Base: types, the choice of the target's score, weights and the reduction."""

    operand_names = ("input", "target", "weight")
    no_gradient: ClassVar[Mapping[str, str]] = {"weight": "a constant of the loss, as in PyTorch"}
    variadic = True
    dtypes = FLOATS
    ulp = {"f16": 1, "bf16": 1, "f32": 24, "f64": 24}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        check_reduction(cls.name, attrs)
        x, target = types[:2]
        axis = class_axis(x)
        if x.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {x.dtype}')
        if target.dtype not in (int64, uint8):
            raise RuntimeError(
                f"expected target dtype to be Long or Byte, but got {target.dtype} ({cls.name})"
            )
        if x.rank == 0:
            raise ValueError(f"{cls.name}: expected input of rank 1 or more, got {x}")
        if x.rank > 1 and target.rank and x.shape[0] != target.shape[0]:
            raise ValueError(
                f"Expected input batch_size ({x.shape[0]}) to match target batch_size ({target.shape[0]})."
            )
        expected = x.shape[:axis] + x.shape[axis + 1 :]
        if target.shape != expected:
            raise RuntimeError(
                f"Expected target size {list(expected)}, got {list(target.shape)} ({cls.name} of {x})"
            )
        if len(types) > 3 or (len(types) == 3 and types[2] != TensorType(x.dtype, (x.shape[axis],))):
            raise RuntimeError(
                f"{cls.name}: weight tensor should be defined either for all {x.shape[axis]} classes or no classes "
                f"but got weight {', '.join(map(str, types[2:]))}"
            )
        return (TensorType(x.dtype, expected if attrs["reduction"] == "none" else ()),)

    def pieces(self, b: Any, x: Any, weight: Any) -> tuple[Any, Any, Any, Any]:
        """(valid, safe target, weight of each sample, total weight).

        The weight of each sample is None where there is no class weight, the last None unless a mean.
        """
        target = b.cast_to(self.operands[1], int64)
        valid = b.ne(target, self.attrs["ignore_index"])
        safe = b.where(valid, target, 0)
        # Bounds are checked by the gather of the score; here an index out of range reads index 0.
        factor = None if weight is None else b.take(weight, safe, axis=0, check=None)
        total = None
        if self.attrs["reduction"] == "mean":
            counted = b.cast_to(valid, x.type.dtype) if factor is None else b.where(valid, factor, 0)
            total = b.sum(counted, axes=tuple(range(valid.type.rank)))
        return valid, safe, factor, total

    @staticmethod
    def weighed(b: Any, valid: Any, losses: Any, factor: Any) -> Any:
        """Losses times their samples' weights; exactly 0 where the target is ignored."""
        return b.where(valid, losses if factor is None else b.mul(losses, factor), 0)

    def scale(self, b: Any, g: Any, valid: Any, factor: Any, total: Any) -> Any:
        """The cotangent of each sample's unweighted loss."""
        if total is not None:
            g = b.div(g, total)
        return self.weighed(b, valid, b.broadcast_to(g, valid.type.shape), factor)

    def reduce(self, b: Any, losses: Any, total: Any) -> Any:
        if self.attrs["reduction"] == "none":
            return losses
        summed = b.sum(losses, axes=tuple(range(losses.type.rank)))
        return b.div(summed, total) if total is not None else summed

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        shapes: tuple[tuple[int, ...], ...] = ((4, 5), (1, 3), (0, 3), (3,), (2, 5, 3), (9, 67), (1, 1))
        variants: list[dict[str, Any]] = [{"reduction": r} for r in REDUCTIONS]
        variants.append({"reduction": "mean", "ignore_index": 1})
        if "label_smoothing" in cls.attributes:
            variants += [{"reduction": r, "label_smoothing": 0.1} for r in REDUCTIONS]
            variants.append({"reduction": "mean", "ignore_index": 1, "label_smoothing": 0.3})
        for name in cls.dtypes:
            for shape in shapes:
                x = TensorType(DTYPES[name], shape)
                axis = class_axis(x)
                rest, classes = shape[:axis] + shape[axis + 1 :], shape[axis]
                for variant in variants:
                    attrs = {**cls.attributes, **variant}
                    target = TensorType(int64, rest)
                    yield Sample((x, target), attrs, ("normal", f"index:{classes}"))
                    yield Sample(
                        (x, target, x.with_shape((classes,))),
                        attrs,
                        ("normal", f"index:{classes}", "positive"),
                    )


def class_axis(x: TensorType) -> int:
    """The axis of classes: 1, or 0 of rank-1 scores."""
    return 1 if x.rank > 1 else 0


def pick(b: Any, x: Any, safe: Any, axis: int) -> Any:
    """The score at the target, of each sample; fails the call where a target is out of bounds."""
    shape = (*safe.type.shape[:axis], 1, *safe.type.shape[axis:])
    picked = b.gather(x, b.reshape_to(safe, shape), axis=axis, check=TARGET_CHECK)
    return b.reshape_to(picked, safe.type.shape)


def one_hot(b: Any, safe: Any, shape: Any, axis: int) -> Any:
    """True where the class is the target's, of `shape`."""
    return b.eq(b.iota(shape=shape, axis=axis, dtype=int64), along(b, safe, shape, axis))


def along(b: Any, sample: Any, shape: Any, axis: int) -> Any:
    """A per-sample value over all classes."""
    return b.keep_dims(sample, shape, (axis,))


class NllLoss(ClassLoss):
    """-w[t] · input[t] for log-probabilities; a mean divides by the sum of the weights w[t]."""

    name = "nll_loss"
    attributes = {"reduction": "mean", "ignore_index": -100}

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        x, *weight = widen(b, self.operands[0], *self.operands[2:])
        valid, safe, factor, total = self.pieces(b, x, weight[0] if weight else None)
        losses = self.weighed(b, valid, b.neg(pick(b, x, safe, class_axis(x.type))), factor)
        result = narrow(b, self.reduce(b, losses, total), self.operands[0])
        assert result is not None
        return result

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        assert cotangents[0] is not None
        g, x, *weight = widen(b, cotangents[0], self.operands[0], *self.operands[2:])
        axis, shape = class_axis(x.type), x.type.shape
        valid, safe, factor, total = self.pieces(b, x, weight[0] if weight else None)
        scale = along(b, b.neg(self.scale(b, g, valid, factor, total)), shape, axis)
        gradient = b.where(one_hot(b, safe, shape, axis), scale, 0)
        return [narrow(b, gradient, self.operands[0]), None, *(None for _ in weight)]

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, *rest = arrays
        return np.abs(_class_loss(-np.abs(x.astype(np.float64)), *rest, attrs=attrs))

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return on_wide(lambda *a: _class_loss(*a, attrs=attrs), *arrays, precise=True)


class CrossEntropy(ClassLoss):
    """-w[t] · log softmax(input)[t], and with `label_smoothing` ε (1 - ε) of that plus ε/C of the
    weighted sum over all classes. A mean divides by the sum of the weights w[t].
    """

    name = "cross_entropy"
    attributes = {"reduction": "mean", "ignore_index": -100, "label_smoothing": 0.0}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if not 0 <= attrs["label_smoothing"] <= 1:
            raise RuntimeError(
                f"label_smoothing must be between 0.0 and 1.0. Got: {attrs['label_smoothing']}"
            )
        return super().infer(types, attrs)

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        x, *weights = widen(b, self.operands[0], *self.operands[2:])
        weight = weights[0] if weights else None
        axis, shape, smoothing = class_axis(x.type), x.type.shape, self.attrs["label_smoothing"]
        valid, safe, factor, total = self.pieces(b, x, weight)
        shifted, _, exponentials = shifted_exponentials(b, x, axis)
        log_total = b.log(exponentials)
        losses = self.weighed(b, valid, b.sub(log_total, pick(b, shifted, safe, axis)), factor)
        if smoothing:
            spread = b.sub(along(b, log_total, shape, axis), shifted)
            if weight is not None:
                spread = b.mul(spread, class_weights(b, weight, shape, axis))
            smooth = b.where(valid, b.sum(spread, axes=(axis,)), 0)
            part = b.div(smooth, classes(b, x, axis))
            losses = b.add(b.mul(losses, 1 - smoothing), b.mul(part, smoothing))
        result = narrow(b, self.reduce(b, losses, total), self.operands[0])
        assert result is not None
        return result

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        assert cotangents[0] is not None
        g, x, *weights = widen(b, cotangents[0], self.operands[0], *self.operands[2:])
        weight = weights[0] if weights else None
        axis, shape, smoothing = class_axis(x.type), x.type.shape, self.attrs["label_smoothing"]
        valid, safe, factor, total = self.pieces(b, x, weight)
        # The same ops as the forward decomposition, so that common subexpressions are shared.
        _, exponentials, summed = shifted_exponentials(b, x, axis)
        softmax = normalised(b, exponentials, summed, axis)
        hot = one_hot(b, safe, shape, axis)
        scale = self.scale(b, g, valid, factor, total)
        gradient = b.mul(b.sub(softmax, b.cast_to(hot, x.type.dtype)), along(b, scale, shape, axis))
        if smoothing:
            unweighted = self.scale(b, g, valid, None, total)
            part = b.mul(along(b, b.div(unweighted, classes(b, x, axis)), shape, axis), smoothing)
            if weight is None:
                smooth = b.sub(b.mul(softmax, classes(b, x, axis)), 1)
            else:
                over = class_weights(b, weight, shape, axis)
                smooth = b.sub(b.mul(softmax, b.broadcast_to(b.sum(weight, axes=(0,)), shape)), over)
            gradient = b.add(b.mul(gradient, 1 - smoothing), b.mul(part, smooth))
        return [narrow(b, gradient, self.operands[0]), None, *(None for _ in weights)]

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.maximum(1, np.abs(cls.reference(attrs, *arrays).astype(np.float64)))

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        def loss(x: Any, *rest: Any) -> Any:
            axis = 1 if x.ndim > 1 else 0
            shifted = x - x.max(axis, keepdims=True, initial=-np.inf)
            logs = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
            return _class_loss(logs, *rest, attrs=attrs)

        return on_wide(loss, *arrays, precise=True)


def classes(b: Any, x: Any, axis: int) -> Any:
    """The number of classes, as a number or a value."""
    return size_value(b, [x.type.shape[axis]], x.type.dtype)


def class_weights(b: Any, weight: Any, shape: Any, axis: int) -> Any:
    """`weight` [C] over `shape`."""
    lined = tuple(d if i == axis else 1 for i, d in enumerate(shape))
    return b.broadcast_to(b.reshape_to(weight, lined), shape)


def _class_loss(logs: Any, target: Any, *weight: Any, attrs: Attrs) -> Any:
    """The loss in NumPy from log-probabilities. Raises IndexError for a target out of bounds."""
    axis = 1 if logs.ndim > 1 else 0
    count, smoothing = logs.shape[axis], attrs.get("label_smoothing", 0.0)
    valid = target != attrs["ignore_index"]
    safe = np.where(valid, target, 0).astype(np.int64)
    outside = safe[(safe < 0) | (safe >= count)]
    if outside.size:
        raise IndexError(f"Target {outside.min()} is out of bounds.")
    w = weight[0] if weight else np.ones(count, logs.dtype)
    factor = np.where(valid, w[safe], 0).astype(logs.dtype)
    losses = -np.take_along_axis(logs, np.expand_dims(safe, axis), axis).squeeze(axis) * factor
    if smoothing:
        lined = w.reshape([-1 if i == axis else 1 for i in range(logs.ndim)])
        smooth = np.where(valid, -(logs * lined).sum(axis), 0)
        losses = losses * (1 - smoothing) + smooth * (smoothing / count)
    if attrs["reduction"] == "none":
        return losses
    return losses.sum() / (factor.sum() if attrs["reduction"] == "mean" else 1)
