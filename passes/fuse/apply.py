"""Grouping: starts from one group per real op and merges along edges, then places the free ops.

First what is read at few or data-decided places goes into its reader. Then each contraction and
reduction takes the chain of ops that alone reads it (its epilogue), a reduction all the chains
that start from it. Then, from the
last op to the first, an op joins groups that read it, so that work on forward values done for
the backward pass stays with the backward pass. Then small scalar groups are put together.
"""

from __future__ import annotations

import heapq

from graphc.ir.control import Control
from graphc.ir.dims import plain_symbol
from graphc.ir.graph import Graph, Op
from graphc.ir.marks import KEPT, RECOMPUTE, has_mark
from graphc.ir.symbolic import marked
from graphc.passes.context import CompileContext
from graphc.passes.fuse.blocks import read_whole
from graphc.passes.fuse.clone import clone_for_sparse_readers, clone_of_inputs
from graphc.passes.fuse.cost import keeps_parallelism, may_float, small_scalars, sums_parts
from graphc.passes.fuse.empty import replace_empty
from graphc.passes.fuse.groups import Bindings, Edge, Fused, Group, Member, at_symbols
from graphc.passes.fuse.legality import Merged, between, separated, unify
from graphc.passes.fuse.sources import Node, Survey, survey
from graphc.passes.reductions import op_chunks

__all__ = ["fuse"]


def fuse(graph: Graph, context: CompileContext) -> Fused:
    """Cuts `graph` (no composite ops) into groups; the graph itself is not changed.

    Raises CompileError for an op that no kernel can hold.
    """
    work = marked(graph)
    replace_empty(work)
    computed = read_whole(work)
    found = survey(work, computed)
    # What is cloned for sparse readers has one reader, so the second question is not about it.
    if context.options.fuse and clone_for_sparse_readers(found) | clone_of_inputs(found):
        found = survey(work, computed, found)
    groups = _grouped(work, found, context.options.fuse)
    _place_free_ops(work, groups, found)
    for group in groups:
        if group.control is not None:
            group.bodies = tuple(fuse(region, context) for region in group.control.regions)
    fused = Fused(work, groups, found.constants)
    if context.options.verify:
        fused.verify()
    return fused


def _grouped(graph: Graph, found: Survey, merge: bool) -> list[Group]:
    """The groups in order. Where a pruned search missed a path, so that they would form a cycle, every search
    is exact."""
    try:
        return _merged(_Grouping(graph, found, exact=False), merge)
    except _CycleError:
        return _merged(_Grouping(graph, found, exact=True), merge)


def _merged(grouping: _Grouping, merge: bool) -> list[Group]:
    if merge:
        grouping.sparse_reads()
        grouping.epilogues()
        grouping.consumers_first()
        grouping.scalars()
    return _ordered(grouping.groups())


class _CycleError(Exception):
    """Groups form a cycle."""


