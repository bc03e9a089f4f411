"""Layer and batch normalisation: (x - mean) / √(var + eps) · weight + bias, with VJPs of their own.

weight and bias are optional and go together or weight alone. Everything is computed in the
accumulator dtype and rounded once; variances divide by n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim
from graphc.ir.families import FLOATS, Attrs, Composite, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.composite.statistics import moments
from graphc.ir.ops.elementwise import narrow, on_wide, size_value, widen
from graphc.ir.types import DTYPES, TensorType

__all__ = ["BatchNorm", "BatchNormInference", "LayerNorm"]

ULP = {"f16": 1.0, "bf16": 1.0, "f32": 32.0, "f64": 32.0}


def along(b: Any, value: Any, shape: tuple[Dim, ...], axes: Sequence[int]) -> Any:
    """A value whose axes are those of `shape` that are not in `axes`, over `shape`."""
    return b.keep_dims(value, shape, axes)


def normalised_gradient(b: Any, g: Any, normal: Any, scale: Any, axes: tuple[int, ...]) -> Any:
    """The cotangent of x from that of its normalised form: scale · (g - mean g - normal · mean(g · normal))."""
    shape = normal.type.shape
    inner = b.add(
        along(b, b.mean(g, axes=axes), shape, axes),
        b.mul(normal, along(b, b.mean(b.mul(g, normal), axes=axes), shape, axes)),
    )
    return b.mul(b.sub(g, inner), along(b, scale, shape, axes))


class Normalisation(Composite):
    """Base: types of the affine operands, and the affine step with its derivative."""

    variadic = True
    operand_names: ClassVar[tuple[str, ...]] = ("x", "weight_and_bias")
    dtypes = FLOATS
    ulp = ULP

    @classmethod
    def checked(cls, x: TensorType, affine: Types, shape: tuple[Dim, ...]) -> None:
        """Raises where x is no float or an affine operand is not of `shape` and x's dtype."""
        if x.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {x.dtype}')
        if len(affine) > 2:
            raise TypeError(f"{cls.name}: expected at most weight and bias, got {len(affine)} operands more")
        for label, t in zip(("weight", "bias"), affine, strict=False):
            if t != TensorType(x.dtype, shape):
                raise RuntimeError(
                    f"{cls.name}: expected {label} {TensorType(x.dtype, shape)} for {x}, got {t}"
                )

    @staticmethod
    def affine(b: Any, normal: Any, operands: Sequence[Any], axes: tuple[int, ...]) -> Any:
        """normal · weight + bias; `axes` are those that weight and bias do not have."""
        shape = normal.type.shape
        for op, value in zip((b.mul, b.add), operands, strict=False):
            normal = op(normal, along(b, value, shape, axes))
        return normal

    @staticmethod
    def affine_gradients(
        b: Any, g: Any, normal: Any, operands: Sequence[Any], axes: tuple[int, ...]
    ) -> tuple[Any, list[Any]]:
        """Cotangents of `normal` and of weight and bias."""
        if not operands:
            return g, []
        gradients = [b.sum(b.mul(g, normal), axes=axes), b.sum(g, axes=axes)]
        return b.mul(g, along(b, operands[0], normal.type.shape, axes)), gradients[: len(operands)]

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        # Deviations from the mean cancel, and the bias may cancel the rest.
        result = cls.reference(attrs, *arrays)
        y = result[0] if isinstance(result, tuple) else result
        largest = max((float(np.abs(a.astype(np.float64)).max(initial=0)) for a in arrays), default=0.0)
        return np.maximum(np.abs(y.astype(np.float64)), 1 + largest)


