"""An order of a graph's ops in which little is live: what leaves no more bytes than there were runs first.

A trace has each layer's weight gradient wherever it was written down; here it comes as soon as its operands are there, so
that the fullest point of a training step is the end of its forward part.
"""

from __future__ import annotations

import heapq

from graphc.ir.families import Contraction, Elementwise
from graphc.ir.graph import Graph, Op, Value, clone_ops
from graphc.passes.free import bytes_of, made_of

__all__ = ["SMALL", "frugal_copy", "likely_peak"]

SMALL = 1 << 12
"""Bytes that do not matter: an op that adds no more runs as soon as it can."""

_SOON = 32
"""So many ops behind a product elements are likely to be in its kernel."""


def frugal_copy(graph: Graph) -> Graph:
    """A copy of the graph with its ops, and those in regions, in such an order; the original order decides between
    equals."""
    result, mapping = Graph(graph.name), {}
    for v in graph.inputs:
        assert v.role is not None
        mapping[v] = result.add_input(v.type, v.role, v.name)
    clone_ops(_order(graph), result, mapping)
    for op in result.ops:
        op.regions = tuple([frugal_copy(region) for region in op.regions])
    result.outputs = [mapping[v] for v in graph.outputs]
    result.aliases = dict(graph.aliases)
    return result


def _order(graph: Graph) -> list[Op]:
    ops = list(graph.ops)
    place = {op: n for n, op in enumerate(ops)}
    outputs = graph.output_uses()
    passing = made_of(ops, outputs)
    followers: dict[Op, list[Op]] = {}
    readers: dict[Value, list[Op]] = {}
    reads: dict[Op, list[Value]] = {}
    for op in ops:
        for maker in dict.fromkeys(v.op for v in op.operands if v.op is not None):
            followers.setdefault(maker, []).append(op)
        if not any(r in passing for r in op.results):
            reads[op] = list(dict.fromkeys(root for v in op.operands for root in passing.get(v, (v,))))
            for v in reads[op]:
                readers.setdefault(v, []).append(op)
    waiting = {op: len({v.op for v in op.operands if v.op is not None}) for op in ops}
    left = {v: len(r) for v, r in readers.items()}
    counted = {v for v in readers if v.op is not None and v not in outputs}

    def adds(op: Op) -> int:
        if op not in reads:
            return 0
        made = sum(bytes_of(v) for v in op.results if v in counted)
        return made - sum(bytes_of(v) for v in reads[op] if v in counted and left[v] == 1)

    ready: list[tuple[bool, int]] = []
    done: set[Op] = set()
    order: list[Op] = []

    def push(op: Op) -> None:
        heapq.heappush(ready, (adds(op) > SMALL, place[op]))

    for op in ops:
        if not waiting[op]:
            push(op)
    while ready:
        op = ops[heapq.heappop(ready)[1]]
        if op in done:
            continue
        done.add(op)
        order.append(op)
        for v in reads.get(op, ()):
            left[v] -= 1
            if left[v] == 1:
                # Who reads it now frees it.
                for r in readers[v]:
                    if r not in done and not waiting[r]:
                        push(r)
        for follower in followers.get(op, ()):
            waiting[follower] -= 1
            if not waiting[follower]:
                push(follower)
    return order


def likely_peak(graph: Graph) -> int:
    """Most bytes live at once where the ops run in their order, as far as the graph alone tells: an estimate of the arena.

    Elements that share a kernel with their reader take nothing, nor do products that elements alone read soon, and
    what only adds elements writes over what it frees.
    """
    ops = list(graph.ops)
    outputs = graph.output_uses()
    passing = made_of(ops, outputs)
    place = {op: n for n, op in enumerate(ops) if not any(r in passing for r in op.results)}
    reads = {op: list(dict.fromkeys(r for v in op.operands for r in passing.get(v, (v,)))) for op in place}
    readers: dict[Value, list[Op]] = {}
    for op, operands in reads.items():
        for v in operands:
            readers.setdefault(v, []).append(op)

    def counts(v: Value) -> bool:
        if v.op is None or v in outputs or v not in readers:
            return False
        alone = all(isinstance(r, Elementwise) for r in readers[v])
        soon = place[readers[v][-1]] - place[v.op] <= _SOON
        return not (alone and soon and isinstance(v.op, Contraction))

    live = most = 0
    for op, operands in reads.items():
        made = sum(bytes_of(v) for v in op.results if counts(v))
        freed = sum(bytes_of(v) for v in operands if readers[v][-1] is op and counts(v))
        inside = max((likely_peak(region) for region in op.regions), default=0)
        over = min(made, freed) if isinstance(op, Elementwise) else 0
        most = max(most, live + made - over + inside)
        live += made - freed
    return most
