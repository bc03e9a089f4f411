"""Estimates from which schedules follow: work of a kernel, strides of its accesses, lanes."""

from __future__ import annotations

from collections.abc import Iterable

from graphc.ir.dims import Dim, Symbol, product, split_linear, symbols
from graphc.ir.kernel import Instruction, Kernel, Stage, kernel_sizes, size_of, typical_size
from graphc.ir.target import Target

__all__ = ["lanes", "partitions", "points", "stride_cost", "work", "work_expression"]

EXPENSIVE = frozenset(
    {
        "exp",
        "expm1",
        "log",
        "log1p",
        "tanh",
        "sigmoid",
        "erf",
        "sin",
        "cos",
        "pow",
        "div",
        "rem",
        "sqrt",
        "rsqrt",
    }
)
EXPENSIVE_COST = 8


def points(axes: Iterable[Symbol]) -> int:
    """Number of points of some axes, at the sizes that choices are made for."""
    total = 1
    for a in axes:
        total *= max(0, typical_size(a))
    return total


def work(kernel: Kernel) -> int:
    """Element operations of the whole kernel."""
    own = points(kernel.axes) * sum(points(s.axes) * _point_cost(s) for s in kernel.stages)
    return own + sum(work(link.kernel) for link in kernel.links)


def work_expression(kernel: Kernel) -> Dim:
    """`work` of a kernel in its symbolic sizes."""
    inner: Dim = 0
    for s in kernel.stages:
        inner = inner + product([size_of(a) for a in s.axes]) * _point_cost(s)
    return product([size_of(a) for a in kernel.axes]) * inner


def _point_cost(stage: Stage) -> int:
    """Operations of one point of a stage: its body, and its combine where it folds."""
    combine = stage.combine.body if stage.combine is not None else ()
    return sum(
        EXPENSIVE_COST if i.opcode in EXPENSIVE else 1
        for i in (*stage.body, *combine)
        if i.opcode not in ("const", "yield")
    )


def partitions(kernel: Kernel, grain: int, most: int) -> int:
    """How many partitions the kernel's work is worth, a power of two; with symbolic sizes, how many it may be worth."""
    if kernel_sizes(kernel):
        return most
    count = max(1, min(most, work(kernel) // grain))
    # Three parts take two threads as long as four.
    return 1 << (count.bit_length() - 1)


def lanes(kernel: Kernel, target: Target) -> int:
    """Vector length for the kernel: by its widest floats, else by its widest integers.

    Scalars that are one for all points stand in no lanes.
    """
    floats, integers = 0, 8
    varies: set[int] = set()
    for stage in kernel.stages:
        for i in stage.body:
            if not any(o in varies for o in i.operands) and not any(map(symbols, _expressions(i))):
                continue
            varies.add(i.id)
            if i.opcode in ("load", "store", "cast"):
                if i.dtype.is_floating_point:
                    floats = max(floats, i.dtype.accumulator.bits)
                else:
                    integers = max(integers, i.dtype.bits)
        varies.update(stage.results)
    return target.width(floats or integers)


def _expressions(i: Instruction) -> list[Dim]:
    return [*i.index, *(x for guard in i.guards for x in guard)]


def stride_cost(body: Iterable[Instruction], axis: Symbol) -> int:
    """How badly the accesses lie along an axis: 0 where all are contiguous or do not move."""
    cost = 0
    for i in body:
        if i.opcode in ("load", "store"):
            weight = 4 if i.opcode == "store" else 2
            for x in i.index:
                split = split_linear(x, axis)
                still = split is not None and split[0] == 0
                if split is None or split[0] not in (0, 1) or (still and i.opcode == "store"):
                    cost += weight
    return cost
