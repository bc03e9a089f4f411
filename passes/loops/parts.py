"""Pieces of loops: a loop under construction, and the entries of a history."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from graphc.ir.builder import Builder
from graphc.ir.control import Loop
from graphc.ir.graph import Graph, Value

__all__ = ["Entries", "LoopBuild", "entries"]


class Entries(NamedTuple):
    """Parts of a history: before and after each step (stacked like slices), before the first step, after
    the last."""

    before: Value
    after: Value
    first: Value
    last: Value


def entries(b: Builder, loop: Loop, carry: int, history: Value | None = None) -> Entries:
    """The entries of a carried value's history, or of another value laid out like it."""
    h = loop.results[carry] if history is None else history
    length = loop.attrs["length"]
    early, late = rows(b, h, 0, length), rows(b, h, 1, length + 1)
    low, high = row(b, h, 0), row(b, h, length)
    return Entries(late, early, high, low) if loop.attrs["reverse"] else Entries(early, late, low, high)


def rows(b: Builder, x: Value, start: int, stop: int) -> Value:
    """x[start:stop] along the leading axis."""
    rest = x.type.shape[1:]
    starts, stops = (start, *(0 for _ in rest)), (stop, *rest)
    found: Value = b.slice(x, starts=starts, stops=stops, strides=(1,) * x.type.rank)
    return found


def row(b: Builder, x: Value, at: int) -> Value:
    """x[at] along the leading axis."""
    return b.reshape_to(rows(b, x, at, at + 1), x.type.shape[1:])


class LoopBuild:
    """A loop under construction, of the class and length of `like`.

    What is carried, read slice by slice or the same in every step becomes an input of `body`; `inside` builds
    there. `output` and `carried` say what a step gives; the functions they return give the loop's results
    once `finish` has built it with `b`.
    """

    def __init__(self, b: Builder, like: Loop, *, reverse: bool) -> None:
        self.b = b
        self.like = like
        self.reverse = reverse
        self.body = Graph(like.body.name)
        self.inside = Builder(self.body, loc=like.loc)
        self._carries: dict[Value, Value] = {}
        self._slices: dict[Value, Value] = {}
        self._constants: dict[Value, Value] = {}
        self._after: dict[Value, Value] = {}
        self._outputs: dict[Value, int] = {}
        self._made: Loop | None = None

    def carry(self, initial: Value) -> Value:
        """The input that is `initial` in the first step."""
        v = self.body.add_input(initial.type)
        self._carries[v] = initial
        return v

    def slice(self, whole: Value) -> Value:
        """The input that is a slice of `whole` in each step."""
        return self._input(self._slices, whole, sliced=True)

    def constant(self, value: Value) -> Value:
        """The input that is `value` in every step."""
        return self._input(self._constants, value, sliced=False)

    def _input(self, known: dict[Value, Value], outer: Value, *, sliced: bool) -> Value:
        for v, other in known.items():
            if other is outer:
                return v
        type_ = outer.type
        v = self.body.add_input(type_.with_shape(type_.shape[1:]) if sliced else type_)
        known[v] = outer
        return v

    def whole_of(self, value: Value) -> Value | None:
        """What `value` is a slice of, where it is an input that is one."""
        return self._slices.get(value)

    def constant_of(self, value: Value) -> Value | None:
        """What `value` is, where it is an input that is the same in every step."""
        return self._constants.get(value)

    def output(self, value: Value) -> Callable[[], Value]:
        """Stacks a value of the region; an input slice is there already."""
        whole = self._slices.get(value)
        if whole is not None:
            return lambda: whole
        number = self._outputs.setdefault(value, len(self._outputs))
        return lambda: self._result(len(self._carries) + number)

    def carried(self, carry: Value, after: Value) -> Callable[[], Value]:
        """What becomes of a carried value in a step."""
        self._after[carry] = after
        number = list(self._carries).index(carry)
        return lambda: self._result(number)

    def _result(self, i: int) -> Value:
        assert self._made is not None, "the loop is not built yet"
        return self._made.results[i]

    def finish(self) -> Loop:
        """Builds the loop."""
        inputs = [*self._carries, *self._slices, *self._constants]
        self.body.inputs = inputs
        for i, v in enumerate(inputs):
            v.index = i
        self.body.outputs = [*(self._after[c] for c in self._carries), *self._outputs]
        operands = [*self._carries.values(), *self._slices.values(), *self._constants.values()]
        op = self.b.create(
            type(self.like),
            operands,
            [self.body],
            length=self.like.attrs["length"],
            carries=len(self._carries),
            slices=len(self._slices),
            outputs=tuple(v.type for v in self._outputs),
            reverse=self.reverse,
        )
        assert isinstance(op, Loop)
        self._made = op
        return op
