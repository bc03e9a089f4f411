"""Partitions: which batch entries, rows and columns of the result one partition computes.

A partition owns whole pieces of one side (or whole batch entries), so no output element has its
sum divided and the bits do not depend on the number of partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from graphc.backends.llvm.contraction.axes import constant, minimum, times
from graphc.backends.llvm.contraction.problem import Problem
from graphc.backends.llvm.text import Builder, Val

__all__ = ["Side", "emit_shares", "load_pointers", "split_side"]

Side = Literal["batch", "rows", "columns"]

Units = Mapping[Literal["rows", "columns"], int]
"""Rows and columns of a piece."""

_BATCH_PIECES = 8


def load_pointers(builder: Builder, problem: Problem, buffers: Val) -> list[Val]:
    """The addresses of the kernel's buffers."""
    return [builder.load("ptr", builder.gep(buffers, i, "ptr"), 8) for i in range(len(problem.buffers))]


def split_side(problem: Problem, units: Units) -> tuple[Side, int]:
    """What partitions divide, and into how many pieces at most."""
    pieces: dict[Side, int] = {
        "batch": problem.batch.total,
        "rows": -(-problem.m // units["rows"]),
        "columns": -(-problem.n // units["columns"]),
    }
    if pieces["batch"] >= _BATCH_PIECES:
        return "batch", pieces["batch"]
    side: Side = "rows" if problem.m >= problem.n else "columns"
    if pieces[side] < 2:
        side = max(pieces, key=lambda s: pieces[s])
    return side, pieces[side]


def emit_shares(
    builder: Builder,
    problem: Problem,
    units: Units,
    body: Callable[[Val, tuple[Val, Val], tuple[Val, Val]], None],
) -> None:
    """Emits `body(batch, row bounds, column bounds)` for each batch entry of this partition's share.

    The kernel function's parameters 1 and 2 are the partition and their number.
    """
    side, pieces = split_side(problem, units)
    totals: dict[Side, int] = {"batch": problem.batch.total, "rows": problem.m, "columns": problem.n}
    unit = 1 if side == "batch" else units[side]
    bounds = {s: (constant(0), constant(total)) for s, total in totals.items()}
    bounds[side] = _share(builder, pieces, unit, totals[side])

    def entry(batch: Val, _: tuple[Val, ...]) -> list[Val]:
        body(batch, bounds["rows"], bounds["columns"])
        return []

    if totals["batch"] == 1 and side != "batch":
        body(constant(0), bounds["rows"], bounds["columns"])
    else:
        builder.loop(*bounds["batch"], 1, (), entry, "batch")


def _share(builder: Builder, pieces: int, unit: int, total: int) -> tuple[Val, Val]:
    part, parts = builder.params[1:3]
    edges = []
    for number in (part, builder.add(part, constant(1))):
        piece = builder.op("i64", f"udiv {times(builder, number, pieces)}, {parts.text}")
        edges.append(minimum(builder, times(builder, piece, unit), constant(total)))
    return edges[0], edges[1]
