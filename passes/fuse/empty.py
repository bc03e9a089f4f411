"""Values without elements need no kernel: each becomes a constant of its type.

So no later stage meets an axis without points, except where an accumulation runs over nothing.
"""

from __future__ import annotations

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.control import Loop
from graphc.ir.graph import Graph
from graphc.passes.dce import eliminate_dead_ops
from graphc.passes.fuse.sources import is_buffer_constant
from graphc.passes.rewrite import results_of

__all__ = ["replace_empty"]


def replace_empty(graph: Graph) -> None:
    """Replaces results without elements in place, and drops what only they were made of.

    A loop without steps becomes its initial values.
    """
    idle = [op for op in graph.ops if isinstance(op, Loop) and op.attrs["length"] == 0]
    for loop in idle:
        values = loop.simplify(Builder(graph, loop, loop.loc))
        assert values is not None
        for old, new in zip(loop.results, results_of(values), strict=True):
            old.replace_by(new)
        loop.erase()
    empty = [
        op for op in graph.ops if all(r.type.count == 0 for r in op.results) and not is_buffer_constant(op)
    ]
    for op in empty:
        for r in op.results:
            r.replace_by(Builder(graph, op, op.loc).constant(np.empty(r.type.sizes, r.type.dtype.numpy)))
    if empty:
        eliminate_dead_ops(graph)
