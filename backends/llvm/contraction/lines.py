"""Cache lines that the end of a register tile reads and writes, asked for before that end comes.

A core waits for a limited number of lines at once. Where a tile has many steps, the lines of the
tile below it are asked for a row at a time while it sums; else those of the tile itself, at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from graphc.backends.llvm.contraction.axes import Env, constant, index_value, minimum, plus, size_value, times
from graphc.backends.llvm.contraction.body import lane_step
from graphc.backends.llvm.contraction.micro import STRETCH
from graphc.backends.llvm.contraction.problem import Problem
from graphc.backends.llvm.contraction.tiling import Tiling, sums_in_result
from graphc.backends.llvm.kernel.lanes import LaneAxis
from graphc.backends.llvm.kernel.values import memory_type
from graphc.backends.llvm.text import Builder, Val
from graphc.ir.dims import Dim, Expr, symbols
from graphc.ir.records import dataclass

__all__ = ["Lines", "is_last_block"]

_LEAST_STEPS = 32
"""Steps of k below which a tile is over before a line that it asked for has come."""

_LINE = 64
"""Bytes of a line."""

_LEAST_STEPS_IN_TURN = 96
"""Steps of k from which the tile below has its lines asked for, a row at a time."""

Places = dict[tuple[int, Dim], bool]
"""(buffer, offset) to whether it is written."""


def is_last_block(builder: Builder, problem: Problem, tiling: Tiling, block: Val) -> Val:
    """True of the last block of k, by its first step."""
    if problem.symbols:
        end = builder.add(block, builder.sizes["kc"])
        return builder.icmp("sge", end, size_value(builder, problem.a.steps.size))
    return builder.icmp("eq", block, constant((tiling.blocks(problem.k) - 1) * tiling.kc))


@dataclass(frozen=True)
class Lines:
    """The lines of tiles of `rows` rows below one another, `reach` elements long. `first` is their first column,
    `kept` the row length of kept sums."""

    builder: Builder
    problem: Problem
    tiling: Tiling
    pointers: list[Val]
    batch: Val
    rows: int
    reach: int
    first: Val
    block: Val
    kept_lead: int

    @property
    def in_turn(self) -> bool:
        """True where `below` is to be called while a tile sums, and `at_once` for the first tile alone."""
        if self.tiling.near:
            return False
        return self._steps >= _LEAST_STEPS_IN_TURN and self.rows > 1 and bool(self._places[0] or self._keeps)

    def at_once(self, row: Val, kept: Val) -> None:
        """Asks for all lines of the tile that begins at `row`."""
        if self._steps < _LEAST_STEPS:
            return
        own, shared = self._places
        if self.tiling.near and self._keeps:
            # Kept sums are near.
            with self.builder.if_(is_last_block(self.builder, self.problem, self.tiling, self.block)):
                for r in range(self.rows):
                    self._ask(own, plus(self.builder, row, constant(r)))
                self._ask(shared, row)
            return
        for r in range(self.rows):
            self._row(row, kept, constant(r), own)
        self._ask(shared, row)

    def below(self, row: Val, kept: Val) -> Callable[[Val], None]:
        """What asks for the rows of the tile below the one that begins at `row`, a few for each stretch of steps."""
        each = -(-self.rows // max(1, self._steps // STRETCH))

        def turn(n: Val) -> None:
            for i in range(each):
                at = plus(self.builder, times(self.builder, n, each), constant(i))
                at = minimum(self.builder, at, constant(self.rows - 1))
                self._row(row, kept, plus(self.builder, at, constant(self.rows)), self._places[0])

        return turn

    @property
    def _steps(self) -> int:
        return min(self.problem.k, self.tiling.kc)

    @property
    def _keeps(self) -> bool:
        several = self.tiling.blocks(self.problem.k) > 1 or bool(self.problem.symbols)
        return several and not sums_in_result(self.problem, self.tiling)

    @cached_property
    def _places(self) -> tuple[Places, Places]:
        """What the epilogue reads or writes vector by vector: of each row its own, and of all rows the same."""
        problem, piece = self.problem, self.problem.piece(self.tiling.width)
        own: Places = {}
        shared: Places = {}
        if piece != self.tiling.width or problem.columns.inner is None:
            return own, shared
        lanes = LaneAxis(problem.columns.inner.name, piece, piece)
        for use in problem.epilogue:
            if use.opcode not in ("load", "store") or use.guards or lane_step(lanes, use.index[0]) != 1:
                continue
            at = use.buffer, use.index[0]
            places = own if set(problem.rows.axes) & symbols(use.index[0]) else shared
            places[at] = use.opcode == "store" or places.get(at, False)
        return own, shared

    def _row(self, row: Val, kept: Val, number: Val, places: Places) -> None:
        """Asks for the lines of row `number` counted from `row`, of which the kept sums begin at `kept`."""
        builder, problem = self.builder, self.problem
        here = plus(builder, row, number)
        if not self._keeps:
            self._ask(places, here)
            return
        place = builder.gep(kept, times(builder, number, self.kept_lead), problem.scalar)
        builder.prefetch(place, write=True)
        with builder.if_(is_last_block(builder, problem, self.tiling, self.block)):
            self._ask(places, here)

    def _ask(self, places: Places, row: Val) -> None:
        builder, problem = self.builder, self.problem
        env: Env = problem.batch.split(builder, self.batch) | problem.rows.split(builder, row)
        if problem.columns.inner is not None:
            env[problem.columns.inner] = self.first
        for (buffer, index), written in places.items():
            scalar = memory_type(problem.buffers[buffer].type.dtype)
            start = builder.gep(self.pointers[buffer], index_value(builder, index, env), scalar)
            builder.prefetch(start, write=written)
            if not self._in_one_line(index, problem.buffers[buffer].type.dtype.itemsize):
                builder.prefetch(builder.gep(start, self.reach - 1, scalar), write=written)

    def _in_one_line(self, index: Dim, size: int) -> bool:
        """True where each row of a tile lies in one line of an array that begins with a line, as most do."""
        axis, line = self.problem.columns.inner, _LINE // size
        if line % self.reach or axis is None or not isinstance(index, Expr):
            return False
        return all(k % line == 0 for monomial, k in index.terms if monomial != ((axis, 1),))
