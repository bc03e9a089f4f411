"""One register tile as a function: the sum over a block of k, then partial sums or the epilogue.

Blocks of k are added in ascending order: the first block's sum is kept, each later one is added
to what is kept, and the last one goes on into the epilogue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from math import gcd
from typing import Protocol

from graphc.backends.llvm.contraction.axes import Env, constant, index_value, minimum, plus, times
from graphc.backends.llvm.contraction.body import Scalars
from graphc.backends.llvm.contraction.epilogue import (
    emit_epilogue,
    emit_epilogues,
    emit_uniform,
    length,
    side_by_side,
    varying,
)
from graphc.backends.llvm.contraction.fold import Earlier, accumulate_folds
from graphc.backends.llvm.contraction.lines import Lines, is_last_block
from graphc.backends.llvm.contraction.micro import (
    Ahead,
    Columns,
    Following,
    Panel,
    accumulate,
    accumulate_some,
)
from graphc.backends.llvm.contraction.order import Order
from graphc.backends.llvm.contraction.problem import Problem, without_order
from graphc.backends.llvm.contraction.share import load_pointers
from graphc.backends.llvm.contraction.tiling import Tiling, sums_in_result
from graphc.backends.llvm.text import Builder, ModuleText, Val, vector
from graphc.ir.records import dataclass

__all__ = [
    "TILE_PARAMETERS",
    "ColumnSide",
    "PlacedColumns",
    "Tile",
    "TileShape",
    "emit_strip",
]

TILE_PARAMETERS = (
    ("ptr", "buffers"), ("ptr", "a"), ("ptr", "b"), ("i64", "steps"), ("ptr", "kept"),
    ("i64", "block"), ("i64", "m"), ("i64", "n"), ("i64", "batch"), ("i64", "count"), ("i1", "far"),
)  # fmt: skip
"""`block` is the first step of the block of k; `kept` the tile's partial sums (unused with a plain store); `count`
the tiles; `far` says that A is not near yet."""

_UNROLLED_EPILOGUE = 160
"""Instructions of epilogues up to which they follow one another; longer ones are a loop over rows."""

_UNROLLED_AT_EDGE = 40
"""The same for a tile of the last rows or columns, which runs seldom: less code."""

_LEAST_STEPS_TO_FETCH = 32
"""Steps of k below which a tile is over before a line that it asked for has come."""


@dataclass(frozen=True)
class TileShape:
    """`rows` × `vectors` vectors; `ragged` is the count of valid lanes of the last vector, 0 for all."""

    rows: int
    vectors: int
    ragged: int


@dataclass(frozen=True)
class PlacedColumns:
    """The vectors of one tile: where B is read, their first columns, their valid lanes (None: all).

    `ragged` is the number of valid lanes of the last vector where that is the same for every
    tile of this shape; 0 where all are valid or it differs. `source` is None where the tile sums by itself.
    """

    source: Columns | None
    first: list[Val]
    masks: list[Val | None]
    ragged: int = 0


class ColumnSide(Protocol):
    """Places the vectors of a tile."""

    def place(self, builder: Builder, shape: TileShape, address: Val, n: Val) -> PlacedColumns:
        """`address` and `n` are the tile's parameters `b` and `n`."""


