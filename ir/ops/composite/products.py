"""The product of all others: the derivative of a product, itself differentiable everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import product
from graphc.ir.families import FLOATS, Attrs, Composite, Leading, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import narrow, on_wide, widen
from graphc.ir.ops.reduce import REDUCED
from graphc.ir.types import DTYPES, TensorType, int64

__all__ = ["ProdOthers"]


class ProdOthers(Composite):
    """For each element the product of all others of its group over `axes`; of x's type. 1 where there is no other.

    The product of the elements that are not zero is divided by each, and zeros are counted, so the work is
    linear. The derivative multiplies all pairs of a group, which is exact where elements are zero too.
    """

    name = "prod_others"
    operand_names = ("x",)
    attributes = {"axes": ...}
    leading: ClassVar[Mapping[str, Leading] | None] = {"axes": "axis"}
    dtypes = FLOATS
    ulp = {"f16": 2, "bf16": 2, "f32": 64, "f64": 64}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        if x.dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {x.dtype}')
        if not all(0 <= a < x.rank for a in attrs["axes"]):
            raise IndexError(
                f"Dimension out of range (expected to be in range of [0, {x.rank - 1}], but got {attrs['axes']}) in {cls.name}"
            )
        return (x,)

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        axes = self.attrs["axes"]
        (x,) = widen(b, self.operands[0])
        zero = b.eq(x, 0)
        filled = b.where(zero, 1, x)
        zeros = b.keep_dims(b.sum(b.cast_to(zero, x.type.dtype), axes=axes), x.type.shape, axes)
        total = b.keep_dims(b.prod(filled, axes=axes), x.type.shape, axes)
        single = b.where(b.logical_and(zero, b.eq(zeros, 1)), total, 0)
        result = narrow(b, b.where(b.eq(zeros, 0), b.div(total, filled), single), self.operands[0])
        assert result is not None
        return result

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        """Of g: Σ_j g_j ∂(Π_{i≠j} x_i)/∂x_k, with the others of row j of a square where x_j is 1."""
        source, axes = self.operands[0], self.attrs["axes"]
        assert cotangents[0] is not None
        shape = source.type.shape
        rest = [a for a in range(len(shape)) if a not in axes]
        order = (*rest, *axes)
        kept, count = tuple(shape[a] for a in rest), product(tuple(shape[a] for a in axes))
        g, x = (
            b.reshape_to(b.permute(v, axes=order), (*kept, count)) for v in widen(b, cotangents[0], source)
        )
        square = (*kept, count, count)
        n = len(kept)
        own = b.eq(*(b.iota(shape=square, axis=n + i, dtype=int64) for i in (0, 1)))
        rows = b.where(own, 1, b.broadcast_to(b.reshape_to(x, (*kept, 1, count)), square))
        pairs = b.where(own, 0, b.prod_others(rows, axes=(n + 1,)))
        weights = b.broadcast_to(b.reshape_to(g, (*kept, count, 1)), square)
        line = b.sum(b.mul(pairs, weights), axes=(n,))
        back = b.reshape_to(line, tuple(shape[a] for a in order))
        inverse = tuple(order.index(a) for a in range(len(shape)))
        return [narrow(b, b.permute(back, axes=inverse), source)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        def others(x: Any) -> Any:
            axes = attrs["axes"]
            if not x.size:
                return x
            zero = x == 0
            filled = np.where(zero, 1, x)
            zeros = zero.sum(axes, keepdims=True)
            total = filled.prod(axes, keepdims=True)
            return np.where(zeros == 0, total / filled, np.where(zero & (zeros == 1), total, 0)).astype(
                x.dtype
            )

        return on_wide(others, *arrays, precise=True)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, axes in REDUCED:
                if 131 not in shape:
                    yield Sample((TensorType(DTYPES[name], shape),), {"axes": axes})
