"""Runs kernels point by point in NumPy: the oracle of kernel code generation.

Every scalar is a NumPy scalar of its own dtype; 16-bit float arithmetic goes through float32 and
rounds once. Reductions follow the order that the schedule fixes (see `order_of_partials`), so
results of exact opcodes are compared bit for bit. Transcendental functions are computed in a
wider format and rounded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from graphc.ir.dims import Apply, Dim, Symbol
from graphc.ir.failure import error_word
from graphc.ir.kernel import Instruction, Kernel, Loop, Stage
from graphc.ir.scalar import Guard
from graphc.ir.target import Target
from graphc.ir.types import DTYPES, DType
from tests.backends.math.reference import REFERENCES

__all__ = ["Interpreter", "apply", "convert"]

NO_ERROR = 2**63 - 1
_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}


def evaluate(x: Dim, symbols: Mapping[str, int]) -> int:
    """The value of an index expression."""
    if isinstance(x, int):
        return x
    total = 0
    for monomial, k in x.terms:
        term = k
        for atom, power in monomial:
            term *= _atom(atom, symbols) ** power
        total += term
    return total


def _atom(atom: Symbol | Apply, symbols: Mapping[str, int]) -> int:
    if isinstance(atom, Symbol):
        return symbols[atom.name]
    return _FUNCTIONS[atom.function](*(evaluate(a, symbols) for a in atom.args))


def _compute_dtype(dtype: DType) -> Any:
    return np.float32 if dtype.kind == "float" and dtype.bits == 16 else dtype.numpy.type


def constant(dtype: DType, value: Any) -> Any:
    """A scalar of `dtype`: rounded once, integers wrapped."""
    if dtype.is_integral:
        return (
            np.array(int(value) & ((1 << dtype.bits) - 1), np.uint64)
            .astype(f"u{dtype.itemsize}")
            .view(dtype.numpy)[()]
        )
    return np.array(value).astype(dtype.numpy)[()]


def convert(x: Any, source: DType, to: DType) -> Any:
    """One scalar as another dtype, as PyTorch on x86 does it."""
    if source is to:
        return x
    if to.kind == "bool":
        return np.bool_(x != source.numpy.type(0))
    if to.kind == "float":
        wide = np.float32(x) if to.bits == 16 else x
        return np.asarray(wide).astype(to.numpy)[()]
    if source.kind != "float":
        return constant(to, int(x))
    bits = max(32, to.bits)
    inside = -(2.0 ** (bits - 1)) <= float(x) < 2.0 ** (bits - 1)
    return constant(to, int(float(x)) if inside else -(2 ** (bits - 1)))


def apply(opcode: str, dtype: DType, x: Sequence[Any], *, fused: bool = True) -> Any:
    """One scalar opcode; `dtype` is that of the last operand; `fma` rounds twice where not `fused`."""
    if opcode == "fma" and not fused and dtype.kind == "float":
        wide = [_compute_dtype(dtype)(v) for v in x]
        with np.errstate(all="ignore"):
            return dtype.numpy.type(wide[0] * wide[1] + wide[2])
    if opcode == "select":
        return x[1] if x[0] else x[2]
    compute = _compute_dtype(dtype)
    wide = [compute(v) for v in x]
    if opcode in _COMPARE:
        return np.bool_(_COMPARE[opcode](*wide))
    if opcode == "is_nan":
        return np.bool_(wide[0] != wide[0])
    if dtype.kind == "bool":
        return _BOOL[opcode](*x)
    if dtype.kind == "float":
        with np.errstate(all="ignore"):
            return dtype.numpy.type(_float(opcode, compute, wide))
    return constant(dtype, _integer(opcode, dtype, [int(v) for v in x]))


_COMPARE: dict[str, Callable[..., Any]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}
_BOOL: dict[str, Callable[..., Any]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a: ~a,
    "add": lambda a, b: a | b,
    "mul": lambda a, b: a & b,
    "min": lambda a, b: a & b,
    "max": lambda a, b: a | b,
    "abs": lambda a: a,
}


def _fused(compute: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c rounded once, exactly."""
    if not all(np.isfinite(v) for v in (a, b, c)):
        return a * b + c
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return a * b + c
    return _round(compute, exact)


def _round(compute: Any, exact: Fraction) -> Any:
    """The float nearest to a fraction, ties to even; only for results in the normal range."""
    guess = compute(exact.numerator / exact.denominator)
    candidates = [guess, np.nextafter(guess, compute(-np.inf)), np.nextafter(guess, compute(np.inf))]
    finite = [v for v in candidates if np.isfinite(v)]
    unsigned = np.uint32 if compute is np.float32 else np.uint64
    return min(finite, key=lambda v: (abs(Fraction(float(v)) - exact), int(np.array(v).view(unsigned)) & 1))


