"""Batching: a graph that does for many instances at once what a graph does for one.

An instance is a position along a leading axis that some values have. Each op's family says how it takes
such values (`GraphOp.batch`); an op that has no way of its own is run instance by instance, as a loop.
Invariant: what depends on no batched value is computed once, as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.ir.builder import Builder
from graphc.ir.families import GraphOp
from graphc.ir.graph import Graph, Location, Op, Value

__all__ = ["Batcher", "batch_graph", "batch_ops"]


class Batcher(Builder):
    """The builder that rules of batching are written against, for `instances` instances."""

    def __init__(
        self, graph: Graph, instances: int, before: Op | None = None, loc: Location | None = None
    ) -> None:
        super().__init__(graph, before, loc)
        self.instances = instances

    def whole(self, value: Value, batched: bool) -> Value:
        """The value with a leading axis of instances: repeated where it is one for all."""
        return value if batched else self.broadcast_to(value, (self.instances, *value.type.shape))

    def each(self, op: GraphOp, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        """The op run instance by instance: a loop over slices of the batched operands."""
        body = Graph("instance")
        sliced = [body.add_input(op.operands[i].type) for i, on in enumerate(batched) if on]
        fixed = [body.add_input(op.operands[i].type) for i, on in enumerate(batched) if not on]
        rest = {True: iter(sliced), False: iter(fixed)}
        inside = [next(rest[on]) for on in batched]
        made = Builder(body, loc=op.loc).create(type(op), inside, [r.copy() for r in op.regions], **op.attrs)
        body.outputs = list(made.results)
        given = [v for v, on in zip(operands, batched, strict=True) if on]
        given += [v for v, on in zip(operands, batched, strict=True) if not on]
        found = self.scan(
            *given,
            length=self.instances,
            carries=0,
            slices=len(sliced),
            outputs=op.result_types,
            regions=[body],
        )
        return found if isinstance(found, tuple) else (found,)

    def over(self, parts: Graph) -> Builder:
        """A builder of parts of an op."""
        return Builder(parts, loc=self.loc)

    def all(
        self, parts: Graph, op: Op, given: dict[Value, tuple[Value, bool]], results: Sequence[Value]
    ) -> Sequence[Value]:
        """What the parts of `op`, built behind it, give for all instances."""
        batch_ops([p for p in parts.ops if p is not op], self, given)
        return [self.whole(*given[v]) for v in results]

    def region(self, graph: Graph, batched: Sequence[bool]) -> Graph:
        """A region for all instances: inputs have the leading axis where `batched`, outputs always."""
        return batch_graph(graph, batched, self.instances)[0]


def batch_ops(ops: Iterable[Op], b: Batcher, values: dict[Value, tuple[Value, bool]]) -> None:
    """Appends what `ops` do, for all instances. `values` says for their operands what stands for them and
    whether it has the leading axis, and gets their results; values that it does not name are as they are."""
    for op in ops:
        assert isinstance(op, GraphOp)
        given = [values.get(v, (v, False)) for v in op.operands]
        operands, batched = [v for v, _ in given], [on for _, on in given]
        b.loc = op.loc
        last = b.graph._last if b.before is None else b.before.previous
        if any(batched):
            results = op.batch(b, operands, batched)
        else:
            results = b.create(type(op), operands, [r.copy() for r in op.regions], **op.attrs).results
        if op.mark is not None:
            at = b.graph._last if b.before is None else b.before.previous
            while at is not None and at is not last:
                at.mark, at = op.mark, at.previous
        for old, new in zip(op.results, results, strict=True):
            values[old] = (new, any(batched))


def batch_graph(
    graph: Graph, batched: Sequence[bool], instances: int, *, whole: bool = True
) -> tuple[Graph, list[bool]]:
    """`graph` for all instances, its inputs having the leading axis where `batched`.

    Says which outputs have it; with `whole` all of them.
    """
    result = Graph(graph.name)
    values: dict[Value, tuple[Value, bool]] = {}
    for v, on in zip(graph.inputs, batched, strict=True):
        t = v.type.with_shape((instances, *v.type.shape)) if on else v.type
        values[v] = (result.add_input(t, v.role or "argument", v.name), on)
    b = Batcher(result, instances)
    batch_ops(graph.ops, b, values)
    pairs = [values[v] for v in graph.outputs]
    result.outputs = [b.whole(v, on) if whole else v for v, on in pairs]
    return result, [whole or on for _, on in pairs]
