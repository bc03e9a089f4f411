"""Which ops take no memory of their own, and how many bytes the others' results take, for passes that weigh memory.

These are estimates of what fusion makes of a graph: a view or a constant is made where it is read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from graphc.ir.dims import ample
from graphc.ir.families import Accumulate, Contraction, Creation, Elementwise, Random, View, Window
from graphc.ir.graph import Op, Value

__all__ = ["behind_views", "bytes_of", "made_of", "takes_nothing"]


def takes_nothing(op: Op) -> bool:
    """True of what is made where it is read: views of one value, constants, fills."""
    return isinstance(op, Creation) or (isinstance(op, View) and len(op.operands) == 1)


def behind_views(ops: Sequence[Op]) -> dict[Value, Value]:
    """What views show, by the views."""
    found: dict[Value, Value] = {}
    for op in ops:
        if op.operands and takes_nothing(op):
            found[op.results[0]] = found.get(op.operands[0], op.operands[0])
    return found


def made_of(ops: Sequence[Op], outputs: Collection[Value]) -> dict[Value, tuple[Value, ...]]:
    """What is read in place of values that are made where they are read: views, and elements that go to one op alone
    that may share their kernel. Those that are not named take memory."""
    found: dict[Value, tuple[Value, ...]] = {}
    for op in ops:
        if not any(r in outputs for r in op.results) and (takes_nothing(op) or _goes_on(op)):
            roots = tuple(dict.fromkeys(root for v in op.operands for root in found.get(v, (v,))))
            found.update(dict.fromkeys(op.results, roots))
    return found


def _goes_on(op: Op) -> bool:
    """True of elements that one op reads, by way of views or not, which is no product."""
    if not isinstance(op, (Elementwise, Random)) or len(op.results) != 1:
        return False
    value = op.results[0]
    while len(value.uses) == 1:
        (use,) = value.uses
        if not takes_nothing(use.op):
            return isinstance(use.op, (Elementwise, Accumulate)) and not isinstance(
                use.op, (Contraction, Window)
            )
        value = use.op.results[0]
    return False


def bytes_of(value: Value) -> int:
    """Bytes that a value takes where it is stored."""
    total = value.type.dtype.itemsize
    for size in value.type.shape:
        total *= ample(size)
    return total
