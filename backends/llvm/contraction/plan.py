"""Which reading and tiling of a contraction kernel to emit: the one with the least estimated time.

The estimate counts cycles of register tiles, packing and epilogue. It decides speed only: every
reading sums in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.backends.llvm.contraction.micro import UNROLL
from graphc.backends.llvm.contraction.problem import Operand, Problem, readings
from graphc.backends.llvm.contraction.share import split_side
from graphc.backends.llvm.contraction.tiling import Source, Tiling, choose_tiling
from graphc.backends.llvm.kernel.lanes import LaneAxis, step_of
from graphc.ir.kernel import Kernel, Loop, Schedule, extent
from graphc.ir.target import Target

__all__ = ["Plan", "describe", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """A reading of a kernel and its tiling."""

    problem: Problem
    tiling: Tiling


def make_plan(kernel: Kernel, target: Target) -> Plan | None:
    """The plan of a contraction kernel; None where it is not one."""
    plans = [Plan(p, choose_tiling(p, target)) for p in readings(kernel)]
    return min(plans, key=lambda p: _cycles(p.problem, p.tiling), default=None)


def describe(kernel: Kernel, plan: Plan, parts: int) -> Schedule:
    """The plan as a schedule: what is parallel, tiled, unrolled and a vector."""
    problem, tiling = plan.problem, plan.tiling
    batch, rows, columns = problem.sides
    units = {"batch": 1, "rows": 1, "columns": tiling.width} if problem.is_vector else tiling.units
    side = split_side(problem.totals, units)[0]
    divided = {"batch": batch, "rows": rows, "columns": columns}[side]
    loops = [Loop(a.name, "parallel") for a in divided if parts > 1]
    inner: list[Loop] = []
    for axes, sizes in ((rows, [("tile", units["rows"])]), (columns, [("tile", units["columns"]), ("vector", tiling.width)])):
        if axes:
            inner += [Loop(axes[-1].name, role, size) for role, size in sizes]  # type: ignore[arg-type]
    named = {loop.axis for loop in (*loops, *inner)}
    loops += [Loop(a.name, "sequential") for a in kernel.axes if a.name not in named]
    steps = [a for a in kernel.stages[0].axes if extent(a) != 1]
    around = [Loop(a.name, "sequential") for a in kernel.stages[0].axes if a not in steps[-1:]]
    sums = [Loop(a.name, "tile", tiling.kc) for a in steps[-1:]] + [Loop(a.name, "unroll", UNROLL) for a in steps[-1:]]
    return Schedule((*loops, *inner), ((*around, *sums), *(() for _ in kernel.stages[1:])), parts)


_PIECE = 1.5
"""Cycles of one store of the epilogue."""


def _cycles(problem: Problem, tiling: Tiling) -> float:
    rows = _tile_counts(problem.m, tiling.rows)
    columns = _tile_counts(problem.n, tiling.columns)
    tiles = sum(
        rc * cc * _tile_cycles(r, -(-c // tiling.width)) for r, rc in rows for c, cc in columns
    )
    pack_a = problem.m * _copy_cost(problem.a, tiling.a, tiling.width) * -(-problem.n // tiling.nc)
    pack_b = problem.n * _copy_cost(problem.b, tiling.b, tiling.width) * -(-problem.m // tiling.mb)
    finish = problem.m * problem.n / problem.piece(tiling.width) * _PIECE * len(problem.epilogue)
    if _scatters(problem, tiling.width):
        finish *= problem.piece(tiling.width)
    return problem.batch.total * (problem.k * (tiles + pack_a + pack_b) + finish)


def _tile_counts(length: int, tile: int) -> list[tuple[int, int]]:
    """(size, count) of whole and edge tiles."""
    return [(tile, length // tile), (length % tile, 1 if length % tile else 0)]


def _tile_cycles(rows: int, vectors: int) -> float:
    """Cycles of one step of k: two multiply-adds or loads a cycle, four cycles of latency."""
    return max(rows * vectors / 2, (rows + vectors) / 2, 4.0) if rows and vectors else 0.0


def _copy_cost(operand: Operand, source: Source, width: int) -> float:
    """Cycles an element of packing: chunks of a run, and the beginning of each run."""
    if source == "place":
        return 0.0
    group, rows = (operand.steps, width) if source == "transpose" else (operand.rows, 1)
    if source == "runs":
        group = operand.steps
    run = max(1, group.run)
    gathers = operand.stride(group.inner) not in (0, 1)
    guarded = any(i.guards for i in operand.body)
    chunk = rows * (1.5 * width if gathers else 5.0 if guarded else 3.0)
    begin = 12.0 if len(group.axes) > 1 else 2.0
    return (-(-run // width) * chunk + begin) / (run * rows)


def _scatters(problem: Problem, width: int) -> bool:
    """True where some store is not contiguous along the columns, so that each lane is stored by itself."""
    axis = problem.columns.inner
    if axis is None or width == 1:
        return False
    piece = problem.piece(width)
    lanes = LaneAxis(axis.name, piece, piece)
    return any(i.opcode == "store" and step_of(i.index[0], lanes) != 1 for i in problem.epilogue)
