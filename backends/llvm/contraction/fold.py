"""Sums of several folds: each is summed from zero in registers, then added to the total of those before.

Totals wait on the stack, which costs a load, an addition and a store of each vector for a whole fold of
multiply-adds. The total of earlier blocks comes first: ((earlier + fold 0) + fold 1) + …, so that blocks of any
number of folds give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.backends.llvm.contraction.axes import constant, minimum, times
from graphc.backends.llvm.contraction.micro import Ahead, Columns, Panel, accumulate
from graphc.backends.llvm.text import Builder, Val, vector
from graphc.ir.records import dataclass

__all__ = ["Earlier", "accumulate_folds"]


@dataclass(frozen=True)
class Earlier:
    """Sums of earlier blocks: `load(row, vector)` reads them, unless this block is the first (`none`)."""

    none: Val
    load: Callable[[int, int], Val]


def accumulate_folds(
    builder: Builder,
    scalar: str,
    width: int,
    rows: int,
    vectors: int,
    a: tuple[Val, Panel],
    b: Columns,
    steps: Val,
    fold: int | Val,
    even: int,
    ahead: Ahead | None,
    earlier: Earlier | None,
) -> list[list[Val]]:
    """The total over `steps` values of k, `fold` at a time, and over `earlier` ones; [row][vector].

    A `fold` that is known at run time goes with `steps` that may be 0.
    """
    length = fold if isinstance(fold, Val) else constant(fold)
    end = steps if isinstance(fold, int) else builder.intrinsic("smax", "i64", [steps, constant(1)])
    type_ = vector(scalar, width)
    stack = builder.alloca(type_, rows * vectors)

    def place(i: int, j: int) -> Val:
        return builder.gep(stack, i * vectors + j, type_)

    def put(grid: Sequence[Sequence[Val]], before: Callable[[int, int], Val] | None) -> None:
        for i, row in enumerate(grid):
            for j, x in enumerate(row):
                builder.store(x if before is None else builder.fadd(before(i, j), x), place(i, j))

    def one(k: Val, _: tuple[Val, ...]) -> list[Val]:
        start = builder.gep(a[0], times(builder, k, a[1].step), scalar), a[1]
        rest = minimum(builder, builder.sub(steps, k), length)
        columns = b.from_step(builder, k)
        grid = accumulate(builder, scalar, width, rows, vectors, start, columns, rest, even, ahead, begun=k)
        first, later, done = (builder.label(x) for x in ("firstfold", "laterfold", "folded"))
        builder.branch_if(builder.icmp("eq", k, constant(0)), first, later)
        builder.block(first)
        if earlier is None:
            put(grid, None)
        else:
            fresh, resumed = builder.label("fresh"), builder.label("resumed")
            builder.branch_if(earlier.none, fresh, resumed)
            builder.block(fresh)
            put(grid, None)
            builder.branch(done)
            builder.block(resumed)
            put(grid, earlier.load)
        builder.branch(done)
        builder.block(later)
        put(grid, lambda i, j: builder.load(type_, place(i, j)))
        builder.branch(done)
        builder.block(done)
        return []

    builder.loop(0, end, fold, (), one, "fold")
    return [[builder.load(type_, place(i, j)) for j in range(vectors)] for i in range(rows)]
