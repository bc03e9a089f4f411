"""Matrix products of every shape class, dtype and layout, on every target this machine runs.

Small integers make every sum exact, so results are compared for equality; random values then
show that layout and partition change no bit.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from graphc.backends.llvm.compile import compile_text
from graphc.backends.llvm.contraction import (
    contraction_schedule,
    emit_contraction,
    is_contraction,
    partitions,
    scratch_bytes,
)
from graphc.backends.llvm.contraction.tiling import block_steps
from graphc.backends.llvm.elf import read_symbols
from graphc.backends.llvm.text import ModuleText
from graphc.ir.target import TARGETS, Target
from graphc.ir.types import DType, bfloat16, float32, float64, int32
from tests.backends.contraction.kernels import Body, Index, buffer, matmul
from tests.backends.contraction.native import Native

V1, V3 = TARGETS["x86-64"], TARGETS["x86-64-v3"]
T = True

# m, n, k, dtype, options, parts
CASES = [
    (1, 1, 1, float32, {}, 1),
    (3, 1, 2, float32, {}, 1),
    (1, 2, 3, float32, {"a_transposed": T}, 1),
    (2, 2, 0, float32, {}, 1),
    (0, 4, 3, float32, {}, 1),
    (4, 0, 3, float32, {}, 1),
    (6, 16, 4, float32, {}, 1),
    (7, 19, 5, float32, {}, 2),
    (13, 17, 330, float32, {}, 3),
    (12, 33, 1000, float32, {"b_transposed": T}, 2),
    (12, 33, 1000, float32, {"a_transposed": T, "out_transposed": T}, 2),
    (64, 10, 128, float32, {"b_transposed": T}, 3),
    (64, 32, 64, float32, {"a_transposed": T, "b_transposed": T}, 2),
    (100, 100, 100, float32, {"out_transposed": T}, 5),
    (250, 70, 350, float32, {}, 4),
    (9, 1024, 16, float32, {}, 16),
    (8, 20, 1024, float32, {}, 1),
    (40, 60, 1024, float32, {"b_transposed": T}, 2),
    (1, 128, 784, float32, {"b_transposed": T}, 2),
    (1, 128, 784, float32, {}, 2),
    (1, 70, 5000, float32, {}, 3),
    (1, 70, 5000, float32, {"b_transposed": T}, 3),
    (1, 1, 4999, float32, {}, 1),
    (65, 1, 33, float32, {}, 2),
    (65, 1, 700, float32, {"a_transposed": T}, 2),
    (5, 3, 4, float32, {"batch": 3}, 2),
    (16, 24, 40, float32, {"batch": 9, "b_transposed": T}, 4),
    (16, 24, 400, float32, {"batch": 2, "a_transposed": T, "out_transposed": T}, 2),
    (1, 1, 50, float32, {"batch": 4}, 1),
    (7, 19, 5, float64, {}, 2),
    (33, 20, 400, float64, {"b_transposed": T}, 2),
    (33, 20, 400, float64, {"a_transposed": T, "out_transposed": T}, 2),
    (1, 40, 500, float64, {}, 1),
    (7, 19, 5, bfloat16, {}, 2),
    (33, 20, 400, bfloat16, {"b_transposed": T}, 2),
    (33, 20, 400, bfloat16, {"a_transposed": T, "out_transposed": T}, 2),
]


def product(x: np.ndarray, y: np.ndarray, options: dict[str, object]) -> np.ndarray:
    """The float64 product of operands held as `options` says."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    x = x.swapaxes(-1, -2) if options.get("a_transposed") else x
    y = y.swapaxes(-1, -2) if options.get("b_transposed") else y
    out = x @ y
    return out.swapaxes(-1, -2) if options.get("out_transposed") else out


def small_integers(shape: tuple[int, ...], dtype: DType, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype.numpy)


@pytest.mark.parametrize("target", [V1, V3], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: "-".join(map(str, c[:3])) + f"-{c[3].name}-{''.join(c[4])}"
)
def test_product_is_exact(case: tuple[int, int, int, DType, dict[str, object], int], target: Target) -> None:
    m, n, k, dtype, options, parts = case
    kernel = matmul(m, n, k, dtype, **options)  # type: ignore[arg-type]
    x, y, out = (small_integers(b.type.sizes, dtype, i) for i, b in enumerate(kernel.buffers))
    got = Native(kernel, target)([x, y, out], parts)
    expected = product(x, y, options).astype(dtype.numpy)
    assert np.array_equal(got[2], expected)
    assert np.array_equal(got[0], x) and np.array_equal(got[1], y)


def round_to_float32(x: Fraction) -> Fraction:
    """`x` rounded once to float32's 24-bit significand, ties to even (no overflow, no subnormal)."""
    if x == 0:
        return x
    exponent = 0
    while abs(x) >= 2**24:
        x, exponent = x / 2, exponent + 1
    while abs(x) < 2**23:
        x, exponent = x * 2, exponent - 1
    return Fraction(round(x)) * Fraction(2) ** exponent


