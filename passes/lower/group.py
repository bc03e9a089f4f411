"""Lowers one group to a kernel, by demand: from what it stores and folds back to what it loads.

Each op's own hook (`point`, `element`, `target`) is called with the scalar graph as its builder
and readers that come back here, so index maps compose and nothing is known of particular ops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.ir.dims import Dim, Symbol, plain_symbol
from graphc.ir.families import Accumulate, Pointwise, Scatter
from graphc.ir.graph import Location, Op, Value
from graphc.ir.kernel import Kernel, KernelBuffer, extent, new_axis, size_of
from graphc.ir.program import Check
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.passes.fuse.groups import Fused, Group, Space, at_symbols, put
from graphc.passes.fuse.sources import Index, axes
from graphc.passes.fuse.sources import Node as OpNode
from graphc.passes.lower.emit import Body, Store, emit
from graphc.passes.lower.nodes import KernelGraph, Node
from graphc.passes.lower.stages import StagePlan, plan_stages
from graphc.passes.reductions import folds_along_last_axis, is_vector_product, op_chunks, product_chunks

__all__ = ["Lowered", "lower"]


@dataclass(frozen=True)
class Lowered:
    """A kernel, the graph value bound to each of its parameters, and its checks in number order."""

    kernel: Kernel
    values: tuple[Value, ...]
    checks: tuple[Check, ...] = ()
    along: tuple[bool, ...] = ()
    """For each reduce stage, True where its op's last reduced axis is its operand's last axis.

    It decides between folding in lanes and folding in order, so it comes from the op alone.
    """
    contraction: bool = False
    """True where the reduction is that of a contraction op, which has an order of its own."""
    vector: bool = False
    """True where one side of that op has a single point; see `is_vector_product`."""
    chunks: int = 1
    """Into how many chunks a reduction or that op's sum is cut; see `op_chunks` and `product_chunks`."""

    def __str__(self) -> str:
        return str(self.kernel)


def lower(fused: Fused, group: Group) -> Lowered:
    """The unscheduled kernel of a group."""
    lowering = _ScatterLowering(fused, group) if group.scatter else _Lowering(fused, group)
    return lowering.run()


