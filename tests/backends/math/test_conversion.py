"""Conversions between formats, and that no emitter needs a library on any target."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphc.backends.llvm.math import (
    FUNCTIONS,
    bf16_to_f32,
    f16_to_f32,
    f32_to_bf16,
    f32_to_f16,
    float_to_int,
    int_to_float,
)
from graphc.backends.llvm.text import Builder, ModuleText, Val
from graphc.ir.target import TARGETS, Target
from tests.backends.math.jit import (
    DTYPES,
    Kernel,
    add_loop,
    compile_kernel,
    module_text,
    object_code,
    runnable,
    undefined_symbols,
)
from tests.backends.math.reference import EDGES, Array

INTEGERS = ("i8", "i16", "i32", "i64")
Emitter = Callable[..., Val]


def every_emitter() -> dict[str, tuple[Emitter, list[str], str]]:
    """Name → emitter, argument element types, result element type."""
    found: dict[str, tuple[Emitter, list[str], str]] = {
        "bf16_to_f32": (bf16_to_f32, ["i16"], "float"),
        "f16_to_f32": (f16_to_f32, ["i16"], "float"),
        "f32_to_bf16": (f32_to_bf16, ["float"], "i16"),
        "f32_to_f16": (f32_to_f16, ["float"], "i16"),
    }
    for scalar in ("float", "double"):
        for name, function in FUNCTIONS.items():
            found[f"{name} {scalar}"] = (function, [scalar] * (2 if name == "pow" else 1), scalar)
        for integer in INTEGERS:
            for signed in (True, False):
                to_int = functools.partial(float_to_int, integer=integer, signed=signed)
                to_float = functools.partial(int_to_float, scalar=scalar, signed=signed)
                found[f"{scalar} to {integer} {signed}"] = (to_int, [scalar], integer)
                found[f"{integer} {signed} to {scalar}"] = (to_float, [integer], scalar)
    return found


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_no_emitter_calls_a_library(target: Target) -> None:
    module = ModuleText(target)
    for number, (emit, types, result) in enumerate(every_emitter().values()):
        for width in (1, 3, 8):
            add_loop(module, f"run{number}.{width}", emit, types, result, width)
    assert undefined_symbols(object_code(str(module), target)) == set()


def test_library_calls_are_seen() -> None:
    def fused(b: Builder, x: Val) -> Val:
        return b.intrinsic("fma", x.type, [x, x, x])

    text = module_text(fused, TARGETS["x86-64"], ["float"], "float", 4)
    assert undefined_symbols(object_code(text, TARGETS["x86-64"])) == {"fmaf"}


def kernel_of(name: str, target: str) -> Kernel:
    emit, types, result = every_emitter()[name]
    return compile_kernel(emit, TARGETS[target], types, result, 8)


def all_bits_16() -> Array:
    return np.arange(1 << 16, dtype=np.uint16)


def sampled_floats() -> Array:
    """Every 8191st float32, and those at and beside each rounding boundary of both 16-bit formats."""
    step = np.arange(0, 1 << 32, 8191, dtype=np.uint64)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    ties = halves.astype(np.uint64)[:, None] + np.array([0, 0xFFF, 0x1000, 0x1001, 0x1FFF], np.uint64)
    upper = np.arange(1 << 16, dtype=np.uint64)[:, None] * 0x10000 + np.array(
        [0, 0x7FFF, 0x8000, 0x8001], np.uint64
    )
    bits = np.concatenate([step, ties.ravel(), upper.ravel()]).astype(np.uint32)
    return bits[: bits.size // 8 * 8].view(np.float32)


def check_same(result: Array, expected: Array) -> None:
    """Equal bits, any NaN for a NaN."""
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    keep = ~np.isnan(expected)
    np.testing.assert_array_equal(result[keep], expected[keep])
    np.testing.assert_array_equal(np.signbit(result[keep]), np.signbit(expected[keep]))


@pytest.mark.parametrize("target", runnable())
@pytest.mark.parametrize(("name", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_16_bit_floats(name: str, dtype: Any, target: str) -> None:
    narrow = all_bits_16()
    check_same(kernel_of(f"{name}_to_f32", target)(narrow), narrow.view(dtype).astype(np.float32))
    wide = sampled_floats()
    with np.errstate(all="ignore"):
        expected = wide.astype(dtype)
    result = kernel_of(f"f32_to_{name}", target)(wide).view(dtype)
    check_same(result.astype(np.float32), expected.astype(np.float32))


def test_f16_sequences_equal_the_instructions() -> None:
    """The own sequence of x86-64 gives the bits of the F16C instructions, payloads of NaNs too."""
    if "x86-64-v3" not in runnable():
        pytest.skip("no F16C here")
    for name, values in (("f16_to_f32", all_bits_16()), ("f32_to_f16", sampled_floats())):
        own, native = (kernel_of(name, t)(values) for t in ("x86-64", "x86-64-v3"))
        np.testing.assert_array_equal(own.view(np.uint16), native.view(np.uint16))


@pytest.mark.parametrize("target", runnable())
@pytest.mark.parametrize("scalar", ["float", "double"])
@pytest.mark.parametrize("integer", INTEGERS)
def test_floats_to_integers_saturate(integer: str, scalar: str, target: str) -> None:
    dtype, info = DTYPES[scalar], np.iinfo(DTYPES[integer])
    with np.errstate(over="ignore"):
        near = np.array([s * 2.0**e + d for e in range(66) for s in (-1, 1) for d in (-1, -0.5, 0, 0.5, 1)])
        x = np.concatenate([near, EDGES, [-e for e in EDGES]]).astype(dtype)
    x = np.resize(x, -(-x.size // 8) * 8)
    result = kernel_of(f"{scalar} to {integer} True", target)(x)
    expected = [0 if v != v else int(min(max(v, float(info.min)), float(info.max))) for v in x.tolist()]
    np.testing.assert_array_equal(
        result, np.array([min(max(v, info.min), info.max) for v in expected], info.dtype)
    )


@pytest.mark.parametrize("target", runnable())
@pytest.mark.parametrize("scalar", ["float", "double"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("integer", INTEGERS)
def test_integers_to_floats(integer: str, signed: bool, scalar: str, target: str) -> None:
    dtype: Any = np.dtype(DTYPES[integer] if signed else f"u{DTYPES[integer]().itemsize}")
    rng = np.random.default_rng(5)
    x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 4096, dtype=dtype, endpoint=True)
    x[2048:] >>= rng.integers(0, 8 * dtype.itemsize, 2048).astype(dtype)
    x[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    result = kernel_of(f"{integer} {signed} to {scalar}", target)(x)
    np.testing.assert_array_equal(result, x.astype(DTYPES[scalar]))
