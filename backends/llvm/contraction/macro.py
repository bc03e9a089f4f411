"""The loops around the register tile: batch, blocks of rows, columns and k, packing, partitions.

for batch, row block of mb, column block of nc, k block of kc:
    pack B                                     (kc × nc)
    for row block of mc: pack A                (mc × kc)
        for each register tile: accumulate, keep or finish
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.backends.llvm.contraction.axes import (
    Env,
    constant,
    index_value,
    minimum,
    plus,
    size_value,
    times,
)
from graphc.backends.llvm.contraction.micro import Panel, PanelColumns
from graphc.backends.llvm.contraction.packing import (
    Block,
    pack_columns,
    pack_panels,
    pack_runs,
    pack_transposed,
)
from graphc.backends.llvm.contraction.problem import Operand, Problem, Side
from graphc.backends.llvm.contraction.share import each, load_pointers, place_scratch, rows_across, shares
from graphc.backends.llvm.contraction.tile import PlacedColumns, TileShape, emit_strip
from graphc.backends.llvm.contraction.tiling import Source, Tiling, round_up, sums_in_result
from graphc.backends.llvm.text import Builder, Val
from graphc.ir.records import dataclass

__all__ = [
    "Scratch",
    "emit_blocked",
    "pack_rows",
    "packed_elements",
    "panel_of",
    "scratch_of",
]


@dataclass(frozen=True)
class Scratch:
    """Bytes of one partition's scratch: packed B, packed A, kept partial sums, in this order."""

    b: int
    a: int
    kept: int

    @property
    def total(self) -> int:
        return self.b + self.a + self.kept


def _kept_lead(tiling: Tiling) -> int:
    return tiling.nc


def scratch_of(problem: Problem, tiling: Tiling) -> Scratch:
    """What one partition needs; every part is a multiple of 64 bytes."""
    size = problem.dtype.itemsize
    kept = 0
    if (tiling.blocks(problem.k) > 1 or problem.symbols) and not sums_in_result(problem, tiling):
        kept = tiling.mb * _kept_lead(tiling)
    return Scratch(
        _packed_columns(problem, tiling) * size,
        packed_elements(tiling.a, tiling, tiling.mc, tiling.a_lead) * _packed_blocks(problem, tiling) * size,
        kept * size,
    )


def _packed_columns(problem: Problem, tiling: Tiling) -> int:
    """Elements of packed B."""
    if tiling.near and tiling.b not in ("kept", "field"):
        return round_up(panel_depth(problem) * tiling.nb + tiling.width * (tiling.b_lead + 1), 16)
    return packed_elements(tiling.b, tiling, tiling.nc, tiling.b_lead)


def panel_depth(problem: Problem) -> int:
    """Steps that a panel of B has room for where all of k is packed at once: odd, so that panels spread over cache sets."""
    return problem.k + 1 + problem.k % 2


def _packed_blocks(problem: Problem, tiling: Tiling) -> int:
    """Blocks of k of which A is packed at once."""
    return tiling.blocks(problem.k) if tiling.near else 1


def packed_elements(source: Source, tiling: Tiling, rows: int, lead: int) -> int:
    """Elements of a packed block, the overrun of partial chunks included, in whole lines."""
    match source:
        case "place" | "kept":
            return 0
        case "runs":
            return rows * lead + 16
        case "columns" | "field":
            return round_up(tiling.kc * lead + tiling.width, 16)
        case "panels" | "transpose":
            return round_up(tiling.depth * rows + tiling.width * (lead + 1), 16)


def emit_blocked(problem: Problem, tiling: Tiling, side: Side, builder: Builder) -> None:
    """Emits the body of the kernel function, and its register tiles as functions of the module.

    Partitions divide `side`.
    """
    if side == "rows" and problem.batch.total > 1 and builder.params[2].text != "1":
        entries, rows = rows_across(builder, problem.totals, tiling.units)
        across = Blocked(builder, problem, tiling)
        every = constant(0), constant(problem.n)
        each(builder, entries, lambda b: across.share(b, rows(b), every), "batch")
        return
    bounds = shares(builder, problem.totals, tiling.units, side)
    blocked = Blocked(builder, problem, tiling)
    each(builder, bounds["batch"], lambda b: blocked.share(b, bounds["rows"], bounds["columns"]), "batch")