def _float(opcode: str, compute: Any, x: Sequence[Any]) -> Any:
    with np.errstate(all="ignore"):
        match opcode:
            case "add":
                return x[0] + x[1]
            case "sub":
                return x[0] - x[1]
            case "mul":
                return x[0] * x[1]
            case "div":
                return x[0] / x[1]
            case "rem":
                return np.fmod(x[0], x[1])
            case "neg":
                return -x[0]
            case "abs":
                return abs(x[0])
            case "min":
                return x[1] if x[1] < x[0] or x[1] != x[1] else x[0]
            case "max":
                return x[1] if x[1] > x[0] or x[1] != x[1] else x[0]
            case "fma":
                return _fused(compute, *x)
        wide = np.float64 if compute is np.float32 else np.longdouble
        arrays = [np.asarray(v, wide) for v in x]
        return compute(np.asarray(REFERENCES[opcode](*arrays))[()])


def _truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _integer(opcode: str, dtype: DType, x: Sequence[int]) -> int:
    mask = (1 << dtype.bits) - 1
    match opcode:
        case "add":
            return x[0] + x[1]
        case "sub":
            return x[0] - x[1]
        case "mul":
            return x[0] * x[1]
        case "fma":
            return x[0] * x[1] + x[2]
        case "neg":
            return -x[0]
        case "not":
            return ~x[0]
        case "abs":
            return abs(x[0])
        case "and":
            return x[0] & x[1]
        case "or":
            return x[0] | x[1]
        case "xor":
            return x[0] ^ x[1]
        case "min":
            return min(x)
        case "max":
            return max(x)
        case "floor" | "ceil" | "trunc" | "round":
            return x[0]
        case "div":
            return 0 if x[1] == 0 else _truncated(x[0], x[1])
        case "rem":
            return 0 if x[1] == 0 else x[0] - _truncated(x[0], x[1]) * x[1]
        case "shl":
            return x[0] << x[1] if 0 <= x[1] < dtype.bits else 0
        case "shr":
            return (x[0] & mask) >> x[1] if 0 <= x[1] < dtype.bits else 0
        case "mulhi":
            return ((x[0] & mask) * (x[1] & mask)) >> dtype.bits
        case "pow":
            if x[1] < 0:
                return (1 if x[1] % 2 == 0 else x[0]) if abs(x[0]) == 1 else 0
            return pow(x[0], x[1], mask + 1)
    raise AssertionError(opcode)