def emit_strip(
    module: ModuleText,
    name: str,
    problem: Problem,
    tiling: Tiling,
    shape: TileShape,
    a: Panel,
    side: ColumnSide,
    kept_lead: int,
    a_next: int,
) -> None:
    """Emits `name(TILE_PARAMETERS)`: `count` tiles below one another, the columns placed once.

    `a_next` is the number of elements from one tile's rows of A to the next one's. While a tile sums, the
    lines that the next one's epilogue uses are fetched, and its rows of A where they are read in place.
    """
    builder = module.function(
        name, "void", TILE_PARAMETERS, linkage="internal", attributes="nounwind noinline", hides_steps=True
    )
    buffers, a_address, b_address, steps, kept, block, m, n, batch, count, far = builder.params
    long = min(problem.k, tiling.kc) >= _LEAST_STEPS_TO_FETCH
    distance = a_next if tiling.a == "place" and long else 0
    tiles = problem.m // shape.rows
    placed = side.place(builder, shape, b_address, n)
    pointers = load_pointers(builder, problem, buffers)
    uniform = emit_uniform(builder, problem, pointers)

    lines = Lines(
        builder, problem, tiling, pointers, batch, shape.rows, shape.vectors * tiling.width, placed.first[0],
        block, kept_lead,
    )  # fmt: skip
    if lines.in_turn:
        lines.at_once(m, kept)

    def one(i: Val, carried: tuple[Val, ...]) -> list[Val]:
        here, keeps, row = carried
        tile = Tile(builder, problem, tiling, shape, pointers, row, batch, placed, uniform)
        if not lines.in_turn:
            lines.at_once(row, keeps)
        between = lines.below(row, keeps) if lines.in_turn else None
        following = None
        if tiling.b == "kept" and long and shape == TileShape(tiling.rows, tiling.vectors, 0):
            following = Following(tiling.kc * tiling.columns, tiling.columns, i, tiles)
        needed = distance or between or following
        ahead = Ahead(distance, far, between, following=following) if needed else None
        tile.emit(here, a, steps, keeps, block, kept_lead, ahead)
        return [
            builder.gep(here, a_next, problem.scalar),
            builder.gep(keeps, shape.rows * kept_lead, problem.scalar),
            plus(builder, row, constant(shape.rows)),
        ]

    builder.loop(0, count, 1, (a_address, kept, m), one, "strip")
    builder.ret()


