"""Sums of columns of a large matrix, along its rows.

Columns in vectors one after the other would read a few lines of each row and come back for the next ones: memory is
read in jumps then. Here a few rows at a time are read from their beginning to their end, and the sums of all columns
stand in memory near by, a row of them for each level of the sum. The order of each column's sum is that of `reduction`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from graphc.backends.llvm.kernel.body import combine, run, run_point
from graphc.backends.llvm.kernel.loops import Range, Step, run_loops
from graphc.backends.llvm.kernel.reduction import level_length
from graphc.backends.llvm.kernel.scope import Scope
from graphc.backends.llvm.kernel.values import carrier, constant
from graphc.backends.llvm.text import Val, vector
from graphc.ir.columns import walks_rows
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer, extent
from graphc.ir.target import Target
from graphc.ir.types import TensorType

__all__ = ["emit_columns", "sums_along_rows", "with_sums"]

_ROWS = 8
"""Rows that are read side by side: few enough for the processor to foresee each."""
_VECTORS = 4
"""Vectors in one turn: two cache lines of each row."""


def sums_along_rows(kernel: Kernel, outer: Sequence[Step], target: Target) -> bool:
    """True where a kernel's loops over columns can be run for each few rows."""
    return (
        bool(outer)
        and outer[-1].role == "vector"
        and all(s.role == "parallel" and not s.last for s in outer[:-1])
        and walks_rows(kernel, target)
    )


def with_sums(kernel: Kernel, lanes: int) -> Kernel:
    """The kernel with memory for the sums of all columns: as many local buffers as there are levels, and one more.

    `lanes` is how many copies there are of a local buffer.
    """
    fold = kernel.stages[0]
    size = -(-extent(kernel.axes[0]) // lanes) + 8
    room = KernelBuffer(TensorType(fold.init[0][0], (size,)), "local")
    count = _levels(extent(fold.axes[0])) + 1
    return replace(kernel, buffers=(*kernel.buffers, *[room] * count))


def _levels(size: int) -> int:
    run = level_length(size)
    return 0 if run == 1 else 1 + max(_levels(run), _levels(size % run) if size % run else 0)


def emit_columns(
    kernel: Kernel,
    step: Step,
    columns: Range,
    scope: Scope,
    lists: Sequence[Sequence[Instruction]],
    finish: Callable[[Scope], None],
) -> None:
    """The kernel's first stage at all `columns`, then `finish` at each vector of them, where the sum is known.

    `lists` are the stage's instructions by depth, `step` is the vector loop.
    """
    width = scope.builder.target.width(kernel.stages[0].init[0][0].bits) * _VECTORS
    step = replace(step, size=min(step.size, width), unroll=1)
    _Columns(kernel, step, columns, scope, lists).emit(finish)


class _Columns:
    def __init__(
        self,
        kernel: Kernel,
        step: Step,
        columns: Range,
        scope: Scope,
        lists: Sequence[Sequence[Instruction]],
    ) -> None:
        self.builder = scope.builder
        self.stage = kernel.stages[0]
        assert self.stage.combine is not None
        self.how = self.stage.combine
        self.step, self.columns, self.scope, self.lists = step, columns, scope, lists
        self.rows = self.stage.axes[0]
        self.dtype = self.stage.init[0][0]
        count = _levels(extent(self.rows)) + 1
        *self.sums, self.part = scope.space.pointers[-count:]
        """Of each level, and of the rows that a run has had so far."""

    def emit(self, finish: Callable[[Scope], None]) -> None:
        self._over(Val("i64", "0"), extent(self.rows), 0)

        def last(at: Scope) -> None:
            run(at, self.lists[0])
            at.set(self.stage.results[0], self._load(at, self.sums[0]))
            finish(at)

        self._each(last)

    def _each(self, body: Callable[[Scope], None]) -> None:
        """`body` at every vector of columns."""

        def leaf(at: Scope, _: tuple[Val, ...]) -> tuple[Val, ...]:
            body(at)
            return ()

        run_loops((self.step,), self.scope.child(), {self.step.axis: self.columns}, (), leaf, lambda *_: None)

    def _place(self, at: Scope, row: Val) -> Val:
        return self.builder.gep(row, at.position(self.step.axis), carrier(self.dtype))

    def _load(self, at: Scope, row: Val) -> Val:
        type_ = vector(carrier(self.dtype), at.width)
        return self.builder.load(type_, self._place(at, row), self.dtype.itemsize)

    def _store(self, at: Scope, row: Val, value: Val) -> None:
        self.builder.store(value, self._place(at, row), self.dtype.itemsize)

    def _initial(self, at: Scope) -> Val:
        return self.builder.splat(constant(self.builder, self.dtype, self.stage.init[0][1]), at.width)

    def _add(self, row: Val, other: Val) -> None:
        """Adds a row of sums to another."""

        def one(at: Scope) -> None:
            self._store(at, row, self._sum(at, self._load(at, row), self._load(at, other)))

        self._each(one)

    def _sum(self, at: Scope, left: Val, right: Val) -> Val:
        return combine(at, self.how, (left,), (right,))[0]

    def _over(self, first: Val, size: int, level: int) -> None:
        """Makes `sums[level]` those of `size` rows from `first` on, which are more than a run."""
        builder, run_ = self.builder, level_length(size)
        row = self.sums[level]
        self._each(lambda at: self._store(at, row, self._initial(at)))
        whole = size // run_ * run_
        end = builder.add(first, Val("i64", str(whole)))

        def one(i: Val, _: tuple[Val, ...]) -> tuple[Val, ...]:
            self._add_rows(i, run_, level)
            return ()

        builder.loop(first, end, run_, (), one, "run")
        if whole < size:
            self._add_rows(end, size - whole, level)

    def _add_rows(self, first: Val, size: int, level: int) -> None:
        """Adds the sums of `size` rows to `sums[level]`."""
        if level_length(size) == 1:
            self._add_run(first, size, self.sums[level])
            return
        self._over(first, size, level + 1)
        self._add(self.sums[level], self.sums[level + 1])

    def _add_run(self, first: Val, size: int, row: Val) -> None:
        """Adds the sums of a run of rows, which begin at zero, to a row of sums."""
        for start in range(0, size, _ROWS):
            self._each(lambda at, start=start: self._few(at, first, start, size, row))  # type: ignore[misc]

    def _few(self, at: Scope, first: Val, start: int, size: int, row: Val) -> None:
        """The rows of a run from `start` on that are read side by side."""
        builder = self.builder
        value = self._load(at, self.part) if start else self._initial(at)
        run(at, self.lists[0])
        stop = min(start + _ROWS, size)
        for n in range(start, stop):
            point = at.bind({self.rows.name: builder.add(first, Val("i64", str(n)))})
            run_point(point, self.lists[1], True)
            value = self._sum(point, value, builder.splat(point.yields[0], at.width))
        if stop < size:
            self._store(at, self.part, value)
        else:
            self._store(at, row, self._sum(at, self._load(at, row), value))
