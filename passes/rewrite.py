"""Replacing values and erasing ops of one graph at a cost that does not depend on its size.

`Value.replace_by` scans the graph's outputs; a pass that replaces many values keeps a `Rewriter`,
which knows where each output stands.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.errors import VerifyError
from graphc.ir.graph import Graph, Op, Value

__all__ = ["Rewriter", "results_of"]


def results_of(built: Value | Sequence[Value]) -> tuple[Value, ...]:
    """What an op's hook returned as a tuple of values."""
    return (built,) if isinstance(built, Value) else tuple(built)


class Rewriter:
    """Edits `graph` and tracks which values are its outputs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.positions: dict[Value, list[int]] = {}
        for i, v in enumerate(graph.outputs):
            self.positions.setdefault(v, []).append(i)

    def is_dead(self, op: Op) -> bool:
        """True where no result of `op` is used."""
        return not any(r.uses or r in self.positions for r in op.results)

    def replace(self, old: Value, new: Value) -> None:
        """Makes every use of `old`, graph outputs included, use `new`, which takes over its name."""
        if old is new:
            return
        for use in list(old.uses):
            use.op.set_operand(use.index, new)
        for i in self.positions.get(old, ()):
            self.graph.outputs[i] = new
        if old in self.positions:
            self.positions.setdefault(new, []).extend(self.positions.pop(old))
        if old.name and not new.name and new.op is not None:
            new.name = old.name

    def replace_op(self, op: Op, values: Sequence[Value]) -> None:
        """Replaces all results of `op` by `values` of the same types and erases it.

        Raises VerifyError, naming the op, where number or types differ.
        """
        self.redirect(op, values)
        op.erase()

    def redirect(self, op: Op, values: Sequence[Value]) -> None:
        """As `replace_op`, but leaves `op` in the graph, unused."""
        if [v.type for v in values] != [r.type for r in op.results]:
            raise VerifyError(
                f"{op.name}: replacement has types {', '.join(str(v.type) for v in values)}, "
                f"expected {', '.join(str(r.type) for r in op.results)}",
                filename=op.loc.filename if op.loc else None,
                lineno=op.loc.lineno if op.loc else None,
            )
        for old, new in zip(op.results, values, strict=True):
            self.replace(old, new)

    def erase_if_dead(self, op: Op) -> list[Op]:
        """Erases `op`, and what only it used, if its results are unused; the ops erased."""
        erased: list[Op] = []
        pending = [op]
        while pending:
            at = pending.pop()
            if at.graph is self.graph and self.is_dead(at):
                pending.extend(v.op for v in at.operands if v.op is not None)
                at.erase()
                erased.append(at)
        return erased
