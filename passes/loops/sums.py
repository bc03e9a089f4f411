"""Sums over all steps of a loop of what one step makes.

A product summed over steps is one product with one more summed axis, made after the loop; a linear
op of something is that op of its sum. What is left is stacked and summed where one step's part is small, else
added up in a carried value.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.ir.builder import Builder
from graphc.ir.families import Contraction, GraphOp
from graphc.ir.graph import Value
from graphc.passes.loops.parts import LoopBuild

__all__ = ["StepSums"]

STACKED = 1 << 14
"""Most elements a step of what is stacked to be summed after the loop."""

Later = Callable[[], Value]


class StepSums:
    """Sums over the steps of a loop under construction."""

    def __init__(self, build: LoopBuild) -> None:
        self.build = build

    def total(self, value: Value) -> Later:
        """The sum over steps of a value of the region; to be called once the loop is built."""
        op = value.op
        if isinstance(op, Contraction):
            later = self._product(op)
            if later is not None:
                return later
        if isinstance(op, GraphOp) and is_linear(op) and _has_product(value):
            parts = [self.total(v) for v in op.operands]
            return lambda: self._again(op, [part() for part in parts])
        whole = self.build.whole_of(value)
        if whole is not None:
            return lambda: sum_steps(self.build.b, whole)
        if value.type.is_static and value.type.numel <= STACKED:
            stacked = self.build.output(value)
            return lambda: sum_steps(self.build.b, stacked())
        carry = self.build.carry(self.build.b.zeros_like(value.type))
        return self.build.carried(carry, self.build.inside.add(carry, value))

    def _again(self, op: GraphOp, operands: list[Value]) -> Value:
        return self.build.b.create(type(op), operands, **op.attrs).results[op.results[0].index]

    def _product(self, op: Contraction) -> Later | None:
        """One product in place of one in each step."""
        fixed = [self.build.constant_of(v) for v in op.operands]
        stepped = tuple(v is None for v in fixed)
        if not any(stepped) or not op.sums_steps():
            return None
        sides = [self.build.output(v) if on else None for v, on in zip(op.operands, stepped, strict=True)]

        def build() -> Value:
            values = [side() if side is not None else v for side, v in zip(sides, fixed, strict=True)]
            found: Value = op.over_steps(self.build.b, values, stepped)
            return found

        return build


def sum_steps(b: Builder, stacked: Value) -> Value:
    """The sum over the leading axis."""
    found: Value = b.sum(stacked, axes=(0,))
    return found


def is_linear(op: GraphOp) -> bool:
    """True where the op of sums is the sum of the op."""
    return "linear" in op.traits or ("view" in op.traits and len(op.operands) == 1)


def _has_product(value: Value) -> bool:
    """True where a linear op's operands, followed through linear ops, come to a product."""
    pending, seen = [value], set()
    while pending:
        v = pending.pop()
        if v in seen:
            continue
        seen.add(v)
        if isinstance(v.op, Contraction):
            return True
        if isinstance(v.op, GraphOp) and is_linear(v.op):
            pending.extend(v.op.operands)
    return False
