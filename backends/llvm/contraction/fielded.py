"""The loops of a contraction whose columns are read from a field (see `field`).

    for batch entry, block of columns:
        copy the field                               (or below, a block of k at a time)
        for row block of mc, k block of kc:
            pack A                                   (unless read in place)
            for register tile: accumulate; keep or finish
        finish what tiles could not, row by row

Tiles finish by themselves where a vector's columns are neighbours in the result. Lanes along a minor
axis are not: their sums are kept, and finished in the order of the result.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.backends.llvm.contraction.axes import (
    Env,
    chunks,
    constant,
    index_value,
    minimum,
    plus,
    runs,
    times,
)
from graphc.backends.llvm.contraction.body import gather
from graphc.backends.llvm.contraction.epilogue import emit_spread, emit_uniform
from graphc.backends.llvm.contraction.field import Field
from graphc.backends.llvm.contraction.field_copy import FieldCopy
from graphc.backends.llvm.contraction.nest import Nest, Rows, make_nest, rows_in_place
from graphc.backends.llvm.contraction.packing import Block, pack_runs
from graphc.backends.llvm.contraction.problem import Problem, Side
from graphc.backends.llvm.contraction.share import each, load_pointers, place_scratch, shares
from graphc.backends.llvm.contraction.strip import StripShape, emit_strip_of_field
from graphc.backends.llvm.contraction.tiling import Tiling, round_up
from graphc.backends.llvm.contraction.turned_sums import emit_turned_row, is_turned
from graphc.backends.llvm.text import Builder, Val
from graphc.ir.kernel import extent
from graphc.ir.records import dataclass

__all__ = ["emit_fielded", "field_scratch", "field_totals", "field_units", "keeps_sums", "kept_lead"]


def field_totals(problem: Problem, field: Field) -> dict[Side, int]:
    """As `Problem.totals`, columns counted in values of the divided axis."""
    return {"batch": problem.batch.total, "rows": problem.m, "columns": field.values}


def field_units(field: Field, tiling: Tiling) -> dict[Side, int]:
    """What a partition's share is a multiple of."""
    return {"batch": 1, "rows": tiling.rows, "columns": field.share}


def kept_lead(field: Field) -> int:
    """Elements of a row of kept sums."""
    return field.vector_count * field.width


def keeps_sums(problem: Problem, field: Field, tiling: Tiling) -> bool:
    """True where tiles leave their sums in scratch."""
    return field.minor is not None or (tiling.blocks(problem.k) > 1 and problem.plain_store is None)


def field_scratch(problem: Problem, field: Field, tiling: Tiling) -> tuple[int, int, int]:
    """Bytes of one partition's field, packed A and kept sums; multiples of 64."""
    size = problem.dtype.itemsize
    packed = tiling.mc * tiling.a_lead + 16 if tiling.a == "runs" else 0
    kept = tiling.mc * kept_lead(field) if keeps_sums(problem, field, tiling) else 0
    return tuple(round_up(x * size, 64) for x in (field.elements, packed, kept))  # type: ignore[return-value]


def emit_fielded(problem: Problem, field: Field, tiling: Tiling, side: Side, builder: Builder) -> None:
    """Emits the body of the kernel function, and its register tiles as functions of the module.

    Partitions divide `side`.
    """
    _Fielded(builder, problem, field, tiling, side).emit()


@dataclass(frozen=True)
class _Tables:
    """Addresses of the constant tables: outer steps, vectors, and what finishing needs."""

    steps: Val
    vectors: Val
    spans: Val
    lanes: Val


