"""Layers as ops: linear, embedding, dropout, and draws with given probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.families import FLOATS, NUMERIC, Attrs, Composite, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.ops.contraction import Dot
from graphc.ir.ops.elementwise import SHAPES, narrow, on_wide, widen
from graphc.ir.ops.indexing import TAKE_CHECK, Take
from graphc.ir.ops.random import STATE, RandomUniform
from graphc.ir.types import DTYPES, TensorType, float32, int64

__all__ = ["Bernoulli", "Dropout", "Embedding", "Linear"]


class Linear(Composite):
    """x · weightᵀ + bias: x is [..., in], weight [out, in], bias (optional) [out], the result [..., out]."""

    name = "linear"
    operand_names = ("x", "weight", "bias")
    variadic = True
    dtypes = NUMERIC
    ulp = {"f16": 2, "bf16": 2, "f32": 16, "f64": 16}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, weight = types[:2]
        if any(t.dtype is not x.dtype for t in types):
            raise RuntimeError(
                f"mat1 and mat2 must have the same dtype, but got {', '.join(map(str, types))} (linear)"
            )
        if weight.rank != 2 or not x.rank or x.shape[-1] != weight.shape[1]:
            raise RuntimeError(
                f"mat1 and mat2 shapes cannot be multiplied: linear takes x [..., in] and weight [out, in], got {x} and {weight}"
            )
        if len(types) > 3 or (len(types) == 3 and types[2].shape != weight.shape[:1]):
            raise RuntimeError(
                f"linear: expected one bias of shape {list(weight.shape[:1])}, got {', '.join(map(str, types[2:]))}"
            )
        return (x.with_shape((*x.shape[:-1], weight.shape[0])),)

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        x, weight, *bias = self.operands
        y: Value = b.dot(x, weight, contract=((x.type.rank - 1,), (1,)))
        return b.add(y, bias[0]) if bias else y

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return cls.reference(attrs, *(np.abs(a.astype(np.float64)) for a in arrays))

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, weight, *bias = arrays
        contract = {**Dot.attributes, "contract": ((x.ndim - 1,), (1,))}
        y = Dot.reference(contract, x, weight)
        return on_wide(np.add, y, np.broadcast_to(bias[0], y.shape)) if bias else y

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for x, outputs in (((3, 5), 4), ((5,), 4), ((2, 3, 5), 4), ((0, 5), 4), ((1, 1), 1), ((3, 0), 2)):
                t = TensorType(DTYPES[name], x)
                types = (t, t.with_shape((outputs, x[-1])))
                yield Sample(types)
                yield Sample((*types, t.with_shape((outputs,))))


class Embedding(Composite):
    """Rows of weight [n, …] at `indices`; rows equal to `padding_idx` get no gradient.

    An index outside of [0, n) fails the call with IndexError.
    """

    name = "embedding"
    operand_names = ("weight", "indices")
    attributes = {"padding_idx": None}
    dtypes = FLOATS

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if not types[1].dtype.is_integral or types[1].dtype.bits < 32:
            raise RuntimeError(
                "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; "
                f"but got {types[1]} instead (while checking arguments for embedding)"
            )
        return Take.infer(types, {"axis": 0})

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        return b.take(*self.operands, axis=0)  # type: ignore[no-any-return]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        weight, indices = self.operands
        g, padding = cotangents[0], self.attrs["padding_idx"]
        assert g is not None
        if padding is not None:
            axes = tuple(range(indices.type.rank, g.type.rank))
            g = b.where(b.keep_dims(b.eq(indices, padding), g.type.shape, axes), 0, g)
        return [b.take_add(b.zeros_like(weight), indices, g, axis=0), None]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return Take.reference({"axis": 0, "check": TAKE_CHECK}, *arrays)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for indices in ((4,), (2, 3), (), (0,)):
                yield Sample(
                    (TensorType(DTYPES[name], (7, 5)), TensorType(int64, indices)),
                    {"padding_idx": None},
                    ("normal", "index:7"),
                )


class Dropout(Composite):
    """x / (1 - p) where a uniform draw is at least p, else 0. Draws one number per element at `offset`."""

    name = "dropout"
    operand_names = ("x", "state")
    attributes = {"p": ..., "offset": 0}
    dtypes = FLOATS
    ulp = {"f16": 1, "bf16": 1}

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if not 0 <= attrs["p"] <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {attrs['p']}")
        if types[0].dtype.name not in cls.dtypes or types[1] != STATE:
            raise NotImplementedError(
                f"dropout: expected a float tensor and a generator state {STATE}, got {types[0]}, {types[1]}"
            )
        return (types[0],)

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        source, p = self.operands[0], self.attrs["p"]
        if p == 1:
            return b.zeros_like(source)  # type: ignore[no-any-return]
        (x,) = widen(b, source)
        drawn = b.random_uniform(
            self.operands[1], shape=x.type.shape, offset=self.attrs["offset"], dtype=float32
        )
        result = narrow(b, b.where(b.ge(drawn, p), b.mul(x, 1 / (1 - p)), 0), source)
        assert result is not None
        return result

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.dropout(cotangents[0], self.operands[1], **self.attrs), None]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        x, p = arrays[0], attrs["p"]
        if p == 1:
            return np.zeros_like(x)
        drawn = RandomUniform.reference(
            {"shape": x.shape, "offset": attrs["offset"], "dtype": float32}, arrays[1]
        )
        kept = drawn >= np.float32(p)
        return on_wide(lambda v: np.where(kept, v * v.dtype.type(1 / (1 - p)), v.dtype.type(0)), x)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in SHAPES:
                for p in (0.0, 0.3, 1.0):
                    yield Sample(
                        (TensorType(DTYPES[name], shape), STATE),
                        {"p": p, "offset": 7},
                        ("normal", "index:1000"),
                    )


class Bernoulli(Composite):
    """1 where a uniform draw (float64 for float64, else float32) is below the probability p, else 0, in the dtype of p.

    Draws one number per element at `offset`.
    """

    name = "bernoulli"
    operand_names = ("p", "state")
    attributes = {"offset": 0}
    dtypes = FLOATS
    no_derivative = "the result is a draw, 0 or 1, in no way smooth in p"

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if types[0].dtype.name not in cls.dtypes or types[1] != STATE:
            raise NotImplementedError(
                f"bernoulli: expected a float tensor and a generator state {STATE}, got {types[0]}, {types[1]}"
            )
        return (types[0],)

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        p, state = self.operands
        wide = p.type.dtype.accumulator
        drawn = b.random_uniform(state, shape=p.type.shape, offset=self.attrs["offset"], dtype=wide)
        return b.cast_to(b.lt(drawn, b.cast_to(p, wide)), p.type.dtype)  # type: ignore[no-any-return]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        p = arrays[0]
        wide = DTYPES["f64"] if p.dtype == np.float64 else float32
        drawn = RandomUniform.reference(
            {"shape": p.shape, "offset": attrs["offset"], "dtype": wide}, arrays[1]
        )
        return (drawn < p.astype(wide.numpy)).astype(p.dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in SHAPES:
                yield Sample((TensorType(DTYPES[name], shape), STATE), {"offset": 3}, ("unit", "index:1000"))