class _Lowering:
    def __init__(self, fused: Fused, group: Group) -> None:
        self.group = group
        self.mine = set(group.ops)
        self.outputs = fused.outputs(group)
        self.nodes: dict[Op, OpNode] = {n.op: n for n in group.members}
        self.graph = KernelGraph()
        self.buffers: dict[Any, KernelBuffer] = {}
        self.names: dict[Symbol, Symbol] = {}
        self.results: dict[OpNode, list[Node]] = {}
        self.at: dict[OpNode, Index] = {}
        self.kept: dict[OpNode, int] = {}
        self.memo: dict[tuple[Any, ...], Node] = {}

    # -- running --------------------------------------------------------------------------

    def run(self) -> Lowered:
        plan = plan_stages(self.group, set(self.outputs))
        self.kept = plan.kept
        outer = self._outer_axes()
        self._name(outer, "o")
        inner = list(dict.fromkeys(s for stage in plan.stages for s in stage.axes))
        self._name(inner, "i")
        self.graph.inner = {self.names[s] for s in inner}
        for node, member in self.group.members.items():
            if not member.floating:
                self.at[node] = self._renamed(member.at(node.index))
        bodies = self._bodies(plan)
        last = self._last(plan)
        contraction = self.group.contraction and len(bodies) == 1
        return self._finish(tuple(self.names[s] for s in outer), bodies, last, contraction)

    def _finish(
        self, outer: tuple[Symbol, ...], bodies: list[Body], last: Body, contraction: bool
    ) -> Lowered:
        kernel, keys = emit(self.graph, outer, bodies, last, self.buffers, contraction)
        checks = tuple(_check(message, loc) for message, loc in self.graph.checks)
        along = tuple(folds_along_last_axis(b.op) for b in bodies if b.op is not None)
        vector = any(is_vector_product(b.op) for b in bodies if b.op is not None)
        count = product_chunks if contraction else op_chunks
        chunks = max((count(b.op) for b in bodies if b.op is not None), default=1)
        return Lowered(kernel, tuple(k[1] for k in keys), checks, along, contraction, vector, chunks)

    def _bodies(self, plan: StagePlan) -> list[Body]:
        bodies = []
        for k, stage in enumerate(plan.stages):
            self.graph.stage = k
            names = tuple(self.names[s] for s in stage.axes)
            body = Body("map" if stage.reduces is None else "reduce", names)
            if stage.reduces is not None:
                body.op = stage.reduces.op
                body.yields = tuple(self._element(stage.reduces))
                body.results = self._fold(stage.reduces, k)
            for node in stage.keeps:
                body.stores.append(self._store(node, 0, self._local(node, names)))
            for node in stage.stores:
                for r in node.op.results:
                    if r in self.outputs or node in plan.extra_outputs:
                        body.stores.append(self._store(node, r.index, self._buffer(r, "out")))
            bodies.append(body)
        return bodies

    def _last(self, plan: StagePlan) -> Body:
        """Stores of results that span outer axes only."""
        self.graph.stage = len(plan.stages)
        stored = {n for s in plan.stages for n in s.stores}
        last = Body("map")
        if self.group.outer is None:
            # Operands before their readers: a long chain is then read from memo, not by deep recursion.
            for node, member in sorted(self.group.members.items(), key=lambda m: m[0].number):
                if not member.floating:
                    for r in node.op.results:
                        self.value(r, self.at[node])
        for r in self.outputs:
            assert r.op is not None
            node = self.nodes[r.op]
            if node not in stored:
                last.stores.append(self._store(node, r.index, self._buffer(r, "out")))
        return last

    def _store(self, node: OpNode, result: int, buffer: Any) -> Store:
        value = self.value(node.op.results[result], self.at[node], storing=True)
        index = self.at[node]
        if buffer[0] == "local":
            index = self._local_index(index)
        return Store(buffer, index, value)

    # -- axes -----------------------------------------------------------------------------

    def _outer_axes(self) -> list[Symbol]:
        """Outer axes in the order of the largest result that spans just them."""
        group = self.group
        outer: Space = group.outer if group.outer is not None else frozenset().union(*group.spaces)
        best: tuple[bool, bool, int] | None = None
        order: list[Symbol] = []
        for node, member in group.members.items():
            found = [s for s in map(plain_symbol, member.at(node.index)) if s in outer]
            if member.floating or len(found) != len(outer):
                continue
            rank = (node.kind != "map", any(r in self.outputs for r in node.op.results), node.number)
            if best is None or rank > best:
                best, order = rank, [s for s in found if s is not None]
        return order if best is not None else sorted(outer, key=str)

    def _name(self, symbols: list[Symbol], prefix: str) -> None:
        for i, s in enumerate(symbols):
            self.names[s] = Symbol(f"{prefix}{i}", s.lo, s.hi, s.size)

    def _renamed(self, index: Index) -> Index:
        found = {s: self.names[s].expr for s in at_symbols(index)}
        return tuple(put(i, found) for i in index)

    # -- values ---------------------------------------------------------------------------

    def value(self, value: Value, index: Index, storing: bool = False) -> Node:
        """The scalar of `value` at `index` in the stage at hand."""
        index = tuple(0 if d == 1 else i for i, d in zip(index, value.type.shape, strict=True))
        op = value.op
        if op is None or op not in self.mine:
            return self.graph.load(self._buffer(value, "in"), value.type.dtype, index)
        node = self.nodes.get(op)
        if node is not None and index == self.at.get(node):
            kept = self.kept.get(node)
            if kept is not None and self.graph.stage > kept and not storing:
                return self._load_kept(node, value, index)
        if isinstance(op, Accumulate):
            assert node is not None and index == self.at[node], (
                f"{op.name} is read at {index}, away from its point {node and self.at[node]}"
            )
            if node in self.results:
                return self.results[node][value.index]
        key = (value, index, self.graph.context(), self.graph.stage)
        if key not in self.memo:
            self.memo[key] = self._made(op, value, index)
        return self.memo[key]

    def _made(self, op: Op, value: Value, index: Index) -> Node:
        """The scalar, computed in the stage and under the guards at hand."""
        if isinstance(op, Accumulate):
            return self._direct(self.nodes[op])[value.index]
        return self._point(op, value, index)

    def _point(self, op: Op, value: Value, index: Index) -> Node:
        assert isinstance(op, Pointwise), op
        outside, self.graph.loc = self.graph.loc, op.loc
        reads = [self._reader(v) for v in op.operands]
        made: Node = op.point(self.graph, op.attrs, op.operand_types, value.type, index, reads)
        self.graph.loc = outside
        return made

    def _reader(self, value: Value) -> Callable[[Index], Node]:
        return lambda index: self.value(value, tuple(index))

    def _element(self, node: OpNode) -> list[Node]:
        """What one point of an accumulation contributes."""
        op = node.op
        assert isinstance(op, Accumulate)
        types, result = op.operand_types, op.results[0].type
        reduced = self._renamed(self.group.members[node].at(node.reduced))
        accesses = op.accesses(op.attrs, types, result, self.at[node], reduced)
        operands = []
        for v, access in zip(op.operands, accesses, strict=True):
            fill = self.graph.const(v.type.dtype, access.fill)
            read = self._reader(v)
            operands.append(self.graph.guarded(access.guards, _bound(read, access.index), fill))
        return list(op.element(self.graph, op.attrs, types, self.at[node], reduced, operands))

    def _fold(self, node: OpNode, stage: int) -> tuple[Node, ...]:
        """The accumulators after stage `stage`; the op's results are made of them."""
        op = node.op
        assert isinstance(op, Accumulate)
        init = op.init(op.attrs, op.operand_types)
        folded = tuple(
            self.graph.make("result", d, value=(stage, i), least=2 * stage + 2)
            for i, (d, _) in enumerate(init)
        )
        self.results[node] = list(op.finish(self.graph, op.attrs, op.operand_types, op.result_types, folded))
        return folded

    def _direct(self, node: OpNode) -> list[Node]:
        """An accumulation over a single point."""
        op = node.op
        assert isinstance(op, Accumulate)
        start = [self.graph.const(d, v) for d, v in op.init(op.attrs, op.operand_types)]
        folded = op.combine(self.graph, op.attrs, start, self._element(node))
        return list(op.finish(self.graph, op.attrs, op.operand_types, op.result_types, folded))

    # -- buffers --------------------------------------------------------------------------

    def _buffer(self, value: Value, access: Any) -> Any:
        key = ("value", value)
        if key not in self.buffers:
            self.buffers[key] = KernelBuffer(value.type, access)
        return key

    def _local(self, node: OpNode, names: tuple[Symbol, ...]) -> Any:
        key = ("local", node)
        inner = [s for s in names if s in at_symbols(self.at[node])]
        shape = tuple(extent(s) for s in inner)
        self.buffers[key] = KernelBuffer(TensorType(node.op.results[0].type.dtype, shape), "local")
        return key

    def _local_index(self, index: Index) -> Index:
        inner = at_symbols(index) & self.graph.inner
        return tuple(s.expr for s in sorted(inner, key=lambda s: int(s.name[1:])))

    def _load_kept(self, node: OpNode, value: Value, index: Index) -> Node:
        key: Any = ("local", node)
        if key in self.buffers:
            return self.graph.load(key, value.type.dtype, self._local_index(index))
        return self.graph.load(("value", value), value.type.dtype, index)


