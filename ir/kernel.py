"""Kernel IR: an iteration space, stages over it, scalar bodies, and a schedule.

A kernel runs its stages in order at every point of its outer axes. A stage adds inner axes:

* a `map` stage runs its body at every point of its inner axes (often none);
* a `reduce` stage folds what its body yields over its inner axes and leaves the accumulators as
  scalars that later stages of the same outer point read;
* a `scatter` stage is a map whose stores add into their buffer (`store … add`), run in row-major
  order of its inner axes.

Scalars are numbered in SSA form, kernel-wide. A scalar made in a stage without inner axes, or a
reduce stage's result, is visible to all later stages; one made under inner axes is not. Buffers
are row-major; an index is a tuple of dims over the axis symbols and over `to_index` symbols
(named `%<id>`). A `local` buffer is private to one outer point.

A chain has links in place of stages: whole kernels, each of which makes rows of what the next ones read row by row.
They are run a block of rows after the other, so that a `local` buffer of a chain holds a block at a time.

Before scheduling `schedule` is None; afterwards every axis has a role in it. A kernel holds no
address and no name of the program around it, so equal kernels are one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

from graphc.ir.dims import Dim, Expr, Symbol, bounds, size_symbols, substitute, typical
from graphc.ir.errors import CompileError
from graphc.ir.records import dataclass
from graphc.ir.scalar import Guard
from graphc.ir.types import DType, TensorType

__all__ = [
    "FOLD_IN_LANES",
    "Combine",
    "Instruction",
    "Kernel",
    "KernelBuffer",
    "Link",
    "Loop",
    "Schedule",
    "Stage",
    "extent",
    "kernel_sizes",
    "new_axis",
    "replace_symbols",
    "size_of",
    "typical_size",
]

FOLD_IN_LANES = 8
"""Shortest last axis of a reduction that is folded in lanes."""

BufferAccess = Literal["in", "out", "inout", "local"]
StageKind = Literal["map", "reduce", "scatter"]
LoopRole = Literal["parallel", "vector", "tile", "unroll", "sequential"]


@dataclass(frozen=True)
class KernelBuffer:
    """A parameter (`in`, `out`, `inout`), in call order, or a `local` scratch array, after them.

    An `inout` buffer is read and written at the same element by the same point only, unless the
    kernel is a scatter.
    """

    type: TensorType
    access: BufferAccess


@dataclass(frozen=True)
class Instruction:
    """One scalar operation. `id` is its result's number (-1 for `store` and `yield`).

    opcode       operands         data
    const                         value: number
    load         [fill]           buffer, index, guards (the fill operand is present iff there are guards)
    index                         index: (expression,)
    to_index     [integer]        index: (extent,), value: check number or None; result is symbol `%id`
    cast         [x]
    <scalar op>  [..]             see `graphc.ir.scalar`
    store        [x]              buffer, index, guards, value: "add" in a scatter stage, else None
    yield        [x, ..]          what a reduce stage folds (one per accumulator)
    """

    id: int
    opcode: str
    dtype: DType
    operands: tuple[int, ...] = ()
    value: Any = None
    buffer: int = -1
    index: tuple[Dim, ...] = ()
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True)
class Combine:
    """Folds two accumulators: `left`, `right` and `results` are scalar numbers of equal count."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    body: tuple[Instruction, ...]
    results: tuple[int, ...]

    @property
    def opcode(self) -> str | None:
        """The scalar opcode where the combination is that one operation (`"add"`, `"max"`), else None."""
        if len(self.body) == 1 and self.body[0].operands == (*self.left, *self.right):
            return self.body[0].opcode
        return None


@dataclass(frozen=True)
class Stage:
    """`axes` are inner axes. A reduce stage has `init` (one constant per accumulator), `combine`,
    and `results` (the scalar numbers of the folded accumulators)."""

    kind: StageKind
    axes: tuple[Symbol, ...]
    body: tuple[Instruction, ...]
    init: tuple[tuple[DType, Any], ...] = ()
    combine: Combine | None = None
    results: tuple[int, ...] = ()


@dataclass(frozen=True)
class Loop:
    """How one axis is run. `size` is the vector length, tile or unroll factor; 0 where it has none."""

    axis: str
    role: LoopRole
    size: int = 0


