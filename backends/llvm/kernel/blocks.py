"""Kernels over short rows as one loop nest a stage for each block of rows.

A row's stages wait for each other: a sum is folded, a root or logarithm of it is taken, and only then the row is read
again. Where rows are short such chains take longer than the rows themselves. So a block of as many rows as a vector
has lanes goes through one stage after the other: rows of a stage do not wait for each other, and what is done once for
a row is done for all rows of the block in lanes. What one stage hands to another stands in memory meanwhile, a number for
each row. Every row gets the same values in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from graphc.ir.dims import Dim, Symbol, symbols
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer, Loop, Schedule, Stage, extent, replace_symbols
from graphc.ir.records import dataclass
from graphc.ir.target import Target
from graphc.ir.types import DType, TensorType

__all__ = ["row_blocks"]

_ROW_BYTES = 1024
"""Rows up to this length are run in blocks: longer ones keep the processor busy by themselves."""

_BLOCKS_A_PARTITION = 4
"""Least number of blocks for each partition, so that partitions stay of about equal length."""

_UNNAMED = frozenset({"store", "yield"})


@dataclass(frozen=True)
class _Part:
    """Stages that are run together at a row, or at all rows of a block in lanes."""

    stages: tuple[Stage, ...]
    loops: tuple[tuple[Loop, ...], ...]
    in_lanes: bool


def row_blocks(kernel: Kernel, target: Target) -> tuple[Kernel, ...]:
    """Kernels to be run one after another for each block of rows: their first axis is the block, their second one the
    row in it. Empty where the kernel is better run row by row."""
    plan = kernel.schedule
    size = target.width(32)
    if plan is None or not _suits(kernel, plan, size):
        return ()
    return _Division(kernel, plan, size).parts()


def _suits(kernel: Kernel, plan: Schedule, size: int) -> bool:
    """True of several stages over one outer axis that divides into blocks, with short rows."""
    if len(kernel.axes) != 1 or len(plan.loops) != 1 or plan.loops[0].role not in ("parallel", "sequential"):
        return False
    (row,) = kernel.axes
    if row.size is not None or extent(row) % size or extent(row) < size * _BLOCKS_A_PARTITION * plan.parts:
        return False
    if any(s.kind == "scatter" or any(a.size is not None for a in s.axes) for s in kernel.stages):
        return False
    folds = any(s.kind == "reduce" for s in kernel.stages)
    lanes = any(x.role == "vector" for loops in plan.stages for x in loops)
    return folds and lanes and all(_points(s) * _itemsize(s) <= _ROW_BYTES for s in kernel.stages)


def _points(stage: Stage) -> int:
    total = 1
    for a in stage.axes:
        total *= extent(a)
    return total


def _itemsize(stage: Stage) -> int:
    return max((i.dtype.itemsize for i in stage.body if i.opcode in ("load", "store")), default=1)


class _Division:
    """The parts of one kernel."""

    def __init__(self, kernel: Kernel, plan: Schedule, size: int) -> None:
        self.kernel = kernel
        self.plan = plan
        self.size = size
        (row,) = kernel.axes
        self.row = row
        self.block = Symbol(row.name, 0, extent(row) // size - 1)
        self.inside = Symbol(f"{row.name}r", 0, size - 1)
        self.made = {i.id: i for i in kernel.instructions() if i.id >= 0}
        self.types: dict[int, DType] = {n: i.dtype for n, i in self.made.items()}
        for s in kernel.stages:
            self.types.update(zip(s.results, (d for d, _ in s.init), strict=True))

    def parts(self) -> tuple[Kernel, ...]:
        """The kernels; none where a condition or a checked index is handed from one part to another."""
        parts = self._grouped()
        wanted = [self._wanted(p) for p in parts]
        cloned: list[list[Instruction]] = []
        handed: set[int] = set()
        for numbers in wanted:
            again: dict[int, Instruction] = {}
            for n in sorted(numbers):
                if self.types[n].kind != "bool" and not self._constant(n):
                    handed.add(n)
                elif not self._clone(n, again):
                    return ()
            cloned.append(list(again.values()))
        if any(
            s.name.startswith("%") and int(s.name[1:]) not in own
            for p, own in self._symbols(parts)
            for s in p
        ):
            return ()
        places = {n: len(self.kernel.buffers) + k for k, n in enumerate(sorted(handed))}
        rooms = tuple(KernelBuffer(TensorType(self.types[n], (self.size,)), "local") for n in places)
        buffers = (*map(self._room, self.kernel.buffers), *rooms)
        return tuple(
            self._kernel(p, buffers, again, numbers, places)
            for p, again, numbers in zip(parts, cloned, wanted, strict=True)
        )

    def _grouped(self) -> list[_Part]:
        """Neighbouring stages without axes together, every other stage alone."""
        found: list[_Part] = []
        for stage, loops in zip(self.kernel.stages, self.plan.stages, strict=True):
            if not stage.axes and found and found[-1].in_lanes:
                last = found[-1]
                found[-1] = replace(last, stages=(*last.stages, stage), loops=(*last.loops, loops))
            else:
                found.append(_Part((stage,), (loops,), not stage.axes and stage.kind == "map"))
        return found

    def _wanted(self, part: _Part) -> set[int]:
        """Scalars that a part uses and does not make."""
        own = _made_by(part)
        return {o for s in part.stages for i in s.body for o in i.operands if o not in own}

    def _symbols(self, parts: Sequence[_Part]) -> list[tuple[set[Symbol], set[int]]]:
        return [
            (set().union(*(symbols(x) for s in p.stages for i in s.body for x in _dims(i))), _made_by(p))
            for p in parts
        ]

    def _constant(self, number: int) -> bool:
        return number in self.made and self.made[number].opcode == "const"

    def _clone(self, number: int, into: dict[int, Instruction]) -> bool:
        """Adds what makes a scalar from constants and inputs alone; False where something else is needed."""
        i = self.made.get(number)
        if i is None or i.opcode == "to_index" or i.guards:
            return False
        if any(s != self.row for x in i.index for s in symbols(x)):
            return False
        if i.opcode == "load" and self.kernel.buffers[i.buffer].access != "in":
            return False
        if not all(o in into or self._clone(o, into) for o in i.operands):
            return False
        into.setdefault(number, i)
        return True

    def _room(self, buffer: KernelBuffer) -> KernelBuffer:
        """A local buffer has a row for each row of a block."""
        if buffer.access != "local":
            return buffer
        return replace(buffer, type=TensorType(buffer.type.dtype, (self.size, *buffer.type.shape)))

    def _kernel(
        self, part: _Part, buffers: tuple[KernelBuffer, ...], again: Iterable[Instruction], wanted: Iterable[int],
        places: Mapping[int, int],
    ) -> Kernel:  # fmt: skip
        own = _made_by(part)
        here = (self.inside.expr,)
        before = [*again]
        before += [
            Instruction(n, "load", self.types[n], buffer=places[n], index=here) for n in wanted if n in places
        ]
        after = [
            Instruction(-1, "store", self.types[n], (n,), buffer=places[n], index=here)
            for n in places
            if n in own
        ]
        stages = [Stage("map", (), tuple(before)), *part.stages, Stage("map", (), tuple(after))]
        loops: list[tuple[Loop, ...]] = [(), *part.loops, ()]
        kept = [n for n, s in enumerate(stages) if s.body]
        outer = self.plan.loops[0]
        rows = (
            Loop(self.inside.name, "vector", self.size)
            if part.in_lanes
            else Loop(self.inside.name, "sequential")
        )
        return replace(
            self.kernel,
            buffers=buffers,
            axes=(self.block, self.inside),
            stages=tuple(self._placed(stages[n]) for n in kept),
            schedule=replace(self.plan, loops=(outer, rows), stages=tuple(loops[n] for n in kept)),
        )

    def _placed(self, stage: Stage) -> Stage:
        at: dict[Symbol, Dim] = {self.row: self.size * self.block.expr + self.inside.expr}
        return replace(stage, body=tuple(self._moved(replace_symbols(i, at)) for i in stage.body))

    def _moved(self, i: Instruction) -> Instruction:
        """An access to a local buffer goes to the row's own."""
        own = (
            i.opcode in ("load", "store")
            and i.buffer < len(self.kernel.buffers)
            and self.kernel.buffers[i.buffer].access == "local"
        )
        return replace(i, index=(self.inside.expr, *i.index)) if own else i


def _made_by(part: _Part) -> set[int]:
    """Scalars that a part makes."""
    return {n for s in part.stages for n in (*s.results, *(i.id for i in s.body if i.opcode not in _UNNAMED))}


def _dims(i: Instruction) -> list[Dim]:
    return [*i.index, *(x for guard in i.guards for x in guard)]
