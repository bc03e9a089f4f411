"""Variance over axes, by two passes: the mean first, then the squared deviations from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.families import FLOATS, Attrs, Composite, Leading, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import narrow, on_wide, size_value, widen
from graphc.ir.ops.reduce import REDUCED, Mean
from graphc.ir.types import DTYPES, TensorType

__all__ = ["Var", "moments"]


def moments(b: Any, x: Any, axes: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """(mean, x - mean, Σ (x - mean)²) over `axes`; the first and last have them dropped."""
    mean = b.mean(x, axes=axes)
    centred = b.sub(x, b.keep_dims(mean, x.type.shape, axes))
    return mean, centred, b.sum(b.mul(centred, centred), axes=axes)


class Var(Composite):
    """Σ (x - mean)² / max(0, n - correction) over `axes`, which are dropped; n is the number of elements.

    NaN where n - correction is 0 and x is constant.
    """

    name = "var"
    operand_names = ("x",)
    attributes = {"axes": ..., "correction": 0}
    leading: ClassVar[Mapping[str, Leading] | None] = {"axes": "axis"}
    dtypes = FLOATS
    ulp = {"f16": 1, "bf16": 1, "f32": 24, "f64": 24}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if not types[0].dtype.is_floating_point:
            raise RuntimeError(f"std and var only support floating point dtypes, got {types[0]}")
        return Mean.infer(types, attrs)

    def _divisor(self, b: Any, x: Any) -> Any:
        """n - correction, at least 0: a number, or a value where n is symbolic."""
        count = size_value(b, [x.type.shape[a] for a in self.attrs["axes"]], x.type.dtype)
        less = self.attrs["correction"]
        if isinstance(count, int):
            return max(0, count - less)
        return b.maximum(b.sub(count, less), 0) if less else count

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        (x,) = widen(b, self.operands[0])
        _, _, squares = moments(b, x, self.attrs["axes"])
        result = narrow(b, b.div(squares, self._divisor(b, x)), self.operands[0])
        assert result is not None
        return result

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        assert cotangents[0] is not None
        axes = self.attrs["axes"]
        g, x = widen(b, cotangents[0], self.operands[0])
        _, centred, _ = moments(b, x, axes)
        scale = b.div(b.mul(g, 2), self._divisor(b, x))
        return [narrow(b, b.mul(centred, b.keep_dims(scale, x.type.shape, axes)), self.operands[0])]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        axes = attrs["axes"]

        def variance(x: Any) -> Any:
            count = np.prod([x.shape[a] for a in axes], dtype=x.dtype)
            centred = x - x.sum(axes, keepdims=True) / count
            return (centred * centred).sum(axes) / np.maximum(
                0, count - np.asarray(attrs["correction"], x.dtype)
            )

        return on_wide(variance, *arrays, precise=True)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, axes in REDUCED:
                for correction in (0, 1):
                    yield Sample((TensorType(DTYPES[name], shape),), {"axes": axes, "correction": correction})
