"""Which reading and tiling of a contraction kernel to emit: the one with the least estimated time.

The estimate counts cycles of register tiles, packing and epilogue. It decides speed only: every
reading sums in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.contraction.body import lane_step
from graphc.backends.llvm.contraction.by_text import by_text
from graphc.backends.llvm.contraction.crossed import Crossing, find_crossing
from graphc.backends.llvm.contraction.epilogue import varying
from graphc.backends.llvm.contraction.field import Field
from graphc.backends.llvm.contraction.field_plan import again_cycles, field_cycles, field_tilings
from graphc.backends.llvm.contraction.fielded import field_totals, field_units
from graphc.backends.llvm.contraction.gathered import (
    Gather,
    gather_cycles,
    gathered_tiling,
    refill_cycles,
)
from graphc.backends.llvm.contraction.micro import unroll
from graphc.backends.llvm.contraction.problem import Operand, Problem, Side, readings
from graphc.backends.llvm.contraction.share import Totals, Units, split_side
from graphc.backends.llvm.contraction.tiling import (
    Source,
    Tiling,
    along_steps,
    choose_tiling,
    is_near,
    near_tiling,
)
from graphc.backends.llvm.kernel.lanes import LaneAxis
from graphc.ir.kernel import Kernel, Loop, Schedule, size_of
from graphc.ir.records import dataclass
from graphc.ir.target import Target

__all__ = ["Plan", "all_plans", "best_parts", "describe", "estimate", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """A reading of a kernel and its tiling.

    `field` is what its columns are read from, if there is one; `crossing` says that its vectors
    lie along rows, `gather` where its panels of columns are gathered.
    """

    problem: Problem
    tiling: Tiling
    crossing: Crossing | None = None
    field: Field | None = None
    gather: Gather | None = None

    @property
    def totals(self) -> Totals:
        """Batch entries, rows and columns, as partitions divide them."""
        if self.field is not None:
            return field_totals(self.problem, self.field)
        return self.problem.totals

    @property
    def side(self) -> Side:
        """What partitions divide: of several batch entries those, else the side where less is packed or moved again."""
        side, pieces = split_side(self.totals, self.units)
        if side == "batch" or self.crossing is not None or pieces < 2:
            return side
        other: Side = "columns" if side == "rows" else "rows"
        if self.totals[other] < _LEAST_PIECES * self.units[other]:
            return side
        return min((side, other), key=lambda s: _packed_again(self, s) + _moved(self, s))

    @property
    def units(self) -> Units:
        """What a partition's share is a multiple of."""
        if self.problem.is_vector:
            return {"batch": 1, "rows": 1, "columns": self.tiling.full_width}
        if self.crossing is not None:
            return self.crossing.units(self.problem)
        if self.field is not None:
            return field_units(self.field, self.tiling)
        return self.tiling.units


@by_text
def make_plan(kernel: Kernel, target: Target, vector: bool | None = None, resumed: int = 0) -> Plan | None:
    """The plan of a contraction kernel; None where it is not one. See `readings`."""
    plans = all_plans(kernel, target, vector, resumed)
    kept = [p for p in plans if p.tiling.b == "kept"]
    return min(kept or plans, key=estimate, default=None)


def all_plans(kernel: Kernel, target: Target, vector: bool | None = None, resumed: int = 0) -> list[Plan]:
    """Every plan of a contraction kernel; all give the same bits."""
    plans = []
    for problem in readings(kernel, vector, resumed):
        tiling = choose_tiling(problem, target)
        plans.append(Plan(problem, tiling))
        if (
            problem.is_empty
            or problem.order is not None
            or problem.symbols
            or problem.a.panels
            or problem.b.panels
        ):
            continue
        if resumed:
            # Sums that are kept in another order than the results stay where they are from part to part.
            plans += [
                Plan(problem, t, field=field)
                for t, field in field_tilings(problem, target)
                if field.minor is None or (field.share >= field.values and problem.m <= t.mc)
            ]
            continue
        near = near_tiling(problem, target)
        if near is not None:
            plans.append(Plan(problem, near))
        crossing = find_crossing(problem, target)
        if crossing is not None:
            plans.append(Plan(problem, tiling, crossing=crossing))
        plans += [Plan(problem, t, field=field) for t, field in field_tilings(problem, target)]
        gathered = gathered_tiling(problem, target)
        if gathered is not None:
            plans.append(Plan(problem, gathered[0], gather=gathered[1]))
    return plans


def best_parts(plans: Sequence[Plan], cores: int) -> int:
    """Into how many partitions to divide a kernel of these phases: as many as one has pieces, unless each packs something again."""
    pieces = max(map(_pieces, plans))
    if pieces < 2 or all(_packed_again(p, p.side) <= 0 for p in plans):
        return pieces
    return min(
        (parts for parts in (1, 2, 4, 8, 16) if parts <= pieces),
        key=lambda parts: sum(_divided_cycles(p, parts, cores) for p in plans),
    )


