"""What every op reads, seen through the ops that cost nothing.

An op is *free* where inlining it anywhere costs nothing: a view that is one unguarded index map,
a rank-0 or iota creation, cheap arithmetic over other free ops that is rank-0 or needs no memory. A constant with
elements is neither free nor computed: it is a buffer. All other ops are *real*.

`survey` gives each real op symbols for its result (and reduction) axes and the list of its reads:
which value, at which index of those symbols, reached through free ops.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import field
from functools import cached_property
from typing import Any

from graphc.ir.control import Control
from graphc.ir.dims import Dim, floor_div, mod, product, symbols
from graphc.ir.errors import CompileError
from graphc.ir.families import (
    Accumulate,
    Contraction,
    Creation,
    Elementwise,
    Pointwise,
    Reduce,
    Scatter,
    View,
)
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.kernel import new_axis
from graphc.ir.records import dataclass
from graphc.ir.scalar import COMPARE, Guard
from graphc.ir.types import DType, Shape, bool_

__all__ = ["Node", "Read", "Survey", "is_buffer_constant", "linear", "survey", "unlinear"]

Index = tuple[Dim, ...]
FREE_SCALAR_OPS = 6
"""Longest tree of rank-0 arithmetic that is repeated in every kernel instead of stored."""


@dataclass(frozen=True)
class Read:
    """One read: `value` (never the result of a free op) at `index`.

    `plain` is False of reads that are guarded, or at an index that data decides. The operand
    itself is read at `at`, and has the shape `shape`.
    """

    value: Value
    index: Index
    plain: bool
    at: Index
    shape: Shape

    @cached_property
    def linear(self) -> bool:
        """True where the views passed keep row-major order: the operand has the very bytes of `value`."""
        shape = self.value.type.shape
        if self.index == self.at and shape == self.shape:
            return True
        return _numel(shape) == _numel(self.shape) and linear(self.index, shape) == linear(
            self.at, self.shape
        )


@dataclass(eq=False)
class Node:
    """A real op, its symbols and its reads."""

    number: int
    op: Op
    index: Index
    reduced: Index = ()
    reads: list[Read] = field(default_factory=list)
    checks: bool = False
    indexes: bool = False
    """True where data decides an index, or is checked like one."""
    group: Any = None
    """The `Group` that the op was first put into; see `Group.root`."""

    @property
    def kind(self) -> str:
        """`map`, `contraction`, `reduce` (any other accumulation), `scatter` or `control`."""
        match self.op:
            case Control():
                return "control"
            case Contraction():
                return "contraction"
            case Accumulate():
                return "reduce"
            case Scatter():
                return "scatter"
        return "map"


@dataclass
class Survey:
    """All real ops of a graph in order, the free ones, and the constants that are buffers."""

    nodes: list[Node]
    by_op: dict[Op, Node]
    free: dict[Op, int]
    constants: list[Op]
    checks: dict[Op, bool]
    """Of elementwise ops whether they check data."""


def is_buffer_constant(op: Op) -> bool:
    """True of a constant with a shape: it lives in memory."""
    return isinstance(op, Creation) and "value" in op.attrs and op.result.type.rank > 0


def linear(index: Index, shape: Shape) -> Dim:
    """Row-major position of `index`."""
    total: Dim = 0
    for i, d in zip(index, shape, strict=True):
        total = total * d + i
    return total


def unlinear(position: Dim, shape: Shape) -> Index:
    """The index at a row-major position."""
    found: list[Dim] = []
    for k, d in enumerate(reversed(shape)):
        if d == 1:
            found.append(0)
            continue
        found.append(position if k == len(shape) - 1 else mod(position, d))
        position = floor_div(position, d)
    return tuple(reversed(found))


def axes(prefix: str, shape: Shape) -> Index:
    """Fresh symbols for the axes of a shape; 0 for axes of one element."""
    found: list[Dim] = []
    for k, d in enumerate(shape):
        found.append(0 if d == 1 else new_axis(f"{prefix}{k}", d).expr)
    return tuple(found)


def survey(graph: Graph, computed: Collection[Op] = (), before: Survey | None = None) -> Survey:
    """Surveys a graph. Ops in `computed` are real whatever they cost. `before` was made before ops were cloned.

    Raises CompileError for an op that no kernel can hold.
    """
    outputs = set(graph.outputs)
    found = Survey([], {}, {}, [], {} if before is None else before.checks)
    for number, op in enumerate(graph.ops):
        if is_buffer_constant(op):
            found.constants.append(op)
            continue
        real = op in computed or any(r in outputs for r in op.results)
        cost = None if real else _free_cost(op, found)
        if cost is not None:
            found.free[op] = cost
            continue
        node = _node(number, op)
        node.reads = [r for r in (_resolve(x, found) for x in _raw_reads(node, found)) if r is not None]
        found.nodes.append(node)
        found.by_op[op] = node
    return found


def _free_cost(op: Op, found: Survey) -> int | None:
    """Number of scalar operations that inlining the op costs, or None where it is real."""
    free = found.free
    match op:
        case View():
            return _free_view_cost(op, free)
        case Creation():
            return 1 if "cheap" in op.traits else None
        case Elementwise() if "cheap" in op.traits and not _has_checks(op, found):
            if op.result.type.rank and not _made_of_indices(op, free):
                return None
            cost = 1
            for v in op.operands:
                if v.op is not None:
                    if v.op not in free:
                        return None
                    cost += free[v.op]
            return cost if cost <= FREE_SCALAR_OPS else None
    return None


def _made_of_indices(op: Op, free: dict[Op, int]) -> bool:
    """True where all that the op depends on is made by free ops out of nothing: a causal mask, a one-hot row."""
    waiting = list(op.operands)
    while waiting:
        maker = waiting.pop().op
        if maker is None or maker not in free:
            return False
        waiting += maker.operands
    return True


def _free_view_cost(op: View, free: dict[Op, int]) -> int | None:
    pieces = op.pieces(op.attrs, op.operand_types, op.result.type, axes("v", op.result.type.shape))
    if len(pieces) != 1 or pieces[0][2]:
        return None
    source = op.operands[pieces[0][0]].op
    return free.get(source, 0) if source is not None else 0


def _node(number: int, op: Op) -> Node:
    if isinstance(op, Control):
        return Node(number, op, ())
    index = axes(f"{number}.", op.results[0].type.shape)
    if isinstance(op, Accumulate):
        domain = tuple(op.domain(op.attrs, op.operand_types, op.results[0].type))
        if isinstance(op, Reduce):
            return Node(number, op, index, _joined_axes(f"{number}.r", domain, op.attrs["axes"]))
        return Node(number, op, index, axes(f"{number}.r", domain))
    if isinstance(op, (Pointwise, Scatter)):
        return Node(number, op, index)
    where = f" (recorded at {op.loc})" if op.loc else ""
    raise CompileError(
        f"no kernel can hold the op `{op.name}`{where}: it should have been decomposed before fusion"
    )


def _has_checks(op: Elementwise, found: Survey) -> bool:
    known = found.checks.get(op)
    if known is not None:
        return known
    probe = _Probe(0, ())
    op.body(probe, op.attrs, *(v.type.dtype for v in op.operands))
    found.checks[op] = probe.checked
    return probe.checked


def _joined_axes(prefix: str, domain: Shape, positions: Sequence[int]) -> Index:
    """Reduction axes, where those next to each other in the operand are one symbol.

    What is one run in the operand is one axis whatever is fused, so that sums keep their order.
    """
    found: list[Dim] = []
    start = 0
    for k in range(1, len(domain) + 1):
        if k == len(domain) or positions[k] != positions[k - 1] + 1:
            run = domain[start:k]
            total = _numel(run)
            empty = total == 0 or len(run) == 1
            joint = axes(f"{prefix}{start}.", run if empty else (total,))
            found += joint if empty else unlinear(joint[0], run)
            start = k
    return tuple(found)


Raw = tuple[Value, Index, bool]


def _raw_reads(node: Node, found: Survey) -> list[Raw]:
    op = node.op
    types, result = op.operand_types, op.results[0].type
    match op:
        case Control():
            node.checks = any(n.checks for region in op.regions for n in survey(region).nodes)
            return [(v, (0,) * v.type.rank, False) for v in op.operands]
        case Elementwise():
            node.checks = node.indexes = _has_checks(op, found)
            return [(v, node.index, True) for v in op.operands]
        case Accumulate():
            accesses = op.accesses(op.attrs, types, result, node.index, node.reduced)
            return [(v, tuple(a.index), not a.guards) for v, a in zip(op.operands, accesses, strict=True)]
        case Pointwise():
            probe = _Probe(node.number, op.operands)
            op.point(probe, op.attrs, types, result, node.index, probe.readers())
            node.checks, node.indexes = probe.checked, probe.indexes
            return probe.reads + _unread(node, probe)
        case Scatter():
            probe = _Probe(node.number, op.operands)
            where = axes(f"{node.number}.s", types[2].shape)
            op.target(probe, op.attrs, types, where, probe.readers()[1])
            node.checks, node.indexes = probe.checked, probe.indexes
            return [(op.operands[0], node.index, False), (op.operands[2], where, False), *probe.reads]
    return []


def _unread(node: Node, probe: _Probe) -> list[Raw]:
    """Operands that the op never looks at: groups are put in order as if it did."""
    seen = {v for v, _, _ in probe.reads}
    return [(v, (0,) * v.type.rank, False) for v in node.op.operands if v not in seen]


def _resolve(raw: Raw, found: Survey) -> Read | None:
    """Follows free views down to a value in memory or of a real op; None for a free scalar."""
    value, index, plain = raw
    at, shape = index, value.type.shape
    while value.op is not None and value.op in found.free:
        view = value.op
        if not isinstance(view, View):
            return None
        ((operand, index, _),) = view.pieces(view.attrs, view.operand_types, view.result.type, index)
        value = view.operands[operand]
        index = tuple(0 if d == 1 else i for i, d in zip(index, value.type.shape, strict=True))
    return Read(value, index, plain and not _dynamic(index), at, shape)


def _dynamic(index: Index) -> bool:
    return any(s.name.startswith("%") for i in index for s in symbols(i))


def _numel(shape: Shape) -> Dim:
    return product(shape)


class _Probe:
    """A scalar builder whose scalars are dtypes: runs a body only to see what it reads."""

    def __init__(self, number: int, operands: Sequence[Value]) -> None:
        self.number = number
        self.operands = operands
        self.reads: list[Raw] = []
        self.checked = False
        self._guards = 0
        self._dims = 0

    @property
    def indexes(self) -> bool:
        """True where the body made an index of data."""
        return self._dims > 0

    def readers(self) -> list[Callable[[Index], DType]]:
        """One reader per operand."""

        def reader(value: Value) -> Callable[[Index], DType]:
            def read(index: Index) -> DType:
                self.reads.append((value, tuple(index), self._guards == 0))
                return value.type.dtype

            return read

        return [reader(v) for v in self.operands]

    def const(self, dtype: DType, value: Any) -> DType:
        return dtype

    def apply(self, opcode: str, *operands: DType) -> DType:
        if opcode in COMPARE or opcode == "is_nan":
            return bool_
        return operands[1] if opcode == "select" else operands[0]

    def cast(self, x: DType, dtype: DType) -> DType:
        return dtype

    def index(self, expression: Dim, dtype: DType) -> DType:
        return dtype

    def to_index(self, x: DType, extent: Dim, check: str | None) -> Dim:
        self.checked = self.checked or check is not None
        self._dims += 1
        return new_axis(f"%{self.number}.{self._dims}", extent).expr

    def guarded(self, guards: Sequence[Guard], then: Callable[[], DType], otherwise: DType) -> DType:
        self._guards += 1
        then()
        self._guards -= 1
        return otherwise

    def dtype(self, x: DType) -> DType:
        return x
