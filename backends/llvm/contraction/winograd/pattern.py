"""Recognises a sum over 3×3 windows that lie one apart, by structure alone.

The data operand of such a sum depends on an output position and a window offset through their sum
only: y[.., k, p, q] = Σ_{c, r, s} data[.., c, p + r, q + s] · weights[k, c, r, s], or through their
difference, as in the gradient of such a sum: then offsets are counted from the window's other end.
Whatever bodies the operands have, they are read at such points.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import product

from graphc.backends.llvm.contraction.axes import Group, is_affine
from graphc.backends.llvm.contraction.problem import flat, flat_buffer, split_sides
from graphc.ir.dims import Dim, Symbol, split_linear, substitute, symbols
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer, extent, replace_symbols
from graphc.ir.records import dataclass
from graphc.ir.scalar import Guard
from graphc.ir.types import float32

__all__ = ["TAPS", "PlainWeights", "Windows", "find_windows", "plain_weights"]

TAPS = 3
"""Offsets of a window along each axis."""


@dataclass(frozen=True)
class Factor:
    """A factor's body, with linear offsets as indices, and the number of its result."""

    body: tuple[Instruction, ...]
    result: int


@dataclass(frozen=True)
class Windows:
    """A recognised sum. `buffers` are flat.

    `data` is a function of `images`, `channel` and the two positions `at`; `weights` of `rows` (output
    channels), `channel` and the two window offsets `taps`. `outputs` are the output positions, on which,
    with images and rows, the epilogue depends; `sum` is its scalar of the finished sum.

    Where there is a `parity`, only every other point of data is there (the gradient of windows two apart): those at
    2 · at + parity, and a tile of 2×2 outputs meets 2×2 of them.
    """

    buffers: tuple[KernelBuffer, ...]
    rows: Group
    images: tuple[Symbol, ...]
    channel: Symbol
    outputs: tuple[Symbol, Symbol]
    at: tuple[Symbol, Symbol]
    taps: tuple[Symbol, Symbol]
    data: Factor
    weights: Factor
    sum: int
    epilogue: tuple[Instruction, ...]
    parity: tuple[int, int] | None = None

    @property
    def channels(self) -> int:
        return extent(self.channel)

    @property
    def sizes(self) -> tuple[int, int]:
        """Output positions along both axes."""
        return extent(self.outputs[0]), extent(self.outputs[1])


@dataclass(frozen=True)
class PlainWeights:
    """Weights read from an array as it stands, whose taps of a channel lie side by side: neighbouring channels are `apart`
    elements apart, the first tap in memory is at `start`; `turned` where that is the window's last."""

    buffer: int
    start: Dim
    apart: int
    turned: bool


def plain_weights(windows: Windows) -> PlainWeights | None:
    """How the weights lie; None where they are no such array."""
    body = windows.weights.body
    if len(body) != 1 or body[0].opcode != "load" or body[0].guards or body[0].dtype is not float32:
        return None
    rest: Dim = body[0].index[0]
    strides = []
    for axis in (windows.channel, *windows.taps):
        split = split_linear(rest, axis)
        if split is None:
            return None
        strides.append(split[0])
        rest = split[1]
    apart, *steps = strides
    if steps not in ([TAPS, 1], [-TAPS, -1]) or apart < TAPS * TAPS:
        return None
    turned = steps[1] < 0
    return PlainWeights(body[0].buffer, rest - (TAPS * TAPS - 1) if turned else rest, apart, turned)


