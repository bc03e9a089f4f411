"""Graphs: SSA values with use-lists, ops in order, inputs with roles, outputs with aliases.

Types and attributes are immutable; values, ops and graphs are mutable. Invariants (checked by
`graphc.ir.verifier`): an operand is a graph input or the result of an earlier op of the same
graph; use-lists mirror operands exactly; result types are what the op's inference gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from graphc.ir.types import TensorType

__all__ = ["ROLES", "Graph", "Location", "Op", "Role", "Use", "Value"]

Role = Literal["argument", "parameter", "buffer", "optimizer_state", "rng", "scalar", "constant", "donated"]
ROLES: tuple[Role, ...] = (
    "argument",
    "parameter",
    "buffer",
    "optimizer_state",
    "rng",
    "scalar",
    "constant",
    "donated",
)
STATE_ROLES = frozenset({"parameter", "buffer", "optimizer_state", "rng", "scalar"})


@dataclass(frozen=True, slots=True)
class Location:
    """A line of the user's code."""

    filename: str
    lineno: int

    def __str__(self) -> str:
        return f"{self.filename}:{self.lineno}"


class Use(NamedTuple):
    """One use of a value: operand `index` of `op`."""

    op: Op
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs of a use


class Value:
    """An SSA value: a graph input (`owner` is a Graph) or result `index` of an op."""

    __slots__ = ("__weakref__", "index", "name", "owner", "role", "type", "uses")

    def __init__(
        self, type_: TensorType, owner: Op | Graph, index: int, name: str = "", role: Role | None = None
    ) -> None:
        self.type = type_
        self.owner = owner
        self.index = index
        self.name = name
        self.role: Role | None = role
        self.uses: dict[Use, None] = {}

    @property
    def op(self) -> Op | None:
        """The op that makes this value; None for a graph input."""
        return self.owner if isinstance(self.owner, Op) else None

    @property
    def is_state(self) -> bool:
        """True of an input that outlives the call (parameter, buffer, optimiser state, rng, scalar)."""
        return self.role in STATE_ROLES

    def replace_by(self, other: Value) -> None:
        """Makes every use of this value, graph outputs included, use `other`."""
        for use in list(self.uses):
            use.op.set_operand(use.index, other)
        graph = self.owner.graph if isinstance(self.owner, Op) else self.owner
        if graph is not None:
            graph.outputs[:] = [other if v is self else v for v in graph.outputs]

    def __repr__(self) -> str:
        return f"%{self.name or self.index}: {self.type}"


class Op:
    """A node. Everything about an operation is on its class; see `graphc.ir.families`."""

    __slots__ = (
        "__weakref__",
        "attrs",
        "graph",
        "loc",
        "mark",
        "next",
        "operands",
        "previous",
        "regions",
        "results",
    )

    name: ClassVar[str] = ""

    def __init__(
        self,
        operands: Sequence[Value],
        attrs: Mapping[str, Any],
        result_types: Sequence[TensorType],
        loc: Location | None = None,
        regions: Sequence[Graph] = (),
    ) -> None:
        self.operands: tuple[Value, ...] = tuple(operands)
        self.attrs: dict[str, Any] = dict(attrs)
        self.results = tuple(Value(t, self, i) for i, t in enumerate(result_types))
        self.regions = tuple(regions)
        self.loc = loc
        self.mark: str | None = None
        """Words for passes: see `graphc.ir.marks`."""
        self.graph: Graph | None = None
        self.previous: Op | None = None
        self.next: Op | None = None
        for i, v in enumerate(self.operands):
            v.uses[Use(self, i)] = None

    @property
    def result(self) -> Value:
        """The only result."""
        assert len(self.results) == 1, f"{self.name} has {len(self.results)} results"
        return self.results[0]

    @property
    def operand_types(self) -> tuple[TensorType, ...]:
        return tuple(v.type for v in self.operands)

    @property
    def result_types(self) -> tuple[TensorType, ...]:
        return tuple(v.type for v in self.results)

    def set_operand(self, index: int, value: Value) -> None:
        """Replaces one operand and keeps the use-lists right."""
        self.operands[index].uses.pop(Use(self, index), None)
        self.operands = (*self.operands[:index], value, *self.operands[index + 1 :])
        value.uses[Use(self, index)] = None

    def insert_operand(self, index: int, value: Value) -> None:
        """Adds an operand before operand `index` and keeps the use-lists right."""
        for i, v in enumerate(self.operands):
            v.uses.pop(Use(self, i), None)
        self.operands = (*self.operands[:index], value, *self.operands[index:])
        for i, v in enumerate(self.operands):
            v.uses[Use(self, i)] = None

    def erase(self) -> None:
        """Takes the op out of its graph. Its results must have no uses."""
        assert not any(r.uses for r in self.results), f"erasing {self.name} whose results are used"
        for i, v in enumerate(self.operands):
            v.uses.pop(Use(self, i), None)
        if self.graph is not None:
            self.graph._unlink(self)

    def __repr__(self) -> str:
        return f"<{self.name} {self.attrs}>"


