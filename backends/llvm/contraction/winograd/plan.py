"""Which sums over windows are computed through transformed tiles, and in which blocks.

Whether they are is decided by the op's shape, dtype and target alone, because it changes bits.
Blocks and partitions change none.

Costs are cycles of one core: two multiply-adds a cycle, and what transforms take for a vector of lanes.
"""

from __future__ import annotations

import itertools

from graphc.backends.llvm.contraction.axes import Group
from graphc.backends.llvm.contraction.by_text import by_text
from graphc.backends.llvm.contraction.problem import Side
from graphc.backends.llvm.contraction.tiling import round_up
from graphc.backends.llvm.contraction.winograd.pattern import Windows, find_windows, plain_weights
from graphc.ir.dims import Symbol
from graphc.ir.kernel import Kernel, Loop, Schedule, extent
from graphc.ir.records import dataclass
from graphc.ir.target import Target

__all__ = ["FREQUENCIES", "GROUP", "Plan", "describe", "make_plan"]

FREQUENCIES = 16
"""Elements of a transformed 4×4 tile."""
GROUP = 16
"""Channels whose rows are gathered before they are transformed."""

_LEAST_SIZE = 4
"""Output positions along an axis below which tiles are mostly edges."""
_PAYS = 0.9
"""At most this share of the direct sum's time."""
_DIRECT, _PRODUCTS = 0.8, 0.85
"""Shares of the peak that the direct sum and the products of tiles reach."""
_DATA, _WEIGHTS, _RESULT = 110.0, 70.0, 80.0
"""Cycles of a vector of lanes through each transform."""
_GATHERED = 20.0
"""How much longer a vector of weights takes whose lanes are gathered one by one."""
_IN_PHASES, _COPIES = 0.35, 40.0
"""Of data of which every other point is there: the share of the peak that a sum in phases reaches, and cycles of a vector
of lanes through four copies."""
_STEPS = 320
"""Most steps of a product's chunk."""
_LATE = 0.02
"""Share of its time that a thread loses now and then."""
_TILES = {16: ((4, 3), (6, 2)), 32: ((8, 3), (12, 2), (6, 4))}
"""(rows, vectors) of register tiles by registers of the target."""


