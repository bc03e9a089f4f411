"""Ops without operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir.attributes import Dense
from graphc.ir.dims import Dim
from graphc.ir.families import NUMERIC, Attrs, Creation, Index, Read, Sample, Types
from graphc.ir.graph import Value
from graphc.ir.scalar import ScalarBuilder
from graphc.ir.types import DTYPES, TensorType, dtype_of

__all__ = ["Constant", "Iota", "Size", "splat"]


def splat(value: Value) -> Any:
    """The number that every element of `value` is known to be, as a NumPy scalar; else None."""
    op = value.op
    while op is not None and op.name in ("expand", "reshape"):
        op = op.operands[0].op
    if isinstance(op, Constant) and op.attrs["value"].array.size == 1:
        return op.attrs["value"].array.reshape(-1)[0]
    return None


class Constant(Creation):
    """The array `value`. Rank-0 constants live in kernels as immediates, others in constant buffers."""

    name = "constant"
    attributes = {"value": ...}
    traits = frozenset({"cheap"})
    no_derivative = "it has no operand"

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        array = attrs["value"].array
        return (TensorType(dtype_of(array.dtype), tuple(array.shape)),)

    @classmethod
    def point(
        cls,
        s: ScalarBuilder[Any],
        attrs: Attrs,
        types: Types,
        result: TensorType,
        index: Index,
        reads: Sequence[Read[Any]],
    ) -> Any:
        # Only rank 0 (and one-element) constants are computed in place; the fuser makes buffers of others.
        return s.const(result.dtype, attrs["value"].array.reshape(-1)[0].item())

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return attrs["value"].array

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in ((), (3, 5), (1,), (0, 4)):
                array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(DTYPES[name].numpy)
                yield Sample((), {"value": Dense(array)})


class Iota(Creation):
    """0, 1, 2, … along `axis` of `shape`, in `dtype`."""

    name = "iota"
    attributes = {"shape": ..., "axis": 0, "dtype": ...}
    traits = frozenset({"cheap"})
    no_derivative = "it has no operand"

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if not 0 <= attrs["axis"] < len(attrs["shape"]):
            raise IndexError(f"iota: axis {attrs['axis']} is outside of shape {list(attrs['shape'])}")
        return (TensorType(attrs["dtype"], attrs["shape"]),)

    @classmethod
    def point(
        cls,
        s: ScalarBuilder[Any],
        attrs: Attrs,
        types: Types,
        result: TensorType,
        index: Index,
        reads: Sequence[Read[Any]],
    ) -> Any:
        return s.index(index[attrs["axis"]], result.dtype)

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        shape, axis = attrs["shape"], attrs["axis"]
        line = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return np.broadcast_to(line, shape).astype(attrs["dtype"].numpy)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, axis in (((5,), 0), ((1,), 0), ((3, 4), 1), ((3, 4), 0), ((0, 2), 0)):
                yield Sample((), {"shape": shape, "axis": axis, "dtype": DTYPES[name]})


class Size(Creation):
    """The dim expression `value` as a rank-0 number of `dtype`: the run-time extent of a symbolic dimension."""

    name = "size"
    attributes = {"value": ..., "dtype": ...}
    dtypes = NUMERIC
    traits = frozenset({"cheap"})
    no_derivative = "it has no operand"

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        return (TensorType(attrs["dtype"], ()),)

    @classmethod
    def point(
        cls,
        s: ScalarBuilder[Any],
        attrs: Attrs,
        types: Types,
        result: TensorType,
        index: Index,
        reads: Sequence[Read[Any]],
    ) -> Any:
        value: Dim = attrs["value"]
        return s.index(value, result.dtype)

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.asarray(attrs["value"]).astype(attrs["dtype"].numpy)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            yield Sample((), {"value": 100, "dtype": DTYPES[name]})
