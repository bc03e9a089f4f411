"""How reductions are folded: from the op's own shape and axes alone, never from what it is fused with.

Fusion and scheduling both ask here, so that a sum has the same bits in every kernel.
"""

from __future__ import annotations

from graphc.ir.families import Reduce
from graphc.ir.graph import Op

__all__ = ["chunk_count", "folds_along_last_axis", "op_chunks"]

CHUNK_ELEMENTS = 64 * 1024
"""Elements that are worth a partition of their own."""
MOST_CHUNKS = 16
COLUMN_BLOCK = 64
"""Results of a fold over leading axes that one partition makes."""


def folds_along_last_axis(op: Op) -> bool:
    """True where the last reduced axis is the operand's last: such a fold runs in lanes."""
    return isinstance(op, Reduce) and op.operands[0].type.rank - 1 in op.attrs["axes"]


def chunk_count(results: int, reduced: int, along: bool) -> int:
    """Into how many chunks a reduction to `results` elements of `reduced` elements each is cut; 1 is not."""
    wanted = min(MOST_CHUNKS, results * reduced // CHUNK_ELEMENTS)
    items = results if along else -(-results // COLUMN_BLOCK)
    if items >= wanted or items == 0:
        return 1
    return min(-(-wanted // items), reduced)


def op_chunks(op: Op) -> int:
    """`chunk_count` of an op; 1 of what is not a reduction over whole axes."""
    if not isinstance(op, Reduce):
        return 1
    results = op.results[0].type.numel
    reduced = op.operands[0].type.numel // results if results else 0
    return chunk_count(results, reduced, folds_along_last_axis(op))
