"""Runs kernels and programs in NumPy: what a kernel means, independent of any code generator.

All outer points run at once: a scalar is an array over the outer axes and, under inner axes, over
those too. Schedules are ignored. Programs run in one arena, so that overlapping lifetimes show.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.ir.dims import Apply, Dim, Expr, Symbol
from graphc.ir.kernel import Instruction, Kernel, Stage, extent
from graphc.ir.program import Choice, Move, Phase, Program, Repeat
from graphc.ir.types import DType

__all__ = ["CheckFailed", "run_kernel", "run_program"]


class CheckFailed(Exception):
    """A data-dependent check failed; `number` is the kernel's (or the program's) number of it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _shift(x: Any, count: Any, left: bool) -> Any:
    """Shifts of the bits as an unsigned number."""
    bits = x.view(f"u{x.dtype.itemsize}")
    moved = bits << count.astype(bits.dtype) if left else bits >> count.astype(bits.dtype)
    return moved.view(x.dtype)


def _mulhi(a: Any, b: Any) -> Any:
    product = a.view(np.uint32).astype(np.uint64) * b.view(np.uint32).astype(np.uint64)
    return (product >> np.uint64(32)).astype(np.uint32).view(a.dtype)


UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": np.negative,
    "abs": np.abs,
    "not": np.invert,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "erf": _erf,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round": np.rint,
    "is_nan": np.isnan,
}


def _div(a: Any, b: Any) -> Any:
    if np.issubdtype(a.dtype, np.integer):
        safe = np.where(b == 0, 1, b)
        return np.where(b == 0, 0, np.trunc(a / safe).astype(a.dtype))
    return a / b


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _div,
    "rem": np.fmod,
    "pow": np.power,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": lambda a, b: _shift(a, b, True),
    "shr": lambda a, b: _shift(a, b, False),
    "mulhi": _mulhi,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}


def run_kernel(kernel: Kernel, arrays: Sequence[Any]) -> None:
    """Runs a kernel on one array per parameter, in place. Raises CheckFailed."""
    with np.errstate(all="ignore"):
        _Run(kernel, arrays).run()


