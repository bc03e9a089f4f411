"""Turns a finished scalar graph into a kernel: stages of numbered instructions and its buffers.

Only what the roots (stores and yields) need is emitted, in the order in which it was made.
Numbering and buffer order follow that order alone, so equal groups give equal kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

from graphc.ir.dims import Dim, Symbol, substitute, symbols
from graphc.ir.families import Accumulate
from graphc.ir.graph import Op
from graphc.ir.kernel import Combine, Instruction, Kernel, KernelBuffer, Stage
from graphc.ir.records import dataclass
from graphc.ir.types import DType
from graphc.passes.lower.nodes import KernelGraph, Node

__all__ = ["Body", "Store", "emit"]


@dataclass(frozen=True)
class Store:
    """`value` into `buffer` at `index`; `add` in a scatter stage."""

    buffer: Any
    index: tuple[Dim, ...]
    value: Node
    add: bool = False


@dataclass
class Body:
    """A stage to be: its roots. `op` is the accumulation of a reduce stage, `results` its nodes."""

    kind: str
    axes: tuple[Symbol, ...] = ()
    stores: list[Store] = field(default_factory=list)
    yields: tuple[Node, ...] = ()
    op: Op | None = None
    results: tuple[Node, ...] = ()
    checks: list[Node] = field(default_factory=list)
    """Nodes that are needed although nothing may read them."""

    @property
    def roots(self) -> list[Node]:
        return [*(s.value for s in self.stores), *self.yields, *self.checks]


def emit(
    graph: KernelGraph,
    axes: tuple[Symbol, ...],
    bodies: Sequence[Body],
    last: Body,
    buffers: dict[Any, KernelBuffer],
    contraction: bool,
) -> tuple[Kernel, list[Any]]:
    """The kernel, and the keys of its parameters in order.

    `bodies[k]` is the k-th stage with inner axes, `last` the work per outer point after all of them.
    In a contraction nothing precedes the first stage: what both it and the epilogue need is repeated.
    """
    return _Emitter(graph, bodies, last, buffers, contraction).run(axes)


class _Emitter:
    def __init__(
        self,
        graph: KernelGraph,
        bodies: Sequence[Body],
        last: Body,
        buffers: dict[Any, KernelBuffer],
        contraction: bool,
    ) -> None:
        self.graph = graph
        self.bodies, self.last = bodies, last
        self.declared = buffers
        self.contraction = contraction
        self.ids: dict[Node, int] = {}
        self.count = 0
        self.used: dict[Any, None] = {}
        for node in graph.checked:
            body = bodies[node.frame // 2] if node.frame % 2 else last
            body.checks.append(node)

    def run(self, axes: tuple[Symbol, ...]) -> tuple[Kernel, list[Any]]:
        stages: list[Stage] = []
        for k, body in enumerate(self.bodies):
            if not self.contraction:
                self._outer_stage(stages, 2 * k, self._pending(2 * k), [])
            stages.append(self._inner_stage(body, 2 * k + 1))
            if self.contraction:
                self.ids = {n: i for n, i in self.ids.items() if n in body.results}
        final = 2 * len(self.bodies)
        self._outer_stage(stages, final, self.last.roots, self.last.stores)
        order = [k for k in self.used if self.declared[k].access != "local"]
        order += [k for k in self.used if self.declared[k].access == "local"]
        number = {k: i for i, k in enumerate(order)}
        kernel = Kernel(
            tuple(self.declared[k] for k in order),
            axes,
            tuple(_numbered(s, number) for s in stages),
            len(self.graph.checks),
        )
        return kernel, [k for k in order if self.declared[k].access != "local"]

    def _pending(self, frame: int) -> list[Node]:
        """Nodes of an outer frame that any later root needs."""
        found: dict[Node, None] = {}
        seen: set[Node] = set()
        waiting = [n for b in (*self.bodies, self.last) for n in b.roots + _store_dims(self.graph, b)]
        while waiting:
            node = waiting.pop()
            if node in seen or node in self.ids:
                continue
            seen.add(node)
            if node.frame == frame and node.opcode != "result":
                found[node] = None
            waiting += self._dependencies(node)
        return list(found)

    def _dependencies(self, node: Node) -> list[Node]:
        found = list(node.operands)
        for x in (*node.index, *(e for g in node.guards for e in g)):
            for s in symbols(x):
                dim = self.graph.dim_node(s)
                if dim is not None:
                    found.append(dim)
        return found

    def _needed(self, roots: Sequence[Node]) -> list[Node]:
        """Nodes not numbered yet that the roots depend on, in the order they were made."""
        found: set[Node] = set()
        waiting = list(roots)
        while waiting:
            node = waiting.pop()
            if node in found or node in self.ids:
                continue
            assert node.opcode != "result", "a reduction's result is read before it is there"
            found.add(node)
            waiting += self._dependencies(node)
        return sorted(found, key=lambda n: n.key)

    def _outer_stage(self, stages: list[Stage], frame: int, roots: list[Node], stores: list[Store]) -> None:
        body = self._instructions(roots + _store_dims(self.graph, Body("map", stores=stores)))
        body += [self._store(s) for s in stores]
        if body:
            self._forget_constants()
            stages.append(Stage("map", (), tuple(body)))

    def _inner_stage(self, body: Body, frame: int) -> Stage:
        instructions = self._instructions(body.roots + _store_dims(self.graph, body))
        instructions += [self._store(s) for s in body.stores]
        if body.op is None:
            self._forget_inner(frame)
            return Stage("scatter" if body.kind == "scatter" else "map", body.axes, tuple(instructions))
        init = _init(body.op)
        instructions.append(Instruction(-1, "yield", init[0][0], tuple(self.ids[n] for n in body.yields)))
        self._forget_inner(frame)
        combine = self._combine(body.op, [d for d, _ in init])
        for node in body.results:
            self.ids[node] = self._next()
        results = tuple(self.ids[n] for n in body.results)
        return Stage("reduce", body.axes, tuple(instructions), init, combine, results)

    def _forget_inner(self, frame: int) -> None:
        self.ids = {n: i for n, i in self.ids.items() if n.frame != frame and n.opcode != "const"}

    def _forget_constants(self) -> None:
        self.ids = {n: i for n, i in self.ids.items() if n.opcode != "const"}

    def _next(self) -> int:
        self.count += 1
        return self.count - 1

    def _instructions(self, roots: Sequence[Node]) -> list[Instruction]:
        made = []
        for node in self._needed(roots):
            self.ids[node] = self._next()
            made.append(self._instruction(node))
        return made

    def _instruction(self, node: Node) -> Instruction:
        if node.buffer is not None:
            self.used.setdefault(node.buffer)
        return Instruction(
            self.ids[node],
            node.opcode,
            node.dtype,
            tuple(self.ids[o] for o in node.operands),
            node.value,
            node.buffer if node.buffer is not None else -1,
            tuple(self._named(x) for x in node.index),
            tuple((self._named(a), self._named(b), self._named(c)) for a, b, c in node.guards),
        )

    def _store(self, store: Store) -> Instruction:
        self.used.setdefault(store.buffer)
        value = "add" if store.add else None
        index = tuple(self._named(x) for x in store.index)
        return Instruction(
            -1, "store", store.value.dtype, (self.ids[store.value],), value, store.buffer, index
        )

    def _named(self, x: Dim) -> Dim:
        """The expression with `to_index` symbols named by their instruction."""
        values: dict[Symbol, Dim] = {}
        for s in symbols(x):
            node = self.graph.dim_node(s)
            if node is not None:
                values[s] = Symbol(f"%{self.ids[node]}", s.lo, s.hi, s.size).expr
        return substitute(x, values) if values else x

    def _combine(self, op: Op, dtypes: list[DType]) -> Combine:
        assert isinstance(op, Accumulate)
        graph = KernelGraph()
        left = tuple(graph.make("left", d, value=i) for i, d in enumerate(dtypes))
        right = tuple(graph.make("right", d, value=i) for i, d in enumerate(dtypes))
        results = tuple(op.combine(graph, op.attrs, left, right))
        outside, self.ids = self.ids, {n: self._next() for n in (*left, *right)}
        body = self._instructions(results)
        combine = Combine(
            tuple(self.ids[n] for n in left),
            tuple(self.ids[n] for n in right),
            tuple(body),
            tuple(self.ids[n] for n in results),
        )
        self.ids = outside
        return combine


def _store_dims(graph: KernelGraph, body: Body) -> list[Node]:
    found = []
    for store in body.stores:
        for x in store.index:
            for s in symbols(x):
                node = graph.dim_node(s)
                if node is not None:
                    found.append(node)
    return found


def _init(op: Op) -> tuple[tuple[DType, Any], ...]:
    assert isinstance(op, Accumulate)
    return tuple((d, v) for d, v in op.init(op.attrs, op.operand_types))


def _numbered(stage: Stage, number: dict[Any, int]) -> Stage:
    body = tuple(
        Instruction(i.id, i.opcode, i.dtype, i.operands, i.value, number[i.buffer], i.index, i.guards)
        if i.opcode in ("load", "store")
        else i
        for i in stage.body
    )
    return Stage(stage.kind, stage.axes, body, stage.init, stage.combine, stage.results)
