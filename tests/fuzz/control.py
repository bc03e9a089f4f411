"""Random graphs of loops and branches in one another.

A region takes a few vectors and makes others of them with ops that round nothing away (sums, signs, minima,
doubling), so that every way to run a graph has the same bits; predicates compare largest elements, so that both
branches and loops of many lengths occur.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.ir import Builder, Graph
from graphc.ir.graph import Value
from graphc.ir.types import DTYPES, TensorType
from tests.fuzz.graphs import Program

__all__ = ["control_program"]

DEEPEST = 3
SHORTEST, LONGEST = 0, 3


def control_program(seed: int, *, differentiable: bool = False) -> Program:
    """A graph of a few vectors of one type, and arrays for it. Loops are bounded where it is to be differentiated."""
    grower = _Grower(np.random.default_rng(seed), differentiable)
    graph = Graph("control")
    given = [graph.add_input(grower.type, name=f"x{i}") for i in range(3)]
    given += [graph.add_input(grower.stacked(n), name=f"s{n}") for n in range(SHORTEST, LONGEST + 1)]
    graph.outputs = grower.fill(graph, given[:3], given[3:], 3, 0)
    draw = grower.rng.integers(-3, 4, 10_000).astype(grower.type.dtype.numpy)
    return Program(graph, [draw[: v.type.numel].reshape(v.type.sizes).copy() for v in graph.inputs])


class _Grower:
    def __init__(self, rng: Any, differentiable: bool) -> None:
        self.rng = rng
        self.bounded = differentiable
        dtype = "f64" if differentiable else str(rng.choice(["f32", "f64", "i32", "i64"]))
        self.type = TensorType(DTYPES[dtype], (int(rng.choice([1, 3, 5, 16, 17])),))

    def stacked(self, length: int) -> TensorType:
        return self.type.with_shape((length, *self.type.shape))

    def pick(self, values: list[Value]) -> Value:
        return values[self.rng.integers(len(values))]

    def fill(
        self, graph: Graph, values: list[Value], wholes: list[Value], count: int, depth: int
    ) -> list[Value]:
        """Ops on `values`, vectors all; `count` of the vectors that there are afterwards."""
        b = Builder(graph)
        known = list(values)
        for _ in range(self.rng.integers(1, 5)):
            kind = self.rng.integers(7) if depth < DEEPEST else self.rng.integers(4)
            if kind < 4:
                known.append(self.plain(b, known))
            elif kind == 4:
                known += self.branch(b, known, wholes, depth)
            elif kind == 5:
                known += self.scan(b, known, wholes, depth)
            else:
                known += self.open_loop(b, known, wholes, depth)
        return [self.pick(known[-4:]) for _ in range(count)]

    def plain(self, b: Builder, known: list[Value]) -> Value:
        x, y = self.pick(known), self.pick(known)
        names = ["add", "sub", "minimum", "maximum", "neg"]
        name = names[self.rng.integers(len(names))]
        return getattr(b, name)(x) if name == "neg" else getattr(b, name)(x, y)  # type: ignore[no-any-return]

    def flag(self, b: Builder, known: list[Value]) -> Value:
        x, y = (b.max(self.pick(known), axes=(0,)) for _ in range(2))
        return b.lt(x, y)  # type: ignore[no-any-return]

    def region(
        self, takes: list[Value], count: int, wholes: int, depth: int, *, slices: int = 0, flag: bool = False
    ) -> Graph:
        """A region on values of these types, the last `wholes` of which are stacked."""
        graph = Graph("body")
        inputs = [graph.add_input(v.type.with_shape(v.type.shape[1:]) if i in range(count, count + slices) else v.type)
                  for i, v in enumerate(takes)]  # fmt: skip
        vectors, rest = inputs[: len(inputs) - wholes], inputs[len(inputs) - wholes :]
        graph.outputs = self.fill(graph, vectors, rest, count, depth + 1)
        if flag:
            graph.outputs = [self.flag(Builder(graph), [*vectors, *graph.outputs])]
        return graph

    def branch(self, b: Builder, known: list[Value], wholes: list[Value], depth: int) -> list[Value]:
        given = [self.pick(known) for _ in range(2)]
        regions = [self.region([*given, *wholes], 2, len(wholes), depth) for _ in range(2)]
        return list(b.cond(self.flag(b, known), *given, *wholes, outputs=(self.type,) * 2, regions=regions))

    def scan(self, b: Builder, known: list[Value], wholes: list[Value], depth: int) -> list[Value]:
        whole = self.pick(wholes)
        given = [self.pick(known), whole, *wholes]
        body = self.region(given, 1, len(wholes), depth, slices=1)
        body.outputs.append(self.plain(Builder(body), body.inputs[:2]))
        length = int(whole.type.sizes[0])
        found = b.scan(
            *given, length=length, carries=1, slices=1, outputs=(self.type,), regions=[body],
            reverse=bool(self.rng.integers(2)),
        )  # fmt: skip
        stacked = b.max(found[1], axes=(0,)) if length else found[0]
        return [found[0], stacked]

    def open_loop(self, b: Builder, known: list[Value], wholes: list[Value], depth: int) -> list[Value]:
        """A loop that counts, and may end sooner by what its predicate says of its vectors."""
        given = [self.pick(known), self.pick(known)]
        count = b.constant(np.array(0))
        limit = int(self.rng.integers(1, 4)) if self.bounded or self.rng.integers(2) else None
        steps = int(self.rng.integers(0, 5))
        graphs = []
        for flag in (True, False):
            graph = self.region([*given, *wholes], 2, len(wholes), DEEPEST if flag else depth, flag=flag)
            n = graph.add_input(count.type)
            graph.inputs.remove(n)
            graph.inputs.insert(2, n)
            for i, v in enumerate(graph.inputs):
                v.index = i
            inner = Builder(graph)
            if flag:
                counting = inner.lt(n, steps)
                both = self.rng.integers(2)
                graph.outputs = [inner.bitwise_and(counting, graph.outputs[0]) if both else counting]
            else:
                graph.outputs.append(inner.add(n, 1))
            graphs.append(graph)
        found = b.while_(*given, count, *wholes, carries=3, limit=limit, regions=graphs)
        return list(found[:2])
