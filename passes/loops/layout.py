"""Gives products in a loop their constant operand in the order in which they read it.

A matrix that is the same in every step would be packed in every step where the product sums along its rows, or
read row by row where few rows multiply a large one. It is transposed once, before the loop, where the backend's
estimate says that this saves time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.control import Control, Loop, While
from graphc.ir.dims import Dim, Symbol, split_linear, typical
from graphc.ir.families import Contraction, axes_of
from graphc.ir.graph import Graph, Value
from graphc.ir.kernel import Combine, Instruction, Kernel, KernelBuffer, Stage
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.passes.base import Pass, nested_graphs
from graphc.passes.context import CompileContext
from graphc.passes.reductions import is_vector_product

__all__ = ["LoopLayouts"]

LEAST_COLUMNS = 8
COPY = 2.0
"""Cycles an element of a transposition, which reads and writes memory."""


@dataclass(frozen=True)
class LoopLayouts(Pass):
    """Transposes constant operands of products in loops of some length, in branches of theirs too."""

    name: ClassVar[str] = "loop_layouts"
    least_steps: int = 4

    def run(self, graph: Graph, context: CompileContext) -> bool:
        changed = False
        for g in nested_graphs(graph):
            for op in list(g.ops):
                if isinstance(op, (Loop, While)):
                    steps = op.attrs["length"] if isinstance(op, Loop) else op.attrs["limit"]
                    if steps is None or typical(steps) >= self.least_steps:
                        changed = _transpose_constants(op, steps, context) or changed
        return changed


def _transpose_constants(loop: Loop | While, steps: Dim | None, context: CompileContext) -> bool:
    """Replaces constants by transposed ones where every use asks for the same order of axes."""
    assert loop.graph is not None
    changed = False
    for i in range(len(loop.operands)):
        orders = {order for v in loop.arrivals(i) for order in _wanted_orders(v, steps, context)}
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


def _wanted_orders(value: Value, steps: Dim | None, context: CompileContext) -> set[tuple[int, ...] | None]:
    """The orders of axes that uses of a region's input ask for, in regions inside of it too."""
    assert isinstance(value.owner, Graph)
    found: set[tuple[int, ...] | None] = set()
    if value in value.owner.outputs:
        found.add(None)
    for use in value.uses:
        if isinstance(use.op, Control):
            further = use.op.arrivals(use.index)
            found.update(*(_wanted_orders(v, steps, context) for v in further), () if further else (None,))
        else:
            found.add(
                _wanted_order(use.op, use.index, steps, context) if isinstance(use.op, Contraction) else None
            )
    return found


def _wanted_order(
    op: Contraction, operand: int, steps: Dim | None, context: CompileContext
) -> tuple[int, ...] | None:
    """The order of an operand's axes with which the product takes less time; None where it is so already, or where
    that does not matter.

    Last is the axis along which the product makes columns, or the one along which it sums: few rows by a large
    matrix read it where it lies along its sums, any other product copies such an operand in every step.
    """
    types, result = op.operand_types, op.results[0].type
    if is_vector_product(op) or not all(t.is_static for t in (*types, result)):
        return None
    outer = axes_of("o", result.shape)
    inner = axes_of("i", op.domain(op.attrs, types, result))
    at = [tuple(a.expr for a in group) for group in (outer, inner)]
    accesses = op.accesses(op.attrs, types, result, *at)
    access, type_ = accesses[operand], types[operand]
    along = [_plain(x, (*outer, *inner)) for x in access.index]
    if access.guards or type_.rank < 2 or along[-1] is None:
        return None
    sums = along[-1] in inner
    others = outer if sums else inner
    places = [k for k, a in enumerate(along) if a in others and type_.sizes[k] >= LEAST_COLUMNS]
    if not places:
        return None
    order = (*(k for k in range(type_.rank) if k != places[-1]), places[-1])
    now, then = (_cycles(op, operand, o, outer, inner, context) for o in (None, order))
    if now is None or then is None or steps is None:
        return order if sums else None
    return order if (now - then) * typical(steps) > COPY * type_.numel else None


def _cycles(
    op: Contraction,
    operand: int,
    order: tuple[int, ...] | None,
    outer: Sequence[Symbol],
    inner: Sequence[Symbol],
    context: CompileContext,
) -> float | None:
    """Estimated cycles of a product with the axes of an operand in another order; None where nobody can say."""
    types, result = op.operand_types, op.results[0].type
    at = [tuple(a.expr for a in group) for group in (outer, inner)]
    accesses = op.accesses(op.attrs, types, result, *at)
    if len(accesses) != 2 or any(a.guards for a in accesses):
        return None
    dtype = result.dtype.accumulator
    loads, buffers = [], []
    for n, (access, type_) in enumerate(zip(accesses, types, strict=True)):
        turn = order if n == operand and order is not None else range(type_.rank)
        buffers.append(KernelBuffer(TensorType(dtype, tuple(type_.shape[k] for k in turn)), "in"))
        index = tuple(access.index[k] for k in turn)
        loads.append(Instruction(n, "load", dtype, buffer=n, index=index))
    body = (*loads, Instruction(2, "mul", dtype, (0, 1)), Instruction(-1, "yield", dtype, (2,)))
    combine = Combine((3,), (4,), (Instruction(5, "add", dtype, (3, 4)),), (5,))
    store = Instruction(-1, "store", dtype, (6,), buffer=2, index=at[0])
    stages = (
        Stage("reduce", tuple(inner), body, ((dtype, 0),), combine, (6,)),
        Stage("map", (), (store,)),
    )
    buffers.append(KernelBuffer(TensorType(dtype, result.shape), "out"))
    return context.backend.contraction_cycles(Kernel(tuple(buffers), tuple(outer), stages), context.target)


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
