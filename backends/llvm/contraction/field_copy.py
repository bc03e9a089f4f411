"""Copying a field: every element that a block of columns reads, once, in the field's order.

Elements are written in ascending order, so that a vector may reach over the end of its row: what
it spoils is written after it, and the field has room at its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from graphc.backends.llvm.contraction.axes import Env, chunks, constant, index_value, minimum, plus, times
from graphc.backends.llvm.contraction.body import Point, Scalars, emit_body, linear_offset
from graphc.backends.llvm.contraction.field import Field, Place
from graphc.backends.llvm.contraction.plain_row import emit_plain_row, plain_row
from graphc.backends.llvm.contraction.problem import Problem
from graphc.backends.llvm.text import Builder, Val, vector
from graphc.ir.dims import Dim, symbols
from graphc.ir.kernel import Instruction, KernelBuffer
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType

__all__ = ["FieldCopy"]

_ZERO = constant(0)


@dataclass(frozen=True)
class FieldCopy:
    """Emits copies of a problem's field to `target`. Where the field has all values of the divided axis, `within` are the first
    and the last one that are needed."""

    builder: Builder
    problem: Problem
    field: Field
    pointers: Sequence[Val]
    target: Val
    within: tuple[Val, Val] | None = None

    def emit(self, env: Env, start: Val | None, stop: Val | None) -> None:
        """Copies at the batch entry and divided value of `env`; the sliced dimension from `start` to before
        `stop`, where the field holds a block of k only."""
        field = self.field
        sliced = field.sliced if start is not None else None
        outer = [
            p for p in field.places if p is not sliced and p.position != (sliced.position if sliced else -1)
        ]
        missing = self._missing(env)
        if sliced is None:
            self._walk(outer, env, constant(0), missing)
            return
        assert start is not None and stop is not None

        def one(c: Val, _: tuple[Val, ...]) -> list[Val]:
            at = times(self.builder, self.builder.sub(c, start), sliced.stride)
            self._walk(outer, env | {sliced.symbol: c}, at, missing)
            return []

        self.builder.loop(start, stop, 1, (), one, "slab")

    def _missing(self, env: Env) -> Val | None:
        """By how many values the last block of the divided axis is shorter; None where none is."""
        field, builder = self.field, self.builder
        if field.divided is None or field.share >= field.values or field.values % field.share == 0:
            return None
        left = builder.sub(constant(field.values), env[field.divided])
        return builder.sub(constant(field.share), minimum(builder, left, constant(field.share)))

    def _walk(self, places: Sequence[Place], env: Env, at: Val, missing: Val | None) -> None:
        if not places:
            self._rows(env, at, missing)
            return
        place = places[0]

        def one(v: Val) -> None:
            self._walk(
                places[1:],
                env | {place.symbol: v},
                plus(self.builder, at, times(self.builder, v, place.stride)),
                missing,
            )

        if place.size == 1:
            one(constant(0))
            return
        first, stop = constant(0), self._bound(place, missing)
        if self.within is not None and place.shrinks:
            first, last = (times(self.builder, v, place.shrinks) for v in self.within)
            one_value = place.size - (self.field.values - 1) * place.shrinks
            stop = plus(self.builder, last, constant(one_value))
        self._each(stop, one, "field", first)

    def _each(self, stop: Val, body: Callable[[Val], None], hint: str, first: Val = _ZERO) -> None:
        def one(v: Val, _: tuple[Val, ...]) -> list[Val]:
            body(v)
            return []

        self.builder.loop(first, stop, 1, (), one, hint)

    def _bound(self, place: Place, missing: Val | None) -> Val:
        """The place's indices that a block has, which may be fewer in the last one."""
        if missing is None or not place.shrinks:
            return constant(place.size)
        return self.builder.sub(constant(place.size), times(self.builder, missing, place.shrinks))

    def _rows(self, env: Env, at: Val, missing: Val | None) -> None:
        """The wide and minor dimensions at one point of the others."""
        field = self.field
        assert field.wide is not None
        row = plain_row(self.problem, field)
        if row is not None:
            emit_plain_row(self.builder, self.problem, field, self.pointers, env, row, self.target, at)
            return
        for phase in range(min(field.phases, field.wide.size)):
            length = -(-(field.wide.size - phase) // field.phases)
            start = plus(self.builder, at, constant(phase * field.pitch * field.minor_size))
            if field.minor is None:
                self._run(env, start, phase, length)
            else:
                self._minor_rows(env, start, phase, length, missing)

    def _run(self, env: Env, start: Val, phase: int, length: int) -> None:
        """One phase of the wide dimension, in lanes along it."""
        field = self.field
        assert field.wide is not None
        body = self._body(phase)
        lane = field.wide.symbol

        def chunk(q: Val, mask: Val | None) -> None:
            point = Point(self.pointers, env | {lane: q}, lane, field.width, mask)
            self._store(body, point, plus(self.builder, start, q), mask)

        chunks(self.builder, constant(0), constant(length), field.width, chunk)

    def _minor_rows(self, env: Env, start: Val, phase: int, length: int, missing: Val | None) -> None:
        """Lanes along the minor dimension, for each index of one phase of the wide one."""
        field = self.field
        assert field.wide is not None and field.minor is not None
        body = self._body(phase)
        valid = self._bound(field.minor, missing)

        def index(q: Val) -> None:
            here = env | {field.wide.symbol: q}  # type: ignore[union-attr]
            at = plus(self.builder, start, times(self.builder, q, field.minor_size))
            for c in range(0, field.minor_size, field.width):
                self._lanes(body, here, plus(self.builder, at, constant(c)), c, valid)

        self._each(constant(length), index, "wide")

    def _lanes(self, body: tuple[Instruction, ...], env: Env, at: Val, first: int, valid: Val) -> None:
        """One vector along the minor dimension."""
        builder, field = self.builder, self.field
        assert field.minor is not None
        lane = field.minor.symbol
        point = Point(self.pointers, env | {lane: constant(first)}, lane, field.width)
        load = body[-1]
        plain = (
            load.opcode == "load"
            and len(body) <= 2
            and load.dtype is self.problem.dtype
            and not any(lane in symbols(e) for g in load.guards for e in g)
        )
        whole = valid.text.isdigit() and int(valid.text) >= first + field.width
        if not plain or not whole:
            mask = None if whole else builder.lane_mask(builder.sub(valid, constant(first)), field.width)
            if mask is not None and not valid.text.isdigit():
                mask = builder.lane_mask(self._not_negative(builder.sub(valid, constant(first))), field.width)
            self._store(body, dataclasses.replace(point, mask=mask), at, None)
            return
        if not load.guards:
            self._store(body, point, at, None)
            return
        # Guards are the same for all lanes: the fill, and over it what is there.
        fill = builder.const(vector(self.problem.scalar, field.width), body[0].value)
        builder.store(fill, builder.gep(self.target, at, self.problem.scalar), self.problem.dtype.itemsize)
        inside: Val | None = None
        for expression, lo, hi in load.guards:
            holds = builder.icmp(
                "ult", index_value(builder, expression - lo, env), index_value(builder, hi - lo, env)
            )
            inside = holds if inside is None else builder.and_(inside, holds)
        assert inside is not None
        with builder.if_(inside):
            bare = (dataclasses.replace(load, guards=(), operands=()),)
            self._store(bare, point, at, None)

    def _not_negative(self, x: Val) -> Val:
        builder = self.builder
        return builder.select(builder.icmp("slt", x, constant(0)), constant(0), x)

    def _store(self, body: tuple[Instruction, ...], point: Point, at: Val, mask: Val | None) -> None:
        builder, size = self.builder, self.problem.dtype.itemsize
        scalars: Scalars = {}
        emit_body(builder, self.problem.buffers, body, point, scalars)
        value = scalars[self.problem.b.result][1]
        place = builder.gep(self.target, at, self.problem.scalar)
        if mask is None:
            builder.store(value, place, size)
        else:
            builder.masked_store(value, place, mask, size)

    def _body(self, phase: int) -> tuple[Instruction, ...]:
        """The operand's body with its load at the point of the places' symbols, in one phase."""
        field, source = self.field, self.problem.b.source
        load = next(i for i in source if i.opcode == "load")
        index: list[Dim] = list(load.index)
        for place in (*field.places, field.minor):
            if place is not None:
                index[place.position] = place.base + (place.symbol.expr if field.walks(place) else 0)
        assert field.wide is not None
        index[field.wide.position] = field.wide.base + field.wide.symbol.expr * field.phases + phase
        replaced = dict(zip(load.index, index, strict=True))
        guards = tuple((replaced[e], lo, hi) for e, lo, hi in load.guards)
        buffer = KernelBuffer(TensorType(load.dtype, self.problem.shapes[load.buffer]), "in")
        new = dataclasses.replace(load, index=(linear_offset(buffer, index),), guards=guards)
        return tuple(new if i.id == load.id else i for i in source)
