"""The scalar graph of a kernel under construction: hash-consed instructions with their frames.

Frames number the places of a kernel in running order: frame 2k is before its k-th stage with inner
axes (work done once per outer point), frame 2k+1 is inside of that stage. A node is in the
earliest frame that has all it depends on, so what does not vary along inner axes is computed
once per outer point. Constants have no frame; each stage has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

from graphc.ir.dims import Dim, Symbol, less_equal, symbols
from graphc.ir.graph import Location
from graphc.ir.kernel import new_axis
from graphc.ir.records import dataclass
from graphc.ir.scalar import COMPARE, Guard
from graphc.ir.types import DType, bool_, int64

__all__ = ["KernelGraph", "Node"]

Index = tuple[Dim, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """A scalar. `frame` is -1 for a constant. `key` numbers nodes in the order they were made."""

    key: int
    opcode: str
    dtype: DType
    operands: tuple[Node, ...] = ()
    value: Any = None
    buffer: Any = None
    index: Index = ()
    guards: tuple[Guard, ...] = ()
    frame: int = -1


@dataclass
class KernelGraph:
    """A `ScalarBuilder` whose scalars are nodes. `stage` is the inner stage being built."""

    inner: set[Symbol] = field(default_factory=set)
    stage: int = 0
    checks: list[tuple[str, Location | None]] = field(default_factory=list)
    checked: dict[Node, None] = field(default_factory=dict)
    """`to_index` nodes that may fail the call, whether or not their index is read."""
    loc: Location | None = None
    """Location of the op being lowered, for its checks."""
    _made: dict[tuple[Any, ...], Node] = field(default_factory=dict)
    _dims: dict[Symbol, Node] = field(default_factory=dict)
    _guards: list[Guard] = field(default_factory=list)

    # -- nodes ----------------------------------------------------------------------------

    def make(
        self,
        opcode: str,
        dtype: DType,
        operands: tuple[Node, ...] = (),
        value: Any = None,
        buffer: Any = None,
        index: Index = (),
        guards: tuple[Guard, ...] = (),
        least: int = 0,
    ) -> Node:
        """The node with these parts, in a frame not before `least`."""
        frame = -1 if opcode == "const" else self._frame(operands, index, guards, least)
        key = (
            opcode,
            dtype.name,
            tuple(o.key for o in operands),
            _exact(value),
            buffer,
            index,
            guards,
            frame,
        )
        found = self._made.get(key)
        if found is None:
            found = Node(len(self._made), opcode, dtype, operands, value, buffer, index, guards, frame)
            self._made[key] = found
        return found

    def _frame(self, operands: Sequence[Node], index: Index, guards: Sequence[Guard], least: int) -> int:
        frame = max([least, *(o.frame for o in operands)])
        for x in (*index, *(e for g in guards for e in g)):
            for s in symbols(x):
                if s in self.inner:
                    frame = max(frame, 2 * self.stage + 1)
                elif s in self._dims:
                    frame = max(frame, self._dims[s].frame)
        return frame

    def dim_node(self, symbol: Symbol) -> Node | None:
        """The `to_index` node that a `%` symbol stands for."""
        return self._dims.get(symbol)

    def context(self) -> tuple[Guard, ...]:
        """The guards in force."""
        return tuple(self._guards)

    def load(self, buffer: Any, dtype: DType, index: Index, least: int = 0) -> Node:
        """A read of a buffer, under the guards in force."""
        if not self._guards:
            return self.make("load", dtype, (), None, buffer, index, (), least)
        fill = self.const(dtype, 0)
        return self.make("load", dtype, (fill,), None, buffer, index, tuple(self._guards), least)

    # -- ScalarBuilder --------------------------------------------------------------------

    def const(self, dtype: DType, value: float | int | bool) -> Node:
        """A constant."""
        return self.make("const", dtype, value=_as(dtype, value))

    def apply(self, opcode: str, *operands: Node) -> Node:
        """A scalar operation."""
        if opcode in COMPARE or opcode == "is_nan":
            dtype = bool_
        else:
            dtype = operands[1 if opcode == "select" else 0].dtype
        return self.make(opcode, dtype, operands)

    def cast(self, x: Node, dtype: DType) -> Node:
        """A conversion; none where `x` has the dtype."""
        return x if x.dtype is dtype else self.make("cast", dtype, (x,))

    def index(self, expression: Dim, dtype: DType) -> Node:
        """An index expression as a scalar."""
        if isinstance(expression, int):
            return self.const(dtype, expression)
        return self.make("index", dtype, index=(expression,))

    def to_index(self, x: Node, extent: Dim, check: str | None) -> Dim:
        """A scalar as an index in [0, extent)."""
        number = None
        if check is not None:
            entry = (check, self.loc)
            if entry not in self.checks:
                self.checks.append(entry)
            number = self.checks.index(entry)
        node = self.make("to_index", int64, (x,), value=number, index=(extent,))
        if number is not None:
            self.checked[node] = None
        symbol = new_axis(f"%n{node.key}", extent)
        self._dims[symbol] = node
        return symbol.expr

    def guarded(self, guards: Sequence[Guard], then: Callable[[], Node], otherwise: Node) -> Node:
        """`then()` under guards; those that always hold vanish."""
        open_guards = []
        for expression, lower, upper in guards:
            if less_equal(upper, expression) or less_equal(expression + 1, lower):
                return otherwise
            if not (less_equal(lower, expression) and less_equal(expression + 1, upper)):
                open_guards.append((expression, lower, upper))
        if not open_guards:
            return then()
        outside = len(self._guards)
        self._guards += open_guards
        inside = tuple(self._guards)
        result = then()
        del self._guards[outside:]
        plain = result.opcode == "load" and result.guards == inside and otherwise.dtype is result.dtype
        if plain and (not outside or otherwise is result.operands[0]):
            return self.make("load", result.dtype, (otherwise,), None, result.buffer, result.index, inside)
        return self.apply("select", self._holds(open_guards), result, otherwise)

    def _holds(self, guards: Sequence[Guard]) -> Node:
        condition: Node | None = None
        for expression, lower, upper in guards:
            x = self.index(expression, int64)
            for opcode, bound in (("ge", lower), ("lt", upper)):
                known = less_equal(lower, expression) if opcode == "ge" else less_equal(expression + 1, upper)
                if known:
                    continue
                test = self.apply(opcode, x, self.index(bound, int64))
                condition = test if condition is None else self.apply("and", condition, test)
        assert condition is not None
        return condition

    def dtype(self, x: Node) -> DType:
        """The dtype of a scalar."""
        return x.dtype


def _as(dtype: DType, value: Any) -> Any:
    if dtype is bool_:
        return bool(value)
    return float(value) if dtype.is_floating_point else int(value)


def _exact(value: Any) -> Any:
    # 0.0 == -0.0 and nan != nan, but both must be told apart by their bits.
    return ("float", value.hex()) if isinstance(value, float) else (type(value).__name__, value)
