"""Which kernels can be run as a chain, a block of rows at a time, and in which blocks.

Every link must make each row of what it makes out of the same row of what earlier links made; products have those rows as
their own, kernels of loops make one at each point of their outer axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from math import lcm, prod

from graphc.backends.llvm.chain.ends import numbers_of, quantum_of
from graphc.backends.llvm.contraction.body import linear_offset
from graphc.backends.llvm.contraction.by_text import by_text
from graphc.backends.llvm.contraction.phases import phases
from graphc.backends.llvm.contraction.problem import Problem, readings
from graphc.backends.llvm.contraction.tiling import Tiling, choose_tiling, leads, round_up
from graphc.backends.llvm.kernel import scratch_bytes as local_bytes
from graphc.ir.dims import Dim, Symbol, substitute
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer, Link, extent, kernel_sizes
from graphc.ir.records import dataclass
from graphc.ir.target import Target
from graphc.ir.types import TensorType

__all__ = ["Plan", "Product", "make_plan"]

_LEAST_ROWS, _LEAST_BLOCKS = 48, 8
"""Rows of a block that packing the other operand again is little for, and blocks that are divided evenly enough."""
_LINE, _SAME_SETS = 64, 1024
"""Bytes of a cache line, and multiples of bytes at which rows that are read side by side share few cache sets."""
_SHARE = 8
"""The share of L2 for a block of B beside a block of rows."""


@dataclass(frozen=True)
class Product:
    """A link that is a matrix product: its rows are the chain's."""

    problem: Problem
    tiling: Tiling


@dataclass(frozen=True)
class Plan:
    """`batch` entries of `rows` rows, in `blocks` blocks of `block`; inner rows have `length` elements, and
    of private buffers begin `pitch` elements apart. `kernels` are those of the links with such rows.

    `products` has an entry for each link, None for one that is no product. `quantum` is not 0 where links end after each
    row's own position, at multiples of it. `inner` are the buffers that links make and read.
    """

    batch: int
    rows: int
    length: int
    pitch: int
    block: int
    kernels: tuple[Kernel, ...]
    products: tuple[Product | None, ...]
    inner: tuple[int, ...]
    quantum: int

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block)


@by_text
def make_plan(kernel: Kernel, target: Target) -> Plan | None:
    if kernel.checks or kernel_sizes(kernel) or not kernel.links:
        return None
    made = {link.buffers[n] for link in kernel.links for n in numbers_of(link.kernel, "out", "inout")}
    read = {link.buffers[n] for link in kernel.links for n in numbers_of(link.kernel, "in", "inout")}
    inner = tuple(sorted(made & read))
    shapes = {kernel.buffers[n].type.shape[-1] for n in inner if kernel.buffers[n].type.rank >= 2}
    if len(shapes) != 1 or any(b.access == "local" and n not in inner for n, b in enumerate(kernel.buffers)):
        return None
    length = shapes.pop()
    assert isinstance(length, int)
    sides: set[tuple[int, int]] = set()
    problems: list[Problem | None] = []
    for link in kernel.links:
        if link.kernel.schedule is None:
            return None
        if link.kernel.schedule.engine == "loops":
            problems.append(None)
            continue
        problem = _problem(link, inner, length, length)
        if problem is None:
            return None
        sides.add((problem.batch.total, problem.m))
        problems.append(problem)
    if len(sides) != 1:
        return None
    batch, rows = sides.pop()
    for link, problem in zip(kernel.links, problems, strict=True):
        if problem is None and not _by_rows(link, inner, batch * rows, length, target):
            return None
    quantum = quantum_of(kernel, inner, problems, length, target)
    unit = lcm(*(choose_tiling(p, target).rows for p in problems if p is not None))
    size = max(kernel.buffers[n].type.dtype.itemsize for n in inner)
    block = _block(batch, rows, len(inner) * length * size, unit, target)
    local = [n for n in inner if kernel.buffers[n].access == "local"]
    pitch = length + _LINE // size if length * size % _SAME_SETS == 0 else length
    links = [
        dataclasses.replace(link, kernel=_pitched(link, problem, local, length, pitch))
        for link, problem in zip(kernel.links, problems, strict=True)
    ]
    products = []
    for link, problem in zip(links, problems, strict=True):
        again = None if problem is None else _problem(link, inner, length, pitch, local)
        products.append(None if again is None else Product(again, _tiling(again, block, target)))
    kernels = tuple(link.kernel for link in links)
    return Plan(batch, rows, length, pitch, block, kernels, tuple(products), inner, quantum)


