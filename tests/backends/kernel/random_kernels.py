"""Random small kernels with random schedules, made of opcodes whose results are exact."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from graphc.ir.dims import Dim, Symbol, bounds, floor_div, mod
from graphc.ir.kernel import (
    Combine,
    Instruction,
    Kernel,
    KernelBuffer,
    Loop,
    Schedule,
    Stage,
    extent,
)
from graphc.ir.scalar import Guard
from graphc.ir.types import DTYPES, DType, TensorType

__all__ = ["random_kernel", "random_schedule"]

_FLOAT = ("add", "sub", "mul", "min", "max", "neg", "abs", "fma", "select", "floor", "cast", "index")
_INTEGER = ("add", "sub", "mul", "min", "max", "xor", "div", "rem", "shl", "select", "cast", "index")
_FOLDS = {"float": ("add", "max", "min"), "int": ("add", "max", "or"), "uint": ("max", "add", "and")}
_EXTENTS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 23)


class _Kernel:
    """A kernel under construction."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.count = 0
        self.dtype = DTYPES[rng.choice(["f32", "f32", "f64", "bf16", "f16", "i32", "i64", "u8", "i8"])]
        self.buffers: list[KernelBuffer] = []
        self.axes = self.new_axes("o", rng.choice([0, 1, 1, 2, 2, 3]))
        self.shared: list[int] = []
        self.body: list[Instruction] = []
        self.checks = 0

    def new_axes(self, prefix: str, count: int) -> tuple[Symbol, ...]:
        return tuple(Symbol(f"{prefix}{i}", 0, self.rng.choice(_EXTENTS) - 1) for i in range(count))

    def new(self, opcode: str, dtype: DType, operands: Sequence[int] = (), **data: object) -> int:
        self.count += 1
        self.body.append(Instruction(self.count - 1, opcode, dtype, tuple(operands), **data))  # type: ignore[arg-type]
        return self.count - 1

    def buffer(self, dtype: DType, shape: Sequence[int], access: str) -> int:
        self.buffers.append(KernelBuffer(TensorType(dtype, tuple(shape)), access))  # type: ignore[arg-type]
        return len(self.buffers) - 1

    # -- indices ----------------------------------------------------------------------

    def expression(self, axes: Sequence[Symbol]) -> Dim:
        rng = self.rng
        if not axes:
            return rng.randrange(3)
        a, c = rng.choice(axes), rng.choice(axes)
        match rng.randrange(9):
            case 0:
                return a.expr - rng.randrange(4)
            case 1:
                return extent(a) - 1 - a.expr
            case 2:
                return rng.choice([2, 3, -2]) * a.expr + rng.randrange(5)
            case 3:
                return floor_div(a.expr + c.expr, rng.choice([2, 4, 8]))
            case 4:
                return mod(3 * a.expr + c.expr, rng.choice([2, 4, 5, 8]))
            case 5:
                return a.expr + c.expr
        return a.expr

    def access(self, axes: Sequence[Symbol]) -> tuple[tuple[int, ...], tuple[Dim, ...], tuple[Guard, ...]]:
        """Shape, index and guards of a load that stays inside."""
        shape, index, guards = [], [], []
        for _ in range(self.rng.choice([1, 1, 2, 2, 3])):
            x = self.expression(axes)
            lo, hi = bounds(x)
            assert lo is not None and hi is not None
            size = max(1, hi + 1)
            if lo < 0 or self.rng.randrange(5) == 0:
                size = max(1, size - self.rng.randrange(3))
                guards.append((x, 0, size))
            shape.append(size)
            index.append(x)
        return tuple(shape), tuple(index), tuple(guards)

    # -- bodies -----------------------------------------------------------------------

    def load(self, axes: Sequence[Symbol], dtype: DType) -> int:
        shape, index, guards = self.access(axes)
        fill = (self.new("const", dtype, value=self.rng.randrange(3)),) if guards else ()
        if self.rng.randrange(6) == 0:
            where = self.gathered(axes)
            shape, index = (7, *shape), (where, *index)
        return self.new(
            "load", dtype, fill, buffer=self.buffer(dtype, shape, "in"), index=index, guards=guards
        )

    def gathered(self, axes: Sequence[Symbol]) -> Dim:
        """A data-dependent index below 7."""
        integer = DTYPES[self.rng.choice(["i64", "i32", "u8"])]
        shape = tuple(extent(a) for a in axes)
        position = self.new(
            "load", integer, buffer=self.buffer(integer, shape, "in"), index=tuple(a.expr for a in axes)
        )
        check = self.checks if self.rng.randrange(2) else None
        self.checks += check is not None
        number = self.new("to_index", DTYPES["i64"], (position,), index=(7,), value=check)
        return Symbol(f"%{number}", 0, 6).expr

    def value(self, axes: Sequence[Symbol], operations: int) -> int:
        """A scalar of the kernel's dtype from a few loads and operations."""
        rng, dtype = self.rng, self.dtype
        known = [*self.shared, *(self.load(axes, dtype) for _ in range(rng.choice([1, 2, 3])))]
        for _ in range(operations):
            opcode = rng.choice(_FLOAT if dtype.kind == "float" else _INTEGER)
            x = [rng.choice(known) for _ in range(3)]
            match opcode:
                case "neg" | "abs" | "floor":
                    known.append(self.new(opcode, dtype, x[:1]))
                case "fma":
                    known.append(self.new(opcode, dtype, x))
                case "select":
                    test = self.new(rng.choice(["lt", "eq", "ge"]), DTYPES["bool"], x[:2])
                    known.append(self.new(opcode, dtype, (test, x[1], x[2])))
                case "cast":
                    through = self.new(
                        "cast", DTYPES[rng.choice(["f32", "i16", "bool", "bf16", "f64"])], x[:1]
                    )
                    known.append(self.new("cast", dtype, (through,)))
                case "index":
                    known.append(self.new("index", dtype, index=(self.expression(axes),)))
                case _:
                    known.append(self.new(opcode, dtype, x[:2]))
        return known[-1]

    def store(self, axes: Sequence[Symbol], value: int) -> None:
        """Stores at every point once: the axes in some order, some reversed."""
        order = list(axes)
        self.rng.shuffle(order)
        index = tuple(a.expr if self.rng.randrange(4) else extent(a) - 1 - a.expr for a in order)
        guards: tuple[Guard, ...] = ()
        if axes and self.rng.randrange(4) == 0:
            guards = ((self.rng.choice(axes).expr, 1, 5),)
        buffer = self.buffer(self.dtype, [extent(a) for a in order], "out")
        self.body.append(Instruction(-1, "store", self.dtype, (value,), None, buffer, index, guards))

    # -- stages -----------------------------------------------------------------------

    def taken(self) -> tuple[Instruction, ...]:
        body, self.body = tuple(self.body), []
        return body

    def map_stage(self, inner: tuple[Symbol, ...]) -> Stage:
        value = self.value((*self.axes, *inner), self.rng.randrange(1, 7))
        if inner or self.rng.randrange(2):
            self.store((*self.axes, *inner), value)
        if not inner:
            self.shared.append(value)
        return Stage("map", inner, self.taken())

    def reduce_stage(self, inner: tuple[Symbol, ...]) -> Stage:
        value = self.value((*self.axes, *inner), self.rng.randrange(1, 4))
        dtype = self.dtype.accumulator
        if dtype is not self.dtype:
            value = self.new("cast", dtype, (value,))
        self.body.append(Instruction(-1, "yield", dtype, (value,)))
        body = self.taken()
        fold = self.rng.choice(_FOLDS[dtype.kind])
        init: float = {"max": 0, "min": 0, "and": -1}.get(fold, 0)
        if fold in ("max", "min") and dtype.kind == "float":
            init = float("-inf") if fold == "max" else float("inf")
        elif fold == "max" and dtype.kind == "int":
            init = -(1 << (dtype.bits - 1))
        left, right, result, final = range(self.count, self.count + 4)
        self.count += 4
        combine = Combine((left,), (right,), (Instruction(result, fold, dtype, (left, right)),), (result,))
        stage = Stage("reduce", inner, body, ((dtype, init),), combine, (final,))
        if dtype is self.dtype:
            self.shared.append(final)
            self.store(self.axes, final)
        else:
            self.shared.append(self.new("cast", self.dtype, (final,)))
            self.store(self.axes, self.shared[-1])
        return stage

    def scatter_stage(self, inner: tuple[Symbol, ...]) -> Stage:
        axes = (*self.axes, *inner)
        value = self.value(axes, 2)
        where = self.gathered(axes)
        buffer = self.buffer(self.dtype, (7, *(extent(a) for a in self.axes)), "inout")
        index = (where, *(a.expr for a in self.axes))
        self.body.append(Instruction(-1, "store", self.dtype, (value,), "add", buffer, index))
        return Stage("scatter", inner, self.taken())


