"""The loops of a contraction whose columns are read from a window (see `window`).

    for k block of kc, batch entry (in the order that keeps packed A longest):
        pack A                                       (m × kc, unless read in place)
        copy the window
        for row block of mc, register tile: accumulate, keep or finish

Columns are counted in vectors: each run of the last column axis has whole vectors of its own, the
last one masked, so that no vector crosses a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.backends.llvm.contraction.axes import (
    Env,
    Group,
    chunks,
    constant,
    index_value,
    minimum,
    plus,
    times,
)
from graphc.backends.llvm.contraction.body import Point, Scalars, emit_body
from graphc.backends.llvm.contraction.macro import pack_rows, packed_elements, panel_of
from graphc.backends.llvm.contraction.packing import Block
from graphc.backends.llvm.contraction.problem import Problem, Side
from graphc.backends.llvm.contraction.share import each, load_pointers, place_scratch, shares
from graphc.backends.llvm.contraction.tile import PlacedColumns, TileShape, emit_tile
from graphc.backends.llvm.contraction.tiling import Tiling, round_up
from graphc.backends.llvm.contraction.window import Window
from graphc.backends.llvm.text import Builder, Val, vector
from graphc.ir.dims import symbols

__all__ = ["emit_windowed", "window_scratch", "window_totals", "window_vectors"]


def window_vectors(window: Window, width: int) -> int:
    """Vectors that cover the columns of one batch entry."""
    return window.column_group.total * -(-window.run // width)


def window_totals(problem: Problem, window: Window, tiling: Tiling) -> dict[Side, int]:
    """As `Problem.totals`, columns counted in whole vectors."""
    columns = window_vectors(window, tiling.width) * tiling.width
    return {"batch": problem.batch.total, "rows": problem.m, "columns": columns}


def window_scratch(problem: Problem, window: Window, tiling: Tiling) -> tuple[int, int, int]:
    """Bytes of one partition's window, packed A and kept sums."""
    size = problem.dtype.itemsize
    copy = round_up(window.elements + tiling.width, 16)
    packed = packed_elements(tiling.a, tiling, round_up(problem.m, tiling.rows), tiling.a_lead)
    kept = 0
    if tiling.blocks(problem.k) > 1 and problem.plain_store is None:
        kept = round_up(problem.m * window_vectors(window, tiling.width) * tiling.width, 16)
    return copy * size, packed * size, kept * size


def emit_windowed(problem: Problem, window: Window, tiling: Tiling, builder: Builder) -> None:
    """Emits the body of the kernel function, and its register tiles as functions of the module."""
    _Windowed(builder, problem, window, tiling).emit()


@dataclass(frozen=True)
class _TableColumns:
    """Vectors at base[j] + offset, the offsets of successive k read from a table."""

    table: Val
    bases: Sequence[Val]
    scalar: str
    width: int

    def begin(self) -> list[Val]:
        return [self.table]

    def load(self, builder: Builder, carried: Sequence[Val], offset: int) -> list[Val]:
        near = builder.load("i32", builder.gep(carried[0], offset, "i32"), 4)
        at = builder.cast("sext", near, "i64")
        type_, size = vector(self.scalar, self.width), 8 if self.scalar == "double" else 4
        return [builder.load(type_, builder.gep(base, at, self.scalar), size) for base in self.bases]

    def advance(self, builder: Builder, carried: Sequence[Val], count: int) -> list[Val]:
        return [builder.gep(carried[0], count, "i32")]


