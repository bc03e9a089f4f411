"""Reverse-mode differentiation: appends the cotangents' computation to a graph.

Works op by op through each class's `vjp`; a cotangent that is zero throughout is None and costs
nothing. What it appends are ordinary ops, so applying it to them gives higher derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Protocol

from graphc.ir.builder import Builder
from graphc.ir.control import Control
from graphc.ir.errors import CompileError, VerifyError
from graphc.ir.families import Composite, GraphOp
from graphc.ir.graph import Graph, Location, Op, Value
from graphc.ir.marks import add_mark, checkpoint_word
from graphc.ir.records import dataclass
from graphc.passes.base import Pass
from graphc.passes.context import CompileContext
from graphc.passes.decompose import build_decomposition
from graphc.passes.rewrite import Rewriter

__all__ = ["ControlRule", "Differentiate", "differentiate", "register_control"]


def differentiate(
    graph: Graph,
    roots: Sequence[Value],
    cotangents: Sequence[Value],
    wrt: Sequence[Value],
    before: Op | None = None,
    *,
    stop: bool = True,
    blocked: Collection[Value] = (),
    check_nan: bool = False,
) -> list[Value | None]:
    """Builds the cotangents of `wrt` from those of `roots`, before op `before` or at the end.

    `cotangents` are values of the types of `roots`, all defined before that place. The result has
    one value of the type of each of `wrt`, None where it is zero. With `stop`, values in `wrt` are
    leaves: nothing flows through them to others of `wrt`; without, cotangents flow on. Nothing
    flows through `blocked` values either (those recorded while grad mode was off).

    A composite op on the way that has no VJP of its own gets its decomposition built beside it;
    its uses (`graph.outputs` too) move to that, and it stays in the graph, unused.

    With `check_nan` each cotangent is checked when the program runs: the call fails where it holds NaN.

    Raises VerifyError where a VJP gives a cotangent of another type than its operand's.
    """
    return _Reverse(graph, roots, cotangents, wrt, before, stop, blocked, check_nan).run()


class ControlRule(Protocol):
    """The derivative of an op with regions that was replaced by one that keeps residuals."""

    values: tuple[Value, ...]
    """What stands for the op's results now."""

    def cotangents(self, b: Builder, incoming: Sequence[Value | None]) -> Sequence[Value | None]:
        """Cotangents of the op's operands from those of its results."""


_RULES: dict[type[Control], Callable[[Any, Sequence[bool], Sequence[bool]], ControlRule]] = {}


def register_control(
    family: type[Control], rule: Callable[[Any, Sequence[bool], Sequence[bool]], ControlRule]
) -> None:
    """Says how a family of ops with regions is differentiated; called by the package that builds on this one.

    `rule(op, active, wanted)`: operands that want cotangents, results that may have one.
    """
    _RULES[family] = rule


