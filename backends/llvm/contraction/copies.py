"""Columns of a matrix that a vector is multiplied by, copied along k: for one whose runs of neighbours end within a vector.

A window that slides along k's outer axis needs its copies once for all of its offsets along that axis: column r begins
r rows of k further on. Copied values are what the operand's body gives, so no sum changes a bit.
"""

from __future__ import annotations

import dataclasses

from graphc.backends.llvm.contraction.axes import Env, Group, constant, plus, times
from graphc.backends.llvm.contraction.packing import Block, pack_runs
from graphc.backends.llvm.contraction.problem import Operand, Problem
from graphc.backends.llvm.contraction.tiling import along_steps, round_up
from graphc.backends.llvm.text import Builder, Val
from graphc.ir.dims import Dim, Symbol, substitute, symbols
from graphc.ir.kernel import Instruction, extent, replace_symbols
from graphc.ir.records import dataclass

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
        """Copies the block's rows and steps to its target."""
        pack_runs(builder, dataclasses.replace(block, operand=self.operand), self.lead)


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