@dataclass(frozen=True)
class Plan:
    """Blocks of a sum over windows.

    `width` lanes; register tiles of `rows` × `vectors`; blocks of `block` tiles and `row_block` rows;
    transformed weights of all row blocks are `kept` where there are several blocks of tiles.
    Partitions divide `side`, into `parts` at most. `cycles` are estimated, of one core.
    """

    windows: Windows
    tiles: Group
    width: int
    rows: int
    vectors: int
    block: int
    row_block: int
    kept: bool
    side: Side
    parts: int
    cycles: float

    @property
    def totals(self) -> dict[Side, int]:
        """What partitions divide: rows, and tiles as columns."""
        return {"batch": 1, "rows": self.windows.rows.total, "columns": self.tiles.total}

    @property
    def units(self) -> dict[Side, int]:
        """What a partition's share is a multiple of."""
        return {"batch": 1, "rows": self.rows, "columns": self.width * self.vectors}

    @property
    def lead(self) -> int:
        """Elements of a row of transformed tiles, with room to spoil at the end: an odd number of vectors, so that
        rows spread over the cache sets."""
        half = self.width // 2
        spoilt = half - 1
        if self.block >= self.tiles.total and self.side == "rows":
            spoilt = -self.tiles.run % (half if self.tiles.run % self.width <= half else self.width)
        last = max(round_up(self.block, self.width), min(self.block, self.tiles.total) + spoilt)
        vectors = -(-last // self.width)
        return (vectors + 1 - vectors % 2) * self.width

    @property
    def strided(self) -> bool:
        """True where only every other point of data is there."""
        return self.windows.parity is not None

    @property
    def frequencies(self) -> int:
        """Products of a tile, and values that its data becomes."""
        return FREQUENCIES if self.windows.parity is None else 4

    @property
    def depth(self) -> int:
        """Elements between the rows of a block of transformed weights."""
        return self.windows.channels * FREQUENCIES // self.frequencies

    @property
    def chunk(self) -> int:
        """Steps that a product sums at a time, a divisor of the channels: long sums have larger errors, and their panels
        leave L1."""
        channels = self.windows.channels
        counts = range(-(-channels // _STEPS), 9)
        return next((channels // n for n in counts if channels % n == 0), channels)

    @property
    def weights_apart(self) -> int:
        """Elements between the frequencies of a block of transformed weights."""
        return _odd_lines(self.row_block * self.depth)

    @property
    def data_apart(self) -> int:
        """Elements between the frequencies of transformed tiles."""
        size = self.windows.channels * self.lead
        return size if self.strided else _odd_lines(size)

    @property
    def products_apart(self) -> int:
        """Elements between the frequencies of products."""
        return _odd_lines(self.row_block * self.lead)

    @property
    def line(self) -> int:
        """Elements of one phase of a gathered row."""
        return round_up(self.tiles.run + 1, self.width) + self.width

    @property
    def scratch(self) -> tuple[int, int, int, int]:
        """Bytes of one partition's transformed weights, transformed tiles, their products and gathered rows."""
        windows = self.windows
        blocks = -(-windows.rows.total // self.row_block) if self.kept else 1
        sizes = (
            blocks * self.frequencies * self.weights_apart,
            self.frequencies * self.data_apart + self.width,
            self.frequencies * self.products_apart,
            0 if self.strided else GROUP * 4 * 2 * self.line + self.width,
        )
        return tuple(round_up(4 * s, 64) for s in sizes)  # type: ignore[return-value]


def _odd_lines(elements: int) -> int:
    """At least so many, as an odd number of cache lines: what lies that far apart is in different cache sets."""
    lines = -(-elements // 16)
    return (lines + 1 - lines % 2) * 16


@dataclass(frozen=True)
class _Costs:
    """Cycles of the parts of one sum."""

    products: float
    data: float
    weights: float
    result: float

    @property
    def total(self) -> float:
        return self.products + self.data + self.weights + self.result


@by_text
def make_plan(
    kernel: Kernel, target: Target, vector: bool | None = None, always: bool = False
) -> Plan | None:
    """The plan of a kernel whose windows are worth transforming, or `always` are where they can be; None of any
    other kernel."""
    windows = find_windows(kernel, vector)
    width = target.width(32)
    if windows is None or width < 4 or min(windows.sizes) < _LEAST_SIZE:
        return None
    images = 1
    for a in windows.images:
        images *= extent(a)
    tiles = Group(
        (*windows.images, *(Symbol(f"tile_{a.name}", 0, -(-extent(a) // 2) - 1) for a in windows.outputs))
    )
    m, c, t = windows.rows.total, windows.channels, tiles.total
    if not m * c * t:
        return None
    points = images * windows.sizes[0] * windows.sizes[1]
    if windows.parity is None:
        costs = _costs(m, c, t, tiles.run, width)
        direct = 9 * m * c * points / (2 * width * _DIRECT)
    else:
        costs = _strided_costs(m, c, t, tiles.run, width)
        direct = 9 / 4 * m * c * points / (2 * width * _IN_PHASES)
    if costs.total > _PAYS * direct and not always:
        return None
    return _blocked(windows, tiles, costs, target, width)


def _costs(m: int, c: int, t: int, run: int, width: int) -> _Costs:
    chunks = t // run * -(-run // width)
    return _Costs(
        products=FREQUENCIES * m * c * -(-t // width) / (2 * _PRODUCTS),
        data=_DATA * c * chunks,
        weights=_WEIGHTS * m * -(-c // width),
        result=_RESULT * m * chunks,
    )


def _strided_costs(m: int, c: int, t: int, run: int, width: int) -> _Costs:
    chunks = t // run * -(-run // width)
    return _Costs(
        products=9 * m * c * -(-t // width) / (2 * _PRODUCTS),
        data=_COPIES * c * chunks,
        weights=_WEIGHTS * m * -(-c // width),
        result=_RESULT * m * chunks,
    )


def _blocked(windows: Windows, tiles: Group, costs: _Costs, target: Target, width: int) -> Plan:
    m, c, t = windows.rows.total, windows.channels, tiles.total
    vectors_all = -(-t // width)
    rows, vectors = min(
        _TILES[16 if target.vector_registers <= 16 else 32],
        key=lambda s: _tile_cycles(m, vectors_all, *s),
    )
    size = 4 * c * (FREQUENCIES if windows.parity is None else 4)
    unit = width * vectors
    if round_up(t, width) * size <= 2 * target.l2_bytes and t <= 4 * unit:
        block = round_up(t, width)
    else:
        block = unit * max(1, min(target.l2_bytes // 2 // (size * unit), -(-t // unit), 4))
    cache = target.l2_bytes // 2 if block < t else target.l2_bytes * 3 // 4
    weights = 4 * c * (FREQUENCIES if windows.parity is None else 9)
    row_block = rows * max(1, min(cache // (weights * rows), -(-m // rows), 32 // rows))
    parts, side = min(_divisions(costs, m, t, rows, unit, target.cores))[1:]
    gathered = 0.0 if plain_weights(windows) is not None else _GATHERED * m * -(-c // width)
    return Plan(
        windows, tiles, width, rows, vectors, block, row_block, block < t, side, parts, costs.total + gathered
    )


def _tile_cycles(m: int, vectors_all: int, rows: int, vectors: int) -> float:
    """Cycles of all register tiles for one step."""
    total = 0.0
    for r, rc in ((rows, m // rows), (m % rows, 1)):
        for v, vc in ((vectors, vectors_all // vectors), (vectors_all % vectors, 1)):
            if r and v:
                total += rc * vc * max(r * v / 2, (r + v) / 2, 4.5)
    return total


def _divisions(
    costs: _Costs, m: int, t: int, rows: int, unit: int, cores: int
) -> list[tuple[float, int, Side]]:
    """(cycles of the thread with most to do, partitions, divided side); each side repeats one transform."""
    found: list[tuple[float, int, Side]] = []
    sides: tuple[tuple[Side, int, int, float], ...] = (
        ("rows", m, rows, costs.data),
        ("columns", t, unit, costs.weights),
    )
    for side, total, piece, again in sides:
        pieces = -(-total // piece)
        for parts in (1, 2, 4, 8, 16):
            if parts <= pieces:
                rounds = -(-parts // cores)
                edges = [min(total, n * pieces // parts * piece) for n in range(parts + 1)]
                share = max(b - a for a, b in itertools.pairwise(edges)) / total
                cycles = rounds * ((costs.total - again) * share + again) * (1 + _LATE / rounds)
                found.append((cycles, parts, side))
    return found


def describe(kernel: Kernel, plan: Plan) -> Schedule:
    """The plan as a schedule."""
    windows = plan.windows
    names = [a.name for a in windows.rows.axes] if plan.side == "rows" else []
    if plan.side == "columns":
        names = [a.name for a in (*windows.images, *windows.outputs)]
    parallel = [Loop(a.name, "parallel") for a in kernel.axes if a.name in names and plan.parts > 1]
    others = [Loop(a.name, "sequential") for a in kernel.axes if a.name not in {x.axis for x in parallel}]
    last = windows.outputs[1].name
    loops = (*parallel, *others, Loop(last, "tile", 2), Loop(last, "vector", plan.width))
    sums = tuple(Loop(a.name, "sequential") for a in kernel.stages[0].axes)
    return Schedule(loops, (sums, *(() for _ in kernel.stages[1:])), plan.parts, "tiled_windows")
