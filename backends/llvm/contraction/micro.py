"""The register tile: the innermost loop of every matrix product and convolution.

A tile is `rows` × (`vectors` · `width`) accumulators held in registers as loop-carried
values. Each step of k broadcasts `rows` scalars of A, loads `vectors` vectors of B and does
`rows · vectors` fused multiply-adds. Element (i, j) of a tile is
fma(a[i, k], b[k, j], …) in ascending k starting from +0, whatever the tile's shape, so full
tiles, edge tiles and any split of the output give the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from graphc.backends.llvm.contraction.axes import constant, minimum, times
from graphc.backends.llvm.text import Builder, Val, element, vector

__all__ = [
    "STRETCH",
    "Ahead",
    "Columns",
    "Following",
    "Panel",
    "PanelColumns",
    "accumulate",
    "accumulate_some",
    "broadcast_from",
    "multiply_add",
    "unroll",
]


@dataclass(frozen=True, slots=True)
class Panel:
    """How a register tile reads A, in elements: `lane` between neighbouring rows, `step` between k."""

    lane: int
    step: int


class Columns(Protocol):
    """Where the vectors of B come from. `carried` values walk along k from `begin`."""

    def begin(self) -> list[Val]:
        """The carried values at the block's first k."""

    def from_step(self, builder: Builder, step: Val) -> Columns:
        """The same vectors where the block's first k is `step` steps on."""

    def load(self, builder: Builder, carried: Sequence[Val], offset: int) -> list[Val]:
        """The vectors of B, `offset` steps of k on."""

    def advance(self, builder: Builder, carried: Sequence[Val], count: int) -> list[Val]:
        """The carried values `count` steps on."""


@dataclass(frozen=True)
class PanelColumns:
    """Vectors side by side from one address, neighbouring k `step` elements apart.

    Of the last vector only the first `ragged` lanes are read, all for 0.
    """

    address: Val
    scalar: str
    width: int
    vectors: int
    step: int
    ragged: int

    def begin(self) -> list[Val]:
        return [self.address]

    def from_step(self, builder: Builder, step: Val) -> PanelColumns:
        place = builder.gep(self.address, times(builder, step, self.step), self.scalar)
        return replace(self, address=place)

    def load(self, builder: Builder, carried: Sequence[Val], offset: int) -> list[Val]:
        type_, size = vector(self.scalar, self.width), 8 if self.scalar == "double" else 4
        result = []
        for j in range(self.vectors):
            place = builder.gep(carried[0], offset * self.step + j * self.width, self.scalar)
            if self.ragged and j == self.vectors - 1:
                mask = builder.lane_mask(Val("i64", str(self.ragged)), self.width)
                result.append(builder.masked_load(type_, place, mask, builder.const(type_, 0), size))
            else:
                result.append(builder.load(type_, place, size))
        return result

    def advance(self, builder: Builder, carried: Sequence[Val], count: int) -> list[Val]:
        return [builder.gep(carried[0], count * self.step, self.scalar)]


def multiply_add(builder: Builder, a: Val, b: Val, c: Val) -> Val:
    """a·b + c in the type of `c`: fused where the target fuses, integers wrap around."""
    if element(c.type).startswith("i"):
        return builder.add(builder.mul(a, b), c)
    return builder.fma(a, b, c)


def broadcast_from(builder: Builder, scalar: str, address: Val, width: int) -> Val:
    """A loaded scalar in all lanes."""
    if scalar in ("float", "double"):
        return builder.load_splat(scalar, address, width)
    return builder.splat(builder.load(scalar, address), width)


def unroll(even: int) -> int:
    """Steps of k in one iteration of the innermost loop, where blocks have a multiple of `even` steps.

    Eight, so that counting takes little of the instructions that a core issues: it may share them with another
    hardware thread.
    """
    return 8 if even % 8 == 0 else 4


STRETCH = 64
"""Steps of k between two requests for lines."""

_CROWDED = 2048
"""Rows a multiple of so many bytes apart lie in at most two places of each way of L1."""


_MOST_LINES = 4
"""Lines of B that are asked for in an iteration of the innermost loop at most."""