def find_windows(kernel: Kernel, vector: bool | None) -> Windows | None:
    """The windows that a contraction kernel sums over; None where it is no such sum of float32."""
    parts = split_sides(kernel, vector)
    stage = kernel.stages[0] if kernel.stages else None
    if parts is None or stage is None or parts.is_vector or parts.order is not None or len(parts.steps) != 3:
        return None
    used = {s for i in (*parts.left, *parts.right) for e in _expressions(i) for s in symbols(e)}
    if any(a in used for a in parts.batch):
        return None
    channel, *taps = parts.steps
    if stage.init[0][0].name != "f32" or [extent(t) for t in taps] != [TAPS, TAPS]:
        return None
    sides = [
        (parts.left, parts.results[0], parts.rows, parts.right, parts.results[1], parts.columns),
        (parts.right, parts.results[1], parts.columns, parts.left, parts.results[0], parts.rows),
    ]
    ones: dict[Symbol, Dim] = {s: 0 for s in (*kernel.axes, *stage.axes) if extent(s) == 1}
    turned: dict[Symbol, Dim] = {t: TAPS - 1 - t.expr for t in taps}
    for (weights, weights_result, rows, data, data_result, columns), turns in product(sides, ({}, turned)):
        weights, data = ([replace_symbols(i, turns) for i in body] for body in (weights, data))
        outputs = _slides(data, columns, taps)
        if outputs is None:
            continue
        # Axes that neither operand has are those of an expanded one.
        images = [a for a in columns if a not in outputs]
        rows, images = (rows, [*parts.batch, *images]) if rows else (parts.batch, images)
        at = tuple(Symbol(f"at_{a.name}", 0, extent(a) + TAPS - 2) for a in outputs)
        moved = ones | {a: h.expr for a, h in zip(outputs, at, strict=True)} | dict.fromkeys(taps, 0)
        read = tuple(replace_symbols(flat(kernel, i), moved) for i in data)
        parity = None
        if turns:  # a forward sum is what it is, whatever its data are made of
            there = _points_there(read, data_result, outputs, at)
            if len(there) == 1:
                ((parity, at, read),) = there
            elif len(there) < 4:
                continue
            if not all(is_affine(g[0], at) for i in read for g in i.guards):
                continue  # a longer stride: most of what windows meet is absent
        return Windows(
            buffers=tuple(map(flat_buffer, kernel.buffers)),
            rows=Group(tuple(rows)),
            images=tuple(images),
            channel=channel,
            outputs=outputs,
            at=(at[0], at[1]),
            taps=(taps[0], taps[1]),
            data=Factor(read, data_result),
            weights=Factor(tuple(replace_symbols(flat(kernel, i), ones) for i in weights), weights_result),
            sum=stage.results[0],
            epilogue=tuple(replace_symbols(i, ones) for i in parts.epilogue),
            parity=parity,
        )
    return None


def _points_there(
    body: tuple[Instruction, ...], result: int, outputs: Sequence[Symbol], at: Sequence[Symbol]
) -> list[tuple[tuple[int, int], tuple[Symbol, ...], tuple[Instruction, ...]]]:
    """Of even and odd points along both axes those that are not all 0: parities, half the positions, and the body over
    these."""
    halves = tuple(Symbol(f"half_{h.name}", 0, -(-extent(a) // 2)) for h, a in zip(at, outputs, strict=True))
    there = []
    for first, second in product(range(2), repeat=2):
        parity = (first, second)
        moved: dict[Symbol, Dim] = {h: x.expr * 2 + z for h, x, z in zip(at, halves, parity, strict=True)}
        found = tuple(replace_symbols(i, moved) for i in body)
        if _known(found).get(result) != 0:
            there.append((parity, halves, tuple(map(_without_known, found))))
    return there


_DECIDED: dict[str, Callable[..., object]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
}


def _known(body: tuple[Instruction, ...]) -> dict[int, object]:
    """Values that are the same at all points."""
    known: dict[int, object] = {}
    for i in body:
        operands = [known.get(o) for o in i.operands]
        value: object = None
        match i.opcode:
            case "const":
                value = i.value
            case "index" if isinstance(i.index[0], int):
                value = i.index[0]
            case "load" if operands and any(map(_fails, i.guards)):
                value = operands[0]
            case "and" if False in operands:
                value = False
            case "and" if operands == [True, True]:
                value = True
            case "select" if isinstance(operands[0], bool):
                value = operands[1] if operands[0] else operands[2]
            case "cast" if operands[0] == 0:
                value = 0
            case opcode if opcode in _DECIDED and None not in operands:
                value = bool(_DECIDED[opcode](*operands))
        if value is not None:
            known[i.id] = value
    return known


def _fails(guard: Guard) -> bool:
    expression, lo, hi = guard
    return all(isinstance(e, int) for e in guard) and not int(lo) <= int(expression) < int(hi)


def _without_known(instruction: Instruction) -> Instruction:
    """The instruction without guards that hold."""
    guards = tuple(g for g in instruction.guards if not all(isinstance(e, int) for e in g) or _fails(g))
    return dataclasses.replace(instruction, guards=guards)


def _expressions(instruction: Instruction) -> list[Dim]:
    return [*instruction.index, *(g for guard in instruction.guards for g in guard)]


def _slides(
    body: Iterable[Instruction], columns: Sequence[Symbol], taps: Sequence[Symbol]
) -> tuple[Symbol, Symbol] | None:
    """For each tap the column axis to which everything in the body adds it; None where there is none."""
    expressions = [e for i in body for e in _expressions(i)]
    found: list[Symbol] = []
    for tap in taps:
        users = [e for e in expressions if tap in symbols(e)]
        fitting = [
            a
            for a in columns
            if users and all(tap not in symbols(substitute(e, {a: a.expr - tap.expr})) for e in users)
        ]
        if len(fitting) != 1:
            return None
        found += fitting
    first, second = found
    return (first, second) if first is not second else None
