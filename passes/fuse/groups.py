"""Groups of ops that become one kernel each, with the iteration space they share.

Within a group every *anchored* op has its result index in the group's symbols, so that ops which
meet at one point need no memory between them. `outer` are the symbols that a reduction, a
contraction or a row keeps (None while a group only maps); a map op spans the outer symbols, or
those and some inner ones. A *floating* op is computed wherever a reader asks and never stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field

from graphc.ir.control import Control
from graphc.ir.dims import Dim, Expr, Symbol, axis_symbols, plain_symbol, substitute, symbols
from graphc.ir.errors import VerifyError
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.printer import op_text, value_names
from graphc.ir.records import dataclass
from graphc.passes.fuse.sources import Index, Node, Read

__all__ = ["Bindings", "Edge", "Fused", "Group", "Member", "Space", "at_symbols", "put"]

Space = frozenset[Symbol]
Substitution = dict[Symbol, Dim]


@dataclass(frozen=True, eq=False)
class Edge:
    """`consumer` reads a result of `producer`, as `read` says in the consumer's own symbols."""

    producer: Node
    consumer: Node
    read: Read

    def group_of_producer(self) -> Group:
        """The producer's present group."""
        group: Group = self.producer.group
        return group.root()

    def group_of_consumer(self) -> Group:
        """The consumer's present group."""
        group: Group = self.consumer.group
        return group.root()

    def consumer_floats(self) -> bool:
        """True where the consumer is a floating member of its group."""
        return self.group_of_consumer().members[self.consumer].floating


class Bindings:
    """What the symbols of merged groups became: one table for a whole graph, followed on demand."""

    def __init__(self) -> None:
        self._bound: Substitution = {}

    def add(self, solution: Substitution) -> None:
        """Binds symbols for good; their values are in symbols that are not bound."""
        self._bound.update(solution)

    def resolve(self, x: Dim) -> Dim:
        """An expression in symbols that are not bound."""
        if not isinstance(x, Expr):
            return x
        symbol = plain_symbol(x)
        if symbol is not None:
            return self._follow(symbol) if symbol in self._bound else x
        values = {s: self._follow(s) for s in symbols(x) if s in self._bound}
        return substitute(x, values) if values else x

    def _follow(self, symbol: Symbol) -> Dim:
        value = self._bound[symbol] = self.resolve(self._bound[symbol])
        return value


@dataclass(eq=False)
class Member:
    """An op in a group."""

    node: Node
    bindings: Bindings
    floating: bool = False

    def at(self, index: Index) -> Index:
        """An index of the node's own symbols in those of the group."""
        return tuple([self.bindings.resolve(i) for i in index])


def put(x: Dim, values: Mapping[Symbol, Dim]) -> Dim:
    """`x` with symbols replaced."""
    return substitute(x, values) if isinstance(x, Expr) else x


def at_symbols(index: Iterable[Dim]) -> Space:
    """The axes of an index."""
    found: frozenset[Symbol] = frozenset()
    for i in index:
        if not isinstance(i, int):
            found |= axis_symbols(i)
    return found


@dataclass(eq=False, repr=False)
class Group:
    """Ops of one kernel. `first` and `last` are positions of its earliest and latest op."""

    members: dict[Node, Member] = field(default_factory=dict)
    first: int = 0
    last: int = 0
    outer: Space | None = None
    spaces: set[Space] = field(default_factory=set)
    product: Space = frozenset()
    """Outer and summed symbols of the group's contraction, which must stay apart."""
    fixed: Space = frozenset()
    """Symbols of accumulations: they may be renamed, but not become parts of other axes."""
    splits: bool = False
    """True where a reduction of the group is large enough to be cut in chunks."""
    contraction: bool = False
    apart: bool = False
    """True of a contraction whose sums are made in parts, in its results' memory: nothing that reads them joins it."""
    scatter: bool = False
    control: Control | None = None
    """The op with regions that is this group: it shares a kernel with nothing."""
    bodies: tuple[Fused, ...] = ()
    """The groups of its regions, once grouping is done."""
    indexes: bool = False
    """True where an op of the group makes indices of data: contractions are kept clear of these."""
    checks: bool = False
    before_check: bool = False
    """True where an op of the group checks data or is read, in the end, by one that does."""
    writes_state: bool = False
    incoming: list[Edge] = field(default_factory=list)
    outgoing: list[Edge] = field(default_factory=list)
    floating: int = 0
    merged: Group | None = None
    ops: list[Op] = field(default_factory=list)
    """Every op of the group in order, the free ones included, once grouping is done."""

    @property
    def kind(self) -> str:
        """`control`, `contraction`, `scatter`, `reduce` or `map`."""
        if self.control is not None:
            return "control"
        if self.contraction or self.scatter:
            return "contraction" if self.contraction else "scatter"
        return "map" if self.outer is None else "reduce"

    def root(self) -> Group:
        """The group that this one was merged into, itself where it was not."""
        g = self
        while g.merged is not None:
            if g.merged.merged is not None:
                g.merged = g.merged.merged
            g = g.merged
        return g


@dataclass(repr=False)
class Fused:
    """A graph cut into groups, in an order in which each group reads only earlier ones.

    `graph` is a copy in which each free op was cloned per group. `constants` are the ops of the
    constants that live in buffers; they belong to no group.
    """

    graph: Graph
    groups: list[Group]
    constants: list[Op]

    def outputs(self, group: Group) -> list[Value]:
        """Results that others need from memory: read outside of the group, or outputs of the graph."""
        mine = set(group.ops)
        returned = self.graph.output_uses()
        return [
            r
            for op in group.ops
            for r in op.results
            if r in returned or any(use.op not in mine for use in r.uses)
        ]

    def verify(self) -> None:
        """Raises VerifyError unless every op is in exactly one group and groups are in order."""
        place: dict[Op, int] = dict.fromkeys(self.constants, -1)
        for i, group in enumerate(self.groups):
            for op in group.ops:
                if op in place:
                    raise VerifyError(f"op {op_text(op).strip()} is in groups {place[op]} and {i}")
                place[op] = i
        for op in self.graph.ops:
            if op not in place:
                raise VerifyError(f"op {op_text(op).strip()} is in no group")
            for v in op.operands:
                if v.op is not None and place[v.op] > place[op]:
                    raise VerifyError(
                        f"group {place[op]} reads {op_text(v.op).strip()} of the later group {place[v.op]}"
                    )

    def __repr__(self) -> str:
        return f"<Fused @{self.graph.name}: {len(self.groups)} groups>"

    def __str__(self) -> str:
        names = value_names(self.graph)
        lines = [f"fused @{self.graph.name} {{"]
        lines += [op_text(op, names) for op in self.constants]
        for i, group in enumerate(self.groups):
            results = ", ".join(f"%{names[v]}" for v in self.outputs(group))
            lines.append(f"  group {i} {group.kind} -> ({results}) {{")
            if group.control is None:
                lines += [op_text(op, names, "    ") for op in group.ops]
            else:
                lines += _control_lines(group.control, group.bodies, names)
            lines.append("  }")
        return "\n".join([*lines, "}"])


def _control_lines(op: Control, bodies: Iterable[Fused], names: dict[Value, str]) -> list[str]:
    """An op with regions, and the groups of each."""
    lines = [op_text(op, names, "    ").partition("\n")[0]]
    for title, body in zip(op.region_names, bodies, strict=True):
        lines += [f"    {title}:", *(f"    {line}" for line in str(body).splitlines())]
    return lines
