"""Register tiles that read B from a field: a strip of them below one another as a function.

The arithmetic is that of `micro`: element (i, j) of a tile is fma(a[i, k], b[k, j], …) in
ascending k starting from +0, and blocks of k are added in ascending order.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.contraction.axes import Env, constant, plus
from graphc.backends.llvm.contraction.epilogue import emit_spread, emit_uniform, length
from graphc.backends.llvm.contraction.field import Field
from graphc.backends.llvm.contraction.micro import broadcast_from, multiply_add
from graphc.backends.llvm.contraction.nest import Nest
from graphc.backends.llvm.contraction.problem import Problem
from graphc.backends.llvm.contraction.share import load_pointers
from graphc.backends.llvm.contraction.tile import PlacedColumns, Tile, TileShape
from graphc.backends.llvm.contraction.tiling import Tiling
from graphc.backends.llvm.text import Builder, ModuleText, Val, vector
from graphc.ir.records import dataclass

__all__ = ["STRIP_PARAMETERS", "StripShape", "emit_strip_of_field"]

STRIP_PARAMETERS = (
    ("ptr", "buffers"), ("ptr", "a"), ("ptr", "b"), ("ptr", "table"), ("i64", "steps"), ("ptr", "kept"),
    ("i64", "block"), ("i64", "m"), ("i64", "v"), ("i64", "origin"), ("i64", "batch"), ("i64", "count"),
)  # fmt: skip
"""`a` is row m at step 0, `b` the field, `table` the outer steps' offsets from the block's first on, `steps`
their number; `v` the first vector, `origin` the first column of the block of columns, `count` the tiles."""


@dataclass(frozen=True)
class StripShape:
    """Rows and vectors of a tile."""

    rows: int
    vectors: int


class _FieldTile(Tile):
    """Finishes vectors whose columns are neighbours along the last merged column axis."""

    def _env(self, row: Val, j: int) -> Env:
        builder, problem = self.builder, self.problem
        env = problem.batch.split(builder, self.batch) | problem.rows.split(builder, row)
        return env | problem.spread_columns.split(builder, self.placed.first[j])

    def _length(self) -> int:
        problem = self.problem
        return length(problem.spread, problem.spread_columns.inner, self.tiling.width)

    def _apply(self, row: Val, j: int, value: Val) -> None:
        env, width, mask = self._env(row, j), self.tiling.width, self.placed.masks[j]
        emit_spread(self.builder, self.problem, self.pointers, self.uniform, env, value, width, mask)


def emit_strip_of_field(
    module: ModuleText,
    name: str,
    problem: Problem,
    field: Field,
    tiling: Tiling,
    shape: StripShape,
    nest: Nest,
    row_lead: int,
    kept_lead: int,
    tables: tuple[Val, Val],
) -> None:
    """Emits the function `name(STRIP_PARAMETERS)`. `tables` are the vectors' offsets and their spans."""
    builder = module.function(
        name, "void", STRIP_PARAMETERS, linkage="internal", attributes="nounwind noinline", hides_steps=True
    )
    buffers, a, b, table, steps, kept, block, m, v, origin, batch, count = builder.params
    bases = []
    for j in range(shape.vectors):
        near = builder.load("i32", builder.gep(tables[0], plus(builder, v, constant(j)), "i32"), 4)
        bases.append(builder.gep(b, builder.cast("sext", near, "i64"), problem.scalar))
    placed = PlacedColumns(None, *_spans(builder, field, shape, tables[1], v, origin))
    pointers = load_pointers(builder, problem, buffers)
    uniform = emit_uniform(builder, problem, pointers)
    tile_shape = TileShape(shape.rows, shape.vectors, 0)

    def one(i: Val, carried: tuple[Val, ...]) -> list[Val]:
        here, keeps, row = carried
        grid = _accumulate(
            builder, problem.scalar, tiling.width, shape, nest, here, row_lead, bases, table, steps
        )
        if field.minor is not None:
            _keep(builder, problem, tiling, grid, keeps, kept_lead, block)
        else:
            tile = _FieldTile(builder, problem, tiling, tile_shape, pointers, row, batch, placed, uniform)
            tile.conclude(grid, keeps, block, kept_lead)
        return [
            builder.gep(here, shape.rows * row_lead, problem.scalar),
            builder.gep(keeps, shape.rows * kept_lead, problem.scalar),
            plus(builder, row, constant(shape.rows)),
        ]

    builder.loop(0, count, 1, (a, kept, m), one, "strip")
    builder.ret()


