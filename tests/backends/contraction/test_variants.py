"""Every plan that tuning may choose has a name, gives the same bits and is written and read with its schedule."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from graphc.backends.llvm.compile import host_target
from graphc.backends.llvm.contraction import (
    base_names,
    can_be_tuned,
    contraction_schedule,
    named_schedule,
    variations,
)
from graphc.ir.errors import CompileError
from graphc.ir.kernel import Kernel
from graphc.ir.kernel_parser import parse_kernel
from graphc.ir.types import float32, float64
from tests.backends.contraction.kernels import Convolution, matmul
from tests.backends.contraction.native import Native

T = True

CASES = {
    "in order": matmul(70, 96, 700, float32),
    "x times W transposed": matmul(64, 100, 330, float32, b_transposed=T),
    "weights' gradient": matmul(100, 80, 640, float64, a_transposed=T),
    "several": matmul(24, 40, 330, float32, batch=3, b_transposed=T),
    "windows": Convolution(4, 6, 14, 14, 16, 5, 5).forward(float32),
}


def check(kernel: Kernel) -> set[str]:
    """The names of all plans that were compared."""
    target = host_target()
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal(tuple(map(int, b.type.shape))).astype(b.type.dtype.numpy)
        for b in kernel.parameters
    ]
    expected = Native(kernel)(arrays)
    names = base_names(kernel, target, False)
    seen = set(names)
    for first in names[:1]:
        for others in variations(first, kernel, target, False):
            seen.update(others)
    for name in sorted(seen):
        schedule = named_schedule(name, kernel, target, False)
        planned = dataclasses.replace(kernel, schedule=schedule)
        assert parse_kernel(str(planned)) == planned
        native = Native(planned)
        for parts in {1, 3, schedule.parts}:
            for got, wanted in zip(native(arrays, parts), expected, strict=True):
                assert got.tobytes() == wanted.tobytes(), (name, parts)
    return seen


@pytest.mark.parametrize("name", CASES)
def test_bits(name: str) -> None:
    assert len(check(CASES[name])) >= 4


def test_the_estimate_is_number_0() -> None:
    kernel, target = CASES["in order"], host_target()
    estimated = contraction_schedule(kernel, target, False)
    assert estimated is not None
    assert can_be_tuned(kernel, estimated)
    assert named_schedule("0", kernel, target, False) == dataclasses.replace(estimated, plan="0")


@pytest.mark.parametrize("name", ["", "x", "0 q=3", "0 kc=many", "0 kc", "99"])
def test_no_name(name: str) -> None:
    with pytest.raises(CompileError, match="no plan"):
        named_schedule(name, CASES["in order"], host_target(), False)
