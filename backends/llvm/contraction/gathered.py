"""Panels of B that are gathered from a field: each register tile's columns of one block of k, side by side in L1.

A field holds every element of B's buffer once, in the order of its columns; all of it is copied before the first
panel. A panel is read by all rows, and lies as panels of plain products do: so its columns may cross the ends of
runs, no lane is left empty, and what a tile reads again and again is a third to a half of L1.

Elements of a step are written in ascending columns and steps are ascending, so that a vector may reach over the end
of its run: what it spoils is written after it.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from math import prod

from graphc.backends.llvm.contraction.axes import Env, constant, minimum, plus, times
from graphc.backends.llvm.contraction.field import Field
from graphc.backends.llvm.contraction.field_copy import FieldCopy
from graphc.backends.llvm.contraction.field_plan import copy_cycles
from graphc.backends.llvm.contraction.field_search import Blocking, find_fields
from graphc.backends.llvm.contraction.macro import Blocked, scratch_of
from graphc.backends.llvm.contraction.nest import Nest, make_nest
from graphc.backends.llvm.contraction.problem import Problem, Side
from graphc.backends.llvm.contraction.share import each, shares
from graphc.backends.llvm.contraction.tiling import Tiling, choose_tiling, leads, round_up
from graphc.backends.llvm.text import Builder, Val, vector
from graphc.ir.kernel import extent
from graphc.ir.records import dataclass
from graphc.ir.target import Target

__all__ = ["Gather", "emit_gathered", "gather_cycles", "gathered_tiling", "refill_cycles"]

_LEAST_ROWS, _LEAST_STEPS = 32, 96
"""From how many rows and steps on gathering a panel is little beside its products."""
_VECTORS, _ROWS = 3, {16: 4, 32: 8}
"""Vectors of a register tile, and its rows by registers of the target: fewer instructions for a multiply-add than more rows by
two vectors have."""
_CHUNK = 1.4
"""Cycles of a vector that is brought to its place in a panel."""


@dataclass(frozen=True)
class Gather:
    """Where panels of `columns` columns come from: `field` has all columns of a batch entry and all of k."""

    field: Field
    columns: int

    def bytes(self, problem: Problem) -> int:
        """What a partition's copy of the field takes, a multiple of 64."""
        return round_up(self.field.elements * problem.dtype.itemsize, 64)

    @cached_property
    def chunks(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each panel its vectors in ascending order: (offset in the field, first column in the panel).

        All panels have equally many; the last one is there more than once where there are fewer.
        """
        field = self.field
        total, found = prod(extent(a) for a in field.columns), []
        for begin in range(0, total, self.columns):
            panel, column = [], begin
            end = min(total, begin + self.columns)
            while column < end:
                stop = min(end, column + field.run - column % field.run)
                panel += [(field.at_column(c), c - begin) for c in range(column, stop, field.width)]
                column = stop
            found.append(panel)
        most = max(map(len, found))
        return tuple((*panel, *[panel[-1]] * (most - len(panel))) for panel in found)


def gathered_tiling(problem: Problem, target: Target) -> tuple[Tiling, Gather] | None:
    """The tiling whose panels are gathered, of sums over windows with many rows that are read in place; None of others."""
    direct = problem.a.direct
    if problem.m < _LEAST_ROWS or problem.k < _LEAST_STEPS or len(problem.b.steps.axes) < 2:
        return None
    if direct is None or direct.step != 1 or problem.resumed:
        return None
    base = choose_tiling(problem, target)
    if base.width != base.full_width:
        return None
    size = problem.dtype.itemsize
    tried = Blocking(problem.k, base.width, 1, target.l3_bytes // 8)
    for field in find_fields(problem, tried):
        if field.minor is not None or not field.whole or field.share < field.values:
            continue
        if field.elements * size > tried.cache or field.wide_axis is not field.columns[-1]:
            continue
        rows = _ROWS[16 if target.vector_registers <= 16 else 32]
        columns, mc = base.width * _VECTORS, round_up(problem.m, rows)
        tiling = dataclasses.replace(
            base, rows=rows, vectors=_VECTORS, kc=base.fold, mc=mc, nc=columns, mb=mc, a="place", b="field",
            rows_outside=False, near=True,
        )  # fmt: skip
        return leads(tiling, size), Gather(field, columns)
    return None


def refill_cycles(problem: Problem, gather: Gather) -> float:
    """Cycles of all panels of a batch entry, and of its field."""
    chunks = gather.chunks
    return copy_cycles(problem, gather.field) + len(chunks) * len(chunks[0]) * problem.k * _CHUNK


def gather_cycles(problem: Problem, gather: Gather, tiles: float, finish: float) -> float:
    """Estimated cycles of a plan, from those of the register tiles of a step and of the epilogue."""
    return problem.batch.total * (problem.k * tiles + refill_cycles(problem, gather) + finish)


def emit_gathered(problem: Problem, gather: Gather, tiling: Tiling, side: Side, builder: Builder) -> None:
    """Emits the body of the kernel function, and its register tiles as functions of the module.

    Partitions divide `side`.
    """
    bounds = shares(builder, problem.totals, tiling.units, side)
    gathered = _Gathered(builder, problem, gather, tiling)
    each(builder, bounds["batch"], lambda b: gathered.share(b, bounds["rows"], bounds["columns"]), "batch")


class _Gathered(Blocked):
    """State of one emission."""

    def __init__(self, builder: Builder, problem: Problem, gather: Gather, tiling: Tiling) -> None:
        super().__init__(builder, problem, tiling)
        self.gather = gather
        self.copy = builder.gep(self.kept, scratch_of(problem, tiling).kept, "i8")
        self.nest: Nest = make_nest(range(problem.k), gather.field.offsets, tiling.kc)
        module = builder.module
        flat = [str(x) for panel in gather.chunks for chunk in panel for x in chunk]
        self.places = module.table("i32", flat)
        self.offsets = module.table("i32", [str(x) for x in self.nest.b_outer])

    def share(self, batch: Val, rows: tuple[Val, Val], columns: tuple[Val, Val]) -> None:
        self._fill(self.problem.batch.split(self.builder, batch), columns)
        super().share(batch, rows, columns)

    def _fill(self, env: Env, columns: tuple[Val, Val]) -> None:
        """Copies what columns [from, to) of a batch entry read."""
        builder, field = self.builder, self.gather.field
        within = None
        if field.divided is not None:
            env = env | {field.divided: constant(0)}
            # A partition may have no columns.
            last = builder.intrinsic("smax", "i64", [plus(builder, columns[1], constant(-1)), constant(0)])
            within = (
                builder.binary("udiv", columns[0], constant(field.rest)),
                builder.binary("udiv", last, constant(field.rest)),
            )
        FieldCopy(builder, self.problem, field, self.pointers, self.copy, within).emit(env, None, None)

    def _step_block(self, k: Val, _: tuple[Val, ...]) -> list[Val]:
        self._gather(self.block_n, k, minimum(self.builder, plus(self.builder, k, self.kc), self.k))
        return super()._step_block(k, _)

    def _pack(self, *_: object) -> None:
        """Rows are read in place, and panels are gathered already."""

    def _gather(self, n: Val, first: Val, end: Val) -> None:
        """The panel whose first column is `n`, of steps [first, end)."""
        builder, scalar, nest, lead = self.builder, self.problem.scalar, self.nest, self.tiling.b_lead
        type_, size = vector(scalar, self.tiling.width), self.problem.dtype.itemsize
        count = len(self.gather.chunks[0])
        number = builder.binary("udiv", n, constant(self.gather.columns))
        row = builder.gep(self.places, times(builder, number, 2 * count), "i32")

        def entry(i: int) -> Val:
            return builder.cast("sext", builder.load("i32", builder.gep(row, i, "i32"), 4), "i64")

        sources = [builder.gep(self.copy, entry(2 * c), scalar) for c in range(count)]
        places = [entry(2 * c + 1) for c in range(count)]
        turns = [builder.binary("udiv", k, constant(nest.unroll)) for k in (first, end)]

        def some(t: Val, carried: tuple[Val, ...]) -> list[Val]:
            step = builder.load("i32", builder.gep(self.offsets, t, "i32"), 4)
            here = [builder.gep(s, builder.cast("sext", step, "i64"), scalar) for s in sources]
            there = [builder.gep(carried[0], p, scalar) for p in places]
            for u, at in enumerate(nest.b_inner):
                for source, place in zip(here, there, strict=True):
                    value = builder.load(type_, builder.gep(source, at, scalar), size)
                    builder.store(value, builder.gep(place, u * lead, scalar), size)
            return [builder.gep(carried[0], nest.unroll * lead, scalar)]

        builder.loop(turns[0], turns[1], 1, (self.packed_b,), some, "gather")