def _spans(
    builder: Builder, field: Field, shape: StripShape, table: Val, v: Val, origin: Val
) -> tuple[list[Val], list[Val | None]]:
    """First columns and masks of a tile's vectors; none with a minor axis."""
    first: list[Val] = []
    masks: list[Val | None] = []
    if field.minor is not None:
        return first, masks
    ragged = field.run % field.width != 0 and not field.overlaps
    for j in range(shape.vectors):
        at = builder.gep(table, builder.mul(plus(builder, v, constant(j)), constant(2)), "i32")
        column = builder.cast("sext", builder.load("i32", at, 4), "i64")
        first.append(plus(builder, origin, column))
        lanes = (
            builder.cast("sext", builder.load("i32", builder.gep(at, 1, "i32"), 4), "i64") if ragged else None
        )
        masks.append(None if lanes is None else builder.lane_mask(lanes, field.width))
    return first, masks


def _accumulate(
    builder: Builder,
    scalar: str,
    width: int,
    shape: StripShape,
    nest: Nest,
    a: Val,
    row_lead: int,
    bases: Sequence[Val],
    table: Val,
    steps: Val,
) -> list[list[Val]]:
    """The sums over `steps` outer steps; [row][vector]."""
    type_, size = vector(scalar, width), 8 if scalar == "double" else 4
    zero = builder.const(type_, 0)
    rows, vectors = shape.rows, shape.vectors

    def body(t: Val, carried: tuple[Val, ...]) -> list[Val]:
        acc = list(carried[1:])
        near = [builder.load("i32", builder.gep(carried[0], i, "i32"), 4) for i in range(2)]
        at_a, at_b = (builder.cast("sext", x, "i64") for x in near)
        here = builder.gep(a, at_a, scalar)
        columns = [builder.gep(base, at_b, scalar) for base in bases]
        for at in _next_lines(rows, row_lead, nest, size):
            builder.prefetch(builder.gep(here, at, scalar))
        for a_step, b_step in zip(nest.a_inner, nest.b_inner, strict=True):

            def broadcast(i: int, step: int = a_step) -> Val:
                place = builder.gep(here, i * row_lead + step, scalar)
                return broadcast_from(builder, scalar, place, width)

            def line(j: int, step: int = b_step) -> Val:
                return builder.load(type_, builder.gep(columns[j], step, scalar), size)

            # The fewer of both stay in registers while the others pass.
            if vectors <= rows:
                held = [line(j) for j in range(vectors)]
                for i in range(rows):
                    x = broadcast(i)
                    for j in range(vectors):
                        acc[i * vectors + j] = multiply_add(builder, x, held[j], acc[i * vectors + j])
            else:
                held = [broadcast(i) for i in range(rows)]
                for j in range(vectors):
                    y = line(j)
                    for i in range(rows):
                        acc[i * vectors + j] = multiply_add(builder, held[i], y, acc[i * vectors + j])
        return [builder.gep(carried[0], 2, "i32"), *acc]

    carried = builder.loop(0, steps, 1, (table, *[zero] * (rows * vectors)), body, "k")
    return [list(carried[1 + i * vectors : 1 + (i + 1) * vectors]) for i in range(rows)]


def _next_lines(rows: int, row_lead: int, nest: Nest, size: int) -> list[int]:
    """Where the next tile's rows of A lie, a cache line apart, from an outer step of this one.

    Nowhere where neighbouring rows share lines, which this tile reads too.
    """
    line = 64 // size
    reach = max(nest.a_inner) + 1
    if row_lead < line:
        return []
    return [(rows + i) * row_lead + at for i in range(rows) for at in range(0, reach, line)]


def _keep(
    builder: Builder,
    problem: Problem,
    tiling: Tiling,
    grid: list[list[Val]],
    kept: Val,
    lead: int,
    block: Val,
) -> None:
    """Stores the first block's sums, and adds those of later blocks to what is kept."""
    size, type_ = problem.dtype.itemsize, vector(problem.scalar, tiling.width)

    def place(i: int, j: int) -> Val:
        return builder.gep(kept, i * lead + j * tiling.width, problem.scalar)

    def store() -> None:
        for i, row in enumerate(grid):
            for j, x in enumerate(row):
                builder.store(x, place(i, j), size)

    if tiling.blocks(problem.k) == 1 and not problem.resumed:
        store()
        return
    first, later, done = (builder.label(x) for x in ("first", "later", "done"))
    before = builder.or_(block, builder.sizes["resumes"]) if problem.resumed else block
    builder.branch_if(builder.icmp("eq", before, constant(0)), first, later)
    builder.block(first)
    store()
    builder.branch(done)
    builder.block(later)
    for i, row in enumerate(grid):
        for j, x in enumerate(row):
            builder.store(builder.fadd(builder.load(type_, place(i, j), size), x), place(i, j), size)
    builder.branch(done)
    builder.block(done)
