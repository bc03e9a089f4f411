"""Columns of a matrix that a vector is multiplied by, copied along k: for one whose runs of neighbours end within a vector.

A window that slides along k's outer axis needs its copies once for all of its offsets along that axis: column r begins
r rows of k further on. Copied values are what the operand's body gives, so no sum changes a bit.
"""

from __future__ import annotations

import dataclasses

from graphc.backends.llvm.contraction.axes import Env, Group, constant, index_value, minimum, plus, times
from graphc.backends.llvm.contraction.body import Point, Scalars, emit_body, guard_mask
from graphc.backends.llvm.contraction.packing import Block, pack_runs
from graphc.backends.llvm.contraction.problem import Operand, Problem
from graphc.backends.llvm.contraction.tiling import along_steps, round_up
from graphc.backends.llvm.text import Builder, Val, vector
from graphc.ir.dims import Dim, Symbol, substitute, symbols
from graphc.ir.kernel import Instruction, extent, replace_symbols
from graphc.ir.records import dataclass
from graphc.ir.scalar import Guard

__all__ = ["Copies", "find_copies"]

_ROOM = 16
"""Elements that the last vector of a row may spoil."""
_LEAST_RUN = 8
"""Neighbouring columns from which on vectors go along them, if neighbours along k lie apart."""
_MOST_ELEMENTS = 1 << 16
"""Of all copies of a window, which stay in L2; longer ones are made a block of k at a time, each column for itself."""


@dataclass(frozen=True)
class Copies:
    """Rows of `operand`, `lead` elements apart.

    Where there is a `shift`, all k of all columns are copied at once, and a column's begin `apart` elements on for each
    step of that axis. Otherwise a column is a row, and of k a block of at most `lead - 16` is there.
    """

    operand: Operand
    lead: int
    shift: Symbol | None = None
    apart: int = 0

    def elements(self, columns: int) -> int:
        """Of the room for copies of so many columns at a time."""
        rows = self.operand.rows.total if self.shift is not None else columns
        return rows * self.lead

    def place(self, builder: Builder, env: Env) -> Val:
        """The element where the column `env` begins, of copies with a shift."""
        assert self.shift is not None
        row = constant(0)
        for axis in self.operand.rows.axes:
            row = plus(builder, times(builder, row, extent(axis)), env[axis])
        return plus(builder, times(builder, row, self.lead), times(builder, env[self.shift], self.apart))

    def copy(self, builder: Builder, block: Block) -> None:
        """Copies the block's rows and steps to its target: all there are where there is a shift."""
        whole = dataclasses.replace(block, operand=self.operand)
        plain = None if self.shift is None else _plain(self.operand, block.width)
        if plain is None:
            pack_runs(builder, whole, self.lead)
        else:
            _Planes(builder, whole, self.lead, plain).copy()


def find_copies(problem: Problem, steps: int) -> Copies | None:
    """How the columns are copied, at most `steps` of k at a time where there is no shift; None where they are read in
    place."""
    operand = problem.b
    if len(operand.steps.axes) < 2 or not (along_steps(operand) or _narrow(operand)):
        return None
    each = Copies(operand, round_up(min(problem.k, steps), _ROOM) + _ROOM)
    if len(operand.steps.axes) > 2:
        return each
    outer, inner = operand.steps.axes
    for axis in operand.rows.axes:
        if not _slides(operand.body, outer, axis):
            continue
        at = Symbol(f"at_{outer.name}", 0, extent(outer) + extent(axis) - 2)
        moved: dict[Symbol, Dim] = {outer: at.expr, axis: 0}
        window = dataclasses.replace(
            operand,
            body=tuple(replace_symbols(i, moved) for i in operand.body),
            rows=Group(tuple(a for a in operand.rows.axes if a is not axis)),
            steps=Group((at, inner)),
            direct=None,
            panels=None,
        )
        found = Copies(window, round_up(window.steps.total, _ROOM) + _ROOM, axis, extent(inner))
        if found.elements(0) <= _MOST_ELEMENTS:
            return found
    return each


def _narrow(operand: Operand) -> bool:
    """True where a vector of neighbouring columns would be less full than one along k."""
    columns = operand.rows.run if operand.stride(operand.rows.inner) == 1 else 1
    return columns < min(_LEAST_RUN, operand.steps.run) and operand.stride(operand.steps.inner) is not None


