"""The register tile: the innermost loop of every matrix product and convolution.

A tile is `rows` × (`vectors` · `width`) accumulators held in registers as loop-carried
values. Each step of k broadcasts `rows` scalars of A, loads `vectors` vectors of B and does
`rows · vectors` fused multiply-adds. Element (i, j) of a tile is
fma(a[i, k], b[k, j], …) in ascending k starting from +0, whatever the tile's shape, so full
tiles, edge tiles and any split of the output give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.backends.llvm.text import Builder, Val, element, vector

__all__ = ["UNROLL", "Panel", "accumulate", "multiply_add"]

UNROLL = 4
"""Steps of k in one iteration of the innermost loop."""


@dataclass(frozen=True, slots=True)
class Panel:
    """How a register tile reads one operand; both strides are in elements.

    `lane` separates neighbouring rows (A) and is 1 for B; `step` separates neighbouring k.
    `ragged` is the number of lanes of the last vector that may be read, 0 for all.
    """

    lane: int
    step: int
    ragged: int = 0


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
    b: tuple[Val, Panel],
    steps: Val | int,
) -> list[list[Val]]:
    """Emits the loop over `steps` values of k; returns accumulators [row][vector].

    `a` and `b` are (address of the first element, panel). `scalar` is the LLVM element type
    of both operands and of the accumulators.
    """
    type_ = vector(scalar, width)
    zero = builder.const(type_, 0)
    grid = [zero] * (rows * vectors)

    def step(a_address: Val, b_address: Val, offset: int, acc: list[Val]) -> list[Val]:
        columns = [_load_b(builder, scalar, width, b_address, b[1], offset, j, vectors) for j in range(vectors)]
        result = list(acc)
        for i in range(rows):
            place = builder.gep(a_address, offset * a[1].step + i * a[1].lane, scalar)
            broadcast = builder.splat(builder.load(scalar, place), width)
            for j in range(vectors):
                at = i * vectors + j
                result[at] = multiply_add(builder, broadcast, columns[j], acc[at])
        return result

    def body(unroll: int, carried: tuple[Val, ...]) -> list[Val]:
        a_address, b_address, *acc = carried
        for u in range(unroll):
            acc = step(a_address, b_address, u, acc)
        return [
            builder.gep(a_address, unroll * a[1].step, scalar),
            builder.gep(b_address, unroll * b[1].step, scalar),
            *acc,
        ]

    whole: Val | int
    if isinstance(steps, int):
        whole, rest = steps - steps % UNROLL, steps % UNROLL
    else:
        whole, rest = builder.op("i64", f"and {steps}, {-UNROLL}"), -1
    carried: tuple[Val, ...] = (a[0], b[0], *grid)
    if whole != 0:
        carried = builder.loop(0, whole, UNROLL, carried, lambda _, c: body(UNROLL, c), "k")
    if rest > 0:
        carried = tuple(body(rest, carried))
    elif rest < 0:
        carried = builder.loop(whole, steps, 1, carried, lambda _, c: body(1, c), "krest")
    acc = carried[2:]
    return [list(acc[i * vectors : (i + 1) * vectors]) for i in range(rows)]


def _load_b(
    builder: Builder, scalar: str, width: int, address: Val, panel: Panel, offset: int, j: int, vectors: int
) -> Val:
    type_ = vector(scalar, width)
    place = builder.gep(address, offset * panel.step + j * width, scalar)
    size = {"float": 4, "double": 8}.get(scalar) or int(scalar[1:]) // 8
    if panel.ragged and j == vectors - 1:
        mask = builder.lane_mask(Val("i64", str(panel.ragged)), width)
        return builder.masked_load(type_, place, mask, builder.const(type_, 0), size)
    return builder.load(type_, place, size)