@dataclass(frozen=True)
class Following:
    """Packed columns that tiles below one another ask for while they sum: those `distance` elements on, `columns` for each
    step. Tile `number` of `tiles` asks for its part of the lines in each iteration."""

    distance: int
    columns: int
    number: Val
    tiles: int

    def ask(self, builder: Builder, address: Val, steps: int, scalar: str) -> None:
        """The requests of an iteration of so many steps whose columns begin at `address`."""
        line = 64 // (8 if scalar == "double" else 4)
        each = min(_MOST_LINES, -(-steps * self.columns // line // self.tiles))
        first = builder.gep(address, times(builder, self.number, each * line), scalar)
        for i in range(each):
            builder.prefetch(builder.gep(first, self.distance + i * line, scalar))


@dataclass(frozen=True)
class Ahead:
    """What is asked for while a tile sums: the A of the tile `distance` elements on, where `wanted` (None: always; not
    at all where the distance is 0), and by `between` what else comes next; it is called with 0, 1, … for each stretch.

    Where several tiles with the same A follow each other, each is number `share[0]` of `share[1]` that ask for a part of the
    lines, so that these come from memory at an even rate: a core waits for few lines at once, and B comes through the same queue.
    """

    distance: int = 0
    wanted: Val | None = None
    between: Callable[[Val], None] | None = None
    share: tuple[Val, int] | None = None
    following: Following | None = None

    def ask(self, builder: Builder, number: Val, address: Val, panel: Panel, rows: int, scalar: str) -> None:
        """The requests of stretch `number`, whose A begins at `address`."""
        if self.between is not None:
            self.between(number)
        if not self.distance:
            return
        size = 8 if scalar == "double" else 4
        # Rows that share few sets of L1 would drive out those that are summed now.
        level = 2 if panel.step == 1 and panel.lane * size % _CROWDED == 0 else 1
        line, lines, wanted, every = 64 // size, STRETCH * size // 64, self.wanted, 1
        if panel.step == 1:
            if self.share is not None:
                number, every = self.share
                address = builder.gep(address, times(builder, number, line), scalar)
                wanted = builder.icmp("slt", number, constant(lines)) if every > lines else wanted
            places = [i * panel.lane + k * line for k in range(0, lines, every) for i in range(rows)]
        else:
            places = [k * panel.step for k in range(STRETCH)]
        with contextlib.nullcontext() if wanted is None else builder.if_(wanted):
            for at in places:
                builder.prefetch(builder.gep(address, self.distance + at, scalar), level=level)


def accumulate(
    builder: Builder,
    scalar: str,
    width: int,
    rows: int,
    vectors: int,
    a: tuple[Val, Panel],
    b: Columns,
    steps: Val,
    even: int,
    ahead: Ahead | None = None,
    sums: Sequence[Val] | None = None,
    begun: Val | int = 0,
) -> list[list[Val]]:
    """Emits the loop over `steps` values of k; returns accumulators [row][vector].

    `steps` is always a multiple of `even`. `a` is the address of its first element and its panel. `scalar` is the
    LLVM element type of both operands and of the accumulators. `sums` are what the accumulators begin with instead of
    +0, row by row. The tile has done `begun` steps before, a multiple of `STRETCH` or nearly.
    """
    zero = builder.const(vector(scalar, width), 0)
    start, panel = a
    count = len(b.begin())

    def body(size: int, carried: tuple[Val, ...]) -> list[Val]:
        address, walking, acc = carried[0], carried[1 : 1 + count], list(carried[1 + count :])
        if ahead is not None and ahead.following is not None and size > 1:
            ahead.following.ask(builder, walking[0], size, scalar)
        for u in range(size):
            columns = b.load(builder, walking, u)
            for i in range(rows):
                place = builder.gep(address, u * panel.step + i * panel.lane, scalar)
                broadcast = broadcast_from(builder, scalar, place, width)
                for j in range(vectors):
                    at = i * vectors + j
                    acc[at] = multiply_add(builder, broadcast, columns[j], acc[at])
        following = builder.gep(address, size * panel.step, scalar)
        return [following, *b.advance(builder, walking, size), *acc]

    def walk(first: Val | int, end: Val, size: int, carried: tuple[Val, ...], hint: str) -> tuple[Val, ...]:
        return builder.loop(first, end, size, carried, lambda _, c: body(size, c), hint)

    def stretch(first: Val, carried: tuple[Val, ...]) -> tuple[Val, ...]:
        assert ahead is not None
        done = builder.add(first, begun if isinstance(begun, Val) else constant(begun))
        number = builder.binary("udiv", done, constant(STRETCH))
        ahead.ask(builder, number, carried[0], panel, rows, scalar)
        return walk(first, minimum(builder, builder.add(first, constant(STRETCH)), whole), size, carried, "k")

    size = unroll(even)
    whole = steps if even % size == 0 else builder.binary("and", steps, constant(-size))
    carried: tuple[Val, ...] = (start, *b.begin(), *(sums or [zero] * (rows * vectors)))
    if ahead is None or not (ahead.distance or ahead.between):
        carried = walk(0, whole, size, carried, "k")
    else:
        carried = builder.loop(0, whole, STRETCH, carried, stretch, "stretch")
    if even % size != 0:
        carried = walk(whole, steps, 1, carried, "krest")
    acc = carried[1 + count :]
    return [list(acc[i * vectors : (i + 1) * vectors]) for i in range(rows)]


def accumulate_some(
    builder: Builder,
    scalar: str,
    width: int,
    a: tuple[Val, Panel],
    b: Columns,
    bounds: tuple[Val, Val],
    grid: Sequence[Sequence[Val]],
    there: Callable[[Val, int], Val],
) -> list[list[Val]]:
    """Adds the terms of steps [from, to) to a grid of sums, of row i those of the steps k for which `there(k, i)` holds."""
    start, panel = a
    rows, vectors = len(grid), len(grid[0])

    def step(k: Val, carried: tuple[Val, ...]) -> list[Val]:
        at = b.from_step(builder, k)
        columns = at.load(builder, at.begin(), 0)
        following = []
        for i in range(rows):
            place = builder.gep(
                builder.gep(start, times(builder, k, panel.step), scalar), i * panel.lane, scalar
            )
            broadcast = broadcast_from(builder, scalar, place, width)
            present = there(k, i)
            for j in range(vectors):
                old = carried[i * vectors + j]
                following.append(
                    builder.select(present, multiply_add(builder, broadcast, columns[j], old), old)
                )
        return following

    found = builder.loop(*bounds, 1, [x for row in grid for x in row], step, "ksome")
    return [list(found[i * vectors : (i + 1) * vectors]) for i in range(rows)]
