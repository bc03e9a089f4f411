"""Values without elements need no kernel: each becomes a constant of its type.

So no later stage meets an axis without points, except where an accumulation runs over nothing.
"""

from __future__ import annotations

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.passes.dce import eliminate_dead_ops
from graphc.passes.fuse.sources import is_buffer_constant

__all__ = ["replace_empty"]


def replace_empty(graph: Graph) -> None:
    """Replaces results without elements in place, and drops what only they were made of."""
    empty = [
        op for op in graph.ops if not any(r.type.numel for r in op.results) and not is_buffer_constant(op)
    ]
    for op in empty:
        for r in op.results:
            r.replace_by(Builder(graph, op, op.loc).constant(np.empty(r.type.sizes, r.type.dtype.numpy)))
    if empty:
        eliminate_dead_ops(graph)
