"""Takes out of loops what does not need the steps to come one after the other.

What depends on constants alone is computed once, before the loop. A product that depends on slices and constants
is made for all steps at once, with the elementwise work on the way to it: one large product is better than many
small ones.
"""

from __future__ import annotations

from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.control import Loop
from graphc.ir.dims import bounds, less_equal, product
from graphc.ir.families import Contraction, Elementwise, GraphOp, View
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.records import dataclass
from graphc.passes.base import GraphPass
from graphc.passes.reductions import is_vector_product

__all__ = ["HoistInvariants"]


@dataclass(frozen=True)
class HoistInvariants(GraphPass):
    """Hoists invariant ops, and products that do not depend on what a loop carries, out of every loop."""

    name: ClassVar[str] = "hoist_invariants"
    exact: ClassVar[bool] = False
    """The reference may sum a product of all steps in another order; compiled code does not."""

    def apply(self, graph: Graph) -> bool:
        changed = False
        for op in list(graph.ops):
            if isinstance(op, Loop) and op.attrs["length"] != 0:
                changed = _Hoist(op).run() or changed
        return changed


class _Hoist:
    def __init__(self, loop: Loop) -> None:
        assert loop.graph is not None
        self.loop = loop
        body, n, m = loop.body, loop.carries, loop.attrs["slices"]
        self.outside = Builder(loop.graph, before=loop, loc=loop.loc)
        self.outer: dict[Value, Value] = dict(zip(body.inputs[n + m :], loop.constants, strict=True))
        """Values of the region that are the same in every step, and what they are outside."""
        self.constants = set(self.outer)
        """Values of the region that depend on constants alone, creation ops not counted."""
        self.fixed = set(self.outer)
        """Values of the region that are the same in every step."""
        self.stacked: dict[Value, Value] = dict(zip(body.inputs[n : n + m], loop.sliced, strict=True))
        """Values of the region that depend on slices and constants, and all of them stacked."""
        self.free: set[Value] = set(self.stacked)
        """Values that could be stacked."""

    def run(self) -> bool:
        ops = list(self.loop.body.ops)
        idle = bounds(self.loop.attrs["length"])[0] == 0
        for op in ops:
            if idle and op.attrs.get("check") is not None:
                continue  # without steps it must not fail
            if not op.regions and isinstance(op, GraphOp) and all(v in self.fixed for v in op.operands):
                self.fixed.update(op.results)
                if any(v in self.constants for v in op.operands):
                    self.constants.update(op.results)
        changed = self._products(ops)
        for op in ops:
            for v in op.results if not is_repetition(op) else op.operands:
                changed = self._invariant(v) or changed
        return changed

    def _products(self, ops: list[Op]) -> bool:
        changed = False
        for op in ops:
            if op.results and op.results[0] not in self.fixed and self._can_stack(op):
                self.free.update(op.results)
                if isinstance(op, Contraction):
                    at = self.loop.carries + self.loop.attrs["slices"]
                    self._replace(op.result, self._stack(op.result), at, sliced=True)
                    changed = True
        return changed

    # -- constants ------------------------------------------------------------------------

    def _invariant(self, v: Value) -> bool:
        """Makes a value that depends on constants, and is not one, an input, where steps read it."""
        if v not in self.constants or v.op is None or is_repetition(v.op):
            return False
        if not any(self._is_read(use.op) for use in v.uses) and v not in self.loop.body.outputs:
            return False
        new = self._replace(v, self._fixed(v), len(self.loop.operands), sliced=False)
        self.constants.add(new)
        self.fixed.add(new)
        return True

    def _is_read(self, op: Op) -> bool:
        """True of an op that steps run."""
        return op.results[0] not in self.fixed or is_repetition(op)

    def _fixed(self, v: Value) -> Value:
        """The value outside."""
        found = self.outer.get(v)
        if found is None:
            op = v.op
            assert isinstance(op, GraphOp)
            made = self.outside.create(type(op), [self._fixed(x) for x in op.operands], **op.attrs)
            self.outer.update(zip(op.results, made.results, strict=True))
            found = self.outer[v]
        return found

    # -- slices ---------------------------------------------------------------------------

    def _can_stack(self, op: Op) -> bool:
        known = all(v in self.free or v in self.fixed for v in op.operands)
        if not known or not any(v in self.free for v in op.operands):
            return False
        if isinstance(op, Contraction):
            # A product with a vector is summed in another order than one with a matrix.
            return op.stacks_steps() and not is_vector_product(op)
        return isinstance(op, Elementwise)

    def _stack(self, v: Value) -> Value:
        """All of a value of the region, stacked along a leading axis."""
        found = self.stacked.get(v)
        if found is not None:
            return found
        op = v.op
        stepped = [x in self.free for x in op.operands]  # type: ignore[union-attr]
        values = [
            self._stack(x) if on else self._fixed(x)
            for x, on in zip(op.operands, stepped, strict=True)  # type: ignore[union-attr]
        ]
        if isinstance(op, Contraction):
            found = op.all_steps(self.outside, values, stepped)
        else:
            assert isinstance(op, Elementwise)
            found = self.outside.create(type(op), self._spread(values, stepped), **op.attrs).results[v.index]
        self.stacked[v] = found
        return found

    def _spread(self, values: list[Value], stepped: list[bool]) -> list[Value]:
        """Operands of an elementwise op with the steps as a leading axis."""
        shape = next(v.type.shape for v, on in zip(values, stepped, strict=True) if on)
        b = self.outside
        return [
            v if on else b.broadcast_to(b.reshape_to(v, (1, *v.type.shape)), shape)
            for v, on in zip(values, stepped, strict=True)
        ]

    # -- inputs ---------------------------------------------------------------------------

    def _replace(self, old: Value, outer: Value, at: int, *, sliced: bool) -> Value:
        """Makes `old` a new input number `at` of the region, which is `outer` or a slice of it."""
        loop, body = self.loop, self.loop.body
        new = Value(old.type, body, at, old.name, "argument")
        body.inputs.insert(at, new)
        for i, v in enumerate(body.inputs):
            v.index = i
        old.replace_by(new)
        loop.insert_operand(at, outer)
        if sliced:
            loop.attrs["slices"] += 1
            self.stacked[new] = outer
            self.free.add(new)
        return new


def is_repetition(op: Op) -> bool:
    """True of a view that has more elements than what it shows: cheaper to read than to keep."""
    return isinstance(op, View) and not any(
        less_equal(product(op.result.type.shape), product(v.type.shape)) for v in op.operands
    )