class _Reverse:
    def __init__(
        self,
        graph: Graph,
        roots: Sequence[Value],
        cotangents: Sequence[Value],
        wrt: Sequence[Value],
        before: Op | None,
        stop: bool,
        blocked: Collection[Value],
        check_nan: bool,
    ) -> None:
        self.check_nan = check_nan
        self.blocked = frozenset(blocked)
        self.graph = graph
        self.roots = list(roots)
        self.seeds = list(cotangents)
        self.wrt = list(wrt)
        self.before = before
        self.stop = stop
        self.moved: dict[Value, Value] = {}
        self.rules: dict[Op, ControlRule] = {}
        self.cotangents: dict[Value, Value] = {}
        for root, seed in zip(self.roots, self.seeds, strict=True):
            if root.type != seed.type:
                raise ValueError(f"a cotangent of type {seed.type} was given for a root of type {root.type}")

    def run(self) -> list[Value | None]:
        leaves = {v for v in self.wrt if v.type.dtype.is_floating_point}
        last = self.last()
        path = self.active_ops(self.reached(leaves), leaves)
        for root, seed in zip(self.roots, self.seeds, strict=True):
            self.accumulate(self.moved.get(root, root), seed, Builder(self.graph, self.before, _loc(root)))
        for op in reversed(path):
            self.visit(op, leaves)
        found = [self.cotangents.get(self.moved.get(v, v)) if v in leaves else None for v in self.wrt]
        self.sweep(last, {v for v in found if v is not None} | set(self.seeds))
        return found

    def last(self) -> Op | None:
        """The op after which new ones are put."""
        return self.graph._last if self.before is None else self.before.previous

    def reached(self, leaves: set[Value]) -> set[Op]:
        """Ops that the roots depend on, not looking behind leaves."""
        found: set[Op] = set()
        pending = list(self.roots)
        while pending:
            v = pending.pop()
            op = v.op
            if op is None or op in found or (self.stop and v in leaves):
                continue
            found.add(op)
            pending.extend(op.operands)
        return found

    def active_ops(self, reached: set[Op], leaves: set[Value]) -> list[GraphOp]:
        """Those of `reached` through which a cotangent flows to a leaf, in order.

        Decomposes composite ops without a VJP among them.
        """
        self.active = set(leaves)
        rewriter = Rewriter(self.graph)
        path: list[GraphOp] = []
        op = next(self.graph.ops, None)
        while op is not None and op is not self.before:
            following = op.next
            if op in reached and isinstance(op, GraphOp) and self.carries(op):
                if isinstance(op, Composite) and not op.has_vjp():
                    values, first = build_decomposition(op)
                    if self.stop:
                        values = tuple(
                            r if r in leaves else v for r, v in zip(op.results, values, strict=True)
                        )
                    else:
                        leaves.update(v for r, v in zip(op.results, values, strict=True) if r in leaves)
                        self.active.update(leaves)
                    rewriter.redirect(op, values)
                    reached.discard(op)
                    self.moved.update(zip(op.results, values, strict=True))
                    at: Op | None = first
                    while at is not None and at is not op:
                        reached.add(at)
                        at = at.next
                    following = first if first is not op else following
                elif isinstance(op, Control):
                    self.active_control(op, reached, leaves, rewriter)
                    path.append(op)
                else:
                    path.append(op)
                    self.active.update(
                        r for r in op.results if r.type.dtype.is_floating_point and r not in self.blocked
                    )
            op = following
        # A decomposition's result may be that of a composite that was decomposed in turn.
        for old, new in reversed(self.moved.items()):
            self.moved[old] = self.moved.get(new, new)
        return path

    def active_control(self, op: Control, reached: set[Op], leaves: set[Value], rewriter: Rewriter) -> None:
        """Makes an op with regions keep what its derivative needs: another takes its place, whose results are used."""
        roots = set(self.roots)
        wanted = [r in roots or any(use.op in reached for use in r.uses) for r in op.results]
        make = next(rule for family, rule in _RULES.items() if isinstance(op, family))
        rule = self.rules[op] = make(op, [v in self.active for v in op.operands], wanted)
        rewriter.redirect(op, rule.values)
        self.moved.update(zip(op.results, rule.values, strict=True))
        leaves.update(new for old, new in zip(op.results, rule.values, strict=True) if old in leaves)
        self.active.update(
            new
            for old, new in zip(op.results, rule.values, strict=True)
            if new.type.dtype.is_floating_point and old not in self.blocked
        )

    def carries(self, op: GraphOp) -> bool:
        return (
            op.differentiable
            and any(v in self.active for v in op.operands)
            and any(r.type.dtype.is_floating_point and r not in self.blocked for r in op.results)
        )

    def visit(self, op: GraphOp, leaves: set[Value]) -> None:
        """Passes the cotangents of the results of `op` on to its operands."""
        results = [self.moved[r] for r in op.results] if op in self.rules else op.results
        incoming = [self.cotangents.get(r) for r in results]
        if self.stop:
            incoming = [None if r in leaves else c for r, c in zip(results, incoming, strict=True)]
        if all(c is None for c in incoming):
            return
        b = Builder(self.graph, self.before, op.loc)
        rule, last = self.rules.get(op), self.last()
        outgoing = op.vjp(b, incoming) if rule is None else rule.cotangents(b, incoming)
        if op.mark is not None:
            self.name_checkpoint(op, last)
        if len(outgoing) != len(op.operands):
            raise VerifyError(
                f"{op.name}: its VJP gave {len(outgoing)} cotangents for {len(op.operands)} operands"
            )
        for i, (v, c) in enumerate(zip(op.operands, outgoing, strict=True)):
            if c is None or v not in self.active:
                continue
            if c.type != v.type:
                raise VerifyError(
                    f"{op.name}: its VJP gave a cotangent of type {c.type} for operand {i} of type {v.type}",
                    filename=op.loc.filename if op.loc else None,
                    lineno=op.loc.lineno if op.loc else None,
                )
            self.accumulate(v, _number(b, op, i, c) if self.check_nan else c, b)
        for r in results:
            if r not in leaves:
                self.cotangents.pop(r, None)

    def name_checkpoint(self, op: Op, last: Op | None) -> None:
        """Gives what was built behind `last` for `op` its checkpoint: what a VJP computes again of its own accord is
        computed again there."""
        if (word := checkpoint_word(op)) is not None:
            at = self.last()
            while at is not None and at is not last:
                add_mark(at, word)
                at = at.previous

    def accumulate(self, value: Value, cotangent: Value, b: Builder) -> None:
        """Adds to the cotangent of `value`, in the order of arrival."""
        known = self.cotangents.get(value)
        self.cotangents[value] = cotangent if known is None else b.add(known, cotangent)

    def sweep(self, last: Op | None, kept: set[Value]) -> None:
        """Erases what VJPs built after `last` and nobody needs (cotangents of inactive operands)."""
        new: list[Op] = []
        at = next(self.graph.ops, None) if last is None else last.next
        while at is not None and at is not self.before:
            new.append(at)
            at = at.next
        for op in reversed(new):
            if not any(r.uses or r in kept for r in op.results):
                op.erase()