def _pieces(plan: Plan) -> int:
    return -(-plan.totals[plan.side] // plan.units[plan.side])


def _divided_cycles(plan: Plan, parts: int, cores: int) -> float:
    """Of the thread with most to do; with few parts a thread that is late is waited for longer."""
    pieces, rounds = _pieces(plan), -(-parts // cores)
    share = -(-pieces // parts) / pieces
    if plan.problem.order is not None:
        share *= 1 + 1 / parts  # the parts have unequal numbers of terms
    return (
        rounds
        * (_work_cycles(plan) * share + _packed_again(plan, plan.side, _WRITTEN))
        * (1 + _LATE / rounds)
    )


def _work_cycles(plan: Plan) -> float:
    """Cycles of the work that partitions divide."""
    if plan.field is not None:
        return field_cycles(plan.problem, plan.field, plan.tiling)
    return plan.problem.batch.total * plan.problem.k * _tiles_cycles(plan)


_LATE = 0.02
"""Share of its time that a thread loses now and then."""
_READ = 0.1
"""Cycles an element of an operand that comes from a farther cache once more."""
_WRITTEN = 0.6
"""Cycles an element of a copy that goes through farther caches, to which the instructions of packing are little."""
_MOVED = 0.25
"""Cycles an element of a parameter that is updated by another thread than the one that reads it in the next step: each
line goes there and back, 17 ns each time between cores that share no cache, a tenth of that between others."""


def _packed_again(plan: Plan, side: Side, written: float = 0.0) -> float:
    """Cycles of packing that every partition does for itself where `side` is divided, an element of a copy costing `written` more."""
    problem, tiling = plan.problem, plan.tiling
    if side == "batch" or problem.is_vector:
        return 0.0
    if plan.field is not None:
        return problem.batch.total * again_cycles(problem, plan.field, tiling, side)
    if plan.crossing is not None:
        again = _crossed_pack(problem, plan.crossing)
    elif side == "rows" and plan.gather is not None:
        again = refill_cycles(problem, plan.gather)
    elif side == "rows":
        again = problem.n * problem.k * _again_cost(problem.b, tiling.b, tiling.width, written)
    else:
        again = problem.m * problem.k * _again_cost(problem.a, tiling.a, tiling.width, written)
    return problem.batch.total * again


def _again_cost(operand: Operand, source: Source, width: int, written: float) -> float:
    """Cycles an element of an operand that another partition reads or packs, too."""
    copied = 0.0 if source in ("place", "kept") else written
    return _READ + copied + _copy_cost(operand, source, width)


def _moved(plan: Plan, side: Side) -> float:
    """Cycles of moving what the kernel updates between cores where `side` is divided.

    Products that read a parameter divide its rows, if they divide it at all. An update that divides
    them too finds its elements in its own core's cache and leaves them where the next step reads them.
    """
    problem = plan.problem
    if side != "columns" or all(b.access != "inout" for b in problem.buffers):
        return 0.0
    return _MOVED * problem.m * problem.n


def describe(kernel: Kernel, plan: Plan, parts: int) -> Schedule:
    """The plan as a schedule: what is parallel, tiled, unrolled and a vector."""
    problem, tiling = plan.problem, plan.tiling
    batch, rows, columns = problem.sides
    units = plan.units
    divided = {"batch": batch, "rows": rows, "columns": columns}[plan.side]
    loops = [Loop(a.name, "parallel") for a in divided if parts > 1]
    inner: list[Loop] = []
    for axes, sizes in (
        (rows, [("tile", units["rows"])]),
        (columns, [("tile", units["columns"]), ("vector", tiling.width)]),
    ):
        if axes:
            inner += [Loop(axes[-1].name, role, size) for role, size in sizes]  # type: ignore[arg-type]
    named = {loop.axis for loop in (*loops, *inner)}
    loops += [Loop(a.name, "sequential") for a in kernel.axes if a.name not in named]
    steps = [a for a in kernel.stages[0].axes if size_of(a) != 1]
    around = [Loop(a.name, "sequential") for a in kernel.stages[0].axes if a not in steps[-1:]]
    sums = [Loop(a.name, "tile", tiling.kc) for a in steps[-1:]] + [
        Loop(a.name, "unroll", unroll(tiling.even(problem.k))) for a in steps[-1:]
    ]
    return Schedule(
        (*loops, *inner),
        ((*around, *sums), *(() for _ in kernel.stages[1:])),
        parts,
        "vector_contraction" if problem.is_vector else "contraction",
    )


_LEAST_PIECES = 8
"""Pieces of a side from which on it can be divided evenly enough."""

_OVERLAPPING = 1.05
"""How much longer packing takes than its copies where it reads the same lines over and over."""
_PIECE = 1.5
"""Cycles of one store of the epilogue."""
_LANE = 2.0
"""How much longer a store takes of each lane by itself."""


def estimate(plan: Plan) -> float:
    """Estimated cycles of a plan on one core."""
    problem, tiling = plan.problem, plan.tiling
    if plan.field is not None:
        return field_cycles(problem, plan.field, tiling)
    tiles = _tiles_cycles(plan)
    finish = problem.m * problem.n / problem.piece(tiling.width) * _PIECE * len(varying(problem))
    if _scatters(problem, tiling.width):
        finish *= _LANE * problem.piece(tiling.width)
    if plan.crossing is not None:
        cross = problem.n * plan.crossing.lead(problem) / tiling.full_width
        sums = cross * (_CROSS + 2 * _PIECE * tiling.blocks(problem.k))
        packed = _crossed_pack(problem, plan.crossing)
        return problem.batch.total * (problem.k * tiles + packed + sums + finish)
    if plan.gather is not None:
        return gather_cycles(problem, plan.gather, tiles, finish)
    pack_a = problem.m * problem.k * _copy_cost(problem.a, tiling.a, tiling.width)
    if tiling.near:
        work = problem.batch.total * problem.m * problem.n * problem.k
        shares = _NEAR_ALONG if along_steps(problem.b) else _NEAR
        tiles *= next((share for least, share in shares if work >= least), 1.0)
    else:
        pack_a *= max(1, -(-problem.n // tiling.nc))
    pack_b = (
        problem.n * problem.k * _copy_cost(problem.b, tiling.b, tiling.width) * -(-problem.m // tiling.mb)
    )
    windows = _OVERLAPPING if len(problem.b.steps.axes) > 1 and problem.b.direct is None else 1.0
    return windows * problem.batch.total * (problem.k * tiles + pack_a + pack_b + finish)


def _tiles_cycles(plan: Plan) -> float:
    """Cycles that all register tiles of a batch entry take for one step of k."""
    tiling, crossing = plan.tiling, plan.crossing
    if crossing is not None:
        broadcast = _tile_counts(plan.problem.n, crossing.columns)
        lanes = _tile_counts(plan.problem.m, crossing.panel)
        return sum(
            bc * lc * _tile_cycles(b, -(-n // crossing.width)) for b, bc in broadcast for n, lc in lanes
        )
    rows = _tile_counts(plan.problem.m, tiling.rows)
    columns = _tile_counts(plan.totals["columns"], tiling.columns)
    return sum(rc * cc * _tile_cycles(r, -(-c // tiling.width)) for r, rc in rows for c, cc in columns)


_NEAR = ((3 << 26, 0.95), (1 << 27, 0.985))
"""From how many multiply-adds on how long register tiles of three vectors whose panel of B is in L1 take, beside others: operands
of smaller products come fast enough in longer blocks of k."""
_NEAR_ALONG = ((3 << 26, 0.95), (1 << 25, 0.978))
"""The same where B is turned while it is packed."""

_CROSS = 4.0
"""Cycles a vector of sums takes to be transposed."""


def _crossed_pack(problem: Problem, crossing: Crossing) -> float:
    """Cycles of packing the rows of a crossed plan."""
    source: Source = "transpose" if along_steps(problem.a) else "panels"
    return problem.m * problem.k * _copy_cost(problem.a, source, crossing.width)


def _tile_counts(length: int, tile: int) -> list[tuple[int, int]]:
    """(size, count) of whole and edge tiles."""
    return [(tile, length // tile), (length % tile, 1 if length % tile else 0)]


def _tile_cycles(rows: int, vectors: int) -> float:
    """Cycles of one step of k: two multiply-adds or loads a cycle, four cycles of latency."""
    return max(rows * vectors / 2, (rows + vectors) / 2, 4.0) if rows and vectors else 0.0


def _copy_cost(operand: Operand, source: Source, width: int) -> float:
    """Cycles an element of packing: chunks of a run, and the beginning of each run."""
    if source == "kept":
        return 0.0
    if source == "place":
        size = operand.body[0].dtype.itemsize
        return 0.0 if operand.direct is None or is_near(operand.direct, size) else _FAR
    group, rows = (operand.steps, width) if source == "transpose" else (operand.rows, 1)
    if source == "runs":
        group = operand.steps
    run = max(1, group.run)
    gathers = operand.stride(group.inner) not in (0, 1)
    guarded = any(i.guards for i in operand.body)
    chunk = rows * (1.5 * width if gathers else 3.0 if guarded else 1.5)
    if source == "transpose":
        chunk += 3.0 * width
    begin = (0.0, 2.0, 2.0)[len(group.axes)] if len(group.axes) < 3 else 12.0
    return (-(-run // width) * chunk + begin) / (run * rows)


_FAR = 0.3
"""Cycles an element of an operand read in place takes longer where each step of k is on another page."""


def _scatters(problem: Problem, width: int) -> bool:
    """True where some store is not contiguous along the columns, so that each lane is stored by itself."""
    axis = problem.columns.inner
    if axis is None or width == 1:
        return False
    piece = problem.piece(width)
    lanes = LaneAxis(axis.name, piece, piece)
    return any(i.opcode == "store" and lane_step(lanes, i.index[0]) != 1 for i in problem.epilogue)
