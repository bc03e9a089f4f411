"""Checks the invariants of a graph; linear in its size. Run after every pass."""

from __future__ import annotations

from graphc.ir.dims import Expr
from graphc.ir.errors import VerifyError
from graphc.ir.families import GraphOp, Types
from graphc.ir.graph import ROLES, Graph, Op, Use, Value
from graphc.ir.printer import dim_symbols, op_text, value_names

__all__ = ["Inferred", "verify"]


Inferred = dict[Op, tuple[Types, Types]]
"""Of ops whose types were inferred: those of operands and results then."""


def verify(graph: Graph, inferred: Inferred | None = None) -> None:
    """Raises VerifyError, naming the op, where an invariant of `graphc.ir.graph` does not hold.

    `inferred` is kept from one check of a graph that passes change to the next: types of ops without regions that have not
    changed are not inferred again.
    """
    _Verifier(graph, {} if inferred is None else inferred).run()


class _Verifier:
    def __init__(self, graph: Graph, inferred: Inferred) -> None:
        self.graph = graph
        self.inferred = inferred
        self.defined: set[Value] = set(graph.inputs)

    def fail(self, message: str, op: Op | None = None) -> None:
        where = f"\n  {op_text(op, value_names(self.graph)).strip()}" if op is not None else ""
        loc = op.loc if op is not None else None
        raise VerifyError(
            f"graph @{self.graph.name}: {message}{where}",
            filename=loc.filename if loc else None,
            lineno=loc.lineno if loc else None,
        )

    def run(self) -> None:
        for i, v in enumerate(self.graph.inputs):
            if v.owner is not self.graph or v.index != i or v.role not in ROLES:
                self.fail(f"input {i} has the wrong owner, index or role")
        count = 0
        for op in self.graph.ops:
            self.check_op(op)
            self.defined.update(op.results)
            count += 1
        if count != len(self.graph):
            self.fail(f"has {count} ops in its list but counts {len(self.graph)}")
        self.check_outputs()
        try:
            dim_symbols(self.graph)
        except ValueError as error:
            self.fail(str(error))
        for v in self.graph.inputs:
            self.check_uses(v)

    def check_op(self, op: Op) -> None:
        if op.graph is not self.graph:
            self.fail("op belongs to another graph", op)
        if not isinstance(op, GraphOp):
            self.fail("op has no family", op)
            return
        for i, v in enumerate(op.operands):
            if v not in self.defined:
                self.fail(f"operand {i} is not defined before its use", op)
            if Use(op, i) not in v.uses:
                self.fail(f"operand {i} does not list this use", op)
        types = (op.operand_types, op.result_types)
        if self.inferred.get(op) != types:
            self.check_types(op)
            if not op.regions:
                self.inferred[op] = types
        for r in op.results:
            self.check_uses(r)
        for region in op.regions:
            verify(region, self.inferred)

    def check_types(self, op: GraphOp) -> None:
        missing = [k for k in op.attributes if k not in op.attrs]
        unknown = [k for k in op.attrs if k not in op.attributes]
        if missing or unknown:
            self.fail(f"attributes missing {missing}, unknown {unknown}", op)
        try:
            expected = type(op).infer(op.operand_types, op.attrs)
            if len(op.regions) != op.region_count:
                raise RuntimeError(f"expected {op.region_count} regions, got {len(op.regions)}")
            type(op).check_regions(op.operand_types, op.attrs, op.regions)
        except Exception as error:
            self.fail(f"operands are not what the op takes: {error}", op)
            return
        if tuple(expected) != op.result_types:
            self.fail(f"result types should be {', '.join(map(str, expected))}", op)

    def check_uses(self, value: Value) -> None:
        for use in value.uses:
            if use.op.graph is not self.graph or use.op.operands[use.index] is not value:
                self.fail(f"use-list of {value!r} names a use that is not there", use.op)

    def check_outputs(self) -> None:
        for i, v in enumerate(self.graph.outputs):
            if v not in self.defined:
                self.fail(f"output {i} is not defined in the graph")
        targets = list(self.graph.aliases.values())
        if len(set(targets)) != len(targets):
            self.fail("two outputs alias one input")
        for i, j in self.graph.aliases.items():
            if not (0 <= i < len(self.graph.outputs) and 0 <= j < len(self.graph.inputs)):
                self.fail(f"alias {i} -> {j} is out of range")
            state, new = self.graph.inputs[j], self.graph.outputs[i]
            if not state.is_state and state.role != "argument":
                self.fail(f"alias {i}: a {state.role} input cannot be written")
            if state.type != new.type and not any(isinstance(d, Expr) for d in new.type.shape):
                self.fail(f"alias {i}: {new.type} written to state of type {state.type}")