def _loc(value: Value) -> Location | None:
    return value.op.loc if value.op is not None else None


def _number(b: Builder, op: Op, operand: int, cotangent: Value) -> Value:
    """A cotangent, once it holds no NaN; the message is that of anomaly mode, with the line of `op`."""
    name = "".join(part.title() for part in op.name.split("_"))
    message = f"Function '{name}Backward0' returned nan values in its {operand}th output. The forward call is"
    found: Value = b.checked(cotangent, b.logical_not(b.is_nan(cotangent)), check=f"RuntimeError: {message}")
    return found


@dataclass(frozen=True)
class Differentiate(Pass):
    """Appends to the outputs the gradients of scalar output `output` with respect to `inputs`.

    `inputs` are positions; empty stands for all parameters of a floating dtype. A gradient that is
    zero throughout is an output of zeros.
    """

    name: ClassVar[str] = "differentiate"
    exact: ClassVar[bool] = False
    output: int = 0
    inputs: tuple[int, ...] = ()

    def run(self, graph: Graph, context: CompileContext) -> bool:
        root = graph.outputs[self.output]
        if root.type.rank != 0 or not root.type.dtype.is_floating_point:
            raise CompileError(
                f"differentiate: output {self.output} is {root.type}, expected a floating scalar"
            )
        wrt = [graph.inputs[i] for i in self.inputs] or [
            v for v in graph.inputs if v.role == "parameter" and v.type.dtype.is_floating_point
        ]
        b = Builder(graph, loc=_loc(root))
        seed = b.full((), 1, root.type.dtype)
        gradients = differentiate(graph, [root], [seed], wrt)
        graph.outputs += [
            g if g is not None else b.zeros_like(v) for g, v in zip(gradients, wrt, strict=True)
        ]
        return True
