"""A planned program with symbolic sizes at given sizes: the same phases and kernels, other numbers.

Types, numbers of partitions, offsets in the arena and the arrays of sizes that kernels are called with follow
from the sizes; which kernels run in which phase, and what shares memory, was decided before. Nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from graphc.ir.dims import Dim, Symbol, substitute
from graphc.ir.kernel import Kernel
from graphc.ir.program import Buffer, KernelCall, Move, Phase, Program, Repeat, SizeArray
from graphc.ir.types import TensorType
from graphc.passes.context import CompileContext
from graphc.passes.plan.arena import Lifetime, assign_offsets
from graphc.passes.schedule.cost import work_expression

__all__ = ["resolve"]

_LEAST_BYTES = 64
"""Temporaries without elements have an address all the same: what a guard keeps out may be read there."""


def resolve(program: Program, sizes: Mapping[Symbol, int], context: CompileContext) -> Program:
    """The program at these sizes, which has the kernels of the given one."""
    return _Resolver(program, sizes, context).run()


class _Resolver:
    def __init__(self, program: Program, sizes: Mapping[Symbol, int], context: CompileContext) -> None:
        self.program = program
        self.sizes: dict[Symbol, Dim] = dict(sizes)
        self.context = context
        self.values = sizes
        self.parts: dict[int, int] = {}

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
        found = substitute(x, self.sizes)
        assert isinstance(found, int), f"{x} has no value"
        return found

    def _buffers(self) -> tuple[tuple[Buffer, ...], int]:
        found = [replace(b, type=self._type(b.type)) for b in self.program.buffers]
        lives = [
            Lifetime(max(_LEAST_BYTES, found[r].type.nbytes), first, last)
            for r, first, last in self.program.lives
        ]
        offsets, total = assign_offsets(lives)
        for (row, _, _), offset in zip(self.program.lives, offsets, strict=True):
            found[row] = replace(found[row], offset=offset)
        return tuple(found), total

    def _type(self, type_: TensorType) -> TensorType:
        if type_.is_static:
            return type_
        return TensorType(type_.dtype, tuple(map(self.number, type_.shape)))

    def _constant(self, value: object) -> object:
        """An array of sizes where the symbols stand."""
        if not isinstance(value, SizeArray):
            return value
        numbers = [self.values[s] for s in value.symbols]
        if value.kernel is not None:
            numbers += self.context.backend.numbers_at(value.kernel, self.values)
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
        known = self.parts.get(id(call.kernel))
        if known is None:
            known = self.parts[id(call.kernel)] = self._parts(call.kernel, call.parts)
        return replace(call, parts=known)

    def _parts(self, kernel: Kernel, most: int) -> int:
        schedule, context = kernel.schedule, self.context
        if schedule is not None and schedule.engine != "loops":
            return min(most, context.backend.partitions_at(kernel, self.values, context.target))
        return max(1, min(most, self.number(work_expression(kernel)) // context.options.grain))
