"""Products with a packed operand: the bits of the same product that reads the operand as it is, for every width of vectors."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.llvm.contraction import kept_operand
from graphc.backends.llvm.contraction.plan import make_plan
from graphc.backends.llvm.contraction.tiling import panel_rows
from graphc.ir.kernel import Kernel
from graphc.ir.target import TARGETS, Target
from graphc.ir.types import DType, TensorType, float32, float64
from graphc.passes.kept import filling, reading_panels
from tests.backends.contraction.kernels import Body, Index, buffer, matmul
from tests.backends.contraction.native import Native

# rows, columns, steps
SHAPES = [(64, 96, 768), (9, 50, 100), (13, 25, 700), (66, 71, 65), (8, 48, 160), (70, 29, 330)]


def product(m: int, n: int, k: int, dtype: DType, *, bias: bool, a_transposed: bool = False) -> Kernel:
    """x · Wᵀ, with or without a bias."""

    def finish(b: Body, value: int, out: Index) -> None:
        b.store(dtype, 2, out, b.add("add", dtype, [value, b.load(dtype, 3, [out[-1]])]))

    return matmul(
        m, n, k, dtype, b_transposed=True, a_transposed=a_transposed, finish=finish if bias else None,
        extra=[buffer(dtype, [n])] if bias else [],
    )  # fmt: skip


def check(kernel: Kernel, target: Target) -> None:
    dtype = kernel.buffers[0].type.dtype
    columns = panel_rows(target, dtype.bits)
    n, k = kernel.buffers[1].type.sizes
    packed = TensorType(dtype, (-(-n // columns), k, columns))
    kept = reading_panels(kernel, 1, columns, packed)
    plan = make_plan(kept, target)
    assert plan is not None and plan.tiling.b == "kept"
    rng = np.random.default_rng(n + k)
    x, w, out, *rest = (rng.standard_normal(b.type.sizes).astype(dtype.numpy) for b in kernel.buffers)
    rows = np.zeros((packed.sizes[0] * columns, k), dtype.numpy)
    rows[:n] = w
    panels = np.ascontiguousarray(rows.reshape(-1, columns, k).transpose(0, 2, 1))
    expected = Native(kernel, target)([x, w, out, *rest])[2]
    native = Native(kept, target)
    for parts in (1, 3):
        np.testing.assert_array_equal(native([x, panels, out, *rest], parts)[2], expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [float32, float64])
def test_the_bits_are_those_of_the_operand_as_it_is(shape: tuple[int, int, int], dtype: DType) -> None:
    for bias in (False, True):
        check(product(*shape, dtype, bias=bias), TARGETS["x86-64-v3"])
    check(product(*shape, dtype, bias=True, a_transposed=True), TARGETS["x86-64-v3"])


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_long_operands_of_few_rows_are_kept(name: str) -> None:
    target = TARGETS[name]
    long = target.l2_bytes // (4 * 256)
    for m, n, found in ((64, long, 1), (64, long // 2, None), (4, long, None), (1024, long, None)):
        kept = kept_operand(product(m, n, 256, float32, bias=False), target)
        assert kept == (None if found is None else (found, panel_rows(target, 32)))


def test_filling_puts_zeros_where_no_row_is() -> None:
    kernel = filling(TensorType(float32, (5, 7)), TensorType(float32, (2, 7, 3)))
    guards = [i.guards for i in kernel.instructions() if i.opcode == "load"]
    assert guards and all(guards)
