"""The loops of a sum over windows through transformed tiles.

    weights of all row blocks                       (where several blocks of tiles use them)
    for block of tiles:
        data: gather, transform                     [16][channel][tile]
        for block of rows:
            weights: transform                      [16][row][channel]
            for frequency: product                  [16][row][tile]
            result: transform, epilogue

Each product's terms are added in ascending channels, sums of chunks of them one after the other. Everything of a block stays within L2.
"""

from __future__ import annotations

from graphc.backends.llvm.contraction.axes import constant, minimum, plus, times
from graphc.backends.llvm.contraction.micro import Panel, PanelColumns, accumulate
from graphc.backends.llvm.contraction.share import shares
from graphc.backends.llvm.contraction.winograd.plan import FREQUENCIES, Plan
from graphc.backends.llvm.contraction.winograd.points import points_of_sums
from graphc.backends.llvm.contraction.winograd.stages import (
    emit_data_stage,
    emit_result_stage,
    emit_weights_stage,
)
from graphc.backends.llvm.text import Builder, ModuleText, Val, vector

__all__ = ["emit_windows"]

_SCALAR = "float"


def emit_windows(plan: Plan, builder: Builder) -> None:
    """Emits the body of the kernel function, and its stages as functions of the module."""
    _Windows(plan, builder).emit()


def _emit_strip(module: ModuleText, name: str, plan: Plan, rows: int, vectors: int) -> None:
    """`name(a, b, products, count, begun)`: register tiles of one frequency below one another, for a chunk of steps,
    whose sums are added to what products hold where these have `begun`."""
    parameters = (("ptr", "a"), ("ptr", "b"), ("ptr", "products"), ("i64", "count"), ("i64", "begun"))
    builder = module.function(
        name, "void", parameters, linkage="internal", attributes="nounwind noinline", hides_steps=True
    )
    a, b, products, count, begun = builder.params
    columns = PanelColumns(b, _SCALAR, plan.width, vectors, plan.lead, 0)
    type_ = vector(_SCALAR, plan.width)
    goes_on, zero = builder.icmp("ne", begun, constant(0)), builder.const(type_, 0)

    def tile(_: Val, carried: tuple[Val, ...]) -> list[Val]:
        here, out = carried
        panel = Panel(plan.depth, 1)
        places = [
            builder.gep(out, i * plan.lead + j * plan.width, _SCALAR)
            for i in range(rows)
            for j in range(vectors)
        ]
        grid = accumulate(
            builder, _SCALAR, plan.width, rows, vectors, (here, panel), columns, constant(plan.chunk),
            plan.chunk,
        )  # fmt: skip
        for value, place in zip((v for row in grid for v in row), places, strict=True):
            if plan.chunk < plan.depth:
                before = builder.select(goes_on, builder.load(type_, place, 4), zero)
                value = builder.fadd(before, value)
            builder.store(value, place, 4)
        return [
            builder.gep(here, rows * plan.depth, _SCALAR),
            builder.gep(out, rows * plan.lead, _SCALAR),
        ]

    builder.loop(0, count, 1, (a, products), tile, "strip")
    builder.ret()