class _ScatterLowering(_Lowering):
    """A base copied, then source elements added where the index operand says."""

    def run(self) -> Lowered:
        (node,) = (n for n in self.group.members if n.kind == "scatter")
        op = node.op
        assert isinstance(op, Scatter)
        result, (base, indices, source) = op.results[0], op.operands
        where = axes("s", source.type.shape)
        outer, base_index, source_index = self._shared(op, where)
        self.graph.inner = set(at_symbols((*base_index, *source_index))) - set(outer)
        self.graph.loc = op.loc
        buffer = self._buffer(result, "out")
        copy = Body("map", self._stage_axes(base_index, outer))
        copy.stores.append(Store(buffer, base_index, self.value(base, base_index)))
        self.graph.stage = 1
        add = Body("scatter", self._stage_axes(source_index, outer))
        target = op.target(self.graph, op.attrs, op.operand_types, source_index, self._reader(indices))
        add.stores.append(Store(buffer, tuple(target), self.value(source, source_index), add=True))
        self.graph.stage = 2
        return self._finish(tuple(outer), [copy, add], Body("map"), False)

    def _shared(self, op: Scatter, where: Index) -> tuple[list[Symbol], Index, Index]:
        """Outer axes: those that source and base share one to one; then base and source indices."""
        result, indices = op.results[0], op.operands[1]
        probe = KernelGraph()
        target = op.target(
            probe, op.attrs, op.operand_types, where, lambda i: probe.const(indices.type.dtype, 0)
        )
        outer: list[Symbol] = []
        base_index = list(axes("i", result.type.shape))
        source_index = [
            new_axis(f"i{len(base_index) + k}", d).expr if (d := extent_of(w)) != 1 else 0
            for k, w in enumerate(where)
        ]
        for k, x in enumerate(target):
            symbol = plain_symbol(x)
            if (
                symbol is None
                or symbol.name.startswith("%")
                or sum(symbol in at_symbols([t]) for t in target) > 1
            ):
                continue
            axis = next(j for j, w in enumerate(where) if w == x)
            if size_of(symbol) == result.type.shape[k]:
                shared = Symbol(f"o{len(outer)}", 0, symbol.hi, symbol.size)
                outer.append(shared)
                base_index[k] = source_index[axis] = shared.expr
        return outer, tuple(base_index), tuple(source_index)

    def _stage_axes(self, index: Index, outer: list[Symbol]) -> tuple[Symbol, ...]:
        return tuple(s for s in map(plain_symbol, index) if s is not None and s not in outer)


def extent_of(x: Dim) -> Dim:
    """Extent of an axis given by its index: 1 where it is a constant."""
    symbol = plain_symbol(x)
    return 1 if symbol is None else size_of(symbol)


def _check(text: str, loc: Location | None) -> Check:
    """The check that `to_index` spells "ExceptionClass: message"."""
    name, colon, message = text.partition(": ")
    named = bool(colon) and name.isidentifier()
    return Check(
        message if named else text,
        name if named else "IndexError",
        loc.filename if loc else None,
        loc.lineno if loc else None,
    )


def _bound(read: Callable[[Index], Node], index: Index) -> Callable[[], Node]:
    return lambda: read(tuple(index))
