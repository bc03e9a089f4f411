"""Finishing sums whose lanes lie along images: squares of them are turned in registers, so that results are written in runs.

Kept sums of a row of the result lie [position][image]; the result wants [image][position]. Eight positions of eight images are
one square. Positions that fill no square are part of two, where nothing that is written is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.llvm.contraction.axes import Env, constant, plus, times
from graphc.backends.llvm.contraction.body import Scalars
from graphc.backends.llvm.contraction.epilogue import emit_spread, length, varying
from graphc.backends.llvm.contraction.field import Field
from graphc.backends.llvm.contraction.packing import transpose
from graphc.backends.llvm.contraction.problem import Problem
from graphc.backends.llvm.text import Builder, Val, vector
from graphc.ir.kernel import extent

__all__ = ["emit_turned_row", "is_turned"]

_LONGEST = 24
"""Instructions of an epilogue that is written out for each lane of a square."""


def is_turned(problem: Problem, field: Field) -> bool:
    """True where the sums of whole squares are all that is to be finished."""
    axes, width, minor = problem.spread_columns.axes, field.width, field.minor_axis
    if minor is None or field.wide_axis is not None or len(axes) != 2 or width < 4:
        return False
    if minor is not field.columns[0] or axes[0].name != minor.name or extent(axes[0]) != extent(minor):
        return False
    positions = extent(axes[1])
    if extent(minor) % width or positions < width or positions * extent(minor) != problem.n:
        return False
    if positions % width and any(b.access == "inout" for b in problem.buffers):
        return False
    return length(varying(problem), problem.columns.inner, 1) <= _LONGEST and not problem.resumed


def emit_turned_row(
    builder: Builder,
    problem: Problem,
    field: Field,
    pointers: Sequence[Val],
    uniform: Scalars,
    line: Val,
    env: Env,
    images: tuple[Val, Val],
) -> None:
    """The epilogue of one row of the result, of images [from, to), whose kept sums begin at `line`."""
    width, scalar = field.width, problem.scalar
    image_axis, position_axis = problem.spread_columns.axes
    positions, lead = extent(position_axis), -(-field.run // width) * width
    type_, size = vector(scalar, width), problem.dtype.itemsize

    def group(image: Val, _: tuple[Val, ...]) -> list[Val]:
        here = builder.gep(line, builder.sub(image, images[0]), scalar)

        def square(p: Val) -> None:
            at = builder.gep(here, times(builder, p, lead), scalar)
            lines = [builder.load(type_, builder.gep(at, i * lead, scalar), size) for i in range(width)]
            for i, value in enumerate(transpose(builder, lines)):
                place = env | {image_axis: plus(builder, image, constant(i)), position_axis: p}
                emit_spread(builder, problem, pointers, uniform, place, value, width, None)

        def one(p: Val, _: tuple[Val, ...]) -> list[Val]:
            square(p)
            return []

        builder.loop(0, positions // width * width, width, (), one, "square")
        if positions % width:
            square(constant(positions - width))
        return []

    builder.loop(*images, width, (), group, "images")