class _Grouping:
    def __init__(self, graph: Graph, found: Survey, *, exact: bool) -> None:
        self.exact = exact
        self.nodes = found.nodes
        self.bindings = Bindings()
        self.outputs = graph.output_uses()
        self.states = {graph.outputs[i] for i in graph.aliases}
        self.readers: dict[Node, list[Edge]] = {n: [] for n in found.nodes}
        self.before_check = _before_checks(found)
        for node in found.nodes:
            self._seed(node)
        for node in found.nodes:
            for read in node.reads:
                maker = found.by_op.get(read.value.op) if read.value.op is not None else None
                if maker is not None:
                    edge = Edge(maker, node, read)
                    self.readers[maker].append(edge)
                    maker.group.outgoing.append(edge)
                    node.group.incoming.append(edge)

    def _seed(self, node: Node) -> None:
        own = at_symbols((*node.index, *node.reduced))
        group = Group({node: Member(node, self.bindings)}, node.number, node.number)
        space = at_symbols(node.index)
        group.spaces = {space}
        group.contraction, group.scatter = node.kind == "contraction", node.kind == "scatter"
        group.control = node.op if isinstance(node.op, Control) else None
        group.apart = has_mark(node.op, KEPT)
        if node.kind != "map":
            group.outer = space
            group.fixed = own
        if node.kind == "contraction":
            group.product = own
            group.apart = sums_parts(node)
        if node.kind == "reduce":
            group.spaces.add(own)
            group.splits = op_chunks(node.op) > 1
        group.checks, group.indexes = node.checks, node.indexes
        group.before_check = node in self.before_check
        group.writes_state = any(r in self.states for r in node.op.results)
        node.group = group

    def groups(self) -> list[Group]:
        """The groups as they are now."""
        return list(dict.fromkeys(n.group.root() for n in self.nodes))

    def sparse_reads(self) -> None:
        """Moves cheap ops into a map op that alone reads them, and not point by point."""
        for node in reversed(self.nodes):
            readers = self.readers[node]
            if len(readers) == 1 and not readers[0].read.plain and readers[0].consumer.kind == "map":
                self.merge(node.group.root(), readers[0].group_of_consumer())

    def epilogues(self) -> None:
        """Grows contractions and reductions forward, contractions first."""
        for node in self.nodes:
            if node.kind == "contraction":
                self._follow(node)
        for node in self.nodes:
            # What follows a small scalar is decided later: others may wait for it.
            if node.kind == "reduce" and not small_scalars(node.group.root()):
                for edge in self.readers[node]:
                    following = edge.consumer
                    if following.kind == "map" and self.merge(node.group.root(), following.group.root()):
                        self._follow(following)
                self._follow(node)

    def _follow(self, node: Node) -> None:
        """Merges the chain of map ops in which each is the only reader of the one before."""
        while len(readers := {e.consumer for e in self.readers[node]}) == 1:
            (following,) = readers
            if following.kind != "map":
                return
            if not self.merge(node.group.root(), following.group.root()):
                return
            node = following

    def consumers_first(self) -> None:
        for node in reversed(self.nodes):
            for edge in self.readers[node]:
                self.merge(node.group.root(), edge.group_of_consumer())

    def scalars(self) -> None:
        """Puts groups without outer axes together: each would be a call for next to no work."""
        last: Group | None = None
        for group in _ordered(self.groups()):
            if not small_scalars(group):
                continue
            if last is None or not self._put_together(last, group):
                last = group
            else:
                last = last.root()

    def _put_together(self, a: Group, b: Group) -> bool:
        if not _flags_agree(a, b) or not separated(a, b, exact=self.exact):
            return False
        edges = between(a, b)
        joint = unify(a, b, edges)
        if joint is None and not edges:
            joint = Merged(frozenset(), a.spaces | b.spaces, {}, a.fixed | b.fixed)
        if joint is None:
            return False
        self._join(a, b, joint)
        return True

    def merge(self, producer: Group, consumer: Group) -> bool:
        """Merges two groups along the edges from the one to the other; False where it is not done."""
        if producer is consumer:
            return True
        if producer.control is not None or consumer.control is not None:
            return False
        if producer.scatter or producer.apart or not _flags_agree(producer, consumer):
            return False
        if producer.contraction and (consumer.contraction or consumer.indexes):
            return False
        if consumer.contraction and producer.indexes:
            return False
        edges = between(producer, consumer)
        merged = None if consumer.scatter else unify(producer, consumer, edges)
        if (
            merged is not None
            and keeps_parallelism(producer, consumer, merged)
            and separated(producer, consumer, exact=self.exact)
        ):
            self._join(producer, consumer, merged)
            return True
        return self._absorb(producer, consumer, edges)

    def _absorb(self, producer: Group, consumer: Group, edges: list[Edge]) -> bool:
        """Makes the producer's ops floating members of the consumer, where they may be."""
        if producer.writes_state or not may_float(producer, consumer, edges):
            return False
        (edge,) = edges
        if any(r in self.outputs for node in producer.members for r in node.op.results):
            return False
        there = consumer.members[edge.consumer].at(edge.read.index)
        substitution = {}
        for mine, theirs in zip(producer.members[edge.producer].at(edge.producer.index), there, strict=True):
            symbol = plain_symbol(mine)
            if symbol is None and mine != theirs:
                return False
            if symbol is not None:
                substitution[symbol] = theirs
        for member in producer.members.values():
            member.floating = True
        consumer.floating += len(producer.members)
        self._join(
            producer,
            consumer,
            Merged(consumer.outer, consumer.spaces, substitution, consumer.fixed, consumer.product),
        )
        return True

    def _join(self, producer: Group, consumer: Group, merged: Merged) -> None:
        """Merges `producer` into `consumer`."""
        self.bindings.add(merged.substitution)
        consumer.members.update(producer.members)
        consumer.first, consumer.last = min(producer.first, consumer.first), max(producer.last, consumer.last)
        consumer.outer, consumer.spaces = merged.outer, merged.spaces
        consumer.fixed, consumer.product = merged.fixed, merged.product
        consumer.contraction |= producer.contraction
        consumer.apart |= producer.apart
        consumer.splits |= producer.splits
        consumer.checks |= producer.checks
        consumer.indexes |= producer.indexes
        consumer.before_check |= producer.before_check
        consumer.writes_state |= producer.writes_state
        members = consumer.members
        consumer.incoming = [e for e in producer.incoming + consumer.incoming if e.producer not in members]
        consumer.outgoing = [e for e in producer.outgoing + consumer.outgoing if e.consumer not in members]
        producer.merged = consumer
        if consumer.before_check:
            _mark_before(consumer)


