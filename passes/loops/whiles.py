"""The derivative of loops with a predicate: a loop of the length of their limit, whose last steps may do nothing.

A step of that loop asks the predicate and is a branch by it, so that nothing is computed after the end, forward
or backward.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.builder import Builder
from graphc.ir.control import Branch, Loop, While
from graphc.ir.errors import CompileError
from graphc.ir.families import REGISTRY
from graphc.ir.graph import Graph, Value, clone_ops
from graphc.passes.differentiate import register_control
from graphc.passes.loops.reverse import LoopDerivative

__all__ = ["WhileDerivative"]


class WhileDerivative:
    """The derivative of one loop with a predicate, which is put before it as a loop of known length.

    Raises CompileError, at the line of the loop, where it has no limit.
    """

    def __init__(self, op: While, active: Sequence[bool], wanted: Sequence[bool]) -> None:
        loop = _bounded(op)
        self.rule = LoopDerivative(loop, active, wanted)
        self.values = self.rule.values

    def cotangents(self, b: Builder, incoming: Sequence[Value | None]) -> list[Value | None]:
        """Cotangents of the operands, from those of the results, built with `b`."""
        return self.rule.cotangents(b, incoming)


def _bounded(op: While) -> Loop:
    """The loop of known length, just before `op`."""
    limit, graph = op.attrs["limit"], op.graph
    if limit is None:
        raise CompileError(
            "while_loop: a loop whose number of steps is not bounded cannot be differentiated in reverse, since what "
            "each step computed has to be kept; give max_iterations (or int bounds), use scan, or put the loop "
            "under no_grad()",
            filename=op.loc.filename if op.loc else None,
            lineno=op.loc.lineno if op.loc else None,
        )
    assert graph is not None
    n = op.carries
    step = Graph(op.body.name)
    inputs = [step.add_input(v.type) for v in op.operands]
    mapping = dict(zip(op.test.inputs, inputs, strict=True))
    clone_ops(op.test.ops, step, mapping)
    rest = Graph(op.body.name)
    rest.outputs = [rest.add_input(v.type) for v in op.operands][:n]
    chosen = Builder(step, loc=op.loc).create(
        _family(Branch),
        [mapping[op.test.outputs[0]], *inputs],
        [op.body.copy(), rest],
        outputs=tuple(v.type for v in op.results),
    )
    step.outputs = list(chosen.results)
    made = Builder(graph, before=op, loc=op.loc).create(
        _family(Loop), op.operands, [step], length=limit, carries=n, slices=0, outputs=()
    )
    assert isinstance(made, Loop)
    made.mark = op.mark
    return made


def _family(family: type[Branch] | type[Loop]) -> type[Branch] | type[Loop]:
    """The op that is the family: each has one."""
    (found,) = [cls for cls in REGISTRY.values() if issubclass(cls, family)]
    return found


register_control(While, WhileDerivative)