class _Run:
    def __init__(self, kernel: Kernel, arrays: Sequence[Any]) -> None:
        self.kernel = kernel
        self.outer = kernel.axes
        self.sizes = tuple(extent(a) for a in kernel.axes)
        given = iter(arrays)
        self.arrays: list[Any] = []
        for b in kernel.buffers:
            if b.access == "local":
                self.arrays.append(np.zeros((*self.sizes, *b.type.sizes), b.type.dtype.numpy))
            else:
                self.arrays.append(next(given).reshape(b.type.sizes))
        self.kept: dict[int, Any] = {}
        self.failed: list[int] = []

    def run(self) -> None:
        for stage in self.kernel.stages:
            self.stage(stage)
        for link in self.kernel.links:
            run_kernel(link.kernel, [self.arrays[n] for n in link.buffers])
        if self.failed:
            raise CheckFailed(min(self.failed))

    def stage(self, stage: Stage) -> None:
        axes = (*self.outer, *stage.axes)
        inner = tuple(extent(a) for a in stage.axes)
        env: dict[str, Any] = {}
        for k, a in enumerate(axes):
            shape = [1] * len(axes)
            shape[k] = extent(a)
            env[a.name] = np.arange(extent(a)).reshape(shape)
        values = {i: v.reshape(v.shape + (1,) * len(inner)) for i, v in self.kept.items()}
        env.update({f"%{i}": v for i, v in values.items()})
        full = (*self.sizes, *inner)
        yielded: tuple[Any, ...] = ()
        for i in stage.body:
            if i.opcode == "yield":
                yielded = tuple(np.broadcast_to(values[o], full) for o in i.operands)
            elif i.opcode == "store":
                self.store(i, values, env, full)
            else:
                values[i.id] = self.scalar(i, values, env, full)
                if i.opcode == "to_index":
                    env[f"%{i.id}"] = values[i.id]
        if stage.kind == "reduce":
            self.fold(stage, yielded)
        elif not inner:
            self.kept.update({n: np.broadcast_to(v, self.sizes) for n, v in values.items()})

    def fold(self, stage: Stage, yielded: tuple[Any, ...]) -> None:
        assert stage.combine is not None
        flat = [y.reshape(*self.sizes, -1) for y in yielded]
        total = [np.full(self.sizes, v, d.numpy) for d, v in stage.init]
        for k in range(flat[0].shape[-1]):
            values: dict[int, Any] = dict(zip(stage.combine.left, total, strict=True))
            values.update(zip(stage.combine.right, (f[..., k] for f in flat), strict=True))
            for i in stage.combine.body:
                values[i.id] = self.scalar(i, values, {}, self.sizes)
            total = [values[r] for r in stage.combine.results]
        self.kept.update(zip(stage.results, total, strict=True))

    def scalar(
        self, i: Instruction, values: dict[int, Any], env: dict[str, Any], full: tuple[int, ...]
    ) -> Any:
        x = [values[o] for o in i.operands]
        match i.opcode:
            case "const":
                return np.asarray(i.value).astype(i.dtype.numpy)
            case "load":
                return self.load(i, x, env, full)
            case "index":
                return np.asarray(evaluate(i.index[0], env)).astype(i.dtype.numpy)
            case "to_index":
                return self.to_index(i, x[0], env)
            case "cast":
                return convert(x[0], i.dtype)
            case "select":
                return np.where(x[0], x[1], x[2])
            case "fma":
                return x[0] * x[1] + x[2]
        function: Any = UNARY.get(i.opcode) or BINARY[i.opcode]
        if x[0].dtype.itemsize == 2 and x[0].dtype.kind not in "iu":
            result = function(*(v.astype(np.float32) for v in x))
            return np.asarray(result if result.dtype == bool else result.astype(i.dtype.numpy))
        return np.asarray(function(*x)).astype(i.dtype.numpy)

    def to_index(self, i: Instruction, x: Any, env: dict[str, Any]) -> Any:
        size = evaluate(i.index[0], env)
        x = x.astype(np.int64)
        good = (x >= 0) & (x < size)
        if i.value is not None and not good.all():
            self.failed.append(i.value)
        return np.where(good, x, 0)

    def holds(self, i: Instruction, env: dict[str, Any], full: tuple[int, ...]) -> Any:
        result = np.ones(full, bool)
        for expression, lower, upper in i.guards:
            e = evaluate(expression, env)
            result = result & (e >= evaluate(lower, env)) & (e < evaluate(upper, env))
        return result

    def place(self, i: Instruction, env: dict[str, Any], full: tuple[int, ...]) -> tuple[Any, ...]:
        at = tuple(np.broadcast_to(evaluate(e, env), full) for e in i.index)
        if self.kernel.buffers[i.buffer].access == "local":
            own = tuple(np.broadcast_to(env[a.name], full) for a in self.outer)
            at = (*own, *at)
        return at

    def load(self, i: Instruction, x: list[Any], env: dict[str, Any], full: tuple[int, ...]) -> Any:
        array = self.arrays[i.buffer]
        at = self.place(i, env, full)
        if not i.guards:
            check_bounds(at, array)
            return array[at] if at else np.broadcast_to(array, full)
        holds = self.holds(i, env, full)
        at = tuple(np.where(holds, a, 0) for a in at)
        if array.size == 0:
            assert not holds.any()
            return np.broadcast_to(x[0], full)
        check_bounds(at, array)
        return np.where(holds, array[at] if at else array, x[0])

    def store(
        self, i: Instruction, values: dict[int, Any], env: dict[str, Any], full: tuple[int, ...]
    ) -> None:
        array = self.arrays[i.buffer]
        at = self.place(i, env, full)
        value = np.broadcast_to(values[i.operands[0]], full)
        if i.guards:
            holds = self.holds(i, env, full)
            at, value = tuple(a[holds] for a in at), value[holds]
        check_bounds(at, array)
        if i.value == "add":
            wide = np.float32 if array.dtype.itemsize == 2 and array.dtype.kind not in "iu" else array.dtype
            for k in np.ndindex(value.shape):
                j = tuple(a[k] for a in at)
                array[j] = (array[j].astype(wide) + value[k].astype(wide)).astype(array.dtype)
        elif at:
            array[at] = value
        else:
            array[...] = value.reshape(-1)[-1]


def check_bounds(at: tuple[Any, ...], array: Any) -> None:
    """Asserts that every access is inside of the buffer."""
    for a, size in zip(at, array.shape, strict=True):
        assert a.size == 0 or (a.min() >= 0 and a.max() < size), f"index {a.min()}..{a.max()} of {size}"


def convert(x: Any, dtype: DType) -> Any:
    """A conversion as the `cast` opcode makes it."""
    if x.dtype.itemsize == 2 and x.dtype.kind not in "iu":
        x = x.astype(np.float32)
    return x != 0 if dtype.name == "bool" else x.astype(dtype.numpy)