class Graph:
    """A function: inputs with roles, ops in order, outputs.

    `aliases` maps an output's position to the position of the state input that it is the new
    value of: such an output is written in place and is not returned to the caller.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.aliases: dict[int, int] = {}
        self._first: Op | None = None
        self._last: Op | None = None
        self._count = 0

    def add_input(self, type_: TensorType, role: Role = "argument", name: str = "") -> Value:
        """Appends an input."""
        value = Value(type_, self, len(self.inputs), name, role)
        self.inputs.append(value)
        return value

    def insert(self, op: Op, before: Op | None = None) -> Op:
        """Puts `op` before another op, or at the end."""
        assert op.graph is None, f"{op.name} is already in a graph"
        op.graph = self
        self._count += 1
        op.next = before
        op.previous = self._last if before is None else before.previous
        if op.previous is None:
            self._first = op
        else:
            op.previous.next = op
        if before is None:
            self._last = op
        else:
            before.previous = op
        return op

    def _unlink(self, op: Op) -> None:
        if op.previous is None:
            self._first = op.next
        else:
            op.previous.next = op.next
        if op.next is None:
            self._last = op.previous
        else:
            op.next.previous = op.previous
        op.previous = op.next = op.graph = None
        self._count -= 1

    @property
    def ops(self) -> Iterator[Op]:
        """The ops in order. The op just yielded may be erased, and others inserted, meanwhile."""
        op = self._first
        while op is not None:
            following = op.next
            yield op
            op = following

    def __len__(self) -> int:
        return self._count

    def output_uses(self) -> set[Value]:
        """Values that are outputs."""
        return set(self.outputs)

    def returned(self) -> list[int]:
        """Positions of the outputs that the caller receives (those that alias no state)."""
        return [i for i in range(len(self.outputs)) if i not in self.aliases]

    def copy(self, name: str | None = None) -> Graph:
        """A deep copy: new ops and values, the same immutable types and attributes."""
        result, mapping = Graph(name or self.name), {}
        for v in self.inputs:
            assert v.role is not None
            mapping[v] = result.add_input(v.type, v.role, v.name)
        clone_ops(self.ops, result, mapping)
        result.outputs = [mapping[v] for v in self.outputs]
        result.aliases = dict(self.aliases)
        return result

    def __str__(self) -> str:
        return _printer(self)

    def verify(self) -> None:
        """Checks every invariant. Raises VerifyError with the offending op's text."""
        _verifier(self)

    def to_networkx(self) -> Any:
        """The graph as a `networkx.DiGraph`; nodes are ops and inputs, edges carry the value's type."""
        return _to_networkx(self)


def clone_ops(ops: Any, into: Graph, mapping: dict[Value, Value]) -> None:
    """Appends copies of `ops` to `into`, reading operands through `mapping` and extending it."""
    for op in ops:
        clone = type(op)(
            [mapping[v] for v in op.operands],
            op.attrs,
            op.result_types,
            op.loc,
            [r.copy() for r in op.regions],
        )
        clone.mark = op.mark
        into.insert(clone)
        for old, new in zip(op.results, clone.results, strict=True):
            new.name = old.name
            mapping[old] = new


# The printer, verifier and exporter are written over Graph; they register themselves here so that
# `str(graph)` works without an import cycle.
def _unregistered(graph: Graph) -> Any:
    raise RuntimeError("import graphc.ir before using this")


_printer: Callable[[Graph], str] = _unregistered
_verifier: Callable[[Graph], None] = _unregistered
_to_networkx: Any = _unregistered


def register_services(printer: Any, verifier: Any, to_networkx: Any) -> None:
    """Called once by `graphc.ir`: what `str`, `verify` and `to_networkx` of a graph do."""
    global _printer, _verifier, _to_networkx
    _printer, _verifier, _to_networkx = printer, verifier, to_networkx