@dataclass(frozen=True)
class _WindowSide:
    """Vectors of one run each. The tile's parameter `n` is its first vector, its `b` the window less
    the place of the block's first k, and the table is indexed by the tile's parameter `block`."""

    problem: Problem
    window: Window
    width: int
    table: Val

    def place(self, builder: Builder, shape: TileShape, address: Val, n: Val) -> PlacedColumns:
        window, width = self.window, self.width
        count = -(-window.run // width)
        bases, first = [], []
        masks: list[Val | None] = []
        for j in range(shape.vectors):
            number = plus(builder, n, constant(j))
            run = builder.op("i64", f"udiv {number}, {count}")
            chunk = times(builder, builder.op("i64", f"urem {number}, {count}"), width)
            env = window.column_group.split(builder, run)
            at = chunk
            for axis, stride in window.columns:
                at = plus(builder, at, times(builder, env[axis], stride))
            bases.append(builder.gep(address, at, self.problem.scalar))
            first.append(plus(builder, times(builder, run, window.run), chunk))
            left = builder.sub(constant(window.run), chunk)
            masks.append(builder.lane_mask(left, width) if window.run % width else None)
        table = builder.gep(self.table, builder.params[5], "i32")
        return PlacedColumns(_TableColumns(table, bases, self.problem.scalar, width), first, masks)


class _Windowed:
    """State of one emission; its methods nest as the loops do."""

    def __init__(self, builder: Builder, problem: Problem, window: Window, tiling: Tiling) -> None:
        self.builder = builder
        self.problem = problem
        self.window = window
        self.tiling = tiling
        self.buffers = builder.params[0]
        self.bounds = shares(builder, window_totals(problem, window, tiling), tiling.units)
        self.pointers = load_pointers(builder, problem, self.buffers)
        self.vectors = window_vectors(window, tiling.width)
        self.lead = self.vectors * tiling.width
        sizes = window_scratch(problem, window, tiling)
        self.copy, self.packed_a, self.kept = place_scratch(builder, problem, sizes)
        table = builder.module.table("i32", [str(x) for x in window.offsets()])
        side = _WindowSide(problem, window, tiling.width, table)
        self.tiles = {s: f"{builder.name}.tile.{s.rows}x{s.vectors}" for s in self._shapes()}
        for shape, name in self.tiles.items():
            emit_tile(
                builder.module, name, problem, tiling, shape, panel_of(problem.a, tiling), side, self.lead
            )

    def _shapes(self) -> list[TileShape]:
        rows = [r for r in (self.tiling.rows, self.problem.m % self.tiling.rows) if r]
        whole, rest = divmod(self.vectors, self.tiling.vectors)
        widths = [v for v in (self.tiling.vectors if whole else 0, rest) if v]
        return [TileShape(r, v, 0) for v in widths for r in rows]

    # -- loops, outermost first ---------------------------------------------------------

    def emit(self) -> None:
        """Emits the loops over this partition's share."""
        problem = self.problem
        blocks = self.tiling.blocks(problem.k)
        batch_axes = set(problem.batch.axes)
        shared_a = not any(symbols(e) & batch_axes for i in problem.a.body for e in i.index)
        if shared_a and (blocks == 1 or problem.plain_store is not None):
            self._each_block(self._entries_of_block)
            return

        def entry(batch: Val) -> None:
            self._enter(batch)
            self._each_block(self._block_of_entry)

        each(self.builder, self.bounds["batch"], entry, "batch")

    def _entries_of_block(self) -> None:
        self._enter(constant(0))
        self._pack_a()

        def entry(batch: Val) -> None:
            self._enter(batch)
            self._tiles_of_entry()

        each(self.builder, self.bounds["batch"], entry, "batch")

    def _enter(self, batch: Val) -> None:
        self.batch = batch
        self.env: Env = self.problem.batch.split(self.builder, batch)

    def _each_block(self, body: Callable[[], None]) -> None:
        builder, problem, tiling = self.builder, self.problem, self.tiling

        def block(k: Val, _: tuple[Val, ...]) -> list[Val]:
            self.block = k
            self.block_end = minimum(builder, plus(builder, k, constant(tiling.kc)), constant(problem.k))
            body()
            return []

        if tiling.blocks(problem.k) == 1:
            self.block, self.block_end = constant(0), constant(problem.k)
            body()
            return
        builder.loop(0, problem.k, tiling.kc, (), block, "kc")

    def _block_of_entry(self) -> None:
        self._pack_a()
        self._tiles_of_entry()

    def _pack_a(self) -> None:
        rows = self.bounds["rows"]
        block = Block(
            self.problem.a, self.problem.buffers, self.pointers, self.env, self.problem.scalar, self.tiling.width,
            rows[0], rows[1], self.block, self.block_end, self.packed_a,
        )  # fmt: skip
        pack_rows(self.builder, block, self.tiling.a, self.tiling.a_lead, self.tiling.depth)

    def _tiles_of_entry(self) -> None:
        builder, window = self.builder, self.window
        start = constant(0)
        if window.sliced is not None:
            start = builder.op("i64", f"udiv {self.block}, {window.slice_steps}")
        self._copy_window(start)
        skipped = times(builder, start, window.sliced.stride) if window.sliced is not None else constant(0)
        self.read = builder.gep(self.copy, builder.sub(constant(0), skipped), self.problem.scalar)
        builder.loop(*self.bounds["rows"], self.tiling.mc, (), self._row_block, "mc")

    def _copy_window(self, start: Val) -> None:
        """Copies the window's part for the block of k; `start` is its first index of the sliced dimension."""
        builder, window = self.builder, self.window
        outer = Group(tuple(d.symbol for d in window.outer))

        def slab(env: Env, place: Val) -> None:
            def row(r: Val) -> None:
                here = env | outer.split(builder, r)
                at = place
                for d in window.outer:
                    at = plus(builder, at, times(builder, here[d.symbol], d.stride))
                for phase, length in window.phase_runs():
                    self._copy_run(here, plus(builder, at, constant(phase * window.pitch)), phase, length)

            each(builder, (constant(0), constant(outer.total)), row, "window")

        if window.sliced is None:
            slab(self.env, constant(0))
            return
        sliced = window.sliced
        last = builder.op("i64", f"udiv {plus(builder, self.block_end, constant(-1))}, {window.slice_steps}")

        def one(c: Val, _: tuple[Val, ...]) -> list[Val]:
            slab(self.env | {sliced.symbol: c}, times(builder, builder.sub(c, start), sliced.stride))
            return []

        builder.loop(start, plus(builder, last, constant(1)), 1, (), one, "slab")

    def _copy_run(self, env: Env, place: Val, phase: int, length: int) -> None:
        builder, window, width = self.builder, self.window, self.tiling.width
        body = window.copy_body(self.problem, phase)

        def chunk(q: Val, mask: Val | None) -> None:
            scalars: Scalars = {}
            point = Point(self.pointers, env | {window.lane.symbol: q}, window.lane.symbol, width, mask)
            emit_body(builder, self.problem.buffers, body, point, scalars)
            at = builder.gep(self.copy, plus(builder, place, q), self.problem.scalar)
            value = scalars[window.result][1]
            if mask is None:
                builder.store(value, at, self.problem.dtype.itemsize)
            else:
                builder.masked_store(value, at, mask, self.problem.dtype.itemsize)

        chunks(builder, constant(0), constant(length), width, chunk)

    def _row_block(self, m: Val, _: tuple[Val, ...]) -> list[Val]:
        builder, tiling = self.builder, self.tiling
        end = minimum(builder, plus(builder, m, constant(tiling.mc)), self.bounds["rows"][1])
        lo, hi = (builder.op("i64", f"udiv {x}, {tiling.width}") for x in self.bounds["columns"])
        rest = builder.op("i64", f"urem {builder.sub(hi, lo)}, {tiling.vectors}")
        whole = builder.sub(hi, rest)

        def full(v: Val, _: tuple[Val, ...]) -> list[Val]:
            self._tile_rows(v, tiling.vectors, m, end)
            return []

        if self.vectors >= tiling.vectors:
            builder.loop(lo, whole, tiling.vectors, (), full, "jr")
        if self.vectors % tiling.vectors:
            with builder.if_(builder.icmp("slt", whole, hi)):
                self._tile_rows(whole, self.vectors % tiling.vectors, m, end)
        return []

    def _tile_rows(self, v: Val, vectors: int, start: Val, end: Val) -> None:
        builder, size = self.builder, self.tiling.rows
        rest = builder.op("i64", f"urem {builder.sub(end, start)}, {size}")
        whole = builder.sub(end, rest)

        def call(m: Val, rows: int) -> None:
            at = plus(builder, times(builder, m, self.lead), times(builder, v, self.tiling.width))
            kept = builder.gep(self.kept, at, self.problem.scalar)
            steps = builder.sub(self.block_end, self.block)
            arguments = [
                self.buffers,
                self._address_of_a(m),
                self.read,
                steps,
                kept,
                self.block,
                m,
                v,
                self.batch,
            ]
            builder.call_void(self.tiles[TileShape(rows, vectors, 0)], arguments)

        def full(m: Val, _: tuple[Val, ...]) -> list[Val]:
            call(m, size)
            return []

        builder.loop(start, whole, size, (), full, "ir")
        if self.problem.m % size:
            with builder.if_(builder.icmp("slt", whole, end)):
                call(whole, self.problem.m % size)

    def _address_of_a(self, m: Val) -> Val:
        builder, tiling, direct = self.builder, self.tiling, self.problem.a.direct
        if tiling.a == "place":
            assert direct is not None
            at = plus(
                builder,
                index_value(builder, direct.offset, self.env),
                plus(builder, times(builder, m, direct.row), times(builder, self.block, direct.step)),
            )
            return builder.gep(self.pointers[direct.buffer], at, self.problem.scalar)
        factor = {"runs": tiling.a_lead, "panels": tiling.depth}.get(tiling.a, 1)
        at = times(builder, builder.sub(m, self.bounds["rows"][0]), factor)
        return builder.gep(self.packed_a, at, self.problem.scalar)
