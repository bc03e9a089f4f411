"""Reductions over axes: sum, mean, product, extrema, any and all.

`axes` are sorted and non-negative; the reduced axes are dropped. 16-bit floats accumulate in
float32 and are rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import product
from graphc.ir.families import FLOATS, NUMERIC, Attrs, Index, Reduce, Requirement, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import narrow, size_value, widen
from graphc.ir.scalar import ScalarBuilder
from graphc.ir.types import DTYPES, DType, TensorType

__all__ = ["REDUCED", "All", "Any_", "Max", "Mean", "Min", "Prod", "Sum", "highest", "lowest"]

REDUCED: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((3, 5), (1,)),
    ((3, 5), (0,)),
    ((3, 5), (0, 1)),
    ((2, 3, 4), (0, 2)),
    ((2, 131), (1,)),
    ((131, 3), (0,)),
    ((4, 0), (0,)),
    ((3, 0), (1,)),
    ((0,), (0,)),
    ((1,), (0,)),
    ((2, 3), ()),
    ((), ()),
)
"""Shapes and axes of samples; rows longer than any vector, empty results and empty reductions."""


def lowest(dtype: DType) -> float | int:
    """The least value of a dtype: -inf of floats."""
    if dtype.is_floating_point:
        return float("-inf")
    return -(1 << (dtype.bits - 1)) if dtype.is_signed else 0


def highest(dtype: DType) -> float | int:
    """The greatest value of a dtype: inf of floats."""
    if dtype.is_floating_point:
        return float("inf")
    return (1 << (dtype.bits - dtype.is_signed)) - 1


class Fold(Reduce):
    """Base of reductions by one scalar opcode in the accumulator dtype."""

    opcode: ClassVar[str]
    neutral: ClassVar[float | int | bool] = 0

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if types[0].dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {types[0].dtype}')
        return (TensorType(types[0].dtype, cls.result_shape(types, attrs)),)

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        return [(types[0].dtype.accumulator, cls.neutral)]

    @classmethod
    def element(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[Any]
    ) -> Sequence[Any]:
        wide = types[0].dtype.accumulator
        return [x[0] if wide is types[0].dtype else s.cast(x[0], wide)]

    @classmethod
    def combine(
        cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]
    ) -> Sequence[Any]:
        return [s.apply(cls.opcode, a[0], b[0])]

    @classmethod
    def folded(cls, x: Any, axes: tuple[int, ...]) -> Any:
        """The reference over an array of a wide dtype."""
        raise NotImplementedError

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x = arrays[0]
        if x.dtype.kind in "iub":
            return np.asarray(cls.folded(x, attrs["axes"])).astype(x.dtype)
        wide = np.longdouble if x.dtype == np.float64 else np.float64
        with np.errstate(all="ignore"):
            return np.asarray(cls.folded(x.astype(wide), attrs["axes"])).astype(x.dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, axes in REDUCED:
                yield Sample((TensorType(DTYPES[name], shape),), {"axes": axes})

    def spread(self, b: Any, value: Value) -> Any:
        """A value of the result's shape over the operand's shape."""
        return b.keep_dims(value, self.operands[0].type.shape, self.attrs["axes"])

    def simplify(self, b: Any) -> Value | None:
        # A sum starts from 0.0, which added to -0.0 gives 0.0: it is not its operand's bits.
        changed = self.opcode == "add" and self.operands[0].type.dtype.is_floating_point
        return self.operands[0] if not self.attrs["axes"] and not changed else None


class Sum(Fold):
    """Sum over `axes`; 0 of nothing. The bound counts units of Σ|x|."""

    name = "sum"
    opcode = "add"
    dtypes = NUMERIC
    ulp = {"f16": 1, "bf16": 1, "f32": 8, "f64": 8}

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        assert cotangents[0] is not None
        return [self.spread(b, cotangents[0])]

    @classmethod
    def folded(cls, x: Any, axes: tuple[int, ...]) -> Any:
        return x.sum(axis=axes, dtype=x.dtype)

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.abs(arrays[0].astype(np.float64)).sum(axis=attrs["axes"])


class Mean(Fold):
    """Mean over `axes`, rounded once; NaN of nothing. The bound counts units of mean |x|."""

    name = "mean"
    opcode = "add"
    dtypes = FLOATS
    ulp = {"f16": 1, "bf16": 1, "f32": 8, "f64": 8}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if not types[0].dtype.is_floating_point:
            raise RuntimeError(
                "mean(): could not infer output dtype. Input dtype must be a floating point dtype. "
                f"Got: {types[0].dtype}"
            )
        return super().infer(types, attrs)

    @classmethod
    def finish(
        cls, s: ScalarBuilder[Any], attrs: Attrs, types: Types, results: Types, acc: Sequence[Any]
    ) -> Sequence[Any]:
        wide = types[0].dtype.accumulator
        count = product([types[0].shape[a] for a in attrs["axes"]])
        divisor = s.const(wide, count) if isinstance(count, int) else s.index(count, wide)
        mean = s.apply("div", acc[0], divisor)
        return [mean if wide is results[0].dtype else s.cast(mean, results[0].dtype)]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        x, axes = self.operands[0], self.attrs["axes"]
        assert cotangents[0] is not None
        (g,) = widen(b, cotangents[0])
        count = size_value(b, [x.type.shape[a] for a in axes], g.type.dtype)
        return [narrow(b, self.spread(b, b.div(g, count)), x)]

    @classmethod
    def folded(cls, x: Any, axes: tuple[int, ...]) -> Any:
        count = np.prod([x.shape[a] for a in axes], dtype=x.dtype)
        return x.sum(axis=axes, dtype=x.dtype) / count

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.asarray(cls.folded(np.abs(arrays[0].astype(np.float64)), attrs["axes"]))


class Prod(Fold):
    """Product over `axes`; 1 of nothing. Its derivatives of all orders are exact where elements are zero."""

    name = "prod"
    opcode = "mul"
    neutral = 1
    dtypes = NUMERIC
    ulp = {"f16": 1, "bf16": 1, "f32": 64, "f64": 64}

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        axes = self.attrs["axes"]
        assert cotangents[0] is not None
        g, x = widen(b, cotangents[0], self.operands[0])
        return [narrow(b, b.mul(self.spread(b, g), b.prod_others(x, axes=axes)), self.operands[0])]

    @classmethod
    def folded(cls, x: Any, axes: tuple[int, ...]) -> Any:
        return x.prod(axis=axes, dtype=x.dtype)


class Extremum(Fold):
    """Base of max and min over `axes`; NaN where any element is.

    The cotangent is divided evenly among equal extrema, as by PyTorch's `amax`.
    """

    dtypes = (*NUMERIC, "bool")

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        inferred = super().infer(types, attrs)
        for a in attrs["axes"]:
            if types[0].shape[a] == 0:
                raise IndexError(
                    f"{cls.name}(): Expected reduction dim {a} to have non-zero size, got {types[0]}"
                )
        return inferred

    @classmethod
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        for a in attrs["axes"]:
            yield types[0].shape[a], "!="

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        axes = self.attrs["axes"]
        assert cotangents[0] is not None
        g, y, x = widen(b, cotangents[0], self.results[0], self.operands[0])
        hit = b.eq(x, self.spread(b, y))
        count = b.sum(b.cast_to(hit, x.type.dtype), axes=axes)
        return [narrow(b, b.where(hit, self.spread(b, b.div(g, count)), 0), self.operands[0])]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for sample in super().samples():
            sizes = sample.operands[0].sizes
            if all(sizes[a] for a in sample.attrs["axes"]):
                yield sample


class Max(Extremum):
    """Largest element over `axes`; NaN where any element is. Raises IndexError for an empty axis."""

    name = "max"
    opcode = "max"

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        dtype = types[0].dtype.accumulator
        return [(dtype, False if dtype.kind == "bool" else lowest(dtype))]

    @classmethod
    def combine(
        cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]
    ) -> Sequence[Any]:
        return [s.apply("or" if s.dtype(a[0]).kind == "bool" else "max", a[0], b[0])]

    @classmethod
    def folded(cls, x: Any, axes: tuple[int, ...]) -> Any:
        return x.max(axis=axes, initial=_worst(x.dtype, least=True))


def _worst(dtype: Any, *, least: bool) -> Any:
    """What an extremum of nothing is, inside of a composite op whose axis may be empty."""
    if dtype.kind == "f":
        return -np.inf if least else np.inf
    if dtype.kind == "b":
        return not least
    return np.iinfo(dtype).min if least else np.iinfo(dtype).max


class Min(Extremum):
    """Smallest element over `axes`; NaN where any element is. Raises IndexError for an empty axis."""

    name = "min"
    opcode = "min"

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        dtype = types[0].dtype.accumulator
        return [(dtype, True if dtype.kind == "bool" else highest(dtype))]

    @classmethod
    def combine(
        cls, s: ScalarBuilder[Any], attrs: Attrs, a: Sequence[Any], b: Sequence[Any]
    ) -> Sequence[Any]:
        return [s.apply("and" if s.dtype(a[0]).kind == "bool" else "min", a[0], b[0])]

    @classmethod
    def folded(cls, x: Any, axes: tuple[int, ...]) -> Any:
        return x.min(axis=axes, initial=_worst(x.dtype, least=False))


class Any_(Fold):
    """True where any bool over `axes` is; False of nothing."""

    name = "any"
    opcode = "or"
    neutral = False
    dtypes = ("bool",)
    no_derivative = "the result is a bool"

    @classmethod
    def folded(cls, x: Any, axes: tuple[int, ...]) -> Any:
        return x.any(axis=axes)


class All(Fold):
    """True where all bools over `axes` are; True of nothing."""

    name = "all"
    opcode = "and"
    neutral = True
    dtypes = ("bool",)
    no_derivative = "the result is a bool"

    @classmethod
    def folded(cls, x: Any, axes: tuple[int, ...]) -> Any:
        return x.all(axis=axes)
