"""The register tile: the innermost loop of every matrix product and convolution.

A tile is `rows` × (`vectors` · `width`) accumulators held in registers as loop-carried
values. Each step of k broadcasts `rows` scalars of A, loads `vectors` vectors of B and does
`rows · vectors` fused multiply-adds. Element (i, j) of a tile is
fma(a[i, k], b[k, j], …) in ascending k starting from +0, whatever the tile's shape, so full
tiles, edge tiles and any split of the output give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from graphc.backends.llvm.text import Builder, Val, element, vector

__all__ = ["UNROLL", "Columns", "Panel", "PanelColumns", "accumulate", "multiply_add"]

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
) -> list[list[Val]]:
    """Emits the loop over `steps` values of k; returns accumulators [row][vector].

    `whole_unrolls` says that `steps` is always a multiple of `UNROLL`. `a` is the address of its first element and its panel. `scalar` is the LLVM element type of
    both operands and of the accumulators.
    """
    zero = builder.const(vector(scalar, width), 0)
    start, panel = a
    count = len(b.begin())

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

    whole = steps if whole_unrolls else builder.op("i64", f"and {steps}, {-UNROLL}")
    carried: tuple[Val, ...] = (start, *b.begin(), *[zero] * (rows * vectors))
    carried = builder.loop(0, whole, UNROLL, carried, lambda _, c: body(UNROLL, c), "k")
    if not whole_unrolls:
        carried = builder.loop(whole, steps, 1, carried, lambda _, c: body(1, c), "krest")
    acc = carried[1 + count :]
    return [list(acc[i * vectors : (i + 1) * vectors]) for i in range(rows)]
