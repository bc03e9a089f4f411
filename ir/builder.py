"""Builds graphs: creates ops with inferred types, numbers as constants, broadcasting on request.

`Builder` is what VJPs, decompositions and rewrite patterns are written against. Every op in the
registry is a method: `b.add(x, y)`, `b.sum(x, axes=(0,))`; it returns the result Value, or a tuple
of them where there are several. Python numbers among the operands become constants of the other
operands' dtype, and size-1 or missing dimensions are expanded for elementwise ops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.ir.attributes import Dense
from graphc.ir.dims import Dim
from graphc.ir.families import REGISTRY, Elementwise, GraphOp
from graphc.ir.graph import Graph, Location, Op, Value
from graphc.ir.types import DType, TensorType, bool_

__all__ = ["Builder", "broadcast_shapes"]


def broadcast_shapes(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """NumPy's broadcast of shapes; a symbolic dim is never 1. Raises RuntimeError as PyTorch does."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for i, d in enumerate(shape, rank - len(shape)):
            if result[i] == 1:
                result[i] = d
            elif d not in (1, result[i]):
                raise RuntimeError(
                    f"The size of tensor a ({result[i]}) must match the size of tensor b ({d}) "
                    f"at non-singleton dimension {i}; shapes are {', '.join(map(str, map(list, shapes)))}"
                )
    return tuple(result)


class Builder:
    """Appends ops to `graph`, or inserts them before `before`."""

    def __init__(self, graph: Graph, before: Op | None = None, loc: Location | None = None) -> None:
        self.graph = graph
        self.before = before
        self.loc = loc

    def create(
        self, cls: type[GraphOp], operands: Sequence[Value], regions: Sequence[Graph] = (), **attrs: Any
    ) -> GraphOp:
        """One op of class `cls`, which takes over `regions`.

        Raises TypeError for wrong attributes or a wrong number of operands or regions.
        """
        full = {**cls.attributes, **attrs}
        unknown = [k for k in attrs if k not in cls.attributes]
        missing = [k for k, v in full.items() if v is ...]
        if unknown or missing:
            raise TypeError(f"{cls.name}: unknown attributes {unknown}, missing {missing}")
        least = len(cls.operand_names) - cls.variadic
        if len(operands) < least or (len(operands) > least and not cls.variadic):
            raise TypeError(f"{cls.name}: expected operands {cls.operand_names}, got {len(operands)}")
        if len(regions) != cls.region_count:
            raise TypeError(f"{cls.name}: expected {cls.region_count} regions, got {len(regions)}")
        types = [v.type for v in operands]
        results = cls.infer(types, full)
        if regions:
            cls.check_regions(types, full, regions)
        op = cls(operands, full, results, self.loc, regions)
        self.graph.insert(op, self.before)
        return op

    def __getattr__(self, name: str) -> Callable[..., Any]:
        cls = REGISTRY.get(name.rstrip("_"))
        if cls is None:
            raise AttributeError(f"no op named {name!r}")

        def build(*operands: Any, regions: Sequence[Graph] = (), **attrs: Any) -> Any:
            values = self.values(operands, broadcast=issubclass(cls, Elementwise))
            op = self.create(cls, values, regions, **attrs)
            return op.results[0] if len(op.results) == 1 else op.results

        return build

    def values(self, operands: Sequence[Any], *, broadcast: bool) -> list[Value]:
        """Operands as values of compatible shape: numbers become constants."""
        model = next((x for x in operands if isinstance(x, Value) and x.type.dtype is not bool_), None)
        if model is None:
            model = next(x for x in operands if isinstance(x, Value)) if operands else None
        values = [
            x if isinstance(x, Value) else self.full((), x, model.type.dtype)  # type: ignore[union-attr]
            for x in operands
        ]
        if broadcast and len({v.type.shape for v in values}) > 1:
            shape = broadcast_shapes([v.type.shape for v in values])
            values = [self.broadcast_to(v, shape) for v in values]
        return values

    # -- conveniences -----------------------------------------------------------------

    def full(self, shape: tuple[Dim, ...], value: float | int | bool, dtype: DType) -> Value:
        """A splat constant of `shape`."""
        scalar: Value = self.create(
            REGISTRY["constant"], [], value=Dense(np.asarray(value).astype(dtype.numpy))
        ).result
        return self.broadcast_to(scalar, shape)

    def constant(self, array: Any) -> Value:
        """A constant of a NumPy array's dtype and shape."""
        return self.create(REGISTRY["constant"], [], value=Dense(array)).result

    def zeros_like(self, x: Value | TensorType) -> Value:
        """Zeros of the type of `x`."""
        t = x.type if isinstance(x, Value) else x
        return self.full(t.shape, 0, t.dtype)

    def broadcast_to(self, x: Value, shape: tuple[Dim, ...]) -> Value:
        """`x` expanded to `shape` (a no-op where it has it)."""
        if x.type.shape == shape:
            return x
        return self.create(REGISTRY["expand"], [x], shape=shape).result

    def reshape_to(self, x: Value, shape: tuple[Dim, ...]) -> Value:
        """`x` with its elements in row-major order as `shape` (a no-op where it has it)."""
        if x.type.shape == shape:
            return x
        return self.create(REGISTRY["reshape"], [x], shape=shape).result

    def cast_to(self, x: Value, dtype: DType) -> Value:
        """`x` converted to `dtype` (a no-op where it has it)."""
        return x if x.type.dtype is dtype else self.create(REGISTRY["cast"], [x], dtype=dtype).result

    def sum_to(self, x: Value, shape: tuple[Dim, ...]) -> Value:
        """The transpose of `broadcast_to`: sums expanded dimensions away."""
        if x.type.shape == shape:
            return x
        lead = x.type.rank - len(shape)
        axes = tuple(range(lead)) + tuple(
            i + lead for i, d in enumerate(shape) if d == 1 and x.type.shape[i + lead] != 1
        )
        summed = self.create(REGISTRY["sum"], [x], axes=axes).result if axes else x
        return self.reshape_to(summed, shape)

    def keep_dims(self, reduced: Value, full: tuple[Dim, ...], axes: Sequence[int]) -> Value:
        """A reduction's result with its axes back as size 1, then expanded to `full`."""
        shape = tuple(1 if i in axes else d for i, d in enumerate(full))
        return self.broadcast_to(self.reshape_to(reduced, shape), full)