@pytest.mark.parametrize("k", [1, 5, 160, 161, 700, 1300])
def test_order_of_summation_is_stated(k: int) -> None:
    rng = np.random.default_rng(k)
    x, y = rng.standard_normal((2, k), np.float32), rng.standard_normal((k, 2), np.float32)
    got = Native(matmul(2, 2, k, float32), V3)([x, y, np.zeros((2, 2), np.float32)])[2]
    for i in range(2):
        for j in range(2):
            blocks = []
            for start in range(0, k, block_steps(k)):
                total = Fraction(0)
                for p in range(start, min(start + block_steps(k), k)):
                    total = round_to_float32(Fraction(float(x[i, p])) * Fraction(float(y[p, j])) + total)
                blocks.append(total)
            expected = blocks[0]
            for block in blocks[1:]:
                expected = round_to_float32(expected + block)
            assert Fraction(float(got[i, j])) == expected


@pytest.mark.parametrize(
    ("extents", "steps"),
    [((5,), 5), ((160,), 160), ((321,), 112), ((768,), 128), ((1000,), 144), ((64, 3, 3), 288), ((512, 3, 3), 315), ((8, 16, 16), 256),
     ((8, 28, 28), 196), ((8, 31, 31), 310), ((2, 500), 256), ((3, 1, 400), 304), ((8, 7, 7), 196)],
)  # fmt: skip
def test_blocks_are_whole_runs_of_inner_axes(extents: tuple[int, ...], steps: int) -> None:
    assert block_steps(*extents) == steps


@pytest.mark.parametrize("target", [V1, V3], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "shape",
    [(64, 10, 128), (37, 50, 700), (1, 128, 784), (70, 1, 1000), (130, 40, 1024), (20, 24, 1300), (1, 21, 50),
     (1, 11, 33), (5, 1, 36), (1, 9, 47), (1, 13, 2053), (1, 45, 120), (1, 27, 128)],
)  # fmt: skip
def test_layout_and_partition_change_no_bit(shape: tuple[int, int, int], target: Target) -> None:
    m, n, k = shape
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    results = []
    for a in (False, True):
        for b in (False, True):
            for o in (False, True):
                native = Native(
                    matmul(m, n, k, float32, a_transposed=a, b_transposed=b, out_transposed=o), target
                )
                out = np.zeros((n, m) if o else (m, n), np.float32)
                for parts in (1, 3):
                    got = native([x.T if a else x, y.T if b else y, out], parts)[2]
                    results.append((got.T if o else got).tobytes())
    assert len(set(results)) == 1


def test_epilogue_reads_biases_and_updates_in_place() -> None:
    """w <- w - 0.5·(x·y + bias), an `inout` output, with a relu mask stored beside it."""
    m, n, k = 20, 35, 400

    def finish(b: Body, value: int, out: Index) -> None:
        total = b.add("add", float32, [value, b.load(float32, 3, [out[1]])])
        scaled = b.add("mul", float32, [total, b.add("const", float32, value=0.5)])
        updated = b.add("sub", float32, [b.load(float32, 2, out), scaled])
        zero = b.add("const", float32, value=0.0)
        b.store(float32, 4, out, b.add("max", float32, [total, zero]))
        b.store(float32, 2, out, updated)

    extra = [buffer(float32, [n]), buffer(float32, [m, n], "out")]
    kernel = matmul(m, n, k, float32, finish=finish, extra=extra, out_access="inout")
    x, y, w, bias, mask = (small_integers(b.type.sizes, float32, i) for i, b in enumerate(kernel.buffers))
    for parts in (1, 4):
        got = Native(kernel)([x, y, w, bias, mask], parts)
        total = x @ y + bias
        assert np.array_equal(got[2], w - np.float32(0.5) * total)
        assert np.array_equal(got[4], np.maximum(total, 0))


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3", "x86-64-v4", "aarch64"])
@pytest.mark.parametrize("dtype", [float32, float64, bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize(
    "options", [{}, {"b_transposed": T}, {"a_transposed": T}], ids=lambda o: "".join(o) or "plain"
)
def test_objects_call_nothing(name: str, dtype: DType, options: dict[str, bool]) -> None:
    target = TARGETS[name]
    module = ModuleText(target)
    emit_contraction(matmul(50, 70, 400, dtype, **options), module, "k", target)  # type: ignore[arg-type]
    assert read_symbols(compile_text(str(module), target)).undefined <= {"memset", "memcpy"}


def test_integers_are_left_to_the_generic_path() -> None:
    assert not is_contraction(matmul(4, 4, 4, int32))
    assert is_contraction(matmul(4, 4, 4, float32))


def test_partitions_and_scratch_follow_the_shape() -> None:
    small, large = matmul(8, 8, 8, float32), matmul(512, 512, 512, float32, b_transposed=True)
    assert partitions(small, V3) == 1
    assert partitions(large, V3) > 1
    schedule = contraction_schedule(large, V3)
    assert schedule is not None and schedule.parts == partitions(large, V3)
    assert {loop.axis for loop in schedule.loops} == {a.name for a in large.axes}
    assert [loop.axis for loop in schedule.loops if loop.role == "vector"] == ["j"]
    assert scratch_bytes(large, V3) > scratch_bytes(small, V3)
