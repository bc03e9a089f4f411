"""An order of a graph's ops in which little is live: what leaves no more bytes than there were runs first.

A trace has each layer's weight gradient wherever it was written down; here it comes as soon as its operands are there, so
that the fullest point of a training step is the end of its forward part.
"""

from __future__ import annotations

import heapq

from graphc.ir.graph import Graph, Op, Value, clone_ops

__all__ = ["frugal_copy"]


def frugal_copy(graph: Graph) -> Graph:
    """A copy of the graph with its ops in such an order; the original order decides between equals."""
    result, mapping = Graph(graph.name), {}
    for v in graph.inputs:
        assert v.role is not None
        mapping[v] = result.add_input(v.type, v.role, v.name)
    clone_ops(_order(graph), result, mapping)
    result.outputs = [mapping[v] for v in graph.outputs]
    result.aliases = dict(graph.aliases)
    return result


def _order(graph: Graph) -> list[Op]:
    ops = list(graph.ops)
    place = {op: n for n, op in enumerate(ops)}
    outputs = graph.output_uses()
    readers: dict[Value, list[Op]] = {}
    for op in ops:
        for v in dict.fromkeys(op.operands):
            readers.setdefault(v, []).append(op)
    waiting = {op: sum(v.op is not None for v in dict.fromkeys(op.operands)) for op in ops}
    left = {v: len(r) for v, r in readers.items()}

    def adds(op: Op) -> int:
        made = sum(v.type.nbytes for v in op.results if v not in outputs and left.get(v))
        freed = [v for v in dict.fromkeys(op.operands) if v.op is not None and v not in outputs]
        return made - sum(v.type.nbytes for v in freed if left[v] == 1)

    ready: list[tuple[bool, int]] = []
    done: set[Op] = set()
    order: list[Op] = []

    def push(op: Op) -> None:
        heapq.heappush(ready, (adds(op) > 0, place[op]))

    for op in ops:
        if not waiting[op]:
            push(op)
    while ready:
        op = ops[heapq.heappop(ready)[1]]
        if op in done:
            continue
        done.add(op)
        order.append(op)
        for v in dict.fromkeys(op.operands):
            left[v] -= 1
            if left[v] == 1:
                # Who reads it now frees it.
                for r in readers[v]:
                    if r not in done and not waiting[r]:
                        push(r)
        for v in op.results:
            for r in readers.get(v, ()):
                waiting[r] -= 1
                if not waiting[r]:
                    push(r)
    return order
