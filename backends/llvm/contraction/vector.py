"""Products with a vector: one side has a single point, so the other operand is streamed once.

The sum over k is kept as `width` interleaved partial sums (k mod width) within blocks of
`STEPS`; each block's partial sums are folded by one fixed tree and blocks are added in
ascending order. Both walks below, along k and along columns, follow that order exactly, so the
matrix's layout changes no bit. A matrix whose neighbours along k end within a vector, as those of windows do, has its
columns copied first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from graphc.backends.llvm.contraction.axes import (
    Env,
    chunks,
    constant,
    minimum,
    plus,
    runs,
)
from graphc.backends.llvm.contraction.body import Point, Scalars, emit_body
from graphc.backends.llvm.contraction.copies import find_copies
from graphc.backends.llvm.contraction.epilogue import emit_epilogue, emit_uniform
from graphc.backends.llvm.contraction.micro import multiply_add
from graphc.backends.llvm.contraction.packing import Block, pack_runs, transpose
from graphc.backends.llvm.contraction.problem import Operand, Problem
from graphc.backends.llvm.contraction.share import Units, each, load_pointers, place_scratch, shares
from graphc.backends.llvm.contraction.tiling import along_steps, round_up
from graphc.backends.llvm.text import Builder, Val, lanes, vector
from graphc.ir.target import Target

__all__ = ["STEPS", "emit_vector", "vector_cycles", "vector_scratch", "vector_units"]

STEPS = 2048
"""Steps of k in a block; a multiple of every vector width."""

_COLUMNS = 2048
"""Most columns that are walked along: their partial sums for one step stay in L1."""
_STRAIGHT = 12
"""Vectors of k up to which there is no loop along k: leaving a loop of few turns costs as much as some of them."""
_SHORT_CYCLES, _LONG_CYCLES = 0.84, 1.1
"""Cycles a vector of the matrix: along the columns of a short sum, where nothing is turned in registers, and else."""
_MOST_AT_ONCE = 12
"""Copied columns whose sums are in registers together: more than one at a time hide what an addition takes."""
_DEEP = 8
"""Steps that one walk along columns adds to the same partial sums."""


def _packs(problem: Problem) -> bool:
    """True where the vector is copied first, so that it can be loaded along k."""
    direct = problem.a.direct
    return _walks_steps(problem) and (direct is None or direct.step != 1)


def _walks_steps(problem: Problem) -> bool:
    return find_copies(problem, STEPS) is not None or (
        len(problem.b.steps.axes) == 1 and along_steps(problem.b)
    )


def vector_scratch(problem: Problem) -> int:
    """Bytes of one partition's scratch."""
    return sum(_pieces(problem))


def _pieces(problem: Problem) -> tuple[int, int]:
    """Bytes of the copied vector and of copied columns."""
    size, copies = problem.dtype.itemsize, find_copies(problem, STEPS)
    packed = round_up((problem.k + 16) * size, 64) if _packs(problem) else 0
    return packed, 0 if copies is None else round_up(copies.elements(_group(problem.n)) * size, 64)


