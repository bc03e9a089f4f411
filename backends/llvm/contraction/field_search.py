"""Finding fields: which of B's buffer dimensions and column axes vectors may lie along, and how much is copied at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from math import prod

from graphc.backends.llvm.contraction.field import Field, Place, Reach
from graphc.backends.llvm.contraction.problem import Problem
from graphc.backends.llvm.contraction.tiling import round_up
from graphc.ir.dims import Dim, Symbol, split_linear, symbols
from graphc.ir.kernel import extent
from graphc.ir.records import dataclass

__all__ = ["Blocking", "find_fields"]

_MOST_TABLE = 1 << 16
_PIECES = 8
"""Blocks of columns that give every thread some."""


@dataclass(frozen=True)
class Blocking:
    """What fields are made for: k steps a block, lanes, vectors of a tile, bytes that a field may take."""

    kc: int
    width: int
    vectors: int
    cache: int


def find_fields(problem: Problem, blocking: Blocking) -> list[Field]:
    """Ways to read `problem.b` through a field."""
    loads = [i for i in problem.b.source if i.opcode == "load"]
    columns, steps = problem.sides[2], problem.step_axes
    if len(loads) != 1 or not columns or problem.is_vector or not problem.m * problem.n * problem.k:
        return []
    if any(i.opcode == "index" for i in problem.b.source) or max(problem.k, problem.n) > _MOST_TABLE:
        return []
    load = loads[0]
    once = problem.k <= blocking.kc and not problem.resumed
    once = once and all(b.access != "inout" for b in problem.buffers)
    found = [_reach(e, columns, steps) for e in load.index]
    if any(r is None for r in found) or not {g[0] for g in load.guards} <= set(load.index):
        return []
    reaches = tuple(r for r in found if r is not None)
    made: list[Field] = []
    for minor, wide in _lane_axes(reaches, columns):
        if minor is not None and wide is not None and extent(minor) % blocking.width == 0:
            continue  # its own runs are whole vectors
        made += _fields(problem, reaches, blocking, minor, wide)
    if once:
        made = [dataclasses.replace(f, overlaps=f.minor is None and f.run >= f.width) for f in made]
    return made


def _reach(expression: Dim, columns: Sequence[Symbol], steps: Sequence[Symbol]) -> Reach | None:
    found: dict[Symbol, int] = {}
    rest = expression
    for axis in (*columns, *steps):
        split = split_linear(rest, axis)
        if split is None or (split[0] < 0 and axis in columns):
            return None
        if split[0]:
            found[axis] = split[0]
        rest = split[1]
    return None if symbols(rest) & {*columns, *steps} else Reach(found, rest)


def _users(reaches: Sequence[Reach], axis: Symbol) -> list[int]:
    return [d for d, r in enumerate(reaches) if axis in r.coefficients]


def _lane_axes(
    reaches: Sequence[Reach], columns: Sequence[Symbol]
) -> Iterator[tuple[Symbol | None, Symbol | None]]:
    """(minor axis, wide axis) pairs, one of which may be missing."""
    last = len(reaches) - 1
    slides = [a for a in columns if a in reaches[last].coefficients]
    wide = slides[0] if len(slides) == 1 and _users(reaches, slides[0]) == [last] else None
    if wide is not None and wide is columns[-1]:
        yield None, wide
    for axis in columns:
        users = _users(reaches, axis)
        if len(users) == 1 and users[0] != last and reaches[users[0]].coefficients == {axis: 1}:
            yield axis, None
            if wide is not None:
                yield axis, wide


def _fields(
    problem: Problem,
    reaches: tuple[Reach, ...],
    blocking: Blocking,
    minor: Symbol | None,
    wide: Symbol | None,
) -> Iterator[Field]:
    """The field of the largest share that fits the cache, and that of a share small enough to divide the work."""
    slow = problem.sides[2][0]
    if minor is None and {slow: 1} in [r.coefficients for r in reaches]:
        return  # the reading that has this axis as its batch gives the same vectors
    divided = None if slow in reaches[-1].coefficients or (slow is minor and wide is not None) else slow
    shares = [1]
    if divided is not None and divided is minor:
        shares = [min(round_up(extent(minor), blocking.width), blocking.width * blocking.vectors)]
    elif divided is not None:
        shares = [extent(divided)]
        while shares[-1] > 1:
            shares.append(-(-shares[-1] // 2))
    few = -(-extent(divided) // _PIECES) if divided is not None else 1
    for limit in dict.fromkeys((shares[0], max(few, shares[-1]))):
        for share in (s for s in shares if s <= limit):
            sizes = _sizes(problem, reaches, blocking, divided, share, minor, wide)
            if sizes is not None:
                yield sizes
                break


def _sizes(
    problem: Problem,
    reaches: tuple[Reach, ...],
    blocking: Blocking,
    divided: Symbol | None,
    share: int,
    minor: Symbol | None,
    wide: Symbol | None,
) -> Field | None:
    """The field of a share: of all k where that fits the cache, else of a block; None where neither fits."""
    columns, steps = problem.sides[2], problem.step_axes

    def count(a: Symbol) -> int:
        return min(share, extent(a)) if a is divided else extent(a)

    last = len(reaches) - 1
    minor_at = None if minor is None else _users(reaches, minor)[0]
    phases = reaches[last].coefficients[wide] if wide is not None else 1
    slice_steps = prod(extent(a) for a in steps[1:])
    sliced = _sliced(reaches, steps)
    full = [1 + sum(abs(k) * (count(a) - 1) for a, k in r.coefficients.items()) for r in reaches]
    minor_size = 1
    if minor is not None:
        minor_size = count(minor) if wide is not None else round_up(count(minor), blocking.width)
    pitch = -(-full[last] // phases)
    if phases > 1 and minor is None:
        pitch = round_up(pitch, blocking.width)  # vectors of one phase end before the next phase begins
    smallest = share == 1 or divided is None or divided is minor
    for whole in (True, False):
        if not whole and sliced is None:
            break
        sizes = list(full)
        if not whole and sliced is not None:
            nested = slice_steps % blocking.kc == 0 or blocking.kc % slice_steps == 0
            sizes[sliced] = min(
                full[sliced],
                -(-blocking.kc // slice_steps) if nested else (blocking.kc - 1) // slice_steps + 2,
            )
        strides, step = [0] * len(sizes), minor_size * pitch * phases
        for d in reversed(range(last)):
            if d != minor_at:
                strides[d] = step
                step *= sizes[d]
        fits = step * problem.dtype.itemsize <= blocking.cache
        if not fits and not (smallest and (not whole or sliced is None)):
            continue
        made = [
            _place(d, reaches[d], sizes[d], strides[d], divided, extent(steps[0]) if d == sliced else 0)
            for d in range(len(sizes))
        ]
        return Field(
            reaches=reaches, columns=columns, steps=steps, width=blocking.width,
            places=tuple(p for p in made[:last] if p.position != minor_at),
            wide=made[last], minor=None if minor_at is None else made[minor_at], wide_axis=wide, minor_axis=minor,
            phases=phases, pitch=pitch, minor_size=minor_size,
            sliced=None if sliced is None else made[sliced], slice_steps=slice_steps, whole=whole,
            divided=divided, share=share, elements=round_up(step + blocking.width, 16),
        )  # fmt: skip
    return None


def _sliced(reaches: Sequence[Reach], steps: Sequence[Symbol]) -> int | None:
    """The dimension that is exactly the slowest k axis, if there is one and k has several axes."""
    if len(steps) < 2:
        return None
    users = _users(reaches, steps[0])
    if len(users) != 1 or reaches[users[0]].coefficients != {steps[0]: 1} or users[0] == len(reaches) - 1:
        return None
    return users[0]


def _place(d: int, reach: Reach, size: int, stride: int, divided: Symbol | None, span: int) -> Place:
    base = reach.rest
    for a, k in reach.coefficients.items():
        base = base + min(0, k * (extent(a) - 1))
    shrinks = reach.coefficients.get(divided, 0) if divided is not None else 0
    if divided is not None:
        base = base + divided.expr * shrinks
    return Place(d, Symbol(f"field{d}", 0, max(size, span) - 1), base, size, stride, shrinks)
