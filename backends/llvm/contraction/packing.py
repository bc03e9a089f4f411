"""Packing: copying one block of an operand into the order in which the register tile reads it.

The operand's scalar body (guards for padding, casts, masks) runs while packing, so an operand
is read through its index maps and never built as a whole. Places of a packed block that stand
for no row are either zero or never read by a lane that is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.contraction.axes import (
    Env,
    chunks,
    constant,
    index_value,
    minimum,
    plus,
    runs,
    times,
)
from graphc.backends.llvm.contraction.body import Point, Scalars, emit_body
from graphc.backends.llvm.contraction.problem import Operand
from graphc.backends.llvm.text import Builder, Val
from graphc.ir.dims import Symbol
from graphc.ir.kernel import KernelBuffer
from graphc.ir.records import dataclass

__all__ = ["Block", "pack_columns", "pack_panels", "pack_runs", "pack_transposed", "transpose"]

_STEPS_AT_ONCE = 8


@dataclass(frozen=True)
class Block:
    """One block of an operand: flat rows [row, row_end) × flat steps [step, step_end), and where it goes.

    Steps before `begin` are left out; None is `step`.
    """

    operand: Operand
    buffers: Sequence[KernelBuffer]
    pointers: Sequence[Val]
    batch: Env
    scalar: str
    width: int
    row: Val
    row_end: Val
    step: Val
    step_end: Val
    target: Val
    begin: Val | None = None

    @property
    def first(self) -> Val:
        """The first step that is copied."""
        return self.step if self.begin is None else self.begin

    def value(self, builder: Builder, env: Env, along: str, mask: Val | None) -> Val:
        """The operand at `width` points along its fastest row axis or its fastest k axis."""
        group = self.operand.rows if along == "rows" else self.operand.steps
        scalars: Scalars = {}
        point = Point(self.pointers, self.batch | env, group.inner, self.width, mask)
        emit_body(builder, self.buffers, self.operand.body, point, scalars)
        return scalars[self.operand.result][1]

    def put(self, builder: Builder, value: Val, at: Val) -> None:
        """Stores a vector at element `at` of the packed block."""
        builder.store(value, builder.gep(self.target, at, self.scalar), 4 if self.scalar == "float" else 8)

    def ask(self, builder: Builder, row: Val, step: Val) -> None:
        """Fetches the line of the source that holds (row, step), where the operand is a plain array."""
        direct = self.operand.direct
        if direct is None:
            return
        place = plus(builder, times(builder, row, direct.row), times(builder, step, direct.step))
        base = builder.gep(
            self.pointers[direct.buffer], index_value(builder, direct.offset, self.batch), self.scalar
        )
        builder.prefetch(builder.gep(base, place, self.scalar))


def _fastest(axis: Symbol | None, env: Env, flat: Val, origin: Val, builder: Builder) -> Env:
    if axis is None:
        return env
    return env | {axis: flat if origin.text == "0" else builder.sub(flat, origin)}


def pack_runs(builder: Builder, block: Block, lead: int) -> None:
    """[row][k] with `lead` elements a row, copied along k.

    Rows are outside, unless neighbouring rows are closer in memory than neighbouring runs of k:
    then runs are outside, so that the source is read in its own order.
    """
    operand = block.operand

    def copy(r: Val, start: Val, stop: Val, env: Env, origin: Val) -> None:
        at_row = operand.rows.split(builder, r)
        base = times(builder, builder.sub(r, block.row), lead)

        def chunk(k: Val, mask: Val | None) -> None:
            at = _fastest(operand.steps.inner, env | at_row, k, origin, builder)
            value = block.value(builder, at, "steps", mask)
            block.put(builder, value, plus(builder, base, builder.sub(k, block.step)))

        chunks(builder, start, stop, block.width, chunk)

    def row(r: Val, _: tuple[Val, ...]) -> list[Val]:
        runs(builder, operand.steps, block.first, block.step_end, lambda *run: copy(r, *run))
        return []

    def run(start: Val, stop: Val, env: Env, origin: Val) -> None:
        def one(r: Val, _: tuple[Val, ...]) -> list[Val]:
            copy(r, start, stop, env, origin)
            return []

        builder.loop(block.row, block.row_end, 1, (), one, "packrow")

    if _runs_lie_apart(operand):
        runs(builder, operand.steps, block.first, block.step_end, run)
    else:
        builder.loop(block.row, block.row_end, 1, (), row, "packrow")


def _runs_lie_apart(operand: Operand) -> bool:
    """True where neighbouring runs of k are further apart than neighbouring rows."""
    if len(operand.steps.axes) < 2 or operand.rows.inner is None:
        return False
    row, run = operand.stride(operand.rows.inner), operand.stride(operand.steps.axes[-2])
    return row is not None and run is not None and abs(row) < abs(run)


def pack_columns(builder: Builder, block: Block, lead: int) -> None:
    """[k][row] with `lead` elements a step, copied along rows."""
    operand = block.operand

    def step(k: Val, _: tuple[Val, ...]) -> list[Val]:
        at_step = operand.steps.split(builder, k)
        base = times(builder, builder.sub(k, block.step), lead)

        def piece(start: Val, stop: Val, env: Env, origin: Val) -> None:
            def chunk(r: Val, mask: Val | None) -> None:
                at = _fastest(operand.rows.inner, env | at_step, r, origin, builder)
                value = block.value(builder, at, "rows", mask)
                block.put(builder, value, plus(builder, base, builder.sub(r, block.row)))

            chunks(builder, start, stop, block.width, chunk)

        runs(builder, operand.rows, block.row, block.row_end, piece)
        return []

    builder.loop(block.first, block.step_end, 1, (), step, "packstep")


def pack_panels(builder: Builder, block: Block, panel: int, depth: int) -> None:
    """[row / panel][k][row % panel], `depth` steps a panel, copied along rows. At most one row axis.

    A few steps are copied for all panels before the next ones, so that the source is read along its
    own rows. Where `panel` is no multiple of the vector width, a step's last vector reaches into the
    next step, which is written after it: `depth` is more than the steps there are.
    """
    operand = block.operand
    reach = -(-panel // block.width) * block.width
    # Strips whose every lane is a row; then the last ones, masked.
    bound = minimum(builder, block.row_end, constant(operand.rows.total - reach + 1))
    span = builder.sub(bound, block.row)
    some = builder.select(builder.icmp("slt", span, constant(0)), constant(0), span)
    count = builder.binary("udiv", builder.add(some, constant(panel - 1)), constant(panel))
    end = plus(builder, block.row, times(builder, count, panel))

    def copy(k: Val, steps: int) -> list[Val]:
        at_steps = [operand.steps.split(builder, plus(builder, k, constant(i))) for i in range(steps)]
        first = times(builder, builder.sub(k, block.step), panel)

        def strip(r: Val, whole: bool) -> list[Val]:
            to = plus(builder, first, times(builder, builder.sub(r, block.row), depth))
            left = builder.sub(constant(operand.rows.total), r)
            if whole and steps > 1:
                line = 64 // (8 if block.scalar == "double" else 4)
                for i in range(steps):
                    following = plus(builder, k, constant(steps + i))
                    for j in range(0, panel, line):
                        block.ask(builder, plus(builder, r, constant(j)), following)
            for i, at_step in enumerate(at_steps):
                for j in range(0, reach, block.width):
                    row = plus(builder, r, constant(j))
                    at = _fastest(operand.rows.inner, at_step, row, constant(0), builder)
                    mask = None if whole else _tail_mask(builder, left, j, block.width)
                    value = block.value(builder, at, "rows", mask)
                    block.put(builder, value, plus(builder, to, constant(i * panel + j)))
            return []

        if operand.rows.total >= reach:
            builder.loop(block.row, end, panel, (), lambda r, _: strip(r, True), "panel")
        if operand.rows.total < reach or operand.rows.total % panel or reach != panel:
            builder.loop(end, block.row_end, panel, (), lambda r, _: strip(r, False), "lastpanel")
        return []

    steps = builder.sub(block.step_end, block.first)
    whole = builder.sub(block.step_end, builder.binary("urem", steps, constant(_STEPS_AT_ONCE)))
    builder.loop(block.first, whole, _STEPS_AT_ONCE, (), lambda k, _: copy(k, _STEPS_AT_ONCE), "packsteps")
    builder.loop(whole, block.step_end, 1, (), lambda k, _: copy(k, 1), "packstep")


def _tail_mask(builder: Builder, left: Val, skipped: int, width: int) -> Val:
    """Lanes of a vector that starts `skipped` rows into the `left` rows that there are."""
    rest = plus(builder, left, constant(-skipped))
    zero = builder.icmp("slt", rest, constant(0))
    return builder.lane_mask(builder.select(zero, constant(0), rest), width)


def pack_transposed(builder: Builder, block: Block, panel: int, depth: int) -> None:
    """The layout of `pack_panels`, copied along k: `width` rows at a time, transposed in registers.

    A last partial chunk of k writes up to `width - 1` steps too many; later runs and later panels
    overwrite them, and the block has room for them at its end.
    """
    operand, width = block.operand, block.width
    together = panel if 2 * panel == width else width

    def rows(r: Val, _: tuple[Val, ...]) -> list[Val]:
        relative = builder.sub(r, block.row)
        lane = builder.binary("urem", relative, constant(panel))
        base = plus(builder, times(builder, builder.sub(relative, lane), depth), lane)
        last = plus(builder, block.row_end, constant(-1))
        at_rows = [
            operand.rows.split(builder, minimum(builder, plus(builder, r, constant(i)), last))
            for i in range(together)
        ]

        def piece(start: Val, stop: Val, env: Env, origin: Val) -> None:
            def chunk(k: Val, mask: Val | None) -> None:
                lines = []
                for i in range(together):
                    block.ask(builder, plus(builder, r, constant(together + i)), k)
                for at_row in at_rows:
                    at = _fastest(operand.steps.inner, env | at_row, k, origin, builder)
                    lines.append(block.value(builder, at, "steps", mask))
                to = plus(builder, base, times(builder, builder.sub(k, block.step), panel))
                apart = panel * width // together
                for q, line in enumerate(transpose(builder, lines, width)):
                    block.put(builder, line, plus(builder, to, constant(q * apart)))

            chunks(builder, start, stop, width, chunk)

        runs(builder, operand.steps, block.first, block.step_end, piece)
        return []

    builder.loop(block.row, block.row_end, together, (), rows, "packrows")


def transpose(builder: Builder, lines: Sequence[Val], width: int | None = None) -> list[Val]:
    """Transposes vectors of `width` lanes, by default as many as there are vectors, a power of two.

    Of half as many vectors the result's hold two columns each.
    """
    count = len(lines)
    width = width or count
    if width == 1:
        return list(lines)
    current = list(lines)
    half = 1
    while half < count:
        # Swaps the off-diagonal half × half squares of each 2·half × 2·half square.
        following = list(current)
        for i in range(count):
            if i & half:
                continue
            a, b = current[i], current[i + half]
            low = [j if not j & half else width + (j ^ half) for j in range(width)]
            high = [(j ^ half) if not j & half else width + j for j in range(width)]
            following[i] = builder.shuffle(a, b, low)
            following[i + half] = builder.shuffle(a, b, high)
        current = following
        half *= 2
    if count == width:
        return current
    pairs = list(zip(current[::2], current[1::2], strict=True))
    return [
        builder.shuffle(a, b, [*range(first, first + count), *range(width + first, width + first + count)])
        for first in (0, count)
        for a, b in pairs
    ]
