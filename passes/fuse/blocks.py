"""What an op with regions reads in memory: whole values, or blocks of others that a pointer can name.

A view of a value is a block of it where its elements lie there one after the other: a row of a
matrix, the second half of its rows, the same bytes in another shape.
"""

from __future__ import annotations

from collections.abc import Collection

from graphc.ir.control import Control
from graphc.ir.dims import Dim, size_symbols, symbols
from graphc.ir.families import Creation, Elementwise, View
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.marks import KEPT, has_mark
from graphc.ir.records import dataclass
from graphc.passes.fuse.sources import Index, axes, is_buffer_constant, linear

__all__ = ["Block", "block_of", "read_whole"]


@dataclass(frozen=True)
class Block:
    """Elements of `value`, which is in memory, from position `offset` on in row-major order."""

    value: Value
    offset: Dim

    @property
    def offset_bytes(self) -> Dim:
        return self.offset * self.value.type.dtype.itemsize


def read_whole(graph: Graph) -> set[Op]:
    """Ops that an op with regions reads and that would cost nothing to inline, but whose results are no blocks of
    anything in memory: these have to be computed. So are those that are to be kept from call to call."""
    outputs = graph.output_uses()
    found: set[Op] = set()
    for op in graph.ops:
        if isinstance(op, Control):
            for v in op.operands:
                if v.op is not None and not _in_memory(block_of(v, outputs, found).value):
                    found.add(v.op)
        if has_mark(op, KEPT):
            found.add(op)
    return found


def _in_memory(value: Value) -> bool:
    """False of what grouping would inline where it is read."""
    op = value.op
    match op:
        case Creation():
            return is_buffer_constant(op)
        case View():
            return _plain_piece(op, axes("b", value.type.shape)) is None
        case Elementwise():
            return value.type.rank > 0 and not _made_of_nothing(op)
    return True


def _made_of_nothing(op: Op) -> bool:
    """True where all that the op depends on are values that are made where they are read: ranges, fills."""
    waiting, seen = [op], {op}
    while waiting:
        for v in waiting.pop().operands:
            maker = v.op
            if (
                maker is None
                or not isinstance(maker, (Creation, Elementwise, View))
                or is_buffer_constant(maker)
            ):
                return False
            if maker not in seen:
                seen.add(maker)
                waiting.append(maker)
    return True


def _plain_piece(op: View, index: Index) -> tuple[Value, Index] | None:
    """Where a view that is one unguarded index map reads, else None."""
    pieces = op.pieces(op.attrs, op.operand_types, op.result.type, index)
    return (op.operands[pieces[0][0]], pieces[0][1]) if len(pieces) == 1 and not pieces[0][2] else None


def block_of(value: Value, outputs: Collection[Value], computed: Collection[Op]) -> Block:
    """The block that `value` is, of the value furthest back along its views; itself where it is none."""
    found = Block(value, 0)
    index = at = axes("b", value.type.shape)
    shape = value.type.shape
    here = value
    while isinstance(op := here.op, View) and op not in computed and here not in outputs:
        piece = _plain_piece(op, index)
        if piece is None:
            break
        here = piece[0]
        index = tuple(0 if d == 1 else i for i, d in zip(piece[1], here.type.shape, strict=True))
        offset = linear(index, here.type.shape) - linear(at, shape)
        if symbols(offset) == size_symbols(offset):
            found = Block(here, offset)
    return found
