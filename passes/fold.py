"""Evaluates ops whose operands are all constants, by their reference.

Only ops whose reference is exact for the result's dtype (no `ulp` is stated) are folded, so that
folding never changes a bit of what the compiled op would give. A constant of one repeated value
is kept as a rank-0 constant and an expansion, and stays so through elementwise ops and views.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from graphc.ir.attributes import Dense
from graphc.ir.builder import Builder
from graphc.ir.families import Creation, Elementwise, GraphOp, View
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.passes.base import GraphPass
from graphc.passes.rewrite import Rewriter

__all__ = ["Fold", "dense_value", "splat_value"]

RUN_TIME_ERRORS = (ArithmeticError, IndexError, ValueError, RuntimeError)
"""What a reference raises where the compiled op would fail its call: left for the run."""


def dense_value(value: Value) -> Any | None:
    """The array of a constant, else None."""
    op = value.op
    if isinstance(op, Creation) and isinstance(op.attrs.get("value"), Dense):
        return op.attrs["value"].array
    return None


def splat_value(value: Value) -> Any | None:
    """The rank-0 array of a one-element constant or of a view of one, else None."""
    array = dense_value(value)
    if array is None and is_plain_view(value.op):
        assert value.op is not None
        array = dense_value(value.op.operands[0])
    return array.reshape(()) if array is not None and array.size == 1 else None


def is_plain_view(op: Op | None) -> bool:
    """True of a view whose every element is an element of its one operand."""
    return isinstance(op, View) and "view" in op.traits and len(op.operands) == 1


@dataclass(frozen=True)
class Fold(GraphPass):
    """Folds ops with constant operands where the result has at most `max_elements` elements.

    Results that repeat one element have no limit.
    """

    name: ClassVar[str] = "fold"
    max_elements: int = 1024

    def apply(self, graph: Graph) -> bool:
        rewriter, changed = Rewriter(graph), False
        for op in graph.ops:
            if not isinstance(op, GraphOp) or op.regions or (op.operands and not _may_fold(op)):
                continue
            values = self.splat(op) or self.dense(op)
            if values is not None:
                rewriter.replace_op(op, values)
                changed = True
        return changed

    def splat(self, op: GraphOp) -> list[Value] | None:
        """The results of `op` as expanded rank-0 constants, where all operands are such."""
        b = _before(op)
        if not op.operands:
            array = dense_value(op.results[0])
            if (
                array is None
                or array.size < 2
                or array.tobytes() != array.tobytes()[: array.itemsize] * array.size
            ):
                return None
            return [_expanded(b, array.reshape(-1)[0], op.result.type)]
        scalars = [splat_value(v) for v in op.operands]
        if any(s is None for s in scalars) or all(v.type.rank == 0 for v in op.operands + op.results):
            return None
        if is_plain_view(op):
            # An expansion of a rank-0 constant is already what this would build.
            if op.operands[0].type.rank == 0:
                return None
            return [_expanded(b, scalars[0], op.result.type)]
        if not isinstance(op, Elementwise) or not is_exact(op):
            return None
        results = evaluate(op, scalars)
        return results and [_expanded(b, a, r.type) for a, r in zip(results, op.results, strict=True)]

    def dense(self, op: GraphOp) -> list[Value] | None:
        """The results of `op` as constants, where all operands are and the results are small."""
        if not op.operands or not is_exact(op) or not all(t.is_static for t in op.result_types):
            return None
        arrays = [dense_value(v) for v in op.operands]
        if any(a is None for a in arrays):
            return None
        size = sum(t.numel for t in op.result_types)
        if size > self.max_elements or (isinstance(op, View) and size > sum(a.size for a in arrays)):  # type: ignore[union-attr]
            return None
        results = evaluate(op, arrays)
        b = _before(op)
        return results and [b.constant(a) for a in results]


def _may_fold(op: GraphOp) -> bool:
    """The quick test that nearly every op of a real program fails."""
    x = op.operands[0]
    return dense_value(x) is not None or splat_value(x) is not None


def is_exact(op: GraphOp) -> bool:
    """True where compiled code gives the reference's bits for every result."""
    return not any(op.ulp.get(t.dtype.name, 0) for t in (*op.result_types, *op.operand_types))


def evaluate(op: GraphOp, arrays: list[Any]) -> list[Any] | None:
    """The results of `op` by its reference; None where the call would fail."""
    try:
        with np.errstate(all="ignore"):
            results = type(op).reference(op.attrs, *arrays)
    except RUN_TIME_ERRORS:
        return None
    return [np.asarray(r) for r in (results if isinstance(results, tuple | list) else (results,))]


def _before(op: Op) -> Builder:
    assert op.graph is not None
    return Builder(op.graph, before=op, loc=op.loc)


def _expanded(b: Builder, scalar: Any, type_: TensorType) -> Value:
    """A constant that repeats `scalar`; up to one element it is dense, so that folding again rests."""
    if type_.is_static and type_.numel < 2:
        return b.constant(np.full(type_.sizes, scalar, type_.dtype.numpy))
    return b.broadcast_to(b.constant(np.asarray(scalar, type_.dtype.numpy)), type_.shape)