class _Windows:
    """State of one emission; its methods nest as the loops do."""

    def __init__(self, plan: Plan, builder: Builder) -> None:
        self.plan = plan
        self.builder = builder
        self.buffers = builder.params[0]
        bounds = shares(builder, plan.totals, plan.units, plan.side)
        self.rows, self.tiles = bounds["rows"], bounds["columns"]
        self.weights, self.data, self.products, self.gathered = self._scratch()
        names = [f"{builder.name}.{stage}" for stage in ("weights", "data", "result")]
        self.weights_stage, self.data_stage, self.result_stage = names
        emit_weights_stage(builder.module, self.weights_stage, plan)
        emit_data_stage(builder.module, self.data_stage, plan)
        emit_result_stage(builder.module, self.result_stage, plan)
        self.strips = {}
        for r in self._sizes(plan.windows.rows.total, plan.rows):
            for v in self._sizes(-(-plan.tiles.total // plan.width), plan.vectors):
                self.strips[r, v] = f"{builder.name}.strip.{r}x{v}"
                _emit_strip(builder.module, self.strips[r, v], plan, r, v)

    @staticmethod
    def _sizes(length: int, tile: int) -> list[int]:
        """Whole and edge sizes of tiles."""
        return [s for s in (tile if length >= tile else 0, length % tile) if s]

    def _scratch(self) -> list[Val]:
        builder, sizes = self.builder, self.plan.scratch
        table = builder.gep(self.buffers, len(self.plan.windows.buffers), "ptr")
        place = builder.load("ptr", table, 8)
        places = []
        for size in sizes:
            places.append(place)
            place = builder.gep(place, size, "i8")
        return places

    # -- loops, outermost first ---------------------------------------------------------

    def emit(self) -> None:
        """Emits the loops over this partition's share."""
        builder, plan = self.builder, self.plan
        if plan.kept:
            builder.loop(*self.rows, plan.row_block, (), lambda m, _: self._transform_weights(m), "weights")
        builder.loop(*self.tiles, plan.block, (), self._tile_block, "tiles")

    def _end(self, m: Val) -> Val:
        return minimum(self.builder, plus(self.builder, m, constant(self.plan.row_block)), self.rows[1])

    def _slot(self, m: Val) -> Val:
        """Where the transformed weights of the row block from `m` on are."""
        if not self.plan.kept:
            return self.weights
        number = self.builder.op("i64", f"udiv {self.builder.sub(m, self.rows[0])}, {self.plan.row_block}")
        at = times(self.builder, number, self.plan.frequencies * self.plan.weights_apart)
        return self.builder.gep(self.weights, at, _SCALAR)

    def _transform_weights(self, m: Val) -> list[Val]:
        self.builder.call_void(self.weights_stage, [self.buffers, self._slot(m), m, self._end(m)])
        return []

    def _tile_block(self, t: Val, _: tuple[Val, ...]) -> list[Val]:
        builder = self.builder
        self.first = t
        self.last = minimum(builder, plus(builder, t, constant(self.plan.block)), self.tiles[1])
        builder.call_void(self.data_stage, [self.buffers, self.gathered, self.data, self.first, self.last])
        builder.loop(*self.rows, self.plan.row_block, (), self._row_block, "rows")
        return []

    def _row_block(self, m: Val, _: tuple[Val, ...]) -> list[Val]:
        builder, end = self.builder, self._end(m)
        if not self.plan.kept:
            self._transform_weights(m)
        self.slot, self.count = self._slot(m), builder.sub(end, m)
        if self.plan.strided:
            for f, points in enumerate(points_of_sums(self.plan.windows)):
                self._product_of(constant(f), points[0][0], len(points))
        else:
            builder.loop(0, FREQUENCIES, 1, (), self._product, "frequency")
        builder.call_void(self.result_stage, [self.buffers, self.products, m, end, self.first, self.last])
        return []

    def _product(self, f: Val, _: tuple[Val, ...]) -> list[Val]:
        self._product_of(f, f, 1)
        return []

    def _product_of(self, f: Val, data: Val | int, count: int) -> None:
        """Product `f`, of the tiles' values from `data` on, `count` of them."""
        builder, plan = self.builder, self.plan
        first = constant(data) if isinstance(data, int) else data
        self.steps = constant(count * plan.windows.channels)
        self.a = builder.gep(self.slot, times(builder, f, plan.weights_apart), _SCALAR)
        self.b = builder.gep(self.data, times(builder, first, plan.data_apart), _SCALAR)
        self.out = builder.gep(self.products, times(builder, f, plan.products_apart), _SCALAR)
        tiles = builder.sub(self.last, self.first)
        vectors = builder.op("i64", f"udiv {plus(builder, tiles, constant(plan.width - 1))}, {plan.width}")
        whole = builder.sub(vectors, builder.op("i64", f"urem {vectors}, {plan.vectors}"))
        total = -(-plan.tiles.total // plan.width)
        if total >= plan.vectors:
            builder.loop(0, whole, plan.vectors, (), lambda v, _: self._column(v, plan.vectors), "column")
        if total % plan.vectors:
            with builder.if_(builder.icmp("slt", whole, vectors)):
                self._column(whole, total % plan.vectors)

    def _column(self, v: Val, vectors: int) -> list[Val]:
        """All rows of the block, from vector `v` of tiles on."""
        builder, plan = self.builder, self.plan
        at = times(builder, v, plan.width)
        b, out = builder.gep(self.b, at, _SCALAR), builder.gep(self.out, at, _SCALAR)

        def chunk(k: Val, _: tuple[Val, ...]) -> list[Val]:
            here = builder.gep(b, times(builder, k, plan.lead), _SCALAR)
            self._strips(builder.gep(self.a, k, _SCALAR), here, out, k, vectors)
            return []

        if plan.chunk < plan.depth:
            builder.loop(0, self.steps, plan.chunk, (), chunk, "chunk")
        else:
            self._strips(self.a, b, out, constant(0), vectors)
        return []

    def _strips(self, a: Val, b: Val, out: Val, begun: Val, vectors: int) -> None:
        builder, plan = self.builder, self.plan
        m, rows = plan.windows.rows.total, plan.rows
        whole = builder.op("i64", f"udiv {self.count}, {rows}")
        if m >= rows:
            builder.call_void(self.strips[rows, vectors], [a, b, out, whole, begun])
        if m % rows:
            done = times(builder, whole, rows)
            with builder.if_(builder.icmp("slt", done, self.count)):
                below = builder.gep(a, times(builder, done, plan.depth), _SCALAR)
                rest = builder.gep(out, times(builder, done, plan.lead), _SCALAR)
                builder.call_void(self.strips[m % rows, vectors], [below, b, rest, constant(1), begun])
