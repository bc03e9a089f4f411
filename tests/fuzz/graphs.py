"""Random graphs over the whole registry, drawn through each op's own samples.

A graph grows from values of matching types over a vocabulary of a few ops, so that ops meet;
repeated ops, constants and expanded scalars are mixed in because they are what passes look for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphc.ir import REGISTRY, Builder, Graph
from graphc.ir.families import GraphOp, Sample
from graphc.ir.graph import Location, Value
from graphc.ir.types import TensorType
from tests.sampling import draw, regions_of

Entry = tuple[type[GraphOp], Sample]
VOCABULARY = 4
"""Ops in one graph."""
SPLATS = (0.0, -0.0, 1.0, -1.0, 2.0)


@dataclass
class Program:
    """A graph and one array for each of its inputs."""

    graph: Graph
    arrays: list[Any]


@cache
def entries() -> list[list[Entry]]:
    """All samples of each op that has a meaning of its own, ops in order of name."""
    classes = [cls for _, cls in sorted(REGISTRY.items()) if "structural" not in cls.traits]
    return [[(cls, s) for s in cls.samples()] for cls in classes]


def takers(vocabulary: Sequence[Sequence[Entry]]) -> dict[TensorType, list[tuple[Entry, int]]]:
    """Which samples take a value of a type, and as which operand (never as one of which not all values will do)."""
    found: dict[TensorType, list[tuple[Entry, int]]] = {}
    for rows in vocabulary:
        for cls, sample in rows:
            for i, t in enumerate(sample.operands):
                if not is_restricted(sample, i):
                    found.setdefault(t, []).append(((cls, sample), i))
    return found


def how_of(sample: Sample, i: int) -> str:
    """The distribution of operand i."""
    return sample.draw[i] if i < len(sample.draw) else "normal"


def is_restricted(sample: Sample, i: int) -> bool:
    """True of an operand of which not all values will do: an index, a divisor of integers, what a sample makes."""
    how, floats = how_of(sample, i), sample.operands[i].dtype.is_floating_point
    return how.startswith("index:") or (not floats and (how == "nonzero" or sample.make is not None))


class _Grower:
    def __init__(self, data: Any) -> None:
        self.data = data
        self.graph = Graph("fuzz")
        self.builder = Builder(self.graph)
        self.rng = np.random.default_rng(self.number(0, 2**16))
        self.arrays: list[Any] = []
        self.values: list[Value] = []
        self.made: list[GraphOp] = []
        self.indices: dict[tuple[TensorType, str], Value] = {}
        self.vocabulary = [self.pick(entries()) for _ in range(VOCABULARY)]
        self.takers = takers(self.vocabulary)

    def number(self, low: int, high: int) -> int:
        return int(self.data(st.integers(low, high)))

    def pick(self, things: Sequence[Any]) -> Any:
        return things[self.number(0, len(things) - 1)]

    def grow(self, size: int) -> Program:
        for step in range(size):
            self.builder.loc = Location("fuzz.py", step + 1)
            kind = self.number(0, 9)
            known = [v for v in self.values if v.type in self.takers]
            if kind == 0 and self.made:
                self.repeat(self.pick(self.made))
            elif kind < 8 and known:
                value = self.pick(known)
                (cls, sample), i = self.pick(self.takers[value.type])
                self.add(cls, sample, {i: value})
            else:
                cls, sample = self.pick(self.pick(self.vocabulary))
                self.add(cls, sample, {})
        count = self.number(1, 3)
        self.graph.outputs = [self.values[-1]] + [self.pick(self.values) for _ in range(count)]
        return Program(self.graph, self.arrays)

    def add(self, cls: type[GraphOp], sample: Sample, chosen: dict[int, Value]) -> None:
        made = None if sample.make is None else sample.make(self.rng)
        operands = []
        for i, t in enumerate(sample.operands):
            if i in chosen:
                operands.append(chosen[i])
            elif not is_restricted(sample, i):
                operands.append(self.operand(t, how_of(sample, i)))
            elif made is not None:
                operands.append(self.given(t, made[i]))
            else:
                operands.append(self.held(t, how_of(sample, i)))
        op = self.builder.create(cls, operands, regions_of(sample), **sample.attrs)
        self.made.append(op)
        self.values.extend(op.results)

    def repeat(self, op: GraphOp) -> None:
        """The same op once more, perhaps with its operands the other way round."""
        operands = list(op.operands)
        if "commutative" in op.traits and self.number(0, 1):
            operands.reverse()
        again = self.builder.create(type(op), operands, [r.copy() for r in op.regions], **op.attrs)
        self.made.append(again)
        self.values.extend(again.results)

    def held(self, type_: TensorType, how: str) -> Value:
        """An input for restricted operands of a type, which nothing else makes."""
        if (type_, how) not in self.indices:
            self.indices[type_, how] = self.input(type_, how)
        return self.indices[type_, how]

    def operand(self, type_: TensorType, how: str) -> Value:
        known = [v for v in self.values if v.type == type_]
        kind = self.number(0, 5)
        if known and kind < 3:
            return self.pick(known)  # type: ignore[no-any-return]
        if kind == 3:
            return self.remember(self.builder.constant(draw(type_, how, self.rng)))
        if kind == 4:
            scalar = np.asarray(self.pick(SPLATS)).astype(type_.dtype.numpy)
            return self.remember(self.builder.broadcast_to(self.builder.constant(scalar), type_.shape))
        return self.remember(self.input(type_, how))

    def input(self, type_: TensorType, how: str) -> Value:
        if how == "normal" and self.number(0, 1):
            how = "special"
        return self.given(type_, draw(type_, how, self.rng))

    def given(self, type_: TensorType, array: Any) -> Value:
        self.arrays.append(array)
        return self.graph.add_input(type_, "argument")

    def remember(self, value: Value) -> Value:
        self.values.append(value)
        return value


@st.composite
def programs(draw_: Any, max_ops: int = 12) -> Program:
    """Verified graphs of up to `max_ops` ops with inputs."""
    size = draw_(st.integers(1, max_ops))
    return _Grower(draw_).grow(size)
