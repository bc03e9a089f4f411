"""Clones cheap producers, so that a reader depends on less than the kernel that would hold them.

A gather of one score per row from `x - max` needs a subtraction per row, not the whole
difference in memory. Such a producer is cloned for that reader alone, with the views between.

What is made of a small input by one cheap op is cloned for all its readers: which targets count is asked by a
loss's rows and by the number of such rows, and that number would wait for the rows if it read their kernel's answer.
"""

from __future__ import annotations

from graphc.ir.control import Control
from graphc.ir.families import Elementwise, GraphOp
from graphc.ir.graph import Op
from graphc.ir.marks import RECOMPUTE
from graphc.passes.fuse.sources import Node, Read, Survey

__all__ = ["clone_for_sparse_readers", "clone_of_inputs"]

SPARSE = 2
"""The reader looks at no more than one in so many elements."""
SMALL = 1 << 12
"""Most elements of an input that is read again."""
MOST_READERS = 8


def clone_of_inputs(found: Survey) -> bool:
    """Gives each reader of a cheap map of small inputs its own, in place; True where something changed."""
    changed = False
    for node in found.nodes:
        op = node.op
        uses = op.results[0].uses
        if not 1 < len(uses) <= MOST_READERS or not _of_inputs(node, found):
            continue
        if any(isinstance(use.op, Control) for use in uses):
            continue  # what a loop reads was found to be in memory
        graph = op.graph
        assert graph is not None
        for use in list(uses)[1:]:
            clone = type(op)(op.operands, op.attrs, op.result_types, op.loc)
            clone.mark = RECOMPUTE
            graph.insert(clone, op)
            use.op.set_operand(use.index, clone.results[0])
            changed = True
    return changed


def _of_inputs(node: Node, found: Survey) -> bool:
    """True of one cheap op on small inputs that the graph does not write."""
    op = node.op
    graph = op.graph
    assert graph is not None
    if node.checks or not isinstance(op, Elementwise) or "cheap" not in op.traits:
        return False
    written = {graph.inputs[i] for i in graph.aliases.values()}
    return all(
        r.plain and r.value.op is None and r.value not in written and r.value.type.typical_count <= SMALL
        for r in node.reads
    )


def clone_for_sparse_readers(found: Survey) -> bool:
    """Clones in place; True where something changed (the survey is out of date then)."""
    changed = False
    for node in found.nodes:
        for read in node.reads:
            maker = found.by_op.get(read.value.op) if read.value.op is not None else None
            if maker is not None and not read.plain and _worth(maker, node):
                changed = _clone(maker, node, read, found) or changed
    return changed


def _worth(maker: Node, reader: Node) -> bool:
    op = maker.op
    cheap = isinstance(op, GraphOp) and "cheap" in op.traits
    if maker.kind != "map" or reader.kind != "map" or not cheap or maker.checks:
        return False
    if not all(r.plain for r in maker.reads):
        return False
    return reader.op.results[0].type.typical_count * SPARSE <= op.results[0].type.typical_count


def _clone(maker: Node, reader: Node, read: Read, found: Survey) -> bool:
    """Gives the reader its own copy of the maker; False where it is the only reader anyway."""
    graph = maker.op.graph
    assert graph is not None
    if len(maker.op.results[0].uses) == 1 and maker.op.results[0] not in graph.output_uses():
        return False
    for index, value in enumerate(reader.op.operands):
        chain: list[Op] = []
        while value.op is not None and value.op in found.free and value.op.operands:
            chain.append(value.op)
            value = value.op.operands[0]
        if value is not read.value:
            continue
        for op in [maker.op, *reversed(chain)]:
            clone = type(op)(op.operands if op is maker.op else (value,), op.attrs, op.result_types, op.loc)
            clone.mark = RECOMPUTE
            graph.insert(clone, reader.op)
            value = clone.results[0]
        reader.op.set_operand(index, value)
        return True
    return False