def evaluate(x: Dim, env: dict[str, Any]) -> Any:
    """The value of an index expression."""
    if isinstance(x, int):
        return np.asarray(x)
    assert isinstance(x, Expr)
    total: Any = 0
    for monomial, k in x.terms:
        term: Any = k
        for atom, power in monomial:
            term = term * _atom(atom, env) ** power
        total = total + term
    return total


def _atom(atom: Symbol | Apply, env: dict[str, Any]) -> Any:
    if isinstance(atom, Symbol):
        return env[atom.name]
    a, b = (evaluate(x, env) for x in atom.args)
    functions: dict[str, Any] = {"//": np.floor_divide, "%": np.mod, "min": np.minimum, "max": np.maximum}
    return functions[atom.function](a, b)


def run_program(program: Program, inputs: Sequence[Any], states: Sequence[Any]) -> list[Any]:
    """Runs a program; `states` are written in place. Returns the outputs. Raises CheckFailed."""
    arena = np.full(program.arena_bytes + 64, 0xA5, np.uint8)
    outputs = [np.zeros(b.type.sizes, b.type.dtype.numpy) for b in program.of_kind("output")]
    table: list[Any] = []
    for b in program.buffers:
        match b.kind:
            case "input":
                table.append(inputs[b.index])
            case "state":
                table.append(states[b.index])
            case "output":
                table.append(outputs[b.index])
            case "constant":
                table.append(np.asarray(program.constants[b.index]))
            case "temporary":
                assert b.offset % 64 == 0 and b.offset + b.type.nbytes <= program.arena_bytes
                piece = arena[b.offset : b.offset + b.type.nbytes]
                table.append(piece.view(b.type.dtype.numpy).reshape(b.type.sizes))
            case "moving":
                table.append(None)
    _ProgramRun(program, table).phases(0, len(program.phases), (*program.repeats, *program.choices))
    return outputs


class _ProgramRun:
    """Runs ranges of phases; `places` says which bytes of which row a moving row shows."""

    def __init__(self, program: Program, table: list[Any]) -> None:
        self.program = program
        self.table = table
        self.places: dict[int, tuple[int, int]] = {}

    def phases(self, begin: int, end: int, ranges: Sequence[Repeat | Choice]) -> bool:
        """Runs a range of phases; `ranges` are those inside of it. False where a choice left."""
        at = begin
        while at < end:
            starting = [n for n, r in enumerate(ranges) if r.begin == at]
            if not starting:
                self.phase(self.program.phases[at])
                at += 1
                continue
            outer = max(starting, key=lambda n: (ranges[n].end, _rank(ranges[n]), n))
            inner = [r for k, r in enumerate(ranges) if k != outer]
            match ranges[outer]:
                case Repeat() as repeat:
                    for n in itertools.count() if repeat.count is None else range(repeat.count):
                        for move in repeat.then if n else repeat.first:
                            self.move(move)
                        if not self.phases(repeat.begin, repeat.end, inner):
                            break
                    at = repeat.end
                case Choice() as choice:
                    flag = self.bytes(choice.row)[choice.offset]
                    if choice.leaves and not flag:
                        return False
                    part = (choice.begin, choice.middle) if flag else (choice.middle, choice.end)
                    self.phases(*part, [r for r in inner if part[0] <= r.begin and r.end <= part[1]])
                    at = choice.end
        return True

    def bytes(self, row: int) -> Any:
        return np.ascontiguousarray(self.buffer(row)).reshape(-1).view(np.uint8)

    def move(self, move: Move) -> None:
        row, offset = self.places.get(move.source, (move.source, 0))
        self.places[move.row] = row, offset + move.offset

    def buffer(self, row: int) -> Any:
        if row not in self.places:
            return self.table[row]
        source, offset = self.places[row]
        type_ = self.program.buffers[row].type
        memory = self.table[source].reshape(-1).view(np.uint8)
        assert 0 <= offset <= memory.size - type_.nbytes
        return memory[offset : offset + type_.nbytes].view(type_.dtype.numpy).reshape(type_.sizes)

    def phase(self, phase: Phase) -> None:
        for call in phase.calls:
            try:
                run_kernel(call.kernel, [self.buffer(r) for r in call.buffers])
            except CheckFailed as failure:
                raise CheckFailed(call.check_base + failure.number) from None


def _rank(what: Repeat | Choice) -> int:
    """Of equal ranges the one with the higher rank is the outer."""
    return 1 if isinstance(what, Repeat) else 2 if what.leaves else 0
