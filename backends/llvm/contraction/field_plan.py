"""Register tiles for contractions that read their columns from a field, and what they cost.

Estimates are cycles of one core. They decide speed only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from math import prod

from graphc.backends.llvm.contraction.field import Field
from graphc.backends.llvm.contraction.field_search import Blocking, find_fields
from graphc.backends.llvm.contraction.fielded import keeps_sums, kept_lead
from graphc.backends.llvm.contraction.nest import rows_in_place
from graphc.backends.llvm.contraction.problem import Problem, Side
from graphc.backends.llvm.contraction.tiling import Tiling, choose_tiling, is_near, round_up
from graphc.ir.target import Target

__all__ = ["again_cycles", "copy_cycles", "field_cycles", "field_tilings"]

_TILES = {16: ((6, 2), (4, 3), (3, 4)), 32: ((8, 3), (12, 2), (6, 4), (5, 5))}
"""(rows, vectors) whose accumulators, held operands and one more fit the registers."""
_FLAT = {16: ((2, 6), (1, 8)), 32: ((2, 12), (1, 16))}
"""The same for few rows, as depthwise windows have: enough sums to hide how long one addition takes."""

_NEAR_BYTES = 256 * 1024
_NEAR = 0.06
"""Cycles an element of A in another pass over it where it stays in L2."""
_FAR = 0.25
"""The same where it does not."""
_APART = 0.3
"""The same, the first pass too, where each step of k is on another page."""
_ASKEW = 1.05
"""Tiles whose vectors begin anywhere take longer: some cross a cache line."""
_GATHER = 1.3
"""Cycles of bringing a kept sum to its place in the result's order."""


def field_tilings(problem: Problem, target: Target) -> Iterator[tuple[Tiling, Field]]:
    """Every field of a problem with its best register tile."""
    base = choose_tiling(problem, target)
    base = dataclasses.replace(base, kc=base.fold)
    width = target.width(problem.dtype.bits)
    tiles = _tiles(problem, target)
    tried = Blocking(base.kc, width, 2, target.l2_bytes // 2)
    for field in find_fields(problem, tried):
        rows, vectors = min(
            ((min(r, problem.m), min(v, field.vector_count)) for r, v in tiles),
            key=lambda t: _tiles_cycles(problem, field, *t),
        )
        yield _tiling(problem, field, base, target, rows, vectors), field


def _tiles(problem: Problem, target: Target) -> tuple[tuple[int, int], ...]:
    registers = 16 if target.vector_registers <= 16 else 32
    flat = [(r, v) for r, v in _FLAT[registers] if r >= problem.m]
    return (*_TILES[registers], *flat)


def _tiling(problem: Problem, field: Field, base: Tiling, target: Target, rows: int, vectors: int) -> Tiling:
    size, width = problem.dtype.itemsize, field.width
    source = rows_in_place(problem)
    apart = source is not None and source.lead * size % 4096 == 0 and rows > 4 and problem.m > rows
    lead = base.kc + 64 // size
    mc = round_up(problem.m, rows)
    if keeps_sums(problem, field, base):
        limit = target.l2_bytes // 2 // (kept_lead(field) * size)
        mc = max(rows, min(mc, limit // rows * rows))
    return dataclasses.replace(
        base, width=width, rows=rows, vectors=vectors, mc=mc, nc=width * vectors, mb=problem.m,
        a="runs" if source is None or apart else "place", a_lead=lead, rows_outside=False,
    )  # fmt: skip


def _counts(length: int, tile: int) -> tuple[tuple[int, int], ...]:
    """(size, count) of whole and edge tiles."""
    return (tile, length // tile), (length % tile, 1 if length % tile else 0)


def _tiles_cycles(problem: Problem, field: Field, rows: int, vectors: int) -> float:
    """Cycles of all register tiles of a block of columns for one step of k."""
    # Vectors that begin anywhere cross a cache line every other time.
    load = 1.0 if field.minor_size % field.width == 0 else 1.5
    total = 0.0
    for r, rc in _counts(problem.m, rows):
        for v, vc in _counts(field.vector_count, vectors):
            if r and v:
                total += rc * vc * max(r * v / 2, (r + v * load + 0.5) / 2, 4.0)
    return total if load == 1.0 else total * _ASKEW


def copy_cycles(problem: Problem, field: Field) -> float:
    """Cycles of copying a block's field once, all k of it."""
    sizes = [p.size for p in field.places]
    if not field.whole and field.sliced is not None:
        sizes = [p.size for p in field.places if p.position != field.sliced.position]
        sizes.append(problem.k // field.slice_steps)
    assert field.wide is not None
    rows = prod(sizes)
    if field.minor is None:
        run = -(-field.wide.size // field.phases)
        chunk = 3.0 if field.phases <= 2 else 1.5 * field.width
        return rows * field.phases * (-(-run // field.width) * chunk + 6.0)
    return rows * field.wide.size * -(-field.minor_size // field.width) * (field.width + 2.0)


def field_cycles(problem: Problem, field: Field, tiling: Tiling) -> float:
    """Estimated cycles of a plan."""
    blocks = -(-field.values // field.share)
    row_blocks = 1 if field.whole else -(-problem.m // tiling.mc)
    strips = (
        -(-field.vector_count // tiling.vectors) * -(-problem.m // tiling.rows) * tiling.blocks(problem.k)
    )
    tiles = problem.k * _tiles_cycles(problem, field, tiling.rows, tiling.vectors) + 25.0 * strips
    copy = copy_cycles(problem, field) * row_blocks
    work = problem.m * problem.n * (_finish_cycles(problem, field) / blocks)
    passes = problem.batch.total * blocks
    return passes * (tiles + copy + work) + _rows_cycles(problem, tiling, passes)


def _finish_cycles(problem: Problem, field: Field) -> float:
    """Cycles of the epilogue for one element."""
    each = 1.5 * len(problem.epilogue) / field.width
    return each if field.minor is None else each + _GATHER


def _rows_cycles(problem: Problem, tiling: Tiling, passes: int) -> float:
    """Cycles of `passes` over A beyond the tiles' own loads: packing, or what a cache further away costs."""
    elements = problem.m * problem.k
    if tiling.a == "runs":
        return passes * elements * 1.2
    direct = problem.a.direct
    if direct is not None and not is_near(direct, problem.dtype.itemsize):
        return passes * elements * _APART
    return (passes - 1) * elements * (_FAR if elements * problem.dtype.itemsize > _NEAR_BYTES else _NEAR)


def again_cycles(problem: Problem, field: Field, tiling: Tiling, side: Side) -> float:
    """Cycles of a batch entry that each partition repeats where `side` is divided."""
    if side == "rows":
        return -(-field.values // field.share) * copy_cycles(problem, field)
    return _rows_cycles(problem, tiling, 2) if tiling.a == "place" else _rows_cycles(problem, tiling, 1)
