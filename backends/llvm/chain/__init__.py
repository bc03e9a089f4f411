"""Chains: kernels that make rows of what the next ones read row by row, run a block of rows at a time.

    for each block of rows of each batch entry: every link, on the rows of the block alone

Each link is the very kernel that it is alone, so bits are the same. What only links read is kept for one block: its
buffer's address is moved back by the rows before the block, so a link writes where it always does. Where the products
at both ends leave out what comes after each row's own position (`order.py`), the links between them end there too.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.chain.plan import Plan, make_plan
from graphc.backends.llvm.chain.products import emit_product, packed_bytes
from graphc.backends.llvm.contraction.axes import constant, minimum, plus, times
from graphc.backends.llvm.contraction.macro import scratch_of
from graphc.backends.llvm.contraction.tiling import round_up
from graphc.backends.llvm.kernel import emit_rows
from graphc.backends.llvm.text import Builder, ModuleText, Val
from graphc.ir.kernel import Kernel, Loop, Schedule
from graphc.ir.target import Target

__all__ = ["chain_schedule", "emit_chain", "scratch_bytes"]

_MOST_PARTS = 16


def chain_schedule(kernel: Kernel, target: Target) -> Schedule | None:
    """The schedule of a chain; None where its links cannot be run so."""
    plan = make_plan(kernel, target)
    if plan is None:
        return None
    parts = 1 << (min(_MOST_PARTS, plan.batch * plan.blocks).bit_length() - 1)
    return Schedule((Loop("row", "tile", plan.block),), (), parts, "chain")


def scratch_bytes(kernel: Kernel, target: Target) -> int:
    """Bytes of memory that a partition takes for itself."""
    plan = make_plan(kernel, target)
    assert plan is not None
    return sum(_local_bytes(kernel, plan).values()) + sum(_packed_bytes(plan, target)) + _product_bytes(plan)


def _local_bytes(kernel: Kernel, plan: Plan) -> dict[int, int]:
    return {
        n: round_up(plan.block * plan.pitch * b.type.dtype.itemsize, 64)
        for n, b in enumerate(kernel.buffers)
        if b.access == "local"
    }


def _packed_bytes(plan: Plan, target: Target) -> list[int]:
    """Bytes that each link keeps from block to block."""
    return [0 if p is None else round_up(packed_bytes(p, plan, target), 64) for p in plan.products]


def _product_bytes(plan: Plan) -> int:
    return max((scratch_of(p.problem, p.tiling).total for p in plan.products if p is not None), default=0)


def emit_chain(kernel: Kernel, module: ModuleText, symbol: str, target: Target) -> None:
    """Emits `void @symbol(ptr buffers, i64 part, i64 parts, ptr error)`; see `emit_contraction`."""
    plan = make_plan(kernel, target)
    assert plan is not None
    links = [f"{symbol}.link{n}" for n in range(len(kernel.links))]
    for alone, product, name in zip(plan.kernels, plan.products, links, strict=True):
        if product is None:
            emit_rows(alone, module, name, target, plan.quantum)
        else:
            emit_product(product, plan, module, name, packed_bytes(product, plan, target) > 0)
    builder = module.function(
        symbol, "void", [("ptr", "buffers"), ("i64", "part"), ("i64", "parts"), ("ptr", "error")]
    )
    _emit_blocks(kernel, plan, builder, links, target)
    builder.ret()


def _emit_blocks(kernel: Kernel, plan: Plan, builder: Builder, links: Sequence[str], target: Target) -> None:
    """The loop over a partition's blocks."""
    buffers, part, parts, error = builder.params
    numbers = [n for n, b in enumerate(kernel.buffers) if b.access != "local"]
    given = {n: builder.load("ptr", builder.gep(buffers, i, "ptr"), 8) for i, n in enumerate(numbers)}
    scratch = builder.load("ptr", builder.gep(buffers, len(numbers), "ptr"), 8)
    local, place = {}, scratch
    for n, size in _local_bytes(kernel, plan).items():
        local[n], place = place, builder.gep(place, size, "i8")
    tables = [builder.alloca("ptr", len(link.buffers) + 2) for link in kernel.links]
    for link, table, size in zip(kernel.links, tables, _packed_bytes(plan, target), strict=True):
        if size:
            builder.store(place, builder.gep(table, len(link.buffers) + 1, "ptr"), 8)
            place = builder.gep(place, size, "i8")
    for link, table in zip(kernel.links, tables, strict=True):
        for i, n in enumerate(link.buffers):
            if n in given:
                builder.store(given[n], builder.gep(table, i, "ptr"), 8)
        builder.store(place, builder.gep(table, len(link.buffers), "ptr"), 8)
    total = plan.batch * plan.blocks
    begin, stop = (
        builder.binary("udiv", times(builder, number, total), parts)
        for number in (part, builder.add(part, constant(1)))
    )

    def block(at: Val, _: tuple[Val, ...]) -> list[Val]:
        batch = builder.binary("udiv", at, constant(plan.blocks))
        before = times(builder, batch, plan.rows)
        row = times(builder, builder.binary("urem", at, constant(plan.blocks)), plan.block)
        first = plus(builder, before, row)
        end = plus(
            builder, before, minimum(builder, plus(builder, row, constant(plan.block)), constant(plan.rows))
        )
        seen = builder.select(builder.icmp("eq", at, begin), constant(0), row)
        for link, table, name, product in zip(kernel.links, tables, links, plan.products, strict=True):
            for i, n in enumerate(link.buffers):
                if n in local:
                    size = plan.pitch * kernel.buffers[n].type.dtype.itemsize
                    moved = builder.gep(local[n], builder.sub(constant(0), times(builder, first, size)), "i8")
                    builder.store(moved, builder.gep(table, i, "ptr"), 8)
            given_seen = [] if product is None else [seen]
            builder.call_void(name, [table, before, first, end, *given_seen, error])
        return []

    builder.loop(begin, stop, 1, (), block, "block")
