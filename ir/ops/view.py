"""Ops that move elements without computing: index maps of their operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim, equal, floor_div, mod, product
from graphc.ir.families import Attrs, Index, Leading, Requirement, Sample, Types, View
from graphc.ir.graph import Value
from graphc.ir.scalar import Guard
from graphc.ir.types import DTYPES, TensorType

__all__ = ["Expand", "Permute", "Reshape"]

Pieces = Sequence[tuple[int, Index, tuple[Guard, ...]]]


class Reshape(View):
    """The same elements in row-major order as `shape`."""

    name = "reshape"
    leading: ClassVar[Mapping[str, Leading] | None] = {"shape": "size"}
    operand_names = ("x",)
    attributes = {"shape": ...}
    traits = frozenset({"view"})

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if equal(product(attrs["shape"]), product(types[0].shape)) is False:
            raise RuntimeError(
                f"shape '{list(attrs['shape'])}' is invalid for input of size {product(types[0].shape)}"
            )
        return (types[0].with_shape(attrs["shape"]),)

    @classmethod
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        yield product(attrs["shape"]) - product(types[0].shape), "=="

    @classmethod
    def pieces(cls, attrs: Attrs, types: Types, result: TensorType, index: Index) -> Pieces:
        return [(0, reshape_index(index, result.shape, types[0].shape), ())]

    @classmethod
    def write_through(cls, b: Any, attrs: Attrs, base: Any, update: Any) -> Any:
        return b.reshape(update, shape=base.type.shape)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.reshape_to(cotangents[0], self.operands[0].type.shape)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return arrays[0].reshape(attrs["shape"])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for a, b in (
                ((3, 4), (12,)),
                ((3, 4), (3, 2, 2)),
                ((6, 4), (2, 3, 2, 2)),
                ((), (1, 1)),
                ((0, 3), (3, 0)),
                ((2, 3, 4), (6, 4)),
            ):
                yield Sample((TensorType(DTYPES[name], a),), {"shape": b})

    def simplify(self, b: Any) -> Value | None:
        x = self.operands[0]
        if x.type.shape == self.attrs["shape"]:
            return x
        if isinstance(x.op, Reshape):
            return b.reshape(x.op.operands[0], shape=self.attrs["shape"])  # type: ignore[no-any-return]
        return None


def reshape_index(index: Index, result: tuple[Dim, ...], source: tuple[Dim, ...]) -> Index:
    """The index into `source` of element `index` of its row-major reshape to `result`.

    Leading and trailing equal dimensions map one to one, so no division is made for them.
    """
    lead = 0
    while lead < min(len(result), len(source)) and result[lead] == source[lead]:
        lead += 1
    tail = 0
    while tail < min(len(result), len(source)) - lead and result[-1 - tail] == source[-1 - tail]:
        tail += 1
    linear: Dim = 0
    for i, d in zip(index[lead : len(index) - tail], result[lead : len(result) - tail], strict=True):
        linear = linear * d + i
    middle: list[Dim] = []
    dims = source[lead : len(source) - tail]
    for position, d in enumerate(reversed(dims)):
        last = position == len(dims) - 1
        middle.append(0 if d == 1 else linear if last else mod(linear, d))
        linear = linear if d == 1 else (0 if last else floor_div(linear, d))
    return (*index[:lead], *reversed(middle), *index[len(index) - tail :])


class Permute(View):
    """Axes in the order `axes`: result axis i is operand axis axes[i]."""

    name = "permute"
    leading: ClassVar[Mapping[str, Leading] | None] = {"axes": "order"}
    operand_names = ("x",)
    attributes = {"axes": ...}
    traits = frozenset({"view"})

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if sorted(attrs["axes"]) != list(range(types[0].rank)):
            raise RuntimeError(f"permute: axes {list(attrs['axes'])} do not permute the axes of {types[0]}")
        return (types[0].with_shape(tuple(types[0].shape[a] for a in attrs["axes"])),)

    @classmethod
    def pieces(cls, attrs: Attrs, types: Types, result: TensorType, index: Index) -> Pieces:
        source: list[Dim] = [0] * len(index)
        for i, a in enumerate(attrs["axes"]):
            source[a] = index[i]
        return [(0, tuple(source), ())]

    @classmethod
    def write_through(cls, b: Any, attrs: Attrs, base: Any, update: Any) -> Any:
        return b.permute(update, axes=inverse(attrs["axes"]))

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.permute(cotangents[0], axes=inverse(self.attrs["axes"]))]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.transpose(arrays[0], attrs["axes"])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape, axes in (
                ((3, 4), (1, 0)),
                ((2, 3, 4), (2, 0, 1)),
                ((), ()),
                ((0, 3), (1, 0)),
                ((1, 1), (1, 0)),
            ):
                yield Sample((TensorType(DTYPES[name], shape),), {"axes": axes})

    def simplify(self, b: Any) -> Value | None:
        x, axes = self.operands[0], self.attrs["axes"]
        if axes == tuple(range(len(axes))):
            return x
        if isinstance(x.op, Permute):
            inner = x.op.attrs["axes"]
            return b.permute(x.op.operands[0], axes=tuple(inner[a] for a in axes))  # type: ignore[no-any-return]
        return None


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The inverse permutation."""
    result = [0] * len(axes)
    for i, a in enumerate(axes):
        result[a] = i
    return tuple(result)


class Expand(View):
    """NumPy's broadcast of the operand to `shape`."""

    name = "expand"
    operand_names = ("x",)
    attributes = {"shape": ...}
    traits = frozenset({"view", "cheap"})

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, shape = types[0], attrs["shape"]
        lead = len(shape) - x.rank
        if lead < 0 or any(d not in (1, shape[i + lead]) for i, d in enumerate(x.shape)):
            raise RuntimeError(f"expand: {x} cannot be expanded to shape {list(shape)}")
        return (x.with_shape(shape),)

    @classmethod
    def pieces(cls, attrs: Attrs, types: Types, result: TensorType, index: Index) -> Pieces:
        lead = len(index) - types[0].rank
        at = tuple(0 if d == 1 else index[i + lead] for i, d in enumerate(types[0].shape))
        return [(0, at, ())]

    @classmethod
    def write_through(cls, b: Any, attrs: Attrs, base: Any, update: Any) -> Any:
        if product(base.type.shape) != product(attrs["shape"]):
            raise RuntimeError(
                "unsupported operation: more than one element of the written-to tensor refers to a single "
                "memory location. Please clone() the tensor before performing the operation."
            )
        return b.reshape(update, shape=base.type.shape)

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        (x,), shape = operands, self.attrs["shape"]
        lead = len(shape) - len(self.operands[0].type.shape)
        x = b.reshape_to(x, (b.instances, *(1,) * lead, *self.operands[0].type.shape))
        return [b.broadcast_to(x, (b.instances, *shape))]

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        return [b.sum_to(cotangents[0], self.operands[0].type.shape)]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.broadcast_to(arrays[0], attrs["shape"])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for a, b in (((), (2, 3)), ((3, 1), (3, 4)), ((4,), (2, 4)), ((1, 1), (0, 3)), ((3,), (3,))):
                yield Sample((TensorType(DTYPES[name], a),), {"shape": b})

    def simplify(self, b: Any) -> Value | None:
        x = self.operands[0]
        return x if x.type.shape == self.attrs["shape"] else None