@dataclass(frozen=True)
class Tile:
    """The output side of a tile: where it lies and what is done with its sums."""

    builder: Builder
    problem: Problem
    tiling: Tiling
    shape: TileShape
    pointers: list[Val]
    m: Val
    batch: Val
    placed: PlacedColumns
    uniform: Scalars

    def emit(
        self,
        a_address: Val,
        a: Panel,
        steps: Val,
        kept: Val,
        block: Val,
        kept_lead: int,
        ahead: Ahead | None,
    ) -> None:
        """The sum over a block of k and what becomes of it; goes on at a block of its own."""
        builder, problem, tiling, shape = self.builder, self.problem, self.tiling, self.shape
        if problem.is_empty:
            zero = builder.const(vector(problem.scalar, tiling.width), 0)
            self.conclude([[zero] * shape.vectors for _ in range(shape.rows)], kept, block, kept_lead)
            return
        source = self.placed.source
        assert source is not None
        sizes = builder, problem.scalar, tiling.width, shape.rows, shape.vectors
        even = tiling.even(problem.k)
        if shape != TileShape(tiling.rows, tiling.vectors, 0):
            even = gcd(even, 4)  # less code for what runs seldom
        earlier: Earlier | None
        if problem.symbols:
            stored = self.stored if sums_in_result(problem, tiling) else self._kept(kept, kept_lead)
            earlier = Earlier(builder.icmp("eq", block, constant(0)), stored)
            fold = builder.sizes["fold"]
            total = accumulate_folds(*sizes, (a_address, a), source, steps, fold, 1, ahead, earlier)
            self._settle(total, kept, block, kept_lead)
            return
        if tiling.kc > tiling.fold and problem.k > tiling.fold:
            earlier = None
            if tiling.blocks(problem.k) > 1 or problem.resumed:
                stored = self.stored if sums_in_result(problem, tiling) else self._kept(kept, kept_lead)
                earlier = Earlier(self._begins(block), stored)
            total = accumulate_folds(*sizes, (a_address, a), source, steps, tiling.fold, even, ahead, earlier)
            self._settle(total, kept, block, kept_lead)
            return
        if problem.order is not None and problem.order.of_results:
            steps = builder.select(self._has_terms(problem.order), steps, constant(0))

        def summed(first: Val, count: Val, even: int, sums: Sequence[Val] | None = None) -> list[list[Val]]:
            at, columns = a_address, source
            if first.text != "0":
                at = builder.gep(a_address, times(builder, first, a.step), problem.scalar)
                columns = source.from_step(builder, first)
            return accumulate(*sizes, (at, a), columns, count, even, ahead, sums)

        if problem.order is None:
            self.conclude(summed(constant(0), steps, even), kept, block, kept_lead)
            return
        order = problem.order
        if not order.of_results:
            found = self._in_order(order, (a_address, a), steps, block, summed)
            self.conclude(found, kept, block, kept_lead)
            return
        grid = summed(constant(0), steps, even)
        if shape != TileShape(tiling.rows, tiling.vectors, 0):
            self.conclude(self._present(order, grid), kept, block, kept_lead)
            return
        # Most tiles have all their terms: nothing is masked there.
        whole, partly, done = (builder.label(x) for x in ("whole", "partly", "done"))
        builder.branch_if(self._has_all_terms(order), whole, partly)
        builder.block(whole)
        dataclasses.replace(self, problem=without_order(problem)).conclude(grid, kept, block, kept_lead)
        builder.branch(done)
        builder.block(partly)
        self.conclude(self._present(order, grid), kept, block, kept_lead)
        builder.branch(done)
        builder.block(done)

    def _kept(self, kept: Val, lead: int) -> Callable[[int, int], Val]:
        """Reads kept sums by row and vector."""
        builder, width = self.builder, self.tiling.width

        def load(i: int, j: int) -> Val:
            place = builder.gep(kept, i * lead + j * width, self.problem.scalar)
            return builder.load(vector(self.problem.scalar, width), place, self.problem.dtype.itemsize)

        return load

    def _settle(self, total: list[list[Val]], kept: Val, block: Val, lead: int) -> None:
        """Keeps the total over this block and those before it, or finishes it after the last one."""
        builder, problem, tiling = self.builder, self.problem, self.tiling
        several = tiling.blocks(problem.k) > 1 or bool(problem.symbols)
        if not several or sums_in_result(problem, tiling):
            self.finish(total)
            return
        more, last, done = (builder.label(x) for x in ("more", "last", "done"))
        builder.branch_if(is_last_block(builder, problem, tiling, block), last, more)
        builder.block(more)
        for i, row in enumerate(total):
            for j, x in enumerate(row):
                place = builder.gep(kept, i * lead + j * tiling.width, problem.scalar)
                builder.store(x, place, problem.dtype.itemsize)
        builder.branch(done)
        builder.block(last)
        self.finish(total)
        builder.branch(done)
        builder.block(done)

    def _begins(self, block: Val) -> Val:
        """True of the first block of a sum."""
        builder = self.builder
        if self.problem.resumed:
            block = builder.or_(block, builder.sizes["resumes"])
        return builder.icmp("eq", block, constant(0))

    def _has_terms(self, order: Order) -> Val:
        """True of a tile some element of which has terms."""
        n, (rows, columns) = self.placed.first[0], (self.shape.rows, self.shape.vectors * self.tiling.width)
        low, high, size = (n, self.m, rows) if order.low == "columns" else (self.m, n, columns)
        return self.builder.icmp("slt", low, plus(self.builder, high, constant(size)))

    def _has_all_terms(self, order: Order) -> Val:
        """True of a tile all elements of which have their terms."""
        n, (rows, columns) = self.placed.first[0], (self.shape.rows, self.shape.vectors * self.tiling.width)
        low, high, size = (n, self.m, columns) if order.low == "columns" else (self.m, n, rows)
        return self.builder.icmp(
            "slt", plus(self.builder, low, constant(size - 1)), plus(self.builder, high, constant(1))
        )

    def _present(self, order: Order, grid: list[list[Val]]) -> list[list[Val]]:
        """The sums of a tile, +0 where there are no terms."""
        builder, width = self.builder, self.tiling.width
        type_ = vector(self.problem.scalar, width)
        zero = builder.const(type_, 0)
        lanes = (
            builder.vector_literal("i32", [str(i) for i in range(width)]) if width > 1 else Val("i32", "0")
        )
        found = []
        for i, row in enumerate(grid):
            here = plus(builder, self.m, constant(i))
            made = []
            for j, x in enumerate(row):
                # How far the row is beyond the vector's first column, as a vector of 32-bit lanes.
                beyond = builder.sub(here, self.placed.first[j])
                ahead = builder.splat(builder.cast("trunc", beyond, "i32"), width)
                sides = (lanes, ahead) if order.low == "columns" else (ahead, lanes)
                made.append(builder.select(builder.icmp("sle", *sides), x, zero))
            found.append(made)
        return found

    def _in_order(
        self,
        order: Order,
        a: tuple[Val, Panel],
        steps: Val,
        block: Val,
        summed: Callable[[Val, Val, int, Sequence[Val] | None], list[list[Val]]],
    ) -> list[list[Val]]:
        """The sums over those steps of a block that each row has: those of all rows, and before or after these
        the ones that some rows have."""
        builder, problem, width = self.builder, self.problem, self.tiling.width
        rows, source = self.shape.rows, self.placed.source
        assert source is not None
        from_block = builder.sub(self.m, block)

        def clamped(offset: int) -> Val:
            at = minimum(builder, plus(builder, from_block, constant(offset)), steps)
            return builder.select(builder.icmp("slt", at, constant(0)), constant(0), at)

        def there(k: Val, i: int) -> Val:
            row = plus(builder, from_block, constant(i))
            return builder.icmp("sle", *((k, row) if order.low == "steps" else (row, k)))

        def of_all(first: Val, count: Val, sums: Sequence[Val] | None) -> list[list[Val]]:
            """Steps that all rows have: eight at a time, then the rest."""
            if self.shape != TileShape(self.tiling.rows, self.tiling.vectors, 0):
                return summed(first, count, 1, sums)
            eights = builder.binary("and", count, constant(-8))
            made = summed(first, eights, 8, sums)
            rest = builder.sub(count, eights)
            return summed(plus(builder, first, eights), rest, 1, [x for row in made for x in row])

        if order.low == "steps":
            shared, end = clamped(1), clamped(rows)
            grid = of_all(constant(0), shared, None)
            return accumulate_some(builder, problem.scalar, width, a, source, (shared, end), grid, there)
        begin, shared = clamped(0), clamped(rows - 1)
        zero = builder.const(vector(problem.scalar, width), 0)
        grid = [[zero] * self.shape.vectors for _ in range(rows)]
        grid = accumulate_some(builder, problem.scalar, width, a, source, (begin, shared), grid, there)
        return of_all(shared, builder.sub(steps, shared), [x for row in grid for x in row])

    def conclude(self, grid: list[list[Val]], kept: Val, block: Val, kept_lead: int) -> None:
        """What becomes of a block's sums: kept, or added to what is kept, or finished; goes on at a block of its own."""
        builder, problem, tiling = self.builder, self.problem, self.tiling
        blocks = tiling.blocks(problem.k)
        if blocks == 1 and not problem.resumed:
            self.finish(grid)
            return
        first, later, done = (builder.label(x) for x in ("first", "later", "done"))
        builder.branch_if(self._begins(block), first, later)
        if sums_in_result(problem, tiling):
            builder.block(later)
            self.finish(
                [[builder.fadd(self.stored(i, j), x) for j, x in enumerate(r)] for i, r in enumerate(grid)]
            )
            builder.branch(done)
            builder.block(first)
            self.finish(grid)
            builder.branch(done)
            builder.block(done)
            return
        more, last = builder.label("more"), builder.label("last")
        type_, size = vector(problem.scalar, tiling.width), problem.dtype.itemsize

        def place(i: int, j: int) -> Val:
            return builder.gep(kept, i * kept_lead + j * tiling.width, problem.scalar)

        def keep(values: list[list[Val]]) -> None:
            for i, row in enumerate(values):
                for j, x in enumerate(row):
                    builder.store(x, place(i, j), size)
            builder.branch(done)

        builder.block(first)
        keep(grid)
        builder.block(later)
        total = [
            [builder.fadd(builder.load(type_, place(i, j), size), x) for j, x in enumerate(row)]
            for i, row in enumerate(grid)
        ]
        builder.branch_if(builder.icmp("eq", block, constant((blocks - 1) * tiling.kc)), last, more)
        builder.block(more)
        keep(total)
        builder.block(last)
        self.finish(total)
        builder.branch(done)
        builder.block(done)

    def _env(self, row: Val, j: int) -> Env:
        builder, problem = self.builder, self.problem
        env = problem.batch.split(builder, self.batch) | problem.rows.split(builder, row)
        if problem.columns.inner is not None:
            env[problem.columns.inner] = self.placed.first[j]
        return env

    def stored(self, i: int, j: int) -> Val:
        """The partial sums that a plain store of an earlier block left."""
        store = self.problem.plain_store
        assert store is not None
        builder, scalar = self.builder, self.problem.scalar
        type_, size = vector(scalar, self.tiling.width), self.problem.dtype.itemsize
        env = self._env(plus(builder, self.m, constant(i)), j)
        place = builder.gep(self.pointers[store.buffer], index_value(builder, store.index[0], env), scalar)
        mask = self.placed.masks[j]
        if mask is None:
            return builder.load(type_, place, size)
        return builder.masked_load(type_, place, mask, builder.const(type_, 0), size)

    def _apply(self, row: Val, j: int, value: Val) -> None:
        """The epilogue of one vector, in pieces over which its accesses are affine."""
        builder, problem, width = self.builder, self.problem, self.tiling.width
        piece = problem.piece(width)
        if piece == width:
            self._apply_piece(self._env(row, j), value, width, self.placed.masks[j])
            return
        ragged = self.placed.ragged if j == self.shape.vectors - 1 else 0
        for start in range(0, ragged or width, piece):
            part = (
                builder.shuffle(value, None, range(start, start + piece))
                if piece > 1
                else builder.extract(value, start)
            )
            env = self._env(row, j)
            if problem.columns.inner is not None:
                env[problem.columns.inner] = plus(builder, self.placed.first[j], constant(start))
            self._apply_piece(env, part, piece, None)

    def _apply_piece(self, env: Env, value: Val, width: int, mask: Val | None) -> None:
        emit_epilogue(self.builder, self.problem, self.pointers, self.uniform, env, value, width, mask)

    def _length(self) -> int:
        """About how many instructions the epilogue of one vector takes."""
        problem, piece = self.problem, self.problem.piece(self.tiling.width)
        return self.tiling.width // piece * length(varying(problem), problem.columns.inner, piece)

    def _rows_together(self) -> int:
        """How many rows of the tile are finished at once; 0 where each vector is by itself."""
        wanted, vectors = side_by_side(self.problem), self.shape.vectors
        apart = self._length() > len(varying(self.problem))
        if wanted == 1 or apart or any(self.placed.masks) or self.tiling.width == 1:
            return 0
        rows = max(1, wanted // vectors) if vectors in (1, 2, 4) else wanted
        return rows if self.shape.rows % rows == 0 else 0

    def _apply_to_rows(self, first: Val, rows: int, sums: Val, groups: int) -> None:
        """The epilogue of `rows` rows, whose sums lie one after the other, in so many groups."""
        builder, vectors = self.builder, self.shape.vectors
        at = [plus(builder, self.m, plus(builder, first, constant(i))) for i in range(rows)]
        envs = [self._env(row, j) for row in at for j in range(vectors)]
        size = len(envs) // groups
        type_ = vector(self.problem.scalar, self.tiling.width * size)
        for g in range(groups):
            value = builder.load(type_, builder.gep(sums, g, type_), self.problem.dtype.itemsize)
            here = envs[g * size : (g + 1) * size]
            emit_epilogues(builder, self.problem, self.pointers, self.uniform, here, value)

    def finish(self, grid: list[list[Val]]) -> None:
        """Runs the epilogue on complete sums."""
        builder = self.builder
        together = self._rows_together()
        whole = self.shape == TileShape(self.tiling.rows, self.tiling.vectors, 0)
        most = _UNROLLED_EPILOGUE if whole else _UNROLLED_AT_EDGE
        if not together and self._length() * self.shape.rows * self.shape.vectors <= most:
            for i, row in enumerate(grid):
                for j, value in enumerate(row):
                    self._apply(plus(builder, self.m, constant(i)), j, value)
            return
        type_ = vector(self.problem.scalar, self.tiling.width)
        stack = builder.alloca(type_, self.shape.rows * self.shape.vectors)
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                builder.store(value, builder.gep(stack, i * self.shape.vectors + j, type_))

        if together:
            count = together * self.shape.vectors // side_by_side(self.problem)

            def some(i: Val, _: tuple[Val, ...]) -> list[Val]:
                line = builder.gep(stack, times(builder, i, self.shape.vectors), type_)
                self._apply_to_rows(i, together, line, count)
                return []

            builder.loop(0, self.shape.rows, together, (), some, "finish")
            return

        def one(i: Val, _: tuple[Val, ...]) -> list[Val]:
            line = builder.gep(stack, builder.mul(i, constant(self.shape.vectors)), type_)
            for j in range(self.shape.vectors):
                self._apply(plus(builder, self.m, i), j, builder.load(type_, builder.gep(line, j, type_)))
            return []

        builder.loop(0, self.shape.rows, 1, (), one, "finish")
