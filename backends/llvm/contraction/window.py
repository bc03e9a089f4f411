"""Convolution-like operands: B read in place from a copy of the window of its buffer that a block needs.

Where neighbouring columns and neighbouring k read overlapping parts of one buffer, packing would
copy every element many times. Instead the window, every element that a batch entry and a block of
k can reach, is copied once, with the fill value where a guard fails. A register tile then reads
vector j of step k at base[j] + offset[k], the offsets being a constant table.

Along the last buffer dimension the window is stored by phases of the columns' stride (v mod
stride, then v // stride), so that neighbouring columns are neighbours in it for any stride.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from graphc.backends.llvm.contraction.axes import Group
from graphc.backends.llvm.contraction.body import linear_offset
from graphc.backends.llvm.contraction.problem import Problem
from graphc.ir.dims import Dim, Symbol, split_linear, symbols
from graphc.ir.kernel import Instruction, KernelBuffer, extent
from graphc.ir.types import TensorType

__all__ = ["Dimension", "Window", "find_window"]


@dataclass(frozen=True)
class Dimension:
    """One dimension of the window: `size` indices from `base` on (a dim over batch axes)."""

    symbol: Symbol
    base: Dim
    size: int
    stride: int


@dataclass(frozen=True)
class Window:
    """The window of one batch entry.

    Element v of dimension d is at v·stride; in the last dimension (whose axis is `lane`) at
    (v mod `phases`)·`pitch` + v // `phases`. `outer` are the other dimensions of more than one
    index, `sliced` the one of them that follows the slowest k axis (its size is that of a block).
    `columns` are the column axes but the last with their strides; vectors lie along the last,
    of `run` columns. `parts` are the coefficients of the axes in each dimension and its stride,
    `steps` the k axes.
    """

    body: tuple[Instruction, ...]
    load: int
    result: int
    outer: tuple[Dimension, ...]
    sliced: Dimension | None
    slice_steps: int
    lane: Dimension
    phases: int
    pitch: int
    columns: tuple[tuple[Symbol, int], ...]
    run: int
    parts: tuple[tuple[dict[Symbol, int], int], ...]
    steps: tuple[Symbol, ...]

    def offsets(self) -> list[int]:
        """Where each flat step of k reads, relative to its column's place."""
        totals, last = [0], [0]
        for axis in self.steps:
            count = extent(axis)
            # A coefficient's least contribution is part of the window's base.
            strides = [c.get(axis, 0) * s for c, s in self.parts[:-1]]
            ahead = sum(strides)
            behind = sum(min(0, s * (count - 1)) for s in strides)
            step = self.parts[-1][0].get(axis, 0)
            least = min(0, step * (count - 1))
            totals = [t + ahead * v - behind for t in totals for v in range(count)]
            last = [x + step * v - least for x in last for v in range(count)]
        return [
            t + x % self.phases * self.pitch + x // self.phases for t, x in zip(totals, last, strict=True)
        ]

    @property
    def elements(self) -> int:
        """Elements of the copy."""
        whole = self.phases * self.pitch * prod(d.size for d in self.outer)
        return whole * (self.sliced.size if self.sliced is not None else 1)

    @property
    def column_group(self) -> Group:
        """The column axes but the last."""
        return Group(tuple(a for a, _ in self.columns))

    def copy_body(self, problem: Problem, phase: int) -> tuple[Instruction, ...]:
        """The operand's body with its load at the point of the window's symbols, in one phase."""
        load = next(i for i in self.body if i.id == self.load)
        index: list[Dim] = []
        for position, old in enumerate(load.index):
            index.append(self._place(position, old, phase))
        replaced = dict(zip(load.index, index, strict=True))
        guards = tuple((replaced[e], lo, hi) for e, lo, hi in load.guards)
        buffer = KernelBuffer(TensorType(load.dtype, problem.shapes[load.buffer]), "in")
        new = dataclasses.replace(load, index=(linear_offset(buffer, index),), guards=guards)
        return tuple(new if i.id == self.load else i for i in self.body)

    def _place(self, position: int, old: Dim, phase: int) -> Dim:
        name = f"window{position}"
        if name == self.lane.symbol.name:
            return self.lane.base + self.lane.symbol.expr * self.phases + phase
        for dimension in (*self.outer, *([self.sliced] if self.sliced is not None else [])):
            if dimension.symbol.name == name:
                return dimension.base + dimension.symbol.expr
        return old

    def phase_runs(self) -> Iterator[tuple[int, int]]:
        """(phase, elements of it)."""
        for phase in range(min(self.phases, self.lane.size)):
            yield phase, -(-(self.lane.size - phase) // self.phases)


def find_window(problem: Problem, kc: int) -> Window | None:
    """The window of `problem.b`, or None where it has none or reading it would gain nothing."""
    columns, steps = problem.sides[2], problem.step_axes
    loads = [i for i in problem.b.source if i.opcode == "load"]
    if (
        len(loads) != 1
        or not columns
        or problem.run != problem.n
        or problem.is_vector
        or not problem.n * problem.k
    ):
        return None
    if any(i.opcode == "index" for i in problem.b.source):
        return None
    load = loads[0]
    coefficients = [_coefficients(e, (*columns, *steps)) for e in load.index]
    if any(c is None for c in coefficients) or not {g[0] for g in load.guards} <= set(load.index):
        return None
    known = [c for c in coefficients if c is not None]
    lane_axis, last = columns[-1], len(known) - 1
    stride = known[last][0].get(lane_axis, 0)
    if stride < 1 or any(lane_axis in c for c, _ in known[:last]):
        return None
    if any(a in known[last][0] for a in columns[:-1]) or any(
        k < 0 for c, _ in known for a, k in c.items() if a in columns
    ):
        return None
    return _build(problem, load, known, stride, kc)


def _coefficients(expression: Dim, axes: Sequence[Symbol]) -> tuple[dict[Symbol, int], Dim] | None:
    """The nonzero coefficients of the axes, and the rest, which is free of them."""
    found: dict[Symbol, int] = {}
    rest = expression
    for axis in axes:
        split = split_linear(rest, axis)
        if split is None:
            return None
        if split[0]:
            found[axis] = split[0]
        rest = split[1]
    return None if symbols(rest) & set(axes) else (found, rest)


def _build(
    problem: Problem,
    load: Instruction,
    known: Sequence[tuple[dict[Symbol, int], Dim]],
    stride: int,
    kc: int,
) -> Window | None:
    columns, steps = problem.sides[2], problem.step_axes
    sizes = [1 + sum(abs(k) * (extent(a) - 1) for a, k in c.items()) for c, _ in known]
    bases = [rest + sum(min(0, k * (extent(a) - 1)) for a, k in c.items()) for c, rest in known]
    sliced = _sliced(known, steps)
    slice_steps = prod(extent(a) for a in steps[1:])
    if sliced is not None:
        sizes[sliced] = min(sizes[sliced], (kc - 1) // slice_steps + 2)
    pitch = -(-sizes[-1] // stride)
    strides = [0] * len(sizes)
    step = pitch * stride
    for d in reversed(range(len(sizes) - 1)):
        strides[d] = step
        step *= sizes[d]
    dimensions = [
        Dimension(
            Symbol(f"window{d}", 0, max(sizes[d], extent(steps[0]) if d == sliced else 0) - 1),
            bases[d],
            sizes[d],
            strides[d],
        )
        for d in range(len(sizes))
    ]
    return Window(
        body=problem.b.source,
        load=load.id,
        result=problem.b.result,
        outer=tuple(x for d, x in enumerate(dimensions[:-1]) if x.size > 1 and d != sliced),
        sliced=None if sliced is None else dimensions[sliced],
        slice_steps=slice_steps,
        lane=dimensions[-1],
        phases=stride,
        pitch=pitch,
        columns=tuple((a, sum(c.get(a, 0) * s for (c, _), s in zip(known, strides, strict=True))) for a in columns[:-1]),
        run=extent(columns[-1]),
        parts=tuple((c, s) for (c, _), s in zip(known, strides, strict=True)),
        steps=steps,
    )  # fmt: skip


def _sliced(known: Sequence[tuple[dict[Symbol, int], Dim]], steps: Sequence[Symbol]) -> int | None:
    """The dimension that is exactly the slowest k axis (not the last dimension), if there is one."""
    if len(steps) < 2:
        return None
    users = [d for d, (c, _) in enumerate(known) if steps[0] in c]
    if len(users) == 1 and known[users[0]][0] == {steps[0]: 1} and users[0] != len(known) - 1:
        return users[0]
    return None