class Interpreter:
    """Runs one kernel on arrays (one per parameter, changed in place)."""

    def __init__(self, kernel: Kernel, target: Target) -> None:
        self.kernel = kernel
        self.target = target
        self.error = NO_ERROR
        self.types: dict[int, DType] = {}

    def run(self, arrays: Sequence[Any]) -> int:
        """The error word after all points ran."""
        given = iter(arrays)
        for point in _points(self.kernel.axes):
            parameters = iter(arrays)
            self.buffers = [
                np.zeros(b.type.sizes, b.type.dtype.numpy) if b.access == "local" else next(parameters)
                for b in self.kernel.buffers
            ]
            self.values: dict[int, Any] = {}
            self.symbols = dict(point)
            for n, stage in enumerate(self.kernel.stages):
                self.stage(n, stage)
        del given
        return self.error

    def stage(self, number: int, stage: Stage) -> None:
        if stage.kind == "reduce":
            self.reduce(number, stage)
            return
        for point in _points(stage.axes):
            self.symbols.update(point)
            self.body(stage.body)

    def reduce(self, number: int, stage: Stage) -> None:
        loops = self.kernel.schedule.stages[number] if self.kernel.schedule is not None else ()
        partials = order_of_partials(stage, loops, self.target)
        start = [constant(d, v) for d, v in stage.init]
        self.types.update(zip(stage.results, (d for d, _ in stage.init), strict=True))
        accumulators = [list(start) for _ in range(partials)]
        order = [x.axis for x in loops] or [a.name for a in stage.axes]
        axes = sorted(stage.axes, key=lambda a: max(i for i, n in enumerate(order) if n == a.name))
        if partials == 1 and is_float_sum(stage) and math.prod(map(size_of, axes)) >= 64:
            self.values.update(zip(stage.results, self.in_levels(stage, axes, start), strict=True))
            return
        run, whole = runs_of_sum(stage, axes, partials)
        extent = (axes[-1].hi or 0) + 1 if axes else 1
        totals = accumulators
        for point in _points(axes):
            self.symbols.update(point)
            yielded = self.body(stage.body)
            at = point[axes[-1].name] if axes else 0
            if run and (at % run == 0 if at < whole else at == whole):
                # A run starts from zero; what is left of a single axis goes on from the totals.
                totals = accumulators
                fresh = at < whole or len(loops) > 1
                accumulators = [list(start) for _ in range(partials)] if fresh else [list(a) for a in totals]
            accumulators[at % partials] = self.combine(stage, accumulators[at % partials], yielded)
            if run and ((at + 1) % run == 0 if at < whole else at + 1 == extent and len(loops) > 1):
                accumulators = [self.combine(stage, t, a) for t, a in zip(totals, accumulators, strict=True)]
        while len(accumulators) > 1:
            half = len(accumulators) // 2
            accumulators = [
                self.combine(stage, a, b)
                for a, b in zip(accumulators[:half], accumulators[half:], strict=True)
            ]
        self.values.update(zip(stage.results, accumulators[0], strict=True))

    def in_levels(self, stage: Stage, axes: Sequence[Symbol], start: Sequence[Any]) -> list[Any]:
        """A float sum in order: runs of each axis start from zero, and inner axes are summed first."""
        if not axes:
            return self.body(stage.body)

        def over(points: range) -> list[Any]:
            run = 32 ** int(math.log(max(len(points), 2) / 2, 32) + 1e-9)
            totals = list(start)
            for n in range(0, len(points), run):
                part = points[n : n + run]
                if run > 1:
                    totals = self.combine(stage, totals, over(part))
                else:
                    self.symbols[axes[0].name] = part[0]
                    totals = self.combine(stage, totals, self.in_levels(stage, axes[1:], start))
            return totals

        return over(range(size_of(axes[0])))

    def combine(self, stage: Stage, left: Sequence[Any], right: Sequence[Any]) -> list[Any]:
        how = stage.combine
        assert how is not None
        outside = self.values
        self.values = dict(zip((*how.left, *how.right), (*left, *right), strict=True))
        for side in (how.left, how.right):
            self.types.update(zip(side, (d for d, _ in stage.init), strict=True))
        self.body(how.body)
        result = [self.values[n] for n in how.results]
        self.values = outside
        return result

    def body(self, body: Sequence[Instruction]) -> list[Any]:
        for i in body:
            operands = [self.values[o] for o in i.operands]
            if i.opcode == "yield":
                return operands
            result = self.instruction(i, operands)
            if i.id >= 0:
                self.values[i.id] = result
                self.types[i.id] = i.dtype
        return []

    def holds(self, guards: Sequence[Guard]) -> bool:
        return all(
            evaluate(lo, self.symbols) <= evaluate(x, self.symbols) < evaluate(hi, self.symbols)
            for x, lo, hi in guards
        )

    def instruction(self, i: Instruction, operands: Sequence[Any]) -> Any:
        match i.opcode:
            case "const":
                return constant(i.dtype, i.value)
            case "index":
                return convert(np.int64(evaluate(i.index[0], self.symbols)), DTYPES["i64"], i.dtype)
            case "cast":
                return convert(operands[0], self.types[i.operands[0]], i.dtype)
            case "to_index":
                return self.to_index(i, int(operands[0]))
            case "load":
                return self.access(i)[0] if self.holds(i.guards) else operands[0]
            case "store":
                if self.holds(i.guards):
                    self.store(i, operands[0])
                return None
        return apply(i.opcode, self.types[i.operands[-1]], operands, fused=self.target.has_fma)

    def access(self, i: Instruction) -> Any:
        index = tuple(evaluate(x, self.symbols) for x in i.index)
        array = self.buffers[i.buffer]
        assert all(0 <= x < n for x, n in zip(index, array.shape, strict=True)), (i, index, array.shape)
        return array[index], index

    def store(self, i: Instruction, value: Any) -> None:
        old, index = self.access(i)
        dtype = self.kernel.buffers[i.buffer].type.dtype
        self.buffers[i.buffer][index] = apply("add", dtype, [old, value]) if i.value == "add" else value

    def to_index(self, i: Instruction, value: int) -> int:
        inside = 0 <= value < evaluate(i.index[0], self.symbols)
        self.symbols[f"%{i.id}"] = value if inside else 0
        if not inside and i.value is not None:
            self.error = min(self.error, error_word(i.value + 1, int(value)))
        return value


def _points(axes: Sequence[Symbol]) -> Iterator[dict[str, int]]:
    sizes = [range((a.hi if a.hi is not None else -1) + 1) for a in axes]
    for point in itertools.product(*sizes):
        yield {a.name: x for a, x in zip(axes, point, strict=True)}


def size_of(axis: Symbol) -> int:
    """Number of points of an axis."""
    return (axis.hi if axis.hi is not None else -1) + 1


def is_float_sum(stage: Stage) -> bool:
    """True of a reduce stage that adds floats."""
    how = stage.combine
    return how is not None and how.opcode == "add" and stage.init[0][0].is_floating_point


def runs_of_sum(stage: Stage, axes: Sequence[Symbol], partials: int) -> tuple[int, int]:
    """Points of the last axis in one run of a two-level sum, and how many are in whole runs; (0, 0) for one level."""
    if partials == 1 or not is_float_sum(stage):
        return 0, 0
    blocks = ((axes[-1].hi or 0) + 1) // partials
    run = partials * (max(blocks, 1) if blocks < 64 else 1 << ((blocks.bit_length() + 1) // 2))
    full = blocks * partials
    return run, full // run * run if full > run else 0


def order_of_partials(stage: Stage, loops: Sequence[Loop], target: Target) -> int:
    """Number of interleaved partial accumulators: 1 without a vector loop over an inner axis."""
    if not loops or loops[-1].role != "vector" or loops[-1].size == 1:
        return 1
    size = next((a.hi or 0) + 1 for a in stage.axes if a.name == loops[-1].axis)
    lanes = target.vector_bytes * 8 // max(d.bits for d, _ in stage.init)
    vectors = size // lanes
    return lanes * (4 if vectors >= 4 else 2 if vectors >= 2 else 1)
