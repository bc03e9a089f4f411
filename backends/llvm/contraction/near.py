"""Large products a panel at a time: the loops around register tiles whose panel of B is in L1.

for block of mb rows: pack A, all of k
    for nb columns: pack B, all of k, unless its panels are kept
        for panel, fold of k: the register tiles of all rows

An operand is packed in its own order, all of k or many columns at once: rows of a matrix are far apart, and few of their
bytes at a time come neither in whole lines nor as a stream. Sums wait in scratch, a panel's at a time.
"""

from __future__ import annotations

from graphc.backends.llvm.contraction.axes import constant, minimum, plus, times
from graphc.backends.llvm.contraction.macro import Blocked, pack_rows, packed_elements, panel_depth
from graphc.backends.llvm.contraction.packing import Block
from graphc.backends.llvm.contraction.problem import Operand, Problem, Side
from graphc.backends.llvm.contraction.share import each, shares
from graphc.backends.llvm.contraction.tiling import Tiling
from graphc.backends.llvm.text import Builder, Val

__all__ = ["emit_near"]


def emit_near(problem: Problem, tiling: Tiling, side: Side, builder: Builder) -> None:
    """Emits the body of the kernel function, and its register tiles as functions of the module.

    Partitions divide `side`.
    """
    bounds = shares(builder, problem.totals, tiling.units, side)
    near = _Near(builder, problem, tiling)
    each(builder, bounds["batch"], lambda b: near.share(b, bounds["rows"], bounds["columns"]), "batch")


class _Near(Blocked):
    """State of one emission."""

    def _row_block(self, m: Val, _: tuple[Val, ...]) -> list[Val]:
        builder, tiling = self.builder, self.tiling
        self.block_m = m
        self.block_m_end = minimum(builder, plus(builder, m, constant(tiling.mb)), self.rows_share[1])
        if tiling.a == "transpose":
            builder.loop(m, self.block_m_end, tiling.rows, (), self._pack_along, "rows")
        else:
            self._pack_blocks(m, self.block_m_end)
        if tiling.b == "kept":
            builder.loop(*self.columns_share, tiling.nc, (), self._column_block, "nc")
        else:
            builder.loop(*self.columns_share, tiling.nb, (), self._chunk, "nb")
        return []

    def _pack_along(self, r: Val, _: tuple[Val, ...]) -> list[Val]:
        """Packs the rows of a tile, all of k."""
        end = plus(self.builder, r, constant(self.tiling.rows))
        self._pack_blocks(r, minimum(self.builder, end, self.block_m_end))
        return []

    def _pack_blocks(self, r: Val, end: Val) -> None:
        """Packs rows, a block of k after the other."""
        builder, tiling = self.builder, self.tiling
        relative = builder.sub(r, self.block_m)

        def pack(k: Val, _: tuple[Val, ...]) -> list[Val]:
            to = builder.gep(
                self._packed_rows_of(k), times(builder, relative, tiling.depth), self.problem.scalar
            )
            stop = minimum(builder, plus(builder, k, self.kc), self.k)
            self._copy(self.problem.a, (r, end), (k, stop), to, tiling.depth)
            return []

        builder.loop(0, self.problem.k, tiling.kc, (), pack, "kc")

    def _copy(
        self, operand: Operand, rows: tuple[Val, Val], steps: tuple[Val, Val], to: Val, depth: int
    ) -> None:
        problem, tiling = self.problem, self.tiling
        source, lead = (tiling.a, tiling.a_lead) if operand is problem.a else (tiling.b, tiling.b_lead)
        width = min(tiling.width, 2 * lead if source == "transpose" else lead)
        block = Block(
            operand, problem.buffers, self.pointers, self.batch_env, problem.scalar, width, *rows, *steps, to
        )
        pack_rows(self.builder, block, source, lead, depth)

    def _chunk(self, n: Val, _: tuple[Val, ...]) -> list[Val]:
        builder, tiling = self.builder, self.tiling
        self.chunk_n = n
        end = minimum(builder, plus(builder, n, constant(tiling.nb)), self.columns_share[1])
        self._copy(self.problem.b, (n, end), (constant(0), self.k), self.packed_b, panel_depth(self.problem))
        builder.loop(n, end, tiling.nc, (), self._column_block, "nc")
        return []

    def _pack(self, *_: object) -> None:
        """Blocks are packed already."""

    def _packed_rows_of(self, k: Val) -> Val:
        """Where the packed rows of a block of k begin."""
        tiling = self.tiling
        number = self.builder.binary("udiv", k, self.kc)
        size = packed_elements(tiling.a, tiling, tiling.mc, tiling.a_lead)
        return self.builder.gep(self.packed_a, times(self.builder, number, size), self.problem.scalar)

    def _rows_at(self, m: Val) -> Val:
        start = self._packed_rows_of(self.block_k)
        return self._address(self.problem.a, self.tiling.a, m, self.block_m, start)

    def _columns_at(self, n: Val) -> Val:
        if self.tiling.b == "kept":
            return super()._columns_at(n)
        builder = self.builder
        panel = times(builder, builder.sub(n, self.chunk_n), panel_depth(self.problem))
        step = times(builder, self.block_k, self.tiling.b_lead)
        return builder.gep(self.packed_b, plus(builder, panel, step), self.problem.scalar)
