"""Rows of a field that are copied from an array as it stands, one element after another or every other one apart.

Which elements of a row lie inside of the array is known when the code is made, so that all vectors but those at the
edges are plain loads, and those have constant masks. Whether the row itself is inside is asked once.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.contraction.axes import Env, constant, index_value, plus
from graphc.backends.llvm.contraction.body import linear_offset
from graphc.backends.llvm.contraction.field import Field
from graphc.backends.llvm.contraction.problem import Problem
from graphc.backends.llvm.text import Builder, Val, vector
from graphc.ir.dims import Dim
from graphc.ir.kernel import KernelBuffer
from graphc.ir.records import dataclass
from graphc.ir.scalar import Guard
from graphc.ir.types import TensorType

__all__ = ["PlainRow", "emit_plain_row", "plain_row"]

_UNROLLED = 4
"""Pieces of a row that are written out one after another; more of them are a loop."""


@dataclass(frozen=True)
class PlainRow:
    """Element v of a row is element `offset` of buffer `buffer`, with the wide dimension's symbol for v, where v lies in
    [low, high) and all `guards` hold; `fill` elsewhere."""

    buffer: int
    offset: Dim
    low: int
    high: int
    guards: tuple[Guard, ...]
    fill: float


def plain_row(problem: Problem, field: Field) -> PlainRow | None:
    """How the rows of a field lie in an array; None where they are computed, converted, too far apart or where their
    edges are not known."""
    wide, source = field.wide, problem.b.source
    load = source[-1]
    if wide is None or field.minor is not None or field.phases > 2 or field.width < 2:
        return None
    if load.opcode != "load" or load.id != problem.b.result or load.dtype is not problem.dtype:
        return None
    if len(source) > 2 or any(i.opcode != "const" for i in source[:-1]) or not load.dtype.is_floating_point:
        return None
    if not isinstance(wide.base, int):
        return None
    low, high, guards = 0, wide.size, []
    index: list[Dim] = list(load.index)
    for place in field.places:
        index[place.position] = place.base + (place.symbol.expr if field.walks(place) else 0)
    replaced = dict(zip(load.index, index, strict=True))
    for expression, lower, upper in load.guards:
        if expression != load.index[wide.position]:
            guards.append((replaced[expression], lower, upper))
            continue
        if not isinstance(lower, int) or not isinstance(upper, int):
            return None
        low, high = max(low, lower - wide.base), min(high, upper - wide.base)
    if any(e == load.index[wide.position] for d, e in enumerate(load.index) if d != wide.position):
        return None
    index[wide.position] = wide.base + wide.symbol.expr
    buffer = KernelBuffer(TensorType(load.dtype, problem.shapes[load.buffer]), "in")
    fill = 0.0 if len(source) == 1 else source[0].value
    if not isinstance(fill, (int, float)):
        return None
    return PlainRow(load.buffer, linear_offset(buffer, index), low, high, tuple(guards), float(fill))


def emit_plain_row(
    builder: Builder,
    problem: Problem,
    field: Field,
    pointers: Sequence[Val],
    env: Env,
    row: PlainRow,
    target: Val,
    at: Val,
) -> None:
    """Copies the row at the places' values in `env` to element `at` of the field."""
    _Row(builder, problem, field, pointers, env, row, builder.gep(target, at, problem.scalar)).emit()


