"""The register tile: the innermost loop of every matrix product and convolution.

A tile is `rows` × (`vectors` · `width`) accumulators held in registers as loop-carried
values. Each step of k broadcasts `rows` scalars of A, loads `vectors` vectors of B and does
`rows · vectors` fused multiply-adds. Element (i, j) of a tile is
fma(a[i, k], b[k, j], …) in ascending k starting from +0, whatever the tile's shape, so full
tiles, edge tiles and any split of the output give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from graphc.backends.llvm.contraction.axes import constant, times
from graphc.backends.llvm.text import Builder, Val, element, vector

__all__ = ["UNROLL", "Columns", "Panel", "PanelColumns", "accumulate", "accumulate_some", "multiply_add"]

UNROLL = 4
"""Steps of k in one iteration of the innermost loop."""


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


def accumulate(
    builder: Builder,
    scalar: str,
    width: int,
    rows: int,
    vectors: int,
    a: tuple[Val, Panel],
    b: Columns,
    steps: Val,
    whole_unrolls: bool,
    a_next: int = 0,
    between: Callable[[Val], None] | None = None,
    sums: Sequence[Val] | None = None,
) -> list[list[Val]]:
    """Emits the loop over `steps` values of k; returns accumulators [row][vector].

    `whole_unrolls` says that `steps` is always a multiple of `UNROLL`. `a` is the address of its
    first element and its panel; where `a_next` is not 0, what lies that many elements on is fetched
    meanwhile. `scalar` is the LLVM element type of both operands and of the accumulators. `between`
    is called with 0, 1, … at least `rows` times, evenly through the steps. `sums` are what the accumulators
    begin with instead of +0, row by row.
    """
    zero = builder.const(vector(scalar, width), 0)
    start, panel = a
    count = len(b.begin())

    fetch = _Fetch(builder, panel, rows, scalar, a_next, steps) if a_next else None

    def body(unroll: int, carried: tuple[Val, ...]) -> list[Val]:
        address, walking, acc = carried[0], carried[1 : 1 + count], list(carried[1 + count :])
        for u in range(unroll):
            columns = b.load(builder, walking, u)
            for i in range(rows):
                place = builder.gep(address, u * panel.step + i * panel.lane, scalar)
                broadcast = builder.splat(builder.load(scalar, place), width)
                for j in range(vectors):
                    at = i * vectors + j
                    acc[at] = multiply_add(builder, broadcast, columns[j], acc[at])
        following = builder.gep(address, unroll * panel.step, scalar)
        return [following, *b.advance(builder, walking, unroll), *acc]

    def unrolled(carried: tuple[Val, ...]) -> list[Val]:
        if fetch is None:
            return body(UNROLL, carried)
        walked = fetch.emit(carried[0], carried[len(carried) - fetch.carries :])
        return [*body(UNROLL, carried[: len(carried) - fetch.carries]), *walked]

    whole = steps if whole_unrolls else builder.binary("and", steps, constant(-UNROLL))
    carried: tuple[Val, ...] = (start, *b.begin(), *(sums or [zero] * (rows * vectors)))
    walks = fetch.begin(start) if fetch is not None else ()

    def steps_from(first: Val | int, end: Val, carried: tuple[Val, ...]) -> tuple[Val, ...]:
        return builder.loop(first, end, UNROLL, carried, lambda _, c: unrolled(c), "k")

    if between is None:
        carried = steps_from(0, whole, (*carried, *walks))
    else:
        carried = _in_turns(builder, rows, whole, (*carried, *walks), between, steps_from)
    carried = carried[: len(carried) - len(walks)]
    if not whole_unrolls:
        carried = builder.loop(whole, steps, 1, carried, lambda _, c: body(1, c), "krest")
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
            broadcast = builder.splat(builder.load(scalar, place), width)
            present = there(k, i)
            for j in range(vectors):
                old = carried[i * vectors + j]
                following.append(
                    builder.select(present, multiply_add(builder, broadcast, columns[j], old), old)
                )
        return following

    found = builder.loop(*bounds, 1, [x for row in grid for x in row], step, "ksome")
    return [list(found[i * vectors : (i + 1) * vectors]) for i in range(rows)]


def _in_turns(
    builder: Builder,
    rows: int,
    steps: Val,
    carried: tuple[Val, ...],
    between: Callable[[Val], None],
    steps_from: Callable[[Val, Val, tuple[Val, ...]], tuple[Val, ...]],
) -> tuple[Val, ...]:
    """The loop over steps in at least `rows` nearly equal parts, `between` before each of them."""
    part = builder.op("i64", f"udiv {steps}, {rows * UNROLL}")
    part = builder.select(builder.icmp("eq", part, Val("i64", "0")), Val("i64", "1"), part)
    length = builder.mul(part, Val("i64", str(UNROLL)))

    def turn(first: Val, carried: tuple[Val, ...]) -> Sequence[Val]:
        between(carried[0])
        end = builder.add(first, length)
        end = builder.select(builder.icmp("slt", end, steps), end, steps)
        return [builder.add(carried[0], Val("i64", "1")), *steps_from(first, end, carried[1:])]

    return builder.loop(0, steps, length, (Val("i64", "0"), *carried), turn, "turn")[1:]


@dataclass(frozen=True)
class _Fetch:
    """Asks for the A of the next tile, `distance` elements on, a few lines in each unrolled iteration.

    Rows that lie apart are walked in `turns` rounds, so that each of their lines is asked for once:
    round r takes rows r, r + turns, … over all steps.
    """

    builder: Builder
    panel: Panel
    rows: int
    scalar: str
    distance: int
    steps: Val

    @property
    def line(self) -> int:
        return 64 // (8 if self.scalar == "double" else 4)

    @property
    def turns(self) -> int:
        return max(1, self.line // UNROLL)

    @property
    def carries(self) -> int:
        return 2 if self.panel.step == 1 else 0

    def begin(self, start: Val) -> tuple[Val, ...]:
        """The carried values: where the walk is, and how many steps its round has left."""
        if self.panel.step != 1:
            return ()
        return self.builder.gep(start, self.distance, self.scalar), self._round()

    def _round(self) -> Val:
        return self.builder.binary("sdiv", self.steps, constant(self.turns))

    def emit(self, address: Val, carried: Sequence[Val]) -> list[Val]:
        """One iteration; `address` is where the tile reads A."""
        builder, panel = self.builder, self.panel
        if panel.step != 1:
            lines = (
                range(0, UNROLL * self.rows, self.line)
                if panel.step == self.rows
                else [k * panel.step for k in range(UNROLL)]
            )
            for at in lines:
                builder.prefetch(builder.gep(address, self.distance + at, self.scalar))
            return []
        place, left = carried
        for i in range(0, self.rows, self.turns):
            builder.prefetch(builder.gep(place, i * panel.lane, self.scalar))
        rest = builder.binary("add nsw", left, constant(-UNROLL))
        over = builder.icmp("slt", rest, Val("i64", "1"))
        size = self._round()
        back = builder.op(
            "i64", f"sub nsw i64 {panel.lane}, {builder.op('i64', f'mul nsw {size}, {self.turns}').text}"
        )
        onward = builder.gep(place, self.line, self.scalar)
        return [
            builder.select(over, builder.gep(onward, back, self.scalar), onward),
            builder.select(over, size, rest),
        ]