def pack_rows(builder: Builder, block: Block, source: Source, lead: int, depth: int) -> None:
    """Packs a block as `source` says; nothing for an operand that is read in place."""
    with builder.hidden_steps():
        match source:
            case "runs":
                pack_runs(builder, block, lead)
            case "columns":
                pack_columns(builder, block, lead)
            case "panels":
                pack_panels(builder, block, lead, depth)
            case "transpose":
                pack_transposed(builder, block, lead, depth)


def panel_of(operand: Operand, tiling: Tiling) -> Panel:
    """How the register tile reads A."""
    match tiling.a:
        case "place":
            assert operand.direct is not None
            return Panel(operand.direct.row, operand.direct.step)
        case "runs":
            return Panel(tiling.a_lead, 1)
        case _:
            return Panel(1, tiling.a_lead)


@dataclass(frozen=True)
class _PackedSide:
    """Vectors side by side from the tile's first column."""

    problem: Problem
    tiling: Tiling

    def place(self, builder: Builder, shape: TileShape, address: Val, n: Val) -> PlacedColumns:
        tiling, direct = self.tiling, self.problem.b.direct
        in_place = tiling.b == "place"
        step = direct.step if in_place and direct is not None else tiling.b_lead
        source = PanelColumns(
            address, self.problem.scalar, tiling.width, shape.vectors, step, shape.ragged if in_place else 0
        )
        masks: list[Val | None] = [None] * shape.vectors
        if shape.ragged:
            masks[-1] = builder.lane_mask(constant(shape.ragged), tiling.width)
        first = [plus(builder, n, constant(j * tiling.width)) for j in range(shape.vectors)]
        return PlacedColumns(source, first, masks, shape.ragged)


