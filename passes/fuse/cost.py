"""When fusing pays: bounds on what a kernel may recompute and on parallelism lost.

All answers follow from shapes and traits, so that equal graphs are fused alike everywhere.
"""

from __future__ import annotations

from graphc.ir.dims import Symbol, plain_symbol, product
from graphc.ir.families import Contraction, GraphOp, Pointwise, View
from graphc.ir.kernel import size_of, typical_size
from graphc.passes.fuse.groups import Edge, Group, Space, at_symbols
from graphc.passes.fuse.legality import Merged
from graphc.passes.fuse.sources import Node

__all__ = ["FLOATING_OPS", "keeps_parallelism", "may_float", "points", "small_scalars"]

FLOATING_OPS = 3
"""Most ops computed again wherever a kernel's reads that do not follow its points ask for them."""
LONG_PART = 320
"""Steps of a part of a sum from which it is summed by itself."""
SMALL_STAGES = 1 << 12
PARALLEL_POINTS = 1 << 15
"""Points from which a map is worth partitions of its own."""


def points(space: Space) -> int:
    """Number of points of a space."""
    total = 1
    for s in space:
        total *= _extent(s)
    return total


def _extent(symbol: Symbol) -> int:
    return max(0, typical_size(symbol))


def keeps_parallelism(producer: Group, consumer: Group, merged: Merged) -> bool:
    """False where a reduction that is cut in chunks would share a kernel with other inner stages, or where
    much work would follow a reduction of everything in one partition."""
    if merged.outer is None or producer.outer is None:
        return True
    if (
        not merged.outer
        and consumer.outer is None
        and any(points(s) > PARALLEL_POINTS for s in consumer.spaces)
    ):
        return False
    if not (producer.splits or consumer.splits):
        return True
    return all(len(s) == len(producer.outer) for s in consumer.spaces)


def may_float(producer: Group, consumer: Group, edges: list[Edge]) -> bool:
    """True where `producer` may be computed inside `consumer` at whatever index a single read asks for."""
    if len(edges) != 1 or len(producer.outgoing) != 1 or producer.outer is not None or producer.checks:
        return False
    if consumer.floating + len(producer.members) > FLOATING_OPS:
        return False
    if not all(_floats(node) for node in producer.members):
        return False
    reader = edges[0].consumer
    if isinstance(reader.op, Contraction) and not any(read.plain for read in reader.reads):
        return False  # both factors are zero where there is no term, and stay plain reads
    cheap = all(_is_cheap(node) for node in producer.members)
    once = isinstance(reader.op, Pointwise) and not edges[0].consumer_floats() and _fewer_points(edges[0])
    return cheap or once


def _floats(node: Node) -> bool:
    # What reads at data-decided or guarded places is not nested further.
    return isinstance(node.op, Pointwise) and all(r.plain for r in node.reads)


def _is_cheap(node: Node) -> bool:
    return isinstance(node.op, View) or (isinstance(node.op, GraphOp) and "cheap" in node.op.traits)


def _fewer_points(edge: Edge) -> bool:
    return edge.consumer.op.results[0].type.typical_count <= edge.producer.op.results[0].type.typical_count


def sums_parts(node: Node) -> bool:
    """True of a contraction over a symbolic number of long parts (the images of a batch): an engine sums one part
    after the other where it need not keep sums aside."""
    axes = [s for s in map(plain_symbol, node.reduced) if s is not None]
    if node.kind != "contraction" or not axes or axes[0].size is None:
        return False
    inner = product([size_of(s) for s in axes[1:]])
    return isinstance(inner, int) and inner >= LONG_PART


def small_scalars(group: Group) -> bool:
    """True of a group whose kernel has no outer axes and little to do."""
    if group.contraction or group.scatter or group.outer or group.control is not None:
        return False
    work = 0
    for node, member in group.members.items():
        if node.kind == "reduce":
            work += points(at_symbols(member.at(node.reduced)))
        else:
            work += node.op.results[0].type.typical_count
    return work <= SMALL_STAGES and not any(isinstance(n.op, Contraction) for n in group.members)
