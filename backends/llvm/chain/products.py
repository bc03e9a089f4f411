"""A product of a chain: some rows at a time, with the other operand packed once for all rows of a batch entry.

What a block of rows packs stays where it is for the blocks that follow in the same entry. Where a product leaves terms out,
later blocks need more of it: what was packed as a whole is not packed again, the rest is.
"""

from __future__ import annotations

from math import lcm

from graphc.backends.llvm.chain.plan import Plan, Product
from graphc.backends.llvm.contraction.axes import constant, minimum, plus, times
from graphc.backends.llvm.contraction.macro import Blocked, packed_elements
from graphc.backends.llvm.text import Builder, ModuleText, Val
from graphc.ir.target import Target

__all__ = ["emit_product", "packed_bytes"]

_SHARE = 8
"""The share of L3 that an operand may take packed."""


def packed_bytes(product: Product, plan: Plan, target: Target) -> int:
    """Bytes of the other operand packed for a whole batch entry; 0 where each block packs for itself."""
    tiling, problem = product.tiling, product.problem
    if tiling.b in ("place", "kept") or tiling.near or plan.blocks == 1:
        return 0
    blocks = -(-problem.n // tiling.nc) * tiling.blocks(problem.k)
    total = blocks * _block_elements(product) * problem.dtype.itemsize
    return total if total <= target.l3_bytes // _SHARE else 0


def _block_elements(product: Product) -> int:
    tiling = product.tiling
    return packed_elements(tiling.b, tiling, tiling.nc, tiling.b_lead)


def emit_product(product: Product, plan: Plan, module: ModuleText, name: str, kept: bool) -> None:
    """`void @name(ptr buffers, i64 before, i64 first, i64 end, i64 seen, ptr error)`: rows by their number in the whole batch.

    With `kept` the last of `buffers` is memory for the packed operand, in which that of the `seen` rows before is.
    """
    numbers = [("i64", "before"), ("i64", "first"), ("i64", "end"), ("i64", "seen")]
    builder = module.function(
        name, "void", [("ptr", "buffers"), *numbers, ("ptr", "error")], linkage="internal"
    )
    buffers, before, first, end, seen, _ = builder.params
    problem, tiling = product.problem, product.tiling
    batch = builder.binary("udiv", before, constant(plan.rows))
    rows = builder.sub(first, before), builder.sub(end, before)
    columns = _columns(product, plan, builder, rows[1])
    if kept:
        place = builder.load("ptr", builder.gep(buffers, len(problem.buffers) + 1, "ptr"), 8)
        blocked: Blocked = _Kept(product, builder, place, _done(product, plan, builder, seen))
    else:
        blocked = Blocked(builder, problem, tiling)
    blocked.share(batch, rows, (constant(0), columns))
    builder.ret()


def _columns(product: Product, plan: Plan, builder: Builder, end: Val) -> Val:
    """How many columns have to be there for the rows before `end`."""
    every, order = constant(product.problem.n), product.problem.order
    if not plan.quantum or order is None or not order.of_results:
        return every
    step = constant(lcm(plan.quantum, product.tiling.columns))
    up = plus(builder, end, builder.sub(step, constant(1)))
    return minimum(builder, builder.sub(up, builder.binary("urem", up, step)), every)


def _done(product: Product, plan: Plan, builder: Builder, seen: Val) -> Val:
    """The columns, or steps of k where these are left out, before which all is packed once `seen` rows are computed."""
    problem, tiling, order = product.problem, product.tiling, product.problem.order
    if order is not None and not order.of_results and order.low == "steps":
        total, unit = constant(problem.k), constant(tiling.kc)
        there = minimum(builder, seen, total)
    else:
        total, unit = constant(problem.n), constant(tiling.nc)
        there = _columns(product, plan, builder, seen)
    whole = builder.sub(there, builder.binary("urem", there, unit))
    found = builder.select(builder.icmp("eq", there, total), total, whole)
    return builder.select(builder.icmp("eq", seen, constant(0)), constant(0), found)


class _Kept(Blocked):
    """Blocked loops that find what is packed before `done`, each block at a place of its own."""

    def __init__(self, product: Product, builder: Builder, place: Val, done: Val) -> None:
        super().__init__(builder, product.problem, product.tiling)
        self.place, self.done = place, done
        self.size = _block_elements(product)

    def _step_block(self, k: Val, _: tuple[Val, ...]) -> list[Val]:
        builder, tiling, order = self.builder, self.tiling, self.problem.order
        self.block_k = k
        self.block_k_end = minimum(builder, plus(builder, k, self.kc), self.k)
        self.steps = builder.sub(self.block_k_end, k)
        number = plus(
            builder,
            times(
                builder,
                builder.binary("udiv", self.block_n, constant(tiling.nc)),
                tiling.blocks(self.problem.k),
            ),
            builder.binary("udiv", k, constant(tiling.kc)),
        )
        self.packed_b = builder.gep(self.place, times(builder, number, self.size), self.problem.scalar)
        by_steps = order is not None and not order.of_results and order.low == "steps"
        with builder.if_(builder.icmp("sge", k if by_steps else self.block_n, self.done)):
            steps = self._steps_of(self.block_m, self.block_m_end)
            self._pack(
                self.problem.b, tiling.b, tiling.b_lead, self.block_n, self.block_n_end, steps, self.packed_b
            )
        builder.loop(self.block_m, self.block_m_end, tiling.mc, (), self._packed_rows, "mc")
        return []
