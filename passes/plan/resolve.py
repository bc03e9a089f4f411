"""A planned program with symbolic sizes at given sizes: the same phases and kernels, other numbers.

Types, numbers of partitions, offsets in the arena and the arrays of sizes that kernels are called with follow
from the sizes; which kernels run in which phase, and what shares memory, was decided before. Nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from graphc.ir.dims import Dim, Symbol, substitute, symbols, typical
from graphc.ir.kernel import Kernel
from graphc.ir.program import Buffer, KernelCall, Move, Phase, Program, Repeat, SizeArray
from graphc.ir.types import TensorType
from graphc.passes.context import CompileContext
from graphc.passes.plan.arena import Lifetime, assign_offsets, most_live, places_below, stacked
from graphc.passes.schedule.cost import work_expression

__all__ = ["Resolver", "most_bytes"]

_WORSE = 16
"""Temporaries keep the order in which the plan put them unless that takes one part in so many more than there must be."""
_LEAST_BYTES = 64
"""Temporaries without elements have an address all the same: what a guard keeps out may be read there."""


class Resolver:
    """Gives one program at any sizes; what does not depend on sizes is worked out once.

    `names` say, call by call in program order, which kernels are the same.
    """

    def __init__(self, program: Program, context: CompileContext, names: Sequence[str]) -> None:
        self.program = program
        self.context = context
        calls = [c for p in program.phases for c in p.calls]
        self._same = {id(c.kernel): name for c, name in zip(calls, names, strict=True)}
        self._divisions: dict[str, Callable[[Mapping[Symbol, int]], int]] = {}
        """By how many partitions kernels with symbolic sizes are run, by name."""

    @cached_property
    def below(self) -> dict[int, list[int]]:
        """Which temporaries lie under each, as the program was planned."""
        return _below(self.program)

    def at(self, sizes: Mapping[Symbol, int]) -> Program:
        """The program at these sizes, which has the kernels of the given one."""
        return _AtSizes(self, sizes).run()

    def parts(self, kernel: Kernel, sizes: Mapping[Symbol, int]) -> int:
        """The number of partitions that a kernel is worth at these sizes."""
        name = self._same[id(kernel)]
        division = self._divisions.get(name)
        if division is None:
            division = self._divisions[name] = self._division(kernel)
        return division(sizes)

    def _division(self, kernel: Kernel) -> Callable[[Mapping[Symbol, int]], int]:
        schedule, context = kernel.schedule, self.context
        if schedule is not None and schedule.engine != "loops":
            return context.backend.division(kernel, context.target)
        work, grain = work_expression(kernel), context.options.grain
        return lambda sizes: _number(work, sizes) // grain


def most_bytes(program: Program) -> int:
    """Bytes of temporaries at the largest sizes, all of which are bounded; at no sizes there are more."""
    if not program.lives:
        return program.arena_bytes

    def largest(x: Dim) -> int:
        return _number(x, {s: s.hi for s in symbols(x) if s.hi is not None})

    return stacked(_lives(program, largest), _below(program))[1]


def _lives(program: Program, number: Callable[[Dim], int]) -> list[Lifetime]:
    """The temporaries, of sizes that `number` gives."""
    return [
        Lifetime(max(_LEAST_BYTES, number(program.buffers[r].type.size_bytes)), first, last)
        for r, first, last in program.lives
    ]


def _below(program: Program) -> dict[int, list[int]]:
    """Which temporaries lie under each, as the program was planned."""
    return places_below(_lives(program, typical), [program.buffers[r].offset for r, _, _ in program.lives])


def _number(x: Dim, sizes: Mapping[Symbol, int]) -> int:
    found = substitute(x, dict(sizes))
    assert isinstance(found, int), f"{x} has no value"
    return found


class _AtSizes:
    def __init__(self, resolver: Resolver, sizes: Mapping[Symbol, int]) -> None:
        self.resolver = resolver
        self.program = resolver.program
        self.values = sizes
        self._types: dict[TensorType, TensorType] = {}
        self._parts: dict[int, int] = {}

    def run(self) -> Program:
        buffers, arena = self._buffers()
        return replace(
            self.program,
            buffers=buffers,
            phases=tuple(self._phase(p) for p in self.program.phases),
            arena_bytes=arena,
            constants=tuple(map(self._constant, self.program.constants)),
            repeats=tuple(map(self._repeat, self.program.repeats)),
            choices=tuple(replace(c, offset=self.number(c.offset)) for c in self.program.choices),
            lives=(),
        )

    def number(self, x: Dim) -> int:
        """A size in numbers."""
        return x if isinstance(x, int) else _number(x, self.values)

    def _buffers(self) -> tuple[tuple[Buffer, ...], int]:
        found = [b if b.type.is_static else replace(b, type=self._type(b.type)) for b in self.program.buffers]
        lives = _lives(self.program, self.number)
        offsets, total = stacked(lives, self.resolver.below)
        if total - total // _WORSE > most_live(lives):
            offsets, total = min((offsets, total), assign_offsets(lives), key=lambda found: found[1])
        for (row, _, _), offset in zip(self.program.lives, offsets, strict=True):
            found[row] = replace(found[row], offset=offset)
        return tuple(found), total

    def _type(self, type_: TensorType) -> TensorType:
        if type_.is_static:
            return type_
        found = self._types.get(type_)
        if found is None:
            found = self._types[type_] = TensorType(type_.dtype, tuple(map(self.number, type_.shape)))
        return found

    def _constant(self, value: object) -> object:
        """An array of sizes where the symbols stand."""
        if not isinstance(value, SizeArray):
            return value
        numbers = [self.values[s] for s in value.symbols]
        if value.kernel is not None:
            numbers += self.resolver.context.backend.numbers_at(value.kernel, self.values)
        return np.array(numbers, np.int64)

    def _repeat(self, repeat: Repeat) -> Repeat:
        count = None if repeat.count is None else self.number(repeat.count)
        first = repeat.even if repeat.even and count is not None and count % 2 == 0 else repeat.first
        return replace(repeat, count=count, first=self._moves(first), then=self._moves(repeat.then), even=())

    def _moves(self, moves: tuple[Move, ...]) -> tuple[Move, ...]:
        return tuple(replace(m, offset=self.number(m.offset)) for m in moves)

    def _phase(self, phase: Phase) -> Phase:
        return replace(phase, calls=tuple(map(self._call, phase.calls)))

    def _call(self, call: KernelCall) -> KernelCall:
        if call.sizes < 0:
            return call
        known = self._parts.get(id(call.kernel))
        if known is None:
            known = max(1, min(call.parts, self.resolver.parts(call.kernel, self.values)))
            self._parts[id(call.kernel)] = known
        return call if known == call.parts else replace(call, parts=known)
