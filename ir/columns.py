"""Which kernels sum the columns of large matrices: they walk along rows, since memory is read in its own order then.

A choice of speed alone: schedule and code generator ask here, the order of each column's sum stays what it is.
"""

from __future__ import annotations

from graphc.ir.dims import split_linear, symbols
from graphc.ir.kernel import Instruction, Kernel, extent, kernel_sizes
from graphc.ir.target import Target

__all__ = ["LEAST_ROWS", "walks_rows"]

LEAST_ROWS = 64
"""Rows from which on a sum has levels."""

_LONGEST_BODY = 5
_LEAST_ROW_BYTES = 1024


def walks_rows(kernel: Kernel, target: Target) -> bool:
    """True of a kernel with one axis of columns whose first stage folds a float sum over rows of a matrix larger than L2."""
    if len(kernel.axes) != 1 or not kernel.stages or kernel_sizes(kernel):
        return False
    fold, *others = kernel.stages
    if fold.kind != "reduce" or len(fold.axes) != 1 or any(s.kind != "map" or s.axes for s in others):
        return False
    if fold.combine is None or fold.combine.opcode != "add" or len(fold.init) != 1:
        return False
    if not fold.init[0][0].is_floating_point or len(fold.body) > _LONGEST_BODY:
        return False
    if extent(fold.axes[0]) < LEAST_ROWS or any(b.access == "local" for b in kernel.buffers):
        return False
    sizes = [_row_bytes(kernel, i) for i in fold.body if i.opcode == "load"]
    if None in sizes or any(i.opcode == "to_index" for i in fold.body):
        return False
    longest = max((s for s in sizes if s is not None), default=0)
    kept = extent(kernel.axes[0]) * fold.init[0][0].itemsize
    return (
        longest >= _LEAST_ROW_BYTES
        and longest * extent(fold.axes[0]) > target.l2_bytes
        and kept * 8 <= target.l2_bytes
    )


def _row_bytes(kernel: Kernel, load: Instruction) -> int | None:
    """Bytes that a load reads of each row: 0 where it is one for all columns, None where columns are not neighbours."""
    column, row = kernel.axes[0], kernel.stages[0].axes[0]
    if load.guards or len(load.index) != 1 or any(s.name.startswith("%") for s in symbols(load.index[0])):
        return None
    along, down = split_linear(load.index[0], column), split_linear(load.index[0], row)
    if along is None or down is None or along[0] not in (0, 1):
        return None
    return extent(column) * load.dtype.itemsize if along[0] and down[0] else 0