def _mark_before(group: Group) -> None:
    """Marks what a group depends on that may find an error, or is read by one that may."""
    waiting = [group]
    while waiting:
        for edge in waiting.pop().incoming:
            before = edge.group_of_producer()
            if not before.before_check:
                before.before_check = True
                waiting.append(before)


def _before_checks(found: Survey) -> set[Node]:
    """Ops that check data, and those that one of them depends on."""
    marked = {n for n in found.nodes if n.checks}
    for node in reversed(found.nodes):
        if node in marked:
            marked.update(found.by_op[r.value.op] for r in node.reads if r.value.op in found.by_op)
    return marked


def _flags_agree(a: Group, b: Group) -> bool:
    # State must not be written by a kernel that may find an error, nor before one that may.
    return not ((a.before_check or b.before_check) and (a.writes_state or b.writes_state))


def _ordered(groups: list[Group]) -> list[Group]:
    """Topological order; of several groups that could come next, the one whose ops come first."""
    missing = {g: {e.group_of_producer() for e in g.incoming} for g in groups}
    readers: dict[Group, list[Group]] = {g: [] for g in groups}
    for g, before in missing.items():
        for b in before:
            readers[b].append(g)
    ready = [(g.last, i) for i, g in enumerate(groups) if not missing[g]]
    place = {g: i for i, g in enumerate(groups)}
    heapq.heapify(ready)
    order: list[Group] = []
    while ready:
        group = groups[heapq.heappop(ready)[1]]
        order.append(group)
        for reader in readers[group]:
            missing[reader].discard(group)
            if not missing[reader]:
                heapq.heappush(ready, (reader.last, place[reader]))
    if len(order) != len(groups):
        raise _CycleError
    return order


def _place_free_ops(graph: Graph, groups: list[Group], found: Survey) -> None:
    """Gives each free op to the group that uses it, cloned where several do; drops unused ones."""
    place = {n.op: g for g in groups for n in g.members}
    for op in reversed(list(found.free)):
        users: dict[Group, list[tuple[Op, int]]] = {}
        for use in op.results[0].uses:
            users.setdefault(place[use.op], []).append((use.op, use.index))
        if not users:
            op.erase()
            continue
        first, *others = users
        place[op] = first
        for group in others:
            clone = type(op)(op.operands, op.attrs, op.result_types, op.loc)
            clone.mark = RECOMPUTE
            graph.insert(clone, op)
            for user, index in users[group]:
                user.set_operand(index, clone.results[0])
            place[clone] = group
    for op in graph.ops:
        if op in place:
            place[op].ops.append(op)