class _Fielded:
    """State of one emission; its methods nest as the loops do."""

    def __init__(self, builder: Builder, problem: Problem, field: Field, tiling: Tiling, side: Side) -> None:
        self.builder = builder
        self.problem = problem
        self.field = field
        self.tiling = tiling
        self.buffers = builder.params[0]
        self.bounds = shares(builder, field_totals(problem, field), field_units(field, tiling), side)
        self.pointers = load_pointers(builder, problem, self.buffers)
        self.uniform = emit_uniform(builder, problem, self.pointers)
        self.lead = kept_lead(field)
        self.place_a: Rows | None = rows_in_place(problem) if tiling.a == "place" else None
        extents = [extent(a) for a in problem.step_axes]
        a_steps = self.place_a.steps(extents) if self.place_a is not None else tuple(range(problem.k))
        self.nest: Nest = make_nest(a_steps, field.offsets, tiling.kc)
        module = builder.module
        none = Val("ptr", "null")
        minor = field.minor is not None
        self.tables = _Tables(
            module.table("i32", self.nest.table()),
            module.table("i32", [str(x) for x in field.vectors]),
            none if minor else module.table("i32", [str(x) for span in field.spans for x in span]),
            module.table("i32", [str(x) for x in (*field.lanes, *[0] * field.width)]) if minor else none,
        )
        sizes = field_scratch(problem, field, tiling)
        self.copy, self.packed_a, self.kept = place_scratch(builder, problem, sizes)
        self.copies = FieldCopy(builder, problem, field, self.pointers, self.copy)
        self.strips = {s: f"{builder.name}.strip.{s.rows}x{s.vectors}" for s in self._shapes()}
        for shape, name in self.strips.items():
            emit_strip_of_field(
                module, name, problem, field, tiling, shape, self.nest, self.row_lead, self.lead,
                (self.tables.vectors, self.tables.spans),
            )  # fmt: skip

    @property
    def row_lead(self) -> int:
        """Elements from one row of A to the next."""
        return self.place_a.lead if self.place_a is not None else self.tiling.a_lead

    def _shapes(self) -> list[StripShape]:
        rows = [r for r in (self.tiling.rows, self.problem.m % self.tiling.rows) if r]
        whole, rest = divmod(self.field.vector_count, self.tiling.vectors)
        widths = {v for v in (self.tiling.vectors if whole else 0, rest) if v}
        if self._varies():
            # The last block has fewer values.
            last = self.field.values % self.field.share * self.field.vectors_each
            widths |= {
                v
                for v in (
                    self.tiling.vectors if last >= self.tiling.vectors else 0,
                    last % self.tiling.vectors,
                )
                if v
            }
        return [StripShape(r, v) for v in sorted(widths) for r in rows]

    def _varies(self) -> bool:
        """True where the last block of columns has fewer vectors."""
        field = self.field
        return field.divided in field.others and field.values % field.share != 0

    # -- loops, outermost first ---------------------------------------------------------

    def emit(self) -> None:
        """Emits the loops over this partition's share."""
        each(self.builder, self.bounds["batch"], self._entry, "batch")

    def _entry(self, batch: Val) -> None:
        self.batch = batch
        self.env: Env = self.problem.batch.split(self.builder, batch)
        field = self.field

        def block(x: Val, _: tuple[Val, ...]) -> list[Val]:
            self._columns(x)
            return []

        if field.share >= field.values:
            self._columns(constant(0))
        else:
            self.builder.loop(*self.bounds["columns"], field.share, (), block, "share")

    def _columns(self, x: Val) -> None:
        """One block of columns, from value `x` of the divided axis on."""
        builder, field = self.builder, self.field
        self.origin = times(builder, x, field.rest)
        self.vectors = constant(field.vector_count)
        self.column_count = constant(min(field.share, field.values) * field.rest)
        if field.divided is not None:
            self.env = self.env | {field.divided: x}
            if field.values % field.share:
                left = minimum(builder, builder.sub(constant(field.values), x), constant(field.share))
                self.column_count = times(builder, left, field.rest)
                if self._varies():
                    self.vectors = times(builder, left, field.vectors_each)
        if field.whole:
            self.copies.emit(self.env, None, None)
        rows = self.bounds["rows"]
        if [r.text for r in rows] == ["0", str(self.problem.m)] and self.problem.m <= self.tiling.mc:
            self._row_block(constant(0), ())
        else:
            builder.loop(*rows, self.tiling.mc, (), self._row_block, "mc")

    def _row_block(self, m: Val, _: tuple[Val, ...]) -> list[Val]:
        builder = self.builder
        self.row = m
        self.row_end = minimum(builder, plus(builder, m, constant(self.tiling.mc)), self.bounds["rows"][1])
        if self.tiling.blocks(self.problem.k) == 1:
            self._step_block(constant(0), ())
        else:
            builder.loop(0, self.problem.k, self.tiling.kc, (), self._step_block, "kc")
        if self.field.minor is not None:
            complete = builder.sizes["completes"] if self.problem.resumed else constant(1)
            with builder.if_(builder.icmp("ne", complete, constant(0))):
                builder.loop(self.row, self.row_end, 1, (), self._finish_row, "finish")
        return []

    def _step_block(self, k: Val, _: tuple[Val, ...]) -> list[Val]:
        builder, problem, tiling = self.builder, self.problem, self.tiling
        self.block = k
        self.block_end = minimum(builder, plus(builder, k, constant(tiling.kc)), constant(problem.k))
        self.read = self.copy
        if not self.field.whole:
            self._copy_slice()
        self.a_base = self._rows_of_a()
        if tiling.a == "runs":
            block = Block(
                problem.a, problem.buffers, self.pointers, self.env, problem.scalar, tiling.width,
                self.row, self.row_end, k, self.block_end, self.packed_a,
            )  # fmt: skip
            pack_runs(builder, block, tiling.a_lead)
        rest = builder.binary("urem", builder.sub(self.row_end, self.row), constant(tiling.rows))
        whole = builder.binary("udiv", builder.sub(self.row_end, self.row), constant(tiling.rows))
        if self.problem.m >= tiling.rows:
            self._each_vectors(lambda v, n: self._call(StripShape(tiling.rows, n), self.row, v, whole))
        if self.problem.m % tiling.rows:
            with builder.if_(builder.icmp("ne", rest, constant(0))):
                last = builder.sub(self.row_end, rest)
                edge = self.problem.m % tiling.rows
                self._each_vectors(lambda v, n: self._call(StripShape(edge, n), last, v, constant(1)))
        return []

    def _copy_slice(self) -> None:
        """Copies the block's part of the field, unless the block before had it too."""
        builder, field = self.builder, self.field
        assert field.sliced is not None
        start = builder.binary("udiv", self.block, constant(field.slice_steps))
        last = builder.binary(
            "udiv", plus(builder, self.block_end, constant(-1)), constant(field.slice_steps)
        )
        stop = plus(builder, last, constant(1))
        if field.slice_steps > self.tiling.kc and field.slice_steps % self.tiling.kc == 0:
            turned = builder.binary("urem", self.block, constant(field.slice_steps))
            with builder.if_(builder.icmp("eq", turned, constant(0))):
                self.copies.emit(self.env, start, stop)
        else:
            self.copies.emit(self.env, start, stop)
        skipped = times(builder, start, field.sliced.stride)
        self.read = builder.gep(self.copy, builder.sub(constant(0), skipped), self.problem.scalar)

    def _rows_of_a(self) -> Val:
        """Where row 0 and step 0 of A would be."""
        builder, scalar = self.builder, self.problem.scalar
        if self.place_a is not None:
            offset = index_value(builder, self.place_a.offset, self.env)
            return builder.gep(self.pointers[self.place_a.buffer], offset, scalar)
        back = plus(builder, times(builder, self.row, self.tiling.a_lead), self.block)
        return builder.gep(self.packed_a, builder.sub(constant(0), back), scalar)

    def _each_vectors(self, tile: Callable[[Val, int], None]) -> None:
        """`tile(first vector, vectors)` for every column tile of the block."""
        builder, size = self.builder, self.tiling.vectors
        count = self.field.vector_count
        rest = builder.binary("urem", self.vectors, constant(size))
        whole = builder.sub(self.vectors, rest)

        def full(v: Val, _: tuple[Val, ...]) -> list[Val]:
            tile(v, size)
            return []

        if count >= size:
            builder.loop(0, whole, size, (), full, "jr")
        edges = {s.vectors for s in self.strips} - {size}
        for edge in sorted(edges):
            with builder.if_(builder.icmp("eq", rest, constant(edge))):
                tile(whole, edge)

    def _call(self, shape: StripShape, m: Val, v: Val, count: Val) -> None:
        builder, scalar = self.builder, self.problem.scalar
        outer = builder.binary("udiv", self.block, constant(self.nest.unroll))
        steps = builder.binary("udiv", builder.sub(self.block_end, self.block), constant(self.nest.unroll))
        a = builder.gep(self.a_base, times(builder, m, self.row_lead), scalar)
        at = times(builder, builder.sub(m, self.row), self.lead)
        kept = builder.gep(self.kept, plus(builder, at, times(builder, v, self.field.width)), scalar)
        table = builder.gep(self.tables.steps, times(builder, outer, 2), "i32")
        arguments: list[Val] = [
            self.buffers, a, self.read, table, steps, kept, self.block, m, v, self.origin, self.batch, count,
        ]  # fmt: skip
        builder.call_void(self.strips[shape], arguments)

    # -- finishing ----------------------------------------------------------------------

    def _finish_row(self, m: Val, _: tuple[Val, ...]) -> list[Val]:
        """The epilogue of one row of a block of columns, from kept sums, in the order of the result."""
        builder, problem = self.builder, self.problem
        group = problem.spread_columns
        width = self.field.width
        while width > 1 and width // 2 >= group.run:
            width //= 2
        line = builder.gep(self.kept, times(builder, builder.sub(m, self.row), self.lead), problem.scalar)
        at_row = self.env | problem.rows.split(builder, m)
        if is_turned(problem, self.field):
            first = builder.binary("udiv", self.origin, constant(self.field.rest))
            count = builder.binary("udiv", self.column_count, constant(self.field.rest))
            images = first, plus(builder, first, count)
            emit_turned_row(builder, problem, self.field, self.pointers, self.uniform, line, at_row, images)
            return []

        def piece(start: Val, stop: Val, env: Env, begin: Val) -> None:
            def chunk(j: Val, mask: Val | None) -> None:
                value = self._gathered(line, builder.sub(j, self.origin), width)
                here = at_row | env
                if group.inner is not None:
                    here = here | {group.inner: builder.sub(j, begin)}
                emit_spread(builder, problem, self.pointers, self.uniform, here, value, width, mask)

            chunks(builder, start, stop, width, chunk)

        runs(builder, group, self.origin, plus(builder, self.origin, self.column_count), piece)
        return []

    def _gathered(self, line: Val, column: Val, width: int) -> Val:
        """The kept sums of `width` neighbouring columns."""
        builder, scalar = self.builder, self.problem.scalar
        places = builder.gep(self.tables.lanes, column, "i32")
        parts = []
        for i in range(width):
            near = builder.load("i32", builder.gep(places, i, "i32"), 4)
            at = builder.gep(line, builder.cast("sext", near, "i64"), scalar)
            parts.append(builder.load(scalar, at, self.problem.dtype.itemsize))
        return gather(builder, parts)