@dataclass(frozen=True)
class _Row:
    builder: Builder
    problem: Problem
    field: Field
    pointers: Sequence[Val]
    env: Env
    row: PlainRow
    target: Val

    def emit(self) -> None:
        builder, row = self.builder, self.row
        inside: Val | None = None
        for expression, lower, upper in row.guards:
            shifted = index_value(builder, expression - lower, self.env)
            holds = builder.icmp("ult", shifted, index_value(builder, upper - lower, self.env))
            inside = holds if inside is None else builder.and_(inside, holds)
        if inside is None:
            self._copy()
            return
        with builder.if_(inside):
            self._copy()
        with builder.if_(builder.binary("xor", inside, Val("i1", "true"))):
            self._clear()

    def _piece(self) -> int:
        """Elements of the array that become one vector of each phase."""
        return self.field.width * self.field.phases

    def _ends(self, v: int) -> int:
        """Where the piece at `v` begins: at the row's end it overlaps the one before it, so that it spoils nothing."""
        assert self.field.wide is not None
        last = self.field.wide.size - self.field.width
        return min(v, last) if self.field.phases == 1 and last >= 0 else v

    def _copy(self) -> None:
        """All pieces: those at the edges with constant masks, the ones between without."""
        row, piece = self.row, self._piece()
        assert self.field.wide is not None
        size = self.field.wide.size
        first = min(-(-row.low // piece) * piece, size)
        last = max(first, row.high // piece * piece)
        for v in range(0, first, piece):
            self._edge(self._ends(v))
        if last - first > _UNROLLED * piece:
            self.builder.loop(first, last, piece, (), lambda v, _: self._whole(v), "piece")
        else:
            for v in range(first, last, piece):
                self._whole(constant(v))
        for v in range(last, size, piece):
            self._edge(self._ends(v))

    def _clear(self) -> None:
        """The fill value everywhere."""
        piece, value = self._piece(), self._fill()
        assert self.field.wide is not None
        size = self.field.wide.size
        whole = size // piece * piece

        def clear(v: Val) -> list[Val]:
            self._store([value] * self.field.phases, v)
            return []

        if whole > _UNROLLED * piece:
            self.builder.loop(0, whole, piece, (), lambda v, _: clear(v), "clear")
        else:
            for v in range(0, whole, piece):
                clear(constant(v))
        if whole < size:
            clear(constant(self._ends(whole)))

    def _fill(self) -> Val:
        return self.builder.const(vector(self.problem.scalar, self.field.width), self.row.fill)

    def _put(self, value: Val, phase: int, q: Val) -> None:
        builder, field, scalar = self.builder, self.field, self.problem.scalar
        place = builder.gep(self.target, plus(builder, q, constant(phase * field.pitch)), scalar)
        size = self.problem.dtype.itemsize
        assert field.wide is not None
        if field.phases == 1 and field.wide.size < field.width:
            lanes = [str(i < field.wide.size).lower() for i in range(field.width)]
            builder.masked_store(value, place, builder.vector_literal("i1", lanes), size)
        else:
            builder.store(value, place, size)

    def _place(self, v: Val) -> Val:
        assert self.field.wide is not None
        here = self.env | {self.field.wide.symbol: v}
        offset = index_value(self.builder, self.row.offset, here)
        return self.builder.gep(self.pointers[self.row.buffer], offset, self.problem.scalar)

    def _whole(self, v: Val) -> list[Val]:
        builder, width, size = self.builder, self.field.width, self.problem.dtype.itemsize
        type_ = vector(self.problem.scalar, width)
        place = self._place(v)
        vectors = [
            builder.load(type_, builder.gep(place, i * width, self.problem.scalar), size)
            for i in range(self.field.phases)
        ]
        self._store(vectors, v)
        return []

    def _edge(self, first: int) -> None:
        """The piece from element `first` on, of which only some elements are inside."""
        builder, row, width = self.builder, self.row, self.field.width
        type_, size = vector(self.problem.scalar, width), self.problem.dtype.itemsize
        vectors = []
        for start in range(first, first + self._piece(), width):
            bits = [row.low <= v < row.high for v in range(start, start + width)]
            if not any(bits):
                vectors.append(self._fill())
                continue
            place = self._place(constant(start))
            if all(bits):
                vectors.append(builder.load(type_, place, size))
                continue
            mask = builder.vector_literal("i1", [str(b).lower() for b in bits])
            vectors.append(builder.masked_load(type_, place, mask, self._fill(), size))
        self._store(vectors, constant(first))

    def _store(self, vectors: list[Val], v: Val) -> None:
        """Stores a piece, its phases apart."""
        builder, width, phases = self.builder, self.field.width, self.field.phases
        if phases == 1:
            self._put(vectors[0], 0, v)
            return
        q = builder.binary("udiv", v, constant(phases))
        for phase in range(phases):
            taken = builder.shuffle(vectors[0], vectors[1], range(phase, 2 * width, 2))
            self._put(taken, phase, q)