class Blocked:
    """State of one emission; its methods nest as the loops do."""

    def __init__(self, builder: Builder, problem: Problem, tiling: Tiling) -> None:
        self.builder = builder
        self.problem = problem
        self.tiling = tiling
        self.buffers = builder.params[0]
        self.pointers = load_pointers(builder, problem, self.buffers)
        self.k = size_value(builder, problem.a.steps.size)
        self.kc = builder.sizes["kc"] if problem.symbols else constant(tiling.kc)
        panel = panel_of(problem.a, tiling)
        side = _PackedSide(problem, tiling)
        self.tiles = {s: f"{builder.name}.tile.{s.rows}x{s.vectors}.{s.ragged}" for s in self._shapes()}
        for shape, name in self.tiles.items():
            emit_strip(
                builder.module, name, problem, tiling, shape, panel, side, _kept_lead(tiling),
                shape.rows * self._row_factor(problem.a, tiling.a),
            )  # fmt: skip
        need = scratch_of(problem, tiling)
        self.packed_b, self.packed_a, self.kept = place_scratch(builder, problem, (need.b, need.a, need.kept))

    def _row_sizes(self) -> tuple[int, int]:
        return self.tiling.rows, self.problem.m % self.tiling.rows

    def _edge(self) -> tuple[int, int]:
        """(vectors, ragged lanes) of the last column tile; no vectors where all tiles are whole."""
        rest = self.problem.n % self.tiling.columns
        return -(-rest // self.tiling.width), rest % self.tiling.width

    def _shapes(self) -> list[TileShape]:
        widths = [(self.tiling.vectors, 0)] if self.problem.n >= self.tiling.columns else []
        if self._edge()[0]:
            widths.append(self._edge())
        return [TileShape(r, v, g) for v, g in widths for r in self._row_sizes() if r]

    # -- loops, outermost first ---------------------------------------------------------

    def share(self, batch: Val, rows: tuple[Val, Val], columns: tuple[Val, Val]) -> None:
        """One batch entry of this partition's share."""
        self.batch = batch
        self.batch_env: Env = self.problem.batch.split(self.builder, batch)
        self.rows_share, self.columns_share = rows, columns
        self.builder.loop(*rows, self.tiling.mb, (), self._row_block, "mb")

    def _row_block(self, m: Val, _: tuple[Val, ...]) -> list[Val]:
        self.block_m = m
        self.block_m_end = minimum(
            self.builder, plus(self.builder, m, constant(self.tiling.mb)), self.rows_share[1]
        )
        self.builder.loop(*self.columns_share, self.tiling.nc, (), self._column_block, "nc")
        return []

    def _column_block(self, n: Val, _: tuple[Val, ...]) -> list[Val]:
        self.block_n = n
        self.block_n_end = minimum(
            self.builder, plus(self.builder, n, constant(self.tiling.nc)), self.columns_share[1]
        )
        # One pass even for an empty sum: the epilogue still runs.
        if self.problem.symbols:
            end = self.builder.intrinsic("smax", "i64", [self.k, constant(1)])
            self.builder.loop(0, end, self.kc, (), self._step_block, "kc")
        else:
            self.builder.loop(0, max(self.problem.k, 1), self.tiling.kc, (), self._step_block, "kc")
        return []

    def _step_block(self, k: Val, _: tuple[Val, ...]) -> list[Val]:
        builder, tiling = self.builder, self.tiling
        self.block_k = k
        self.block_k_end = minimum(builder, plus(builder, k, self.kc), self.k)
        self.steps = builder.sub(self.block_k_end, k)
        steps = self._steps_of(self.block_m, self.block_m_end)
        self._pack(
            self.problem.b, tiling.b, tiling.b_lead, self.block_n, self.block_n_end, steps, self.packed_b
        )
        builder.loop(self.block_m, self.block_m_end, tiling.mc, (), self._packed_rows, "mc")
        return []

    def _packed_rows(self, m: Val, _: tuple[Val, ...]) -> list[Val]:
        builder, tiling = self.builder, self.tiling
        self.inner_m = m
        self.inner_m_end = minimum(builder, plus(builder, m, constant(tiling.mc)), self.block_m_end)
        steps = self._steps_of(m, self.inner_m_end)
        self._pack(self.problem.a, tiling.a, tiling.a_lead, m, self.inner_m_end, steps, self.packed_a)
        self._tile_columns()
        return []

    def _steps_of(self, row: Val, row_end: Val) -> tuple[Val, Val]:
        """The steps of the block of k in which some of the rows [row, row_end) has terms."""
        builder, order = self.builder, self.problem.order
        if order is None or order.of_results:
            return self.block_k, self.block_k_end
        if order.low == "steps":
            end = minimum(builder, row_end, self.block_k_end)
            return self.block_k, builder.select(builder.icmp("slt", end, self.block_k), self.block_k, end)
        begin = minimum(builder, row, self.block_k_end)
        return builder.select(builder.icmp("slt", begin, self.block_k), self.block_k, begin), self.block_k_end

    def _pack(
        self,
        operand: Operand,
        source: Source,
        lead: int,
        row: Val,
        row_end: Val,
        steps: tuple[Val, Val],
        target: Val,
    ) -> None:
        if source in ("place", "kept") or self.problem.is_empty:
            return
        tiling = self.tiling
        block = Block(
            operand, self.problem.buffers, self.pointers, self.batch_env, self.problem.scalar, tiling.width,
            row, row_end, self.block_k, steps[1], target, steps[0],
        )  # fmt: skip
        pack_rows(self.builder, block, source, lead, tiling.depth)

    def _tile_columns(self) -> None:
        """Register tiles of the packed rows.

        Columns are outside, so that a panel of B stays in L1; or rows are, so that the epilogue
        walks along whole rows of the result.
        """
        if self.tiling.rows_outside:
            self._over_rows(self._tile_row)
        else:
            self._over_columns(self._tile_column)

    def _tile_column(self, n: Val, vectors: int, ragged: int) -> None:
        size, edge = self._row_sizes()
        whole = self._whole_rows()
        tiles = self.builder.binary("udiv", self.builder.sub(whole, self.inner_m), constant(size))
        self._call(self.inner_m, n, TileShape(size, vectors, ragged), tiles)
        if edge:
            with self.builder.if_(self.builder.icmp("slt", whole, self.inner_m_end)):
                self._call(whole, n, TileShape(edge, vectors, ragged), constant(1))

    def _tile_row(self, m: Val, rows: int) -> None:
        def column(n: Val, vectors: int, ragged: int) -> None:
            self._call(m, n, TileShape(rows, vectors, ragged), constant(1))

        self._over_columns(column)

    def _over_columns(self, tile: Callable[[Val, int, int], None]) -> None:
        """`tile(first column, vectors, ragged lanes)` for every column tile of the block."""
        builder, width = self.builder, self.tiling.columns
        count = builder.sub(self.block_n_end, self.block_n)
        rest = builder.binary("urem", count, constant(width))
        whole = builder.sub(self.block_n_end, rest)
        if self.problem.n >= width:

            def full(n: Val, _: tuple[Val, ...]) -> list[Val]:
                tile(n, self.tiling.vectors, 0)
                return []

            builder.loop(self.block_n, whole, width, (), full, "jr")
        if self._edge()[0]:
            with builder.if_(builder.icmp("slt", whole, self.block_n_end)):
                tile(whole, *self._edge())

    def _over_rows(self, tile: Callable[[Val, int], None]) -> None:
        """`tile(first row, rows)` for every row tile of the block."""
        builder = self.builder
        size, edge = self._row_sizes()
        whole = self._whole_rows()

        def full(m: Val, _: tuple[Val, ...]) -> list[Val]:
            tile(m, size)
            return []

        builder.loop(self.inner_m, whole, size, (), full, "ir")
        if edge:
            with builder.if_(builder.icmp("slt", whole, self.inner_m_end)):
                tile(whole, edge)

    def _whole_rows(self) -> Val:
        """The end of the block's whole row tiles."""
        builder = self.builder
        rest = builder.op(
            "i64", f"urem {builder.sub(self.inner_m_end, self.inner_m)}, {self._row_sizes()[0]}"
        )
        return builder.sub(self.inner_m_end, rest)

    def _call(self, m: Val, n: Val, shape: TileShape, count: Val) -> None:
        """`count` tiles of the shape below one another, the first at (m, n)."""
        builder = self.builder
        a, b = self._rows_at(m), self._columns_at(n)
        relative = times(builder, builder.sub(m, self.block_m), _kept_lead(self.tiling))
        kept = builder.gep(
            self.kept, plus(builder, relative, builder.sub(n, self.block_n)), self.problem.scalar
        )
        far = builder.icmp("eq", n, self.block_n)
        arguments = [self.buffers, a, b, self.steps, kept, self.block_k, m, n, self.batch, count, far]
        builder.call_void(self.tiles[shape], arguments)

    def _rows_at(self, m: Val) -> Val:
        """Where the register tile begins to read A."""
        return self._address(self.problem.a, self.tiling.a, m, self.inner_m, self.packed_a)

    def _columns_at(self, n: Val) -> Val:
        """Where the register tile begins to read B."""
        return self._address(self.problem.b, self.tiling.b, n, self.block_n, self.packed_b)

    def _address(self, operand: Operand, source: Source, row: Val, start: Val, packed: Val) -> Val:
        """Where the register tile begins to read an operand."""
        builder = self.builder
        if source == "kept":
            panels = operand.panels
            assert panels is not None
            # Rows are a multiple of a panel's.
            at = plus(
                builder,
                times(builder, row, panels.panel // panels.rows),
                times(builder, self.block_k, panels.rows),
            )
            return builder.gep(self.pointers[panels.buffer], at, self.problem.scalar)
        if source != "place":
            at = times(builder, builder.sub(row, start), self._row_factor(operand, source))
            return builder.gep(packed, at, self.problem.scalar)
        direct = operand.direct
        assert direct is not None
        at = plus(
            builder,
            index_value(builder, direct.offset, self.batch_env),
            plus(builder, times(builder, row, direct.row), times(builder, self.block_k, direct.step)),
        )
        return builder.gep(self.pointers[direct.buffer], at, self.problem.scalar)

    def _row_factor(self, operand: Operand, source: Source) -> int:
        """Elements from one row of an operand to the next, where the register tile reads it."""
        match source:
            case "place":
                assert operand.direct is not None
                return operand.direct.row
            case "runs":
                return self.tiling.a_lead
            case "columns":
                return 1
            case _:
                return self.tiling.depth