def _slides(body: tuple[Instruction, ...], outer: Symbol, axis: Symbol) -> bool:
    """True where everything depends on the sum of the two alone."""
    apart: dict[Symbol, Dim] = {outer: outer.expr - axis.expr}
    expressions = [e for i in body for e in (*i.index, *(g for guard in i.guards for g in guard))]
    return all(axis not in symbols(substitute(e, apart)) for e in expressions)


@dataclass(frozen=True)
class _PlainLoad:
    """A load of one array with zeros around it; guards that differ from lane to lane are apart."""

    load: Instruction
    along: tuple[Guard, ...]
    across: tuple[Guard, ...]


def _plain(operand: Operand, width: int) -> _PlainLoad | None:
    """The load of an operand of two k axes that vectors of `width` fit; None of any other one."""
    *constants, load = operand.body
    outer, inner = operand.steps.axes
    if load.opcode != "load" or len(constants) != len(load.operands) or extent(inner) < width:
        return None
    if any(i.opcode != "const" or i.value != 0 for i in constants):
        return None
    used = [set().union(*map(symbols, guard)) for guard in load.guards]
    if any({outer, inner} <= found for found in used) or operand.stride(inner) != 1:
        return None
    along = tuple(g for g, found in zip(load.guards, used, strict=True) if inner in found)
    across = tuple(g for g, found in zip(load.guards, used, strict=True) if inner not in found)
    return _PlainLoad(load, along, across)


@dataclass(frozen=True)
class _Planes:
    """Copies an operand a vector of the inner axis at a time, through all of the outer one: its mask is made once."""

    builder: Builder
    block: Block
    lead: int
    plain: _PlainLoad

    def copy(self) -> None:
        """Emits the loops."""
        operand, builder = self.block.operand, self.builder
        builder.loop(self.block.row, self.block.row_end, 1, (), lambda r, _: self._row(r, operand), "plane")

    def _row(self, r: Val, operand: Operand) -> list[Val]:
        builder, width = self.builder, self.block.width
        inner = operand.steps.axes[1]
        env = self.block.batch | operand.rows.split(builder, r)
        base = times(builder, builder.sub(r, self.block.row), self.lead)

        def strip(q: Val, _: tuple[Val, ...]) -> list[Val]:
            # The last vector ends with the row: it repeats some elements instead of spoiling the next row's.
            first = minimum(builder, q, constant(extent(inner) - width))
            self._strip(env | {inner: first}, plus(builder, base, first))
            return []

        builder.loop(0, extent(inner), width, (), strip, "strip")
        return []

    def _strip(self, env: Env, to: Val) -> None:
        builder, block = self.builder, self.block
        outer, inner = block.operand.steps.axes
        load, type_ = self.plain.load, vector(block.scalar, block.width)
        mask = guard_mask(builder, self.plain.along, Point(block.pointers, env, inner, block.width))
        word = vector("i64" if block.scalar == "double" else "i32", block.width)
        signs = None if mask is None else builder.cast("sext", mask, word)

        def line(at: Val, _: tuple[Val, ...]) -> list[Val]:
            here, place = env | {outer: at}, plus(builder, to, times(builder, at, extent(inner)))
            inside: Val | None = None
            for expression, lo, hi in self.plain.across:
                holds = builder.icmp(
                    "ult", index_value(builder, expression - lo, here), index_value(builder, hi - lo, here)
                )
                inside = holds if inside is None else builder.and_(inside, holds)
            if inside is None:
                self._put(here, signs, place, load)
                return []
            block.put(builder, builder.const(type_, 0), place)
            with builder.if_(inside):
                self._put(here, signs, place, load)
            return []

        builder.loop(0, extent(outer), 1, (), line, "line")

    def _put(self, env: Env, signs: Val | None, place: Val, load: Instruction) -> None:
        builder, block = self.builder, self.block
        bits = None if signs is None else builder.icmp("slt", signs, builder.const(signs.type, 0))
        point = Point(block.pointers, env, block.operand.steps.axes[1], block.width, bits)
        scalars: Scalars = {}
        emit_body(
            builder, block.buffers, (dataclasses.replace(load, guards=(), operands=()),), point, scalars
        )
        block.put(builder, scalars[block.operand.result][1], place)