@dataclass(frozen=True)
class Schedule:
    """Loops from the outermost in; an axis that is tiled occurs more than once, outer loop first.

    `loops` are those of the outer axes (of a chain, of the rows of a block), `stages[i]` those of stage i's inner axes. `parts` is the
    number of partitions that the parallel loops are divided into. `engine` says who emits the
    kernel: its loops as they stand, or the contraction engine, whose orders of summation and fused
    multiply-add belong to contraction ops alone: one for products with a vector, one for windows that
    are computed through transformed tiles, one for all others; or it is a chain. `plan` names one of the contraction
    engine's plans, where measurements chose it; empty where the engine's own estimate does.
    """

    loops: tuple[Loop, ...]
    stages: tuple[tuple[Loop, ...], ...]
    parts: int = 1
    engine: Literal["loops", "contraction", "vector_contraction", "tiled_windows", "chain"] = "loops"
    plan: str = ""


@dataclass(frozen=True)
class Link:
    """A scheduled kernel of a chain. `buffers` are those of the chain that its parameters are, in order."""

    kernel: Kernel
    buffers: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """See the module's first lines. `checks` counts data-dependent checks; `to_index` numbers are below it."""

    buffers: tuple[KernelBuffer, ...]
    axes: tuple[Symbol, ...]
    stages: tuple[Stage, ...]
    checks: int = 0
    schedule: Schedule | None = None
    links: tuple[Link, ...] = ()
    """Of a chain, which has neither axes nor stages."""
    partial: tuple[int, ...] = ()
    """Buffers of a chain of which nobody else looks at what comes after position `row` of row `row`: it need not be made."""

    @cached_property
    def parameters(self) -> tuple[KernelBuffer, ...]:
        """The buffers that a call passes."""
        return tuple(b for b in self.buffers if b.access != "local")

    @cached_property
    def sizes(self) -> tuple[Symbol, ...]:
        """See `kernel_sizes`."""
        found: set[Symbol] = set()
        for b in self.buffers:
            if not b.type.is_static:
                for d in b.type.shape:
                    found |= size_symbols(d)
        for a in (*self.axes, *(a for s in self.stages for a in s.axes)):
            if a.size is not None:
                found |= size_symbols(a.size)
        for i in self.instructions():
            for x in (*i.index, *(e for g in i.guards for e in g)):
                if isinstance(x, Expr):
                    found |= size_symbols(x)
        return tuple(sorted(found, key=lambda s: s.name))

    def instructions(self) -> Iterator[Instruction]:
        """Every instruction of every stage body (combine bodies excluded); of a chain those of its links."""
        for stage in self.stages:
            yield from stage.body
        for link in self.links:
            yield from link.kernel.instructions()

    def __str__(self) -> str:
        return _printer(self)


def extent(axis: Symbol) -> int:
    """Number of points of an axis with a fixed extent. Raises CompileError for a symbolic one."""
    if axis.size is not None:
        raise CompileError(
            f"this kernel cannot be made for a symbolic extent {str(axis.size).replace('$', '')} yet"
        )
    assert axis.hi is not None, f"axis {axis} has no fixed extent"
    return axis.hi + 1


def size_of(axis: Symbol) -> Dim:
    """Number of points of an axis, fixed or symbolic."""
    return extent(axis) if axis.size is None else axis.size


def typical_size(axis: Symbol) -> int:
    """Number of points of an axis at the sizes that choices are made for."""
    return extent(axis) if axis.size is None else typical(axis.size)


def new_axis(name: str, size: Dim) -> Symbol:
    """An axis of so many points."""
    if isinstance(size, int):
        return Symbol(name, 0, size - 1)
    most = bounds(size)[1]
    return Symbol(name, 0, None if most is None else most - 1, size)


def replace_symbols(i: Instruction, values: Mapping[Symbol, Dim]) -> Instruction:
    """The instruction with symbols replaced in its index and guards."""
    if not i.index and not i.guards:
        return i
    return dataclasses.replace(
        i,
        index=tuple(substitute(x, values) for x in i.index),
        guards=tuple(tuple(substitute(x, values) for x in g) for g in i.guards),  # type: ignore[misc]
    )


def kernel_sizes(kernel: Kernel) -> tuple[Symbol, ...]:
    """The symbolic sizes that a kernel is called with, by name: an array of them is its parameter after its buffers."""
    return kernel.sizes


def _unregistered(kernel: Kernel) -> Any:
    raise RuntimeError("import graphc.ir before printing a kernel")


_printer: Callable[[Kernel], str] = _unregistered


def register_printer(printer: Any) -> None:
    """Called once by `graphc.ir`: what `str` of a kernel does."""
    global _printer
    _printer = printer
