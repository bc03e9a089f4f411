"""Gives products in a loop their constant operand in the order in which they read it.

A matrix that is the same in every step would be packed in every step where the product sums along its rows. It is
transposed once, before the loop, instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.control import Control, Loop, While
from graphc.ir.dims import Symbol, less_equal, split_linear
from graphc.ir.families import Contraction, axes_of
from graphc.ir.graph import Graph, Value
from graphc.passes.base import GraphPass
from graphc.passes.reductions import is_vector_product

__all__ = ["LoopLayouts"]

LEAST_COLUMNS = 8


@dataclass(frozen=True)
class LoopLayouts(GraphPass):
    """Transposes constant operands of products in loops of some length, in branches of theirs too."""

    name: ClassVar[str] = "loop_layouts"
    least_steps: int = 4

    def apply(self, graph: Graph) -> bool:
        changed = False
        for op in list(graph.ops):
            if isinstance(op, (Loop, While)):
                steps = op.attrs["length"] if isinstance(op, Loop) else op.attrs["limit"]
                if steps is None or less_equal(self.least_steps, steps):
                    changed = _transpose_constants(op) or changed
        return changed


def _transpose_constants(loop: Loop | While) -> bool:
    """Replaces constants by transposed ones where every use asks for the same order of axes."""
    assert loop.graph is not None
    changed = False
    for i in range(len(loop.operands)):
        orders = {order for v in loop.arrivals(i) for order in _wanted_orders(v)}
        order = orders.pop() if len(orders) == 1 else None
        if order is None:
            continue
        outside = Builder(loop.graph, before=loop, loc=loop.loc)
        arrivals = loop.arrivals(i)
        loop.set_operand(i, outside.permute(loop.operands[i], axes=order))
        for v in arrivals:
            _turn(v, loop.operands[i], order)
        changed = True
    return changed


def _wanted_orders(value: Value) -> set[tuple[int, ...] | None]:
    """The orders of axes that uses of a region's input ask for, in regions inside of it too."""
    assert isinstance(value.owner, Graph)
    found: set[tuple[int, ...] | None] = set()
    if value in value.owner.outputs:
        found.add(None)
    for use in value.uses:
        if isinstance(use.op, Control):
            further = use.op.arrivals(use.index)
            found.update(*(_wanted_orders(v) for v in further), () if further else (None,))
        else:
            found.add(_wanted_order(use.op, use.index) if isinstance(use.op, Contraction) else None)
    return found


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


def _turn(old: Value, turned: Value, order: tuple[int, ...]) -> None:
    """Makes an input of a region the turned constant, and what was read of it a view of that."""
    body = old.owner
    assert isinstance(body, Graph)
    new = Value(turned.type, body, old.index, old.name, old.role)
    body.inputs[old.index] = new
    back = tuple(order.index(k) for k in range(len(order)))
    view: Value | None = None
    for use in list(old.uses):
        if isinstance(use.op, Control):
            further = use.op.arrivals(use.index)
            use.op.set_operand(use.index, new)
            for v in further:
                _turn(v, turned, order)
        else:
            if view is None:
                view = Builder(body, before=next(body.ops)).permute(new, axes=back)
            use.op.set_operand(use.index, view)