def _tiling(problem: Problem, block: int, target: Target) -> Tiling:
    """The tiling of a product of which a block of rows is computed at a time."""
    tiling, size = choose_tiling(problem, target), problem.dtype.itemsize
    if tiling.a == "place":
        # Each block of B serves few rows, so that the near caches have room for it beside them.
        nc = tiling.columns * max(1, target.l2_bytes // _SHARE // (tiling.kc * size) // tiling.columns)
        tiling = leads(dataclasses.replace(tiling, nc=min(tiling.nc, nc)), size)
    return tiling


def _pitched(link: Link, problem: Problem | None, local: Sequence[int], length: int, pitch: int) -> Kernel:
    """The kernel of a link with rows of private buffers `pitch` elements apart."""
    kernel = link.kernel
    axes = kernel.axes if problem is None else (*problem.sides[0], *problem.sides[1])
    first = _flat(axes)
    places = {i: at for s in kernel.stages for i, at in _touched(link, local, s.body)}
    if pitch == length or not places:
        return kernel

    def moved(i: Instruction) -> Instruction:
        at = places.get(i)
        return i if at is None else dataclasses.replace(i, index=(at + first * (pitch - length),))

    buffers = [
        KernelBuffer(TensorType(b.type.dtype, (int(b.type.count) // length * pitch,)), b.access)
        if n < len(link.buffers) and link.buffers[n] in local
        else b
        for n, b in enumerate(kernel.buffers)
    ]
    stages = tuple(dataclasses.replace(s, body=tuple(map(moved, s.body))) for s in kernel.stages)
    return dataclasses.replace(kernel, buffers=tuple(buffers), stages=stages)


def _block(batch: int, rows: int, row_bytes: int, unit: int, target: Target) -> int:
    """Rows of a block: what its inner rows take stays in L2, and there are blocks for all threads."""
    most = max(_LEAST_ROWS, target.l2_bytes * 5 // 8 // row_bytes)
    count = -(-rows // most)
    if batch * count < _LEAST_BLOCKS:
        count = max(count, min(-(-_LEAST_BLOCKS // batch), rows // _LEAST_ROWS))
    return round_up(-(-rows // count), unit)


def _flat(axes: Sequence[Symbol]) -> Dim:
    """The row-major number of a point."""
    total: Dim = 0
    for a in axes:
        total = total * extent(a) + (a.expr if extent(a) != 1 else 0)
    return total


def _touched(
    link: Link, inner: Sequence[int], body: Sequence[Instruction]
) -> Iterator[tuple[Instruction, Dim]]:
    """Accesses of inner buffers and their offsets."""
    ones: dict[Symbol, Dim] = {
        a: 0 for a in (*link.kernel.axes, *(a for s in link.kernel.stages for a in s.axes)) if extent(a) == 1
    }
    for i in body:
        if i.opcode in ("load", "store") and i.buffer < len(link.buffers) and link.buffers[i.buffer] in inner:
            yield i, substitute(linear_offset(link.kernel.buffers[i.buffer], i.index), ones)


def _problem(
    link: Link, inner: Sequence[int], length: int, pitch: int, local: Sequence[int] | None = None
) -> Problem | None:
    """A product whose rows are those of every inner buffer that it reads or makes; `local` ones have rows `pitch` apart."""
    kernel = link.kernel
    if kernel.schedule is None or kernel.schedule.engine != "contraction" or len(phases(kernel)) != 1:
        return None
    for problem in readings(kernel, False):
        batch, rows, columns = problem.sides
        if problem.is_vector or problem.resumed or problem.a.panels or problem.b.panels:
            continue
        first = _flat([*batch, *rows])
        made = [x for s in kernel.stages[1:] for x in _touched(link, inner, s.body)]
        read = list(_touched(link, inner, kernel.stages[0].body))
        a_side, b_side = ({i.buffer for i in o.body if i.opcode == "load"} for o in (problem.a, problem.b))

        def rest(i: Instruction, at: Dim, first: Dim = first) -> Dim:
            apart = pitch if local is None or link.buffers[i.buffer] in local else length
            return at - first * apart

        if any(rest(i, at) != _flat(columns) or problem.n != length for i, at in made):
            continue
        if any(rest(i, at) != _flat(problem.step_axes) or problem.k != length for i, at in read):
            continue
        if all(i.buffer in a_side and i.buffer not in b_side for i, _ in read):
            return problem
    return None


def _by_rows(link: Link, inner: Sequence[int], rows: int, length: int, target: Target) -> bool:
    """True of a kernel of loops that makes each row of everything at one point of its outer axes."""
    kernel, schedule = link.kernel, link.kernel.schedule
    assert schedule is not None
    loops = [x.axis for x in schedule.loops if x.role in ("parallel", "sequential") and not x.size]
    if loops != [a.name for a in kernel.axes] or len(loops) != len(schedule.loops):
        return False
    if prod(map(extent, kernel.axes)) != rows or local_bytes(kernel, target):
        return False
    if any(s.kind == "scatter" for s in kernel.stages):
        return False
    first = _flat(kernel.axes) * length
    return all(
        len(s.axes) == 1 and extent(s.axes[0]) == length and at == first + _flat(s.axes)
        for s in kernel.stages
        for _, at in _touched(link, inner, s.body)
    )
