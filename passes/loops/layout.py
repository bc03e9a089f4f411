"""Gives products in a loop their constant operand in the order in which they read it.

A matrix that is the same in every step would be packed in every step where the product sums along its rows. It is
transposed once, before the loop, instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.control import Loop
from graphc.ir.dims import Symbol, less_equal, split_linear
from graphc.ir.families import Contraction, axes_of
from graphc.ir.graph import Graph, Value
from graphc.passes.base import GraphPass
from graphc.passes.reductions import is_vector_product

__all__ = ["LoopLayouts"]

LEAST_COLUMNS = 8


@dataclass(frozen=True)
class LoopLayouts(GraphPass):
    """Transposes constant operands of products in loops of some length."""

    name: ClassVar[str] = "loop_layouts"
    least_steps: int = 4

    def apply(self, graph: Graph) -> bool:
        changed = False
        for op in list(graph.ops):
            if isinstance(op, Loop) and less_equal(self.least_steps, op.attrs["length"]):
                changed = _transpose_constants(op) or changed
        return changed


def _transpose_constants(loop: Loop) -> bool:
    """Replaces constants by transposed ones where every use asks for the same order of axes."""
    assert loop.graph is not None
    body, first = loop.body, loop.carries + loop.attrs["slices"]
    changed = False
    for i in range(first, len(body.inputs)):
        value = body.inputs[i]
        orders = {
            _wanted_order(use.op, use.index) if isinstance(use.op, Contraction) else None
            for use in value.uses
        }
        order = orders.pop() if len(orders) == 1 else None
        if order is None or value in body.outputs:
            continue
        outside = Builder(loop.graph, before=loop, loc=loop.loc)
        turned = outside.permute(loop.operands[i], axes=order)
        _replace_input(loop, i, turned, order)
        changed = True
    return changed


def _wanted_order(op: Contraction, operand: int) -> tuple[int, ...] | None:
    """The order of an operand's axes that puts one along which the product makes columns last; None where it is
    so already, or where that does not matter."""
    types, result = op.operand_types, op.results[0].type
    if is_vector_product(op) or not all(t.is_static for t in (*types, result)):
        return None
    outer = axes_of("o", result.shape)
    inner = axes_of("i", op.domain(op.attrs, types, result))
    at = [tuple(a.expr for a in group) for group in (outer, inner)]
    access = op.accesses(op.attrs, types, result, *at)[operand]
    type_ = types[operand]
    along = [_plain(x, (*outer, *inner)) for x in access.index]
    if access.guards or type_.rank < 2 or along[-1] not in inner:
        return None
    columns = [k for k, a in enumerate(along) if a in outer and type_.sizes[k] >= LEAST_COLUMNS]
    if not columns:
        return None
    last = columns[-1]
    return (*(k for k in range(type_.rank) if k != last), last)


def _plain(x: object, axes: Sequence[Symbol]) -> Symbol | None:
    """The axis that an index is."""
    return next((a for a in axes if split_linear(x, a) == (1, 0)), None)


def _replace_input(loop: Loop, i: int, turned: Value, order: tuple[int, ...]) -> None:
    """Makes input i of the region the turned constant, and what was read of it a view of that."""
    body, old = loop.body, loop.body.inputs[i]
    new = Value(turned.type, body, i, old.name, old.role)
    body.inputs[i] = new
    loop.set_operand(i, turned)
    back = tuple(order.index(k) for k in range(len(order)))
    view = Builder(body, before=next(body.ops), loc=loop.loc).permute(new, axes=back)
    for use in list(old.uses):
        use.op.set_operand(use.index, view)
