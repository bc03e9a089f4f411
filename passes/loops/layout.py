"""Gives products in a loop their constant operand in the order in which they read it.

A matrix that is the same in every step would be packed in every step where the product sums along its rows, or
read row by row where few rows multiply a large one. It is transposed once, before the loop, where the backend's
estimate says that this saves time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.control import Control, Loop, While
from graphc.ir.dims import Dim, Symbol, split_linear, typical
from graphc.ir.families import Contraction, axes_of
from graphc.ir.graph import Graph, Value
from graphc.ir.kernel import Combine, Instruction, Kernel, KernelBuffer, Stage
from graphc.ir.marks import KEPT, add_mark
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.passes.base import Pass, nested_graphs
from graphc.passes.context import CompileContext
from graphc.passes.reductions import is_vector_product

__all__ = ["LoopLayouts"]

LEAST_COLUMNS = 8
COPY, NEAR_COPY, NEAR = 2.0, 1.2, 1 << 15
"""Cycles an element of a transposition, which reads and writes memory, another core's perhaps; of one of at most so many elements."""
LEAST_KEPT, MOST_KEPT = 1 << 12, 1 << 22
"""Bytes of a state that is worth keeping in another order of axes, and the most that a program keeps of such."""
WORTH = 0.05
"""Part of a product's time that a state in another order has to save."""


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
        if context.options.keep:
            left = MOST_KEPT
            for contraction in [op for op in graph.ops if isinstance(op, Contraction)]:
                taken = _keep_transposed(contraction, left, context)
                left, changed = left - taken, changed or taken > 0
        return changed


def _keep_transposed(op: Contraction, most: int, context: CompileContext) -> int:
    """Makes a product read states in another order of axes, which is kept from call to call, where that takes less time.

    Gives the bytes that are kept, at most `most`."""
    assert op.graph is not None
    taken = 0
    for i, v in enumerate(op.operands):
        if not _is_fixed(v) or not LEAST_KEPT <= v.type.nbytes < min(context.target.l2_bytes, most - taken):
            continue  # what is longer than L2 the code generator reads in panels, where that pays
        order = _wanted_order(op, i, None, context, free=True)
        if order is not None:
            b = Builder(op.graph, before=op, loc=op.loc)
            turned = b.permute(v, axes=order)
            add_mark(turned.op, KEPT)
            op.set_operand(i, b.permute(turned, axes=tuple(order.index(k) for k in range(len(order)))))
            taken += v.type.nbytes
    return taken


def _is_fixed(value: Value) -> bool:
    """True of a state that can be kept in another order of axes."""
    return value.op is None and value.is_state and value.type.is_static


def _transpose_constants(loop: Loop | While, steps: Dim | None, context: CompileContext) -> bool:
    """Replaces constants by transposed ones where every use asks for the same order of axes."""
    assert loop.graph is not None
    changed = False
    for i in range(len(loop.operands)):
        free = (
            context.options.keep and _is_fixed(loop.operands[i]) and loop.operands[i].type.nbytes <= MOST_KEPT
        )
        orders = {order for v in loop.arrivals(i) for order in _wanted_orders(v, steps, context, free)}
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


def _wanted_orders(
    value: Value, steps: Dim | None, context: CompileContext, free: bool
) -> set[tuple[int, ...] | None]:
    """The orders of axes that uses of a region's input ask for, in regions inside of it too."""
    assert isinstance(value.owner, Graph)
    found: set[tuple[int, ...] | None] = set()
    if value in value.owner.outputs:
        found.add(None)
    for use in value.uses:
        if isinstance(use.op, Control):
            further = use.op.arrivals(use.index)
            found.update(
                *(_wanted_orders(v, steps, context, free) for v in further), () if further else (None,)
            )
        else:
            found.add(
                _wanted_order(use.op, use.index, steps, context, free)
                if isinstance(use.op, Contraction)
                else None
            )
    return found


def _wanted_order(
    op: Contraction, operand: int, steps: Dim | None, context: CompileContext, free: bool
) -> tuple[int, ...] | None:
    """The order of an operand's axes with which the product takes less time; None where it is so already, or where
    that does not matter.

    Last is the axis along which the product makes columns, or the one along which it sums: few rows by a large
    matrix read it where it lies along its sums, any other product copies such an operand in every step. `free` says that
    the operand is turned once for many calls.
    """
    types, result = op.operand_types, op.results[0].type
    if not all(t.is_static for t in (*types, result)):
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
    if free and now is not None and then is not None:
        return order if now - then > WORTH * now else None
    if now is None or then is None or steps is None:
        return order if sums and not is_vector_product(op) else None
    copy = type_.numel * (NEAR_COPY if type_.numel <= NEAR else COPY)
    return order if (now - then) * typical(steps) > copy else None


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
    if len(accesses) != 2:
        return None
    dtype = result.dtype.accumulator
    body, buffers = [], []
    for n, (access, type_) in enumerate(zip(accesses, types, strict=True)):
        turn = order if n == operand and order is not None else range(type_.rank)
        buffers.append(KernelBuffer(TensorType(dtype, tuple(type_.shape[k] for k in turn)), "in"))
        load = Instruction(n, "load", dtype, buffer=n, index=tuple(access.index[k] for k in turn))
        if access.guards:
            body.append(Instruction(7 + n, "const", dtype, value=access.fill))
            load = dataclasses.replace(load, operands=(7 + n,), guards=access.guards)
        body.append(load)
    body += [Instruction(2, "mul", dtype, (0, 1)), Instruction(-1, "yield", dtype, (2,))]
    combine = Combine((3,), (4,), (Instruction(5, "add", dtype, (3, 4)),), (5,))
    store = Instruction(-1, "store", dtype, (6,), buffer=2, index=at[0])
    stages = (
        Stage("reduce", tuple(inner), tuple(body), ((dtype, 0),), combine, (6,)),
        Stage("map", (), (store,)),
    )
    buffers.append(KernelBuffer(TensorType(dtype, result.shape), "out"))
    return context.backend.contraction_cycles(
        Kernel(tuple(buffers), tuple(outer), stages), context.target, is_vector_product(op)
    )


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