class LayerNorm(Normalisation):
    """Normalises over the last `rank` axes of x; weight and bias have the shape of those axes."""

    name = "layer_norm"
    attributes = {"rank": ..., "eps": 1e-5}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, rank = types[0], attrs["rank"]
        if not 1 <= rank <= x.rank:
            raise RuntimeError(
                f"layer_norm: expected between 1 and {x.rank} normalised axes of {x}, got {rank}"
            )
        cls.checked(x, types[1:], x.shape[x.rank - rank :])
        return (x,)

    def _axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(axes normalised over, axes before them)."""
        split = self.operands[0].type.rank - self.attrs["rank"]
        return tuple(range(split, self.operands[0].type.rank)), tuple(range(split))

    def _normal(self, b: Any, x: Any) -> tuple[Any, Any]:
        axes, _ = self._axes()
        _, centred, squares = moments(b, x, axes)
        count = size_value(b, [x.type.shape[a] for a in axes], x.type.dtype)
        scale = b.rsqrt(b.add(b.div(squares, count), self.attrs["eps"]))
        return b.mul(centred, along(b, scale, x.type.shape, axes)), scale

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        x, *affine = widen(b, *self.operands)
        normal, _ = self._normal(b, x)
        result = narrow(b, self.affine(b, normal, affine, self._axes()[1]), self.operands[0])
        assert result is not None
        return result

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        assert cotangents[0] is not None
        axes, before = self._axes()
        g, x, *affine = widen(b, cotangents[0], *self.operands)
        normal, scale = self._normal(b, x)
        g, found = self.affine_gradients(b, g, normal, affine, before)
        found = [normalised_gradient(b, g, normal, scale, axes), *found]
        return [narrow(b, v, like) for v, like in zip(found, self.operands, strict=True)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        def normalise(x: Any, *affine: Any) -> Any:
            axes = tuple(range(x.ndim - attrs["rank"], x.ndim))
            return _normalise(x, axes, affine, attrs["eps"])[0]

        return on_wide(normalise, *arrays, precise=True)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, rank in (
                ((3, 5), 1),
                ((2, 3, 4), 2),
                ((4,), 1),
                ((0, 4), 1),
                ((1, 1), 1),
                ((2, 67), 1),
            ):
                x = TensorType(DTYPES[name], shape)
                part = x.with_shape(shape[len(shape) - rank :])
                for affine in ((), (part,), (part, part)):
                    yield Sample((x, *affine), {"rank": rank, "eps": 1e-5})


def _normalise(x: Any, axes: tuple[int, ...], affine: Sequence[Any], eps: float) -> tuple[Any, Any, Any]:
    """(y, mean, var) in NumPy; `affine` must broadcast against x."""
    count = np.prod([x.shape[a] for a in axes], dtype=x.dtype)
    mean = x.sum(axes, keepdims=True) / count
    var = np.square(x - mean).sum(axes, keepdims=True) / count
    y = (x - mean) / np.sqrt(var + x.dtype.type(eps))
    for function, value in zip((np.multiply, np.add), affine, strict=False):
        y = function(y, value)
    return y, mean.squeeze(axes), var.squeeze(axes)


class BatchNorm(Normalisation):
    """Training form: normalises each channel (axis 1) of x over all other axes.

    Results are y, and the batch's mean and variance (dividing by n) per channel, in the accumulator
    dtype. weight and bias are per channel.
    """

    name = "batch_norm"
    attributes = {"eps": 1e-5}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        if x.rank < 2:
            raise ValueError(f"batch_norm: expected x of rank 2 or more [N, C, …], got {x}")
        cls.checked(x, types[1:], (x.shape[1],))
        statistics = TensorType(x.dtype.accumulator, (x.shape[1],))
        return (x, statistics, statistics)

    def _axes(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.operands[0].type.rank) if i != 1)

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        x, *affine = widen(b, *self.operands)
        axes, shape = self._axes(), x.type.shape
        mean, centred, squares = moments(b, x, axes)
        var = b.div(squares, size_value(b, [shape[a] for a in axes], x.type.dtype))
        scale = b.rsqrt(b.add(var, self.attrs["eps"]))
        y = self.affine(b, b.mul(centred, along(b, scale, shape, axes)), affine, axes)
        return [b.cast_to(y, self.operands[0].type.dtype), mean, var]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        x, *affine = widen(b, *self.operands)
        axes, shape = self._axes(), x.type.shape
        centred = b.sub(x, along(b, self.results[1], shape, axes))
        scale = b.rsqrt(b.add(self.results[2], self.attrs["eps"]))
        found: list[Any] = [None] * len(self.operands)
        if cotangents[0] is not None:
            normal = b.mul(centred, along(b, scale, shape, axes))
            (g,) = widen(b, cotangents[0])
            g, found[1:] = self.affine_gradients(b, g, normal, affine, axes)
            found[0] = normalised_gradient(b, g, normal, scale, axes)
        count = size_value(b, [shape[a] for a in axes], x.type.dtype)
        if cotangents[1] is not None:
            found[0] = _plus(b, found[0], along(b, b.div(cotangents[1], count), shape, axes))
        if cotangents[2] is not None:
            slope = along(b, b.div(b.mul(cotangents[2], 2), count), shape, axes)
            found[0] = _plus(b, found[0], b.mul(centred, slope))
        return [narrow(b, v, like) for v, like in zip(found, self.operands, strict=True)]

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        # A mean counts units of the mean of absolute values.
        size = np.abs(arrays[0].astype(np.float64))
        count = np.prod([n for i, n in enumerate(size.shape) if i != 1])
        total = size.sum(tuple(i for i in range(size.ndim) if i != 1))
        return super().magnitude(attrs, *arrays), total / max(count, 1), None

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        dtype = arrays[0].dtype
        wide = [a.astype(np.longdouble if dtype == np.float64 else np.float64) for a in arrays]
        x = wide[0]
        axes = tuple(i for i in range(x.ndim) if i != 1)
        lined = [a.reshape([-1 if i == 1 else 1 for i in range(x.ndim)]) for a in wide[1:]]
        with np.errstate(all="ignore"):
            y, mean, var = _normalise(x, axes, lined, attrs["eps"])
        statistics = np.float64 if dtype == np.float64 else np.float32
        return y.astype(dtype), mean.astype(statistics), var.astype(statistics)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in ((4, 3), (2, 3, 4), (2, 3, 4, 5), (0, 3), (1, 1, 1), (70, 2)):
                x = TensorType(DTYPES[name], shape)
                part = x.with_shape(shape[1:2])
                for affine in ((), (part,), (part, part)):
                    yield Sample((x, *affine), {"eps": 1e-5})


def _plus(b: Any, a: Any, c: Any) -> Any:
    return c if a is None else b.add(a, c)


class BatchNormInference(Normalisation):
    """Normalises each channel (axis 1) of x by given statistics: (x - mean) / √(var + eps) · weight + bias.

    mean and var are per channel, in the accumulator dtype or that of x.
    """

    name = "batch_norm_inference"
    operand_names = ("x", "mean", "var", "weight_and_bias")
    attributes = {"eps": 1e-5}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        if x.rank < 2:
            raise ValueError(f"batch_norm_inference: expected x of rank 2 or more [N, C, …], got {x}")
        cls.checked(x, types[3:], (x.shape[1],))
        for label, t in zip(("mean", "var"), types[1:3], strict=True):
            if t.shape != (x.shape[1],) or t.dtype not in (x.dtype, x.dtype.accumulator):
                raise RuntimeError(
                    f"batch_norm_inference: expected {label} of shape [{x.shape[1]}] for {x}, got {t}"
                )
        return (x,)

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        x, mean, var, *affine = widen(b, *self.operands)
        axes, shape = tuple(i for i in range(x.type.rank) if i != 1), x.type.shape
        scale = b.rsqrt(b.add(var, self.attrs["eps"]))
        normal = b.mul(b.sub(x, along(b, mean, shape, axes)), along(b, scale, shape, axes))
        result = narrow(b, self.affine(b, normal, affine, axes), self.operands[0])
        assert result is not None
        return result

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        def normalise(x: Any, *channels: Any) -> Any:
            mean, var, *affine = (c.reshape([-1 if i == 1 else 1 for i in range(x.ndim)]) for c in channels)
            y = (x - mean) / np.sqrt(var + var.dtype.type(attrs["eps"]))
            for function, value in zip((np.multiply, np.add), affine, strict=False):
                y = function(y, value)
            return y

        return on_wide(normalise, *arrays, precise=True)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in ((4, 3), (2, 3, 4, 5), (0, 3), (1, 1, 1)):
                x = TensorType(DTYPES[name], shape)
                part = x.with_shape(shape[1:2])
                wide = part.with_dtype(x.dtype.accumulator)
                for affine in ((), (part,), (part, part)):
                    draws = ("normal", "normal", "positive", "normal", "normal")
                    yield Sample((x, wide, wide, *affine), {"eps": 1e-5}, draws[: 3 + len(affine)])