def _group(n: int) -> int:
    """Copied columns that are summed at a time."""
    return -(-n // max(1, -(-n // _MOST_AT_ONCE)))


def emit_vector(problem: Problem, target: Target, builder: Builder) -> None:
    """Emits the body of the kernel function."""
    units = vector_units(problem, target)
    bounds = shares(builder, problem.totals, units)
    width = target.width(problem.dtype.bits)
    emit = _Vector(builder, problem, width, target.vector_registers)
    each(builder, bounds["batch"], lambda b: emit.share(b, bounds["columns"]), "batch")


def vector_cycles(problem: Problem, target: Target) -> float:
    """Estimated cycles on one core: what a vector of the matrix costs in each walk, where it comes from L2."""
    width = target.width(problem.dtype.bits)
    short = not _walks_steps(problem) and _residues_at_once(problem.k, width, target.vector_registers) > 0
    each = _SHORT_CYCLES if short else _LONG_CYCLES
    return each * problem.batch.total * problem.n * problem.k / width


def vector_units(problem: Problem, target: Target) -> Units:
    """What a partition's share is a multiple of."""
    copies = find_copies(problem, STEPS)
    return {
        "batch": 1,
        "rows": 1,
        "columns": target.width(problem.dtype.bits) if copies is None else _group(problem.n),
    }


def _residues_at_once(k: int, width: int, registers: int) -> int:
    """Of how many k mod `width` the vector's terms and the sums fit the registers; a power of two, or 0."""
    each = -(-k // width) + 1
    fitting = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= width and n * each <= registers]
    return max(fitting, default=0) if k <= STEPS else 0


def _reversed_bits(number: int, count: int) -> int:
    """The bits of a number below `count`, a power of two, in reversed order."""
    bits = count.bit_length() - 1
    return sum(1 << (bits - 1 - i) for i in range(bits) if number >> i & 1)


_Source = Callable[[Val, Val | None, int | None], Val]
"""A column's values from a step of k on: in as many lanes as asked for, or in those of a mask."""


class _Vector:
    """State of one emission."""

    def __init__(self, builder: Builder, problem: Problem, width: int, registers: int) -> None:
        self.builder = builder
        self.problem = problem
        self.width = width
        self.type = vector(problem.scalar, width)
        self.pointers = load_pointers(builder, problem, builder.params[0])
        self.uniform = emit_uniform(builder, problem, self.pointers)
        self.packed, self.copied = place_scratch(builder, problem, _pieces(problem))
        self.copies = find_copies(problem, STEPS)
        self.columns = min(_COLUMNS, round_up(problem.n, 16))
        # Not a power of two, so that partial sums spread over cache sets.
        self.lead = self.columns + 16
        walks_columns = not _walks_steps(problem)
        self.at_once = _residues_at_once(problem.k, width, registers)
        self.partial = (
            builder.alloca(problem.scalar, width * self.lead + 64) if walks_columns else self.packed
        )
        self.total = builder.alloca(problem.scalar, self.columns + 64) if walks_columns else self.packed

    def share(self, batch: Val, columns: tuple[Val, Val]) -> None:
        """One batch entry's columns."""
        self.batch_env = self.problem.batch.split(self.builder, batch)
        if not _walks_steps(self.problem):
            walk = self._short_block if self.at_once else self._column_block
            self.builder.loop(*columns, self.columns, (), lambda j, _: walk(j, columns[1]), "columns")
            return
        zero = constant(0)
        if _packs(self.problem):
            block = self._block(
                self.problem.a, (zero, constant(1)), (zero, constant(self.problem.k)), self.packed
            )
            pack_runs(self.builder, block, 0)
        if self.copies is None:
            self.builder.loop(*columns, self.width, (), self._column_group, "columns")
            return
        if self.copies.shift is not None:
            rows, steps = (constant(g.total) for g in (self.copies.operand.rows, self.copies.operand.steps))
            self.copies.copy(
                self.builder, self._block(self.copies.operand, (zero, rows), (zero, steps), self.copied)
            )
        self._copied_groups(*columns)

    def _block(self, operand: Operand, rows: tuple[Val, Val], steps: tuple[Val, Val], target: Val) -> Block:
        problem = self.problem
        return Block(
            operand, problem.buffers, self.pointers, self.batch_env, problem.scalar, self.width, *rows, *steps, target,
        )  # fmt: skip

    def _value(
        self, operand: Operand, env: Env, along: str | None, mask: Val | None, width: int | None = None
    ) -> Val:
        lane = {"rows": operand.rows.inner, "steps": operand.steps.inner, None: None}[along]
        scalars: Scalars = {}
        width = 1 if along is None else width or self.width
        point = Point(self.pointers, self.batch_env | env, lane, width, mask)
        emit_body(self.builder, self.problem.buffers, operand.body, point, scalars)
        return scalars[operand.result][1]

    def _fold(self, parts: Sequence[Val]) -> Val:
        """The fixed tree: halves are added lane by lane until one is left."""
        left = list(parts)
        while len(left) > 1:
            half = len(left) // 2
            left = [self.builder.fadd(x, y) for x, y in zip(left[:half], left[half:], strict=True)]
        return left[0]

    def _finish(self, column: Val, value: Val, mask: Val | None) -> None:
        problem = self.problem
        env = dict(self.batch_env)
        if problem.columns.inner is not None:
            env[problem.columns.inner] = column
        width = self.width
        if problem.n == 1:
            value, mask, width = self.builder.extract(value, 0), None, 1
        emit_epilogue(self.builder, problem, self.pointers, self.uniform, env, value, width, mask)

    # -- along k: neighbouring k of the matrix are neighbours in memory ------------------

    def _column_group(self, column: Val, _: tuple[Val, ...]) -> list[Val]:
        """`width` columns at a time, one accumulator each."""
        builder, problem = self.builder, self.problem
        count = min(self.width, problem.n)
        ragged = problem.n % self.width != 0
        last = constant(problem.n - 1)
        columns = []
        for i in range(count):
            at = plus(builder, column, constant(i))
            columns.append(minimum(builder, at, last) if ragged and problem.n > self.width else at)
        sources = [self._in_place(problem.b.rows.split(builder, c)) for c in columns]
        (total,) = self._sums(lambda k, end: sources, count)
        mask = builder.lane_mask(builder.sub(constant(problem.n), column), self.width) if ragged else None
        self._finish(column, total, mask)
        return []

    def _sums(self, sources: Callable[[Val, Val], Sequence[_Source]], count: int) -> list[Val]:
        """The sums of `count` columns, in the first lanes of as many vectors as it takes; `sources` of the block of k
        [from, to)."""
        builder, problem, width = self.builder, self.problem, self.width

        def block(k: Val, totals: tuple[Val, ...]) -> list[Val]:
            end = minimum(builder, plus(builder, k, constant(STEPS)), constant(problem.k))
            sums = self._sum_block(k, end, sources(k, end))
            result = []
            for start, total in zip(range(0, count, width), totals, strict=True):
                square = sums[start : start + width]
                square += [square[0]] * (width - len(square))
                result.append(builder.fadd(total, self._fold(transpose(builder, square))))
            return result

        zeros = [builder.const(self.type, 0)] * -(-count // width)
        return list(builder.loop(0, problem.k, STEPS, zeros, block, "steps"))

    def _in_place(self, env: Env) -> _Source:
        """The column `env` of the matrix as it is."""
        axis = self.problem.b.steps.inner
        assert axis is not None
        return lambda at, mask, width: self._value(self.problem.b, env | {axis: at}, "steps", mask, width)

    # -- along k, from copies ------------------------------------------------------------

    def _copied_groups(self, lo: Val, hi: Val) -> None:
        """As many columns at a time as there are registers for; the last ones by themselves."""
        builder, n, size = self.builder, self.problem.n, _group(self.problem.n)

        def group(column: Val, _: tuple[Val, ...]) -> list[Val]:
            self._copied_group(column, size)
            return []

        left = builder.binary("urem", builder.sub(hi, lo), constant(size)) if n % size else constant(0)
        whole = builder.sub(hi, left)
        builder.loop(lo, whole, size, (), group, "columns")
        if n % size:
            with builder.if_(builder.icmp("slt", whole, hi)):
                self._copied_group(whole, n % size)

    def _copied_group(self, column: Val, count: int) -> None:
        builder, problem, copies = self.builder, self.problem, self.copies
        assert copies is not None
        if copies.shift is not None:
            columns = [plus(builder, column, constant(i)) for i in range(count)]
            places = [copies.place(builder, problem.b.rows.split(builder, c)) for c in columns]
            sources = [self._copied(builder.gep(self.copied, at, problem.scalar)) for at in places]

            def made(k: Val, end: Val) -> list[_Source]:
                return sources
        else:

            def made(k: Val, end: Val) -> list[_Source]:
                rows = column, plus(builder, column, constant(count))
                copies.copy(builder, self._block(problem.b, rows, (k, end), self.copied))
                begins = [builder.sub(constant(i * copies.lead), k) for i in range(count)]
                return [self._copied(builder.gep(self.copied, at, problem.scalar)) for at in begins]

        for number, total in enumerate(self._sums(made, count)):
            first = number * self.width
            mask = (
                builder.lane_mask(constant(count - first), self.width) if count - first < self.width else None
            )
            self._finish(plus(builder, column, constant(first)), total, mask)

    def _copied(self, place: Val) -> _Source:
        """A column whose copies begin at `place`."""
        builder, scalar = self.builder, self.problem.scalar

        def load(at: Val, mask: Val | None, width: int | None) -> Val:
            type_ = self.type if width is None else vector(scalar, width)
            return builder.load(type_, builder.gep(place, at, scalar), self.problem.dtype.itemsize)

        return load

    def _sum_block(self, k: Val, end: Val, columns: Sequence[_Source]) -> list[Val]:
        builder, problem = self.builder, self.problem
        rest = problem.k % self.width
        whole = (
            builder.sub(end, builder.binary("urem", builder.sub(end, k), constant(self.width)))
            if rest
            else end
        )

        def chunk(at: Val, sums: Sequence[Val]) -> list[Val]:
            x = self._vector_at(at, None)
            return [
                multiply_add(builder, x, column(at, None, None), total)
                for column, total in zip(columns, sums, strict=True)
            ]

        sums: Sequence[Val] = [builder.const(self.type, 0)] * len(columns)
        if problem.k <= _STRAIGHT * self.width:
            for at in range(0, problem.k - rest, self.width):
                sums = chunk(constant(at), sums)
            whole = constant(problem.k - rest)
        else:
            sums = builder.loop(k, whole, self.width, sums, lambda at, s: chunk(at, s), "dot")
        if not rest:
            return list(sums)
        if problem.k <= STEPS and rest & (rest - 1) == 0:
            return self._short_rest(constant(problem.k - rest), rest, columns, sums)
        return self._masked_rest(whole, builder.sub(end, whole), columns, sums)

    def _short_rest(self, at: Val, count: int, columns: Sequence[_Source], sums: Sequence[Val]) -> list[Val]:
        """Adds the last `count` terms, in the first lanes, and products of 0 in the others: the sign of a sum of 0 is
        lost in the end, when it is added to +0."""
        builder = self.builder
        x = self._widened(self._vector_at(at, None, count))
        result = []
        for column, total in zip(columns, sums, strict=True):
            y = self._widened(column(at, None, count))
            result.append(multiply_add(builder, x, y, total))
        return result

    def _masked_rest(self, at: Val, count: Val, columns: Sequence[_Source], sums: Sequence[Val]) -> list[Val]:
        """The same for a number of terms that is not known, or has no vector of its own."""
        builder, problem = self.builder, self.problem
        mask = builder.lane_mask(count, self.width)
        x = builder.select(mask, self._vector_at(at, mask), builder.const(self.type, 0))
        plain = problem.b.direct is not None  # what is not there is read as 0
        result = []
        for column, total in zip(columns, sums, strict=True):
            value = multiply_add(builder, x, column(at, mask, None), total)
            result.append(value if plain else builder.select(mask, value, total))
        return result

    def _widened(self, x: Val) -> Val:
        """A vector that begins with the lanes of `x`, and is 0 in the others."""
        count = lanes(x.type)
        if count == 1:
            return self.builder.insert(self.builder.const(self.type, 0), x, 0)
        fill = self.builder.const(x.type, 0)
        return self.builder.shuffle(x, fill, [*range(count), *[count] * (self.width - count)])

    def _vector_at(self, at: Val, mask: Val | None, width: int | None = None) -> Val:
        """Terms of the vector from `at` on, in as many lanes as asked for."""
        builder = self.builder
        if _packs(self.problem):
            place = builder.gep(self.packed, at, self.problem.scalar)
            type_ = self.type if width is None else vector(self.problem.scalar, width)
            return builder.load(type_, place, self.problem.dtype.itemsize)
        axis = self.problem.a.steps.inner
        assert axis is not None
        return self._value(self.problem.a, {axis: at}, "steps", mask, width)

    # -- along columns: `width` partial sums a column are kept in memory -------------------

    def _column_block(self, column: Val, limit: Val) -> list[Val]:
        builder, problem = self.builder, self.problem
        end = minimum(builder, plus(builder, column, constant(self.columns)), limit)
        self._clear(self.total, self.columns)

        def block(k: Val, _: tuple[Val, ...]) -> list[Val]:
            stop = minimum(builder, plus(builder, k, constant(STEPS)), constant(problem.k))
            rest = problem.k % self.width
            whole = builder.sub(stop, builder.binary("urem", builder.sub(stop, k), constant(self.width)))
            self._clear(self.partial, self.width * self.lead)

            for number in range(self.width):
                start = k
                for deep in (_DEEP, 1):
                    span = deep * self.width
                    left = builder.binary("urem", builder.sub(whole, start), constant(span))
                    stop_at = builder.sub(whole, left)
                    walk = functools.partial(self._walk, number, deep, column, end)
                    builder.loop(start, stop_at, span, (), walk, "steps")
                    start = stop_at
            if rest:
                with builder.if_(builder.icmp("slt", whole, stop)):
                    for number in range(rest):
                        self._walk(number, 1, column, end, whole, ())
            self._add_folded(builder.sub(end, column))
            return []

        builder.loop(0, problem.k, STEPS, (), block, "block")

        def chunk(j: Val, mask: Val | None) -> None:
            place = builder.gep(self.total, builder.sub(j, column), problem.scalar)
            self._finish(j, builder.load(self.type, place, problem.dtype.itemsize), mask)

        chunks(builder, column, end, self.width, chunk)
        return []

    def _short_block(self, column: Val, limit: Val) -> list[Val]:
        """The same for a sum so short that the vector's terms of some k mod `width` stay in registers.

        A walk over the columns makes those partial sums and folds them; what it adds up waits in memory until the tree
        asks for it, as long as that takes.
        """
        end = minimum(self.builder, plus(self.builder, column, constant(self.columns)), limit)
        for turn in range(self.width // self.at_once):
            piece = functools.partial(self._short_walk, turn, column)
            runs(self.builder, self.problem.b.rows, column, end, piece)
        return []

    def _short_walk(self, turn: int, column: Val, start: Val, stop: Val, env: Env, origin: Val) -> None:
        builder, problem, scalar = self.builder, self.problem, self.problem.scalar
        walks = self.width // self.at_once
        first = _reversed_bits(turn, walks)
        # The sums of these k mod width; the tree adds the second half of them to the first, and so on.
        terms = [range(n, problem.k, self.width) for n in range(first, self.width, walks)]
        factors = {k: self._factor(constant(k)) for k in sorted(k for some in terms for k in some)}
        at_steps = {k: problem.b.steps.split(builder, constant(k)) for k in factors}
        axis, size, zero = problem.b.rows.inner, problem.dtype.itemsize, builder.const(self.type, 0)
        waiting, left = turn.bit_count(), (turn + 1).bit_count() - 1

        def place(at: Val, slot: int) -> Val:
            return builder.gep(self.partial, plus(builder, at, constant(slot * self.lead)), scalar)

        def chunk(j: Val, mask: Val | None) -> None:
            here = env | ({axis: builder.sub(j, origin)} if axis is not None else {})
            sums = [zero] * len(terms)
            for k, factor in factors.items():
                n = k % self.width // walks
                x = self._value(problem.b, here | at_steps[k], "rows", mask)
                sums[n] = multiply_add(builder, factor, x, sums[n])
            value = self._fold(sums)
            at = builder.sub(j, column)
            for slot in range(waiting - 1, left - 1, -1):
                value = builder.fadd(builder.load(self.type, place(at, slot), size), value)
            if turn + 1 == walks:
                self._finish(j, builder.fadd(zero, value), mask)
                return
            kept = place(at, left)
            if mask is not None:
                # The other lanes' columns are of the next run; what waits there is not read yet.
                value = builder.select(mask, value, builder.load(self.type, kept, size))
            builder.store(value, kept, size)

        chunks(builder, start, stop, self.width, chunk)

    def _factor(self, k: Val) -> Val:
        """The vector's term at a step, in all lanes."""
        a = self.problem.a
        return self.builder.splat(self._value(a, a.steps.split(self.builder, k), None, None), self.width)

    def _clear(self, place: Val, count: int) -> None:
        builder = self.builder

        def one(i: Val, _: tuple[Val, ...]) -> list[Val]:
            at = builder.gep(place, i, self.problem.scalar)
            builder.store(builder.const(self.type, 0), at, self.problem.dtype.itemsize)
            return []

        builder.loop(0, count, self.width, (), one, "clear")

    def _walk(self, number: int, deep: int, column: Val, end: Val, k: Val, _: tuple[Val, ...]) -> list[Val]:
        """Adds steps k + number, `width` apart, `deep` of them, to the partial sums of that number."""
        builder, problem, width = self.builder, self.problem, self.width
        steps = [plus(builder, k, constant(number + d * width)) for d in range(deep)]
        factors = [self._factor(s) for s in steps]
        at_steps = [problem.b.steps.split(builder, s) for s in steps]
        axis, size = problem.b.rows.inner, problem.dtype.itemsize

        def piece(start: Val, stop: Val, env: Env, origin: Val) -> None:
            def chunk(j: Val, mask: Val | None) -> None:
                here = env | ({axis: builder.sub(j, origin)} if axis is not None else {})
                at = plus(builder, builder.sub(j, column), constant(number * self.lead))
                place = builder.gep(self.partial, at, problem.scalar)
                old = value = builder.load(self.type, place, size)
                for factor, at_step in zip(factors, at_steps, strict=True):
                    x = self._value(problem.b, here | at_step, "rows", mask)
                    value = multiply_add(builder, factor, x, value)
                kept = value if mask is None else builder.select(mask, value, old)
                builder.store(kept, place, size)

            def line(j: Val, _: tuple[Val, ...]) -> list[Val]:
                for i in range(0, span, width):
                    chunk(plus(builder, j, constant(i)), None)
                return []

            span = max(width, 64 // size)
            whole = builder.add(start, builder.binary("and", builder.sub(stop, start), constant(-span)))
            builder.loop(start, whole, span, (), line, "line")
            chunks(builder, whole, stop, width, chunk)

        runs(builder, problem.b.rows, column, end, piece)
        return []

    def _add_folded(self, count: Val) -> None:
        builder, scalar = self.builder, self.problem.scalar

        def one(j: Val, _: tuple[Val, ...]) -> list[Val]:
            parts = [
                builder.load(
                    self.type,
                    builder.gep(self.partial, plus(builder, j, constant(i * self.lead)), scalar),
                    self.problem.dtype.itemsize,
                )
                for i in range(self.width)
            ]
            place = builder.gep(self.total, j, scalar)
            size = self.problem.dtype.itemsize
            builder.store(builder.fadd(builder.load(self.type, place, size), self._fold(parts)), place, size)
            return []

        builder.loop(0, count, self.width, (), one, "fold")
