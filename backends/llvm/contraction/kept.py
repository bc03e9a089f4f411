"""Which operand of a product is worth packing once and keeping: a long one that few rows are multiplied by.

Packing takes about as long as multiplying by some ten rows, so that a product packs again only what many rows read.
Kept panels are as wide as a register tile that has fewer instructions than those that read the operand as it is, and
come from memory as one stream. A sum's terms and order are those of every other plan.
"""

from __future__ import annotations

from graphc.backends.llvm.contraction.problem import Problem, readings
from graphc.backends.llvm.contraction.tiling import along_steps, panel_rows
from graphc.ir.kernel import Kernel, kernel_sizes
from graphc.ir.target import Target

__all__ = ["kept_operand"]

_LEAST_ROWS = 8
_MOST_ROWS = 256
_LEAST_STEPS = 64


def kept_operand(kernel: Kernel, target: Target) -> tuple[int, int] | None:
    """(buffer, columns of a panel) of the operand that is worth keeping packed; None where there is none.

    The operand lies along k and is longer than L2: what is there is read as fast as it is.
    """
    if kernel_sizes(kernel):
        return None
    for problem in readings(kernel, False):
        buffer = _long_operand(problem, target)
        if buffer is not None:
            return buffer, panel_rows(target, problem.dtype.bits)
    return None


def _long_operand(problem: Problem, target: Target) -> int | None:
    direct = problem.b.direct
    if direct is None or direct.step != 1 or direct.row != problem.k or direct.offset != 0:
        return None
    if problem.order is not None or problem.batch.total != 1 or not _rows_are_panels(problem):
        return None
    if not _LEAST_ROWS <= problem.m <= _MOST_ROWS or problem.k < _LEAST_STEPS:
        return None
    size = problem.dtype.itemsize
    if problem.n * problem.k * size < target.l2_bytes or problem.piece(target.width(size * 8)) == 1:
        return None
    return direct.buffer


def _rows_are_panels(problem: Problem) -> bool:
    """True where the rows can be copied into panels."""
    return along_steps(problem.a) or len(problem.a.rows.axes) <= 1
