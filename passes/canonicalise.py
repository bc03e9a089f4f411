"""Brings a graph to canonical form: op patterns and trait rules to a fixpoint.

Each op's `simplify` hook gives its own patterns; the rules that follow from traits alone stand
here. A worklist revisits only what a rewrite touched, so the cost is that of the rewrites made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.errors import VerifyError
from graphc.ir.families import Creation, GraphOp
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.records import dataclass
from graphc.ir.structure import attributes_key
from graphc.passes.base import GraphPass
from graphc.passes.rewrite import Rewriter, results_of

__all__ = ["Canonicalise"]

REWRITES_PER_OP = 64
"""More rewrites than this per op of the graph mean that two patterns undo each other."""


@dataclass(frozen=True)
class Canonicalise(GraphPass):
    """Applies `simplify` and the trait rules (involution, idempotent, commutative) to a fixpoint."""

    name: ClassVar[str] = "canonicalise"

    def apply(self, graph: Graph) -> bool:
        return _Worklist(graph).run()


class _Worklist:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.rewriter = Rewriter(graph)
        self.pending: deque[Op] = deque(graph.ops)
        self.waiting: set[Op] = set(self.pending)
        self.budget = REWRITES_PER_OP * (len(graph) + 16)

    def add(self, op: Op | None) -> None:
        if op is not None and op not in self.waiting:
            self.waiting.add(op)
            self.pending.append(op)

    def run(self) -> bool:
        changed = False
        while self.pending:
            op = self.pending.popleft()
            self.waiting.discard(op)
            if op.graph is not self.graph or not isinstance(op, GraphOp):
                continue
            if self.rewriter.is_dead(op):
                self.erase(op)
                changed = True
            elif self.visit(op):
                changed = True
                self.budget -= 1
                if self.budget < 0:
                    raise VerifyError(f"canonicalise: patterns around {op.name} do not come to an end")
        return changed

    def erase(self, op: Op) -> None:
        """Erases `op` with what only it used, and revisits ops that lost a user."""
        producers = {v.op for v in op.operands}
        for gone in self.rewriter.erase_if_dead(op):
            producers.update(v.op for v in gone.operands)
        for producer in producers:
            if producer is not None and producer.graph is self.graph:
                self.add(producer)

    def visit(self, op: GraphOp) -> bool:
        """Applies the first rule that fits; True where one did."""
        if order_operands(op):
            self.add(op)
            return True
        earlier = op.previous
        values = collapse(op)
        if values is None:
            built = op.simplify(Builder(self.graph, before=op, loc=op.loc))
            values = None if built is None else results_of(built)
        first = next(self.graph.ops) if earlier is None else earlier.next
        while first is not None and first is not op:
            first.mark = first.mark or op.mark
            self.add(first)
            first = first.next
        if values is None or tuple(values) == op.results:
            return False
        users = [use.op for r in op.results for use in r.uses]
        self.rewriter.redirect(op, values)
        for user in users:
            self.add(user)
        for v in values:
            self.add(v.op)
        self.erase(op)
        return True


def collapse(op: GraphOp) -> Sequence[Value] | None:
    """f(f(x)) as x for an involution and as f(x) for an idempotent op, attributes being equal."""
    if len(op.operands) != 1 or not op.traits & {"involution", "idempotent"}:
        return None
    inner = op.operands[0].op
    if type(inner) is not type(op) or attributes_key(inner.attrs) != attributes_key(op.attrs):
        return None
    return inner.operands if "involution" in op.traits else inner.results


def order_operands(op: GraphOp) -> bool:
    """Puts the constant operand of a commutative op second; True where they were swapped."""
    if "commutative" not in op.traits or len(op.operands) != 2:
        return False
    x, y = op.operands
    if not is_constant(x) or is_constant(y):
        return False
    op.set_operand(0, y)
    op.set_operand(1, x)
    return True


def is_constant(value: Value) -> bool:
    """True of a value made without inputs, directly or by one op that has one operand."""
    op = value.op
    if op is not None and len(op.operands) == 1:
        op = op.operands[0].op
    return isinstance(op, Creation)
