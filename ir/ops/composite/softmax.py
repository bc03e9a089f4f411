"""softmax and log_softmax along one axis, by subtracting the maximum first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.families import FLOATS, Attrs, Composite, Leading, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import narrow, on_wide, widen
from graphc.ir.types import DTYPES, TensorType

__all__ = ["LogSoftmax", "Softmax", "normalised", "shifted_exponentials"]


def shifted_exponentials(b: Any, x: Value, axis: int) -> tuple[Any, Any, Any]:
    """x - max, exp(x - max) and its sum along `axis` (dropped in the sum)."""
    top = b.keep_dims(b.max(x, axes=(axis,)), x.type.shape, (axis,))
    shifted = b.sub(x, top)
    exponentials = b.exp(shifted)
    return shifted, exponentials, b.sum(exponentials, axes=(axis,))


def normalised(b: Any, exponentials: Value, total: Value, axis: int) -> Value:
    """Exponentials over their sum along `axis` (dropped in the sum): one division for each sum, a product for each element."""
    share: Value = b.mul(exponentials, b.keep_dims(b.reciprocal(total), exponentials.type.shape, (axis,)))
    return share


class AlongAxis(Composite):
    """Base: float operand and result of one type, an axis in [0, rank)."""

    operand_names = ("x",)
    attributes = {"axis": ...}
    leading: ClassVar[Mapping[str, Leading] | None] = {"axis": "axis"}
    dtypes = FLOATS

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, axis = types[0], attrs["axis"]
        if x.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {x.dtype}')
        if not 0 <= axis < x.rank:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [0, {x.rank - 1}], but got {axis}) in {cls.name}"
            )
        return (x,)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, axis in (
                ((3, 5), 1),
                ((3, 5), 0),
                ((2, 3, 4), 1),
                ((1,), 0),
                ((0, 4), 1),
                ((3, 0), 1),
                ((2, 67), 1),
            ):
                yield Sample((TensorType(DTYPES[name], shape),), {"axis": axis})


class Softmax(AlongAxis):
    """exp(x) / Σ exp(x) along `axis`."""

    name = "softmax"
    ulp = {"f16": 1, "bf16": 1, "f32": 12, "f64": 12}

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        source, axis = self.operands[0], self.attrs["axis"]
        if source.type.shape[axis] == 0:
            return source
        (x,) = widen(b, source)
        _, exponentials, total = shifted_exponentials(b, x, axis)
        result = narrow(b, normalised(b, exponentials, total, axis), source)
        assert result is not None
        return result

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        assert cotangents[0] is not None
        axis = self.attrs["axis"]
        g, y = widen(b, cotangents[0], self.results[0])
        inner = b.keep_dims(b.sum(b.mul(g, y), axes=(axis,)), y.type.shape, (axis,))
        return [narrow(b, b.mul(y, b.sub(g, inner)), self.operands[0])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        def softmax(x: Any) -> Any:
            e = np.exp(x - x.max(attrs["axis"], keepdims=True, initial=-np.inf))
            return e / e.sum(attrs["axis"], keepdims=True)

        return on_wide(softmax, *arrays, precise=True)


class LogSoftmax(AlongAxis):
    """x - log Σ exp(x) along `axis`. The bound counts units of max(1, |result|)."""

    name = "log_softmax"
    ulp = {"f16": 1, "bf16": 1, "f32": 12, "f64": 12}

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        source, axis = self.operands[0], self.attrs["axis"]
        if source.type.shape[axis] == 0:
            return source
        (x,) = widen(b, source)
        shifted, _, total = shifted_exponentials(b, x, axis)
        result = narrow(b, b.sub(shifted, b.keep_dims(b.log(total), x.type.shape, (axis,))), source)
        assert result is not None
        return result

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        assert cotangents[0] is not None
        axis = self.attrs["axis"]
        g, y = widen(b, cotangents[0], self.results[0])
        total = b.keep_dims(b.sum(g, axes=(axis,)), y.type.shape, (axis,))
        return [narrow(b, b.sub(g, b.mul(b.exp(y), total)), self.operands[0])]

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.maximum(1, np.abs(cls.reference(attrs, *arrays).astype(np.float64)))

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        def log_softmax(x: Any) -> Any:
            shifted = x - x.max(attrs["axis"], keepdims=True, initial=-np.inf)
            return shifted - np.log(np.exp(shifted).sum(attrs["axis"], keepdims=True))

        return on_wide(log_softmax, *arrays, precise=True)