def random_kernel(rng: random.Random) -> Kernel:
    """An unscheduled kernel of one to three stages with inner axes, and maps between them."""
    k = _Kernel(rng)
    stages = [k.map_stage(())]
    for n in range(rng.choice([0, 1, 1, 2, 3])):
        inner = k.new_axes(f"s{n}_", rng.choice([1, 1, 2]))
        match rng.randrange(4):
            case 0 | 1:
                stages.append(k.reduce_stage(inner))
                stages.append(Stage("map", (), k.taken()))
            case 2:
                stages.append(k.map_stage(inner))
            case _:
                stages.append(k.scatter_stage(inner))
    k.store(k.axes, k.value(k.axes, 3))
    stages.append(Stage("map", (), k.taken()))
    return Kernel(tuple(k.buffers), k.axes, tuple(stages), k.checks)


def _inner_loops(rng: random.Random, axes: Sequence[Symbol], vector: bool) -> list[Loop]:
    order = list(axes)
    loops: list[Loop] = []
    for n, a in enumerate(order):
        last = n == len(order) - 1
        if rng.randrange(5) == 0:
            loops.append(Loop(a.name, "tile", rng.choice([8, 16])))
        if last and vector:
            if rng.randrange(3) == 0:
                loops.append(Loop(a.name, "unroll", 2))
            loops.append(Loop(a.name, "vector", rng.choice([2, 4, 8, 16])))
        elif rng.randrange(3) == 0:
            loops.append(Loop(a.name, "unroll", rng.choice([2, 3])))
        else:
            loops.append(Loop(a.name, "sequential"))
    return loops


def random_schedule(rng: random.Random, kernel: Kernel) -> Kernel:
    """The kernel with a legal schedule: vector loops outside or in stages, never in both."""
    outer = list(kernel.axes)
    rng.shuffle(outer)
    outside = bool(outer) and rng.randrange(2) == 0
    parallel = outer[: rng.randrange(len(outer) + 1)]
    rest = outer[len(parallel) :]
    loops = [Loop(a.name, "parallel") for a in parallel]
    if outside and not rest:
        # The innermost parallel axis is the vector axis too.
        loops.append(Loop(parallel[-1].name, "vector", rng.choice([4, 8])))
        if rng.randrange(2):
            loops[len(parallel) - 1] = replace(loops[len(parallel) - 1], size=16)
    else:
        loops += _inner_loops(rng, rest, outside)
    stages = tuple(
        tuple(_inner_loops(rng, s.axes, not outside and rng.randrange(3) > 0)) for s in kernel.stages
    )
    return replace(kernel, schedule=Schedule(tuple(loops), stages, rng.randrange(1, 5)))
