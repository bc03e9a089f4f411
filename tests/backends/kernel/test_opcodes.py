"""Every scalar opcode for every dtype, vectors and scalars, on every target that runs here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.backends.llvm.math import BOUNDS
from graphc.ir.dims import Symbol
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer, Loop, Schedule, Stage
from graphc.ir.kernel_verifier import verify_kernel
from graphc.ir.scalar import BINARY, COMPARE, TERNARY, UNARY
from graphc.ir.target import TARGETS, Target
from graphc.ir.types import DTYPES, DType, TensorType
from tests.backends.kernel.interpreter import Interpreter
from tests.backends.kernel.native import RUNNABLE, Native, kernel_object

COUNT = 203
_BITS_ONLY = ("not", "and", "or", "xor", "shl", "shr", "mulhi")
_FLOATS_ONLY = ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "sin", "cos")
_BOOL = ("not", "is_nan", "abs", "add", "mul", "min", "max", "and", "or", "xor", "select", *COMPARE)
_EXACT_FUNCTIONS = ("floor", "ceil", "trunc", "round", "sqrt")


def opcodes(dtype: DType) -> list[str]:
    """The opcodes that are defined for a dtype."""
    every = (*UNARY, *BINARY, *COMPARE, *TERNARY)
    if dtype.kind == "bool":
        return [o for o in every if o in _BOOL]
    if dtype.kind == "float":
        return [o for o in every if o not in _BITS_ONLY]
    return [o for o in every if o not in _FLOATS_ONLY]


def arity(opcode: str) -> int:
    return 1 if opcode in UNARY else 3 if opcode in TERNARY else 2


def elementwise(dtype: DType, names: list[str], loops: tuple[Loop, ...]) -> Kernel:
    """One kernel that applies each opcode to (a, b, c) and stores every result in its own buffer."""
    i = Symbol("i", 0, COUNT - 1)
    inputs = [dtype, dtype, dtype, DTYPES["bool"]]
    body = [Instruction(n, "load", d, buffer=n, index=(i.expr,)) for n, d in enumerate(inputs)]
    outputs = []
    for n, name in enumerate(names):
        result = DTYPES["bool"] if name in COMPARE or name == "is_nan" else dtype
        operands = (3, 0, 1) if name == "select" else tuple(range(arity(name)))
        body.append(Instruction(4 + n, name, result, operands))
        body.append(Instruction(-1, "store", result, (4 + n,), None, 4 + n, (i.expr,)))
        outputs.append(result)
    buffers = [KernelBuffer(TensorType(d, (COUNT,)), "in") for d in inputs]
    buffers += [KernelBuffer(TensorType(d, (COUNT,)), "out") for d in outputs]
    return Kernel(tuple(buffers), (i,), (Stage("map", (), tuple(body)),), schedule=Schedule(loops, ((),)))


def casts(dtype: DType, loops: tuple[Loop, ...]) -> Kernel:
    """One kernel that converts its input to every dtype."""
    i = Symbol("i", 0, COUNT - 1)
    body = [Instruction(0, "load", dtype, buffer=0, index=(i.expr,))]
    for n, to in enumerate(DTYPES.values(), 1):
        body.append(Instruction(n, "cast", to, (0,)))
        body.append(Instruction(-1, "store", to, (n,), None, n, (i.expr,)))
    buffers = [KernelBuffer(TensorType(dtype, (COUNT,)), "in")]
    buffers += [KernelBuffer(TensorType(d, (COUNT,)), "out") for d in DTYPES.values()]
    return Kernel(tuple(buffers), (i,), (Stage("map", (), tuple(body)),), schedule=Schedule(loops, ((),)))


EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 255.0, 256.0, -129.0, 65504.0, 65519.0, 65520.0, 3e9, -3e9, 1e20,
         -1e20, 1e-5, 6e-8, 1e-30, 1e-40, np.inf, -np.inf, np.nan)  # fmt: skip


def values(rng: np.random.Generator, dtype: DType, count: int = COUNT) -> Any:
    """Random values of a dtype, its edge cases among them."""
    if dtype.kind == "bool":
        return rng.integers(0, 2, count).astype(np.bool_)
    if dtype.kind == "float":
        x = rng.standard_normal(count) * 2.0 ** rng.integers(-8, 9, count)
        x[: count // 3] = rng.choice(EDGES, count // 3)
        with np.errstate(over="ignore"):
            return rng.permutation(x).astype(dtype.numpy)
    info = np.iinfo(dtype.numpy)
    x = rng.integers(info.min, info.max, count, dtype=dtype.numpy, endpoint=True)
    x[: count // 2] = rng.choice(
        [0, 1, 2, 3, 5, 7, 31, 63, info.max, info.min, info.max // 3], count // 2
    ).astype(dtype.numpy)
    if dtype.kind == "int":
        x[: count // 6] = rng.choice([-1, -2, -7], count // 6)
    return rng.permutation(x)


def bits(array: Any) -> Any:
    """An array as unsigned integers, all NaNs made one."""
    array = np.array(array)
    if array.dtype.kind != "b" and array.dtype.kind not in "iu":
        array[np.isnan(array)] = np.nan
    return array.view(f"u{array.dtype.itemsize}")


def outputs_of(kernel: Kernel, inputs: list[Any]) -> list[Any]:
    return [*inputs, *(np.zeros(b.type.sizes, b.type.dtype.numpy) for b in kernel.buffers[len(inputs) :])]


def schedules(target: Target) -> list[tuple[Loop, ...]]:
    wide = target.width(32)
    return [
        (Loop("i", "parallel"),),
        (Loop("i", "parallel"), Loop("i", "vector", wide)),
        (Loop("i", "parallel"), Loop("i", "unroll", 2), Loop("i", "vector", 4 * wide)),
    ]


def check_rows(kernel: Kernel, names: list[str], got: list[Any], expected: list[Any], dtype: DType) -> None:
    for name, x, y in zip(names, got, expected, strict=True):
        bound = BOUNDS.get(name, {}).get("f64" if dtype.name == "f64" else "f32", 0.0)
        if bound == 0.0 or dtype.kind != "float" or name in _EXACT_FUNCTIONS:
            np.testing.assert_array_equal(bits(x), bits(y), err_msg=f"{name} of {dtype.name}")
        else:
            check_ulp(x, y, dtype, 1.0 if dtype.bits == 16 else bound, f"{name} of {dtype.name}")


def check_ulp(x: Any, y: Any, dtype: DType, bound: float, message: str) -> None:
    """Floats within `bound` steps of each other, NaN and infinity in the same places."""
    np.testing.assert_array_equal(np.isnan(x), np.isnan(y), err_msg=message)

    def ordered(array: Any) -> Any:
        signed = np.array(array).view(f"i{dtype.itemsize}").astype(np.int64)
        return (
            np.where(signed < 0, np.iinfo(np.int64).min + (signed & (1 << (dtype.bits - 1)) - 1), signed)
            if (dtype.bits == 64)
            else np.where(signed < 0, -(signed & ((1 << (dtype.bits - 1)) - 1)), signed)
        )

    away = np.abs(ordered(x) - ordered(y))
    real = ~np.isnan(np.array(x))
    assert (away[real] <= bound).all(), f"{message}: {away[real].max()} steps"


@pytest.mark.parametrize("target", RUNNABLE, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda d: d.name)
def test_opcodes(dtype: DType, target: Target) -> None:
    rng = np.random.default_rng(1)
    names = opcodes(dtype)
    inputs = [values(rng, dtype) for _ in range(3)] + [values(rng, DTYPES["bool"])]
    first: list[Any] = []
    for loops in schedules(target):
        kernel = elementwise(dtype, names, loops)
        verify_kernel(kernel)
        got = outputs_of(kernel, [a.copy() for a in inputs])
        assert Native(kernel, target).run(got, parts=3) == 2**63 - 1
        if not first:
            first = got
            expected = outputs_of(kernel, [a.copy() for a in inputs])
            Interpreter(kernel, target).run(expected)
            check_rows(kernel, names, got[4:], expected[4:], dtype)
        for name, x, y in zip(names, got[4:], first[4:], strict=True):
            np.testing.assert_array_equal(bits(x), bits(y), err_msg=f"{name}: vector and scalar")


@pytest.mark.parametrize("target", RUNNABLE, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda d: d.name)
def test_casts(dtype: DType, target: Target) -> None:
    x = values(np.random.default_rng(2), dtype)
    for loops in schedules(target):
        kernel = casts(dtype, loops)
        got, expected = (outputs_of(kernel, [x.copy()]) for _ in range(2))
        Native(kernel, target).run(got, parts=2)
        with np.errstate(all="ignore"):
            Interpreter(kernel, target).run(expected)
        for to, a, b in zip(DTYPES, got[1:], expected[1:], strict=True):
            np.testing.assert_array_equal(bits(a), bits(b), err_msg=f"{dtype.name} to {to}")


@pytest.mark.parametrize("name", ["x86-64-v4", "aarch64"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=lambda d: d.name)
def test_compiles_for(dtype: DType, name: str) -> None:
    target = TARGETS[name]
    loops = (Loop("i", "parallel"), Loop("i", "vector", target.width(32)))
    kernel_object(elementwise(dtype, opcodes(dtype), loops), target)
    kernel_object(casts(dtype, loops), target)
