"""Sums over 3×3 windows through transformed tiles: which ones, their values at all edges, and their errors.

Transforms halve and add, so small integers stay exact and every result can be compared exactly.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from graphc.backends.llvm.contraction import contraction_schedule, scratch_bytes, winograd
from graphc.ir.kernel import Kernel, Schedule
from graphc.ir.kernel_parser import parse_kernel
from graphc.ir.target import TARGETS
from graphc.ir.types import DType, float32, float64
from tests.backends.contraction.kernels import Convolution
from tests.backends.contraction.native import Native
from tests.backends.contraction.test_convolution import forward, input_gradient

V3 = TARGETS["x86-64-v3"]

TILED = [
    Convolution(1, 64, 28, 28, 64, 3, 3, pad=1),
    Convolution(1, 128, 14, 14, 128, 3, 3, pad=1),
    Convolution(2, 66, 31, 30, 70, 3, 3, pad=1),
    Convolution(1, 100, 30, 33, 67, 3, 3),
    Convolution(1, 64, 41, 27, 65, 3, 3, pad=2),
    Convolution(5, 116, 9, 8, 130, 3, 3, pad=1),
    Convolution(1, 69, 60, 15, 64, 3, 3, pad=1),
    Convolution(1, 512, 7, 7, 510, 3, 3, pad=1),
    Convolution(1, 256, 14, 11, 130, 3, 3, pad=1),
]
STRIDED = [
    Convolution(1, 64, 28, 28, 128, 3, 3, stride=2, pad=1),
    Convolution(8, 250, 4, 4, 260, 3, 3, stride=2, pad=1),
    Convolution(2, 66, 31, 30, 70, 3, 3, stride=2, pad=1),
    Convolution(1, 100, 30, 33, 67, 3, 3, stride=2),
    Convolution(1, 64, 41, 27, 65, 3, 3, stride=2, pad=2),
    Convolution(3, 96, 14, 15, 129, 3, 3, stride=2, pad=1),
]
DIRECT = [
    (Convolution(1, 64, 28, 28, 64, 3, 3, pad=1), float64),
    (Convolution(1, 64, 28, 28, 64, 3, 3, pad=1, stride=2), float32),
    (Convolution(1, 64, 28, 28, 64, 3, 3, pad=2, dilation=2), float32),
    (Convolution(1, 64, 28, 28, 64, 5, 5, pad=2), float32),
    (Convolution(1, 64, 28, 28, 64, 1, 1), float32),
    (Convolution(1, 64, 28, 28, 64, 3, 1), float32),
    (Convolution(1, 3, 28, 28, 64, 3, 3, pad=1), float32),
    (Convolution(1, 64, 28, 28, 2, 3, 3, pad=1), float32),
    (Convolution(64, 64, 3, 3, 64, 3, 3, pad=1), float32),
]


def name(case: object) -> str:
    return "x".join(map(str, vars(case).values())) if isinstance(case, Convolution) else str(case)


def direct(kernel: Kernel) -> Kernel:
    """The kernel summed tap by tap."""
    plain = Schedule((), tuple(() for _ in kernel.stages), 1, "contraction")
    return dataclasses.replace(kernel, schedule=plain)


@dataclasses.dataclass(frozen=True)
class Sum:
    """A convolution, or its gradient by the input."""

    case: Convolution
    gradient: bool

    @property
    def kernel(self) -> Kernel:
        return (self.case.input_gradient if self.gradient else self.case.forward)(float32)

    def operands(self, seed: int, *, whole: bool) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        x, w, y = self.case.shapes
        shapes = (y if self.gradient else x, w)
        drawn = [rng.integers(-3, 4, s) if whole else rng.standard_normal(s) for s in shapes]
        return [d.astype(np.float32) for d in drawn]

    def exact(self, data: np.ndarray, w: np.ndarray) -> np.ndarray:
        compute = input_gradient if self.gradient else forward
        return compute(self.case, data.astype(np.float64), w.astype(np.float64))


SUMS = [
    *(pytest.param(Sum(c, g), id=name(c) + "-dx" * g) for c in TILED for g in (False, True)),
    *(pytest.param(Sum(c, True), id=name(c) + "-dx") for c in STRIDED),
]


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("made", SUMS)
def test_whole_numbers_are_exact(made: Sum, target: str) -> None:
    kernel = made.kernel
    assert winograd.make_plan(kernel, TARGETS[target]) is not None
    x, w = made.operands(1, whole=True)
    native, expected = Native(kernel, TARGETS[target]), made.exact(x, w).astype(np.float32)
    for parts in (1, 2, 5):
        assert np.array_equal(native([x, w, np.zeros_like(expected)], parts)[2], expected), parts


@pytest.mark.parametrize("made", SUMS[:8] + SUMS[-4:])
def test_bits_of_any_partition_and_error(made: Sum) -> None:
    kernel = made.kernel
    x, w = made.operands(2, whole=False)
    exact = made.exact(x, w)
    out = np.zeros(exact.shape, np.float32)
    native = Native(kernel)
    got = native([x, w, out])[2]
    for parts in (2, 3, 4, 7):
        assert np.array_equal(native([x, w, out], parts)[2].view(np.int32), got.view(np.int32)), parts
    by_taps = Native(direct(kernel))([x, w, out])[2]
    errors = [np.sqrt(np.mean((y - exact) ** 2)) for y in (got, by_taps)]
    assert 0 < errors[0] < 2 * errors[1]


@pytest.mark.parametrize(("case", "dtype"), DIRECT, ids=name)
def test_what_is_summed_tap_by_tap(case: Convolution, dtype: DType) -> None:
    assert winograd.make_plan(case.forward(dtype), V3) is None


FURTHER_APART = [(Convolution(1, 64, 28, 28, 64, 3, 3, pad=1, stride=n), float32) for n in (3, 4)]


@pytest.mark.parametrize(("case", "dtype"), [d for d in DIRECT if d[0].stride == 1] + FURTHER_APART, ids=name)
def test_whose_gradients_are_summed_tap_by_tap(case: Convolution, dtype: DType) -> None:
    assert winograd.make_plan(case.input_gradient(dtype), V3) is None


def test_weight_gradients_are_summed_tap_by_tap() -> None:
    assert winograd.make_plan(TILED[0].weight_gradient(float32), V3) is None


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("made", SUMS)
def test_schedule(made: Sum, target: str) -> None:
    kernel, case = made.kernel, made.case
    schedule = contraction_schedule(kernel, TARGETS[target], False)
    assert schedule is not None and schedule.engine == "tiled_windows"
    scheduled = dataclasses.replace(kernel, schedule=schedule)
    assert parse_kernel(str(scheduled)) == scheduled
    channels, height, width = (case.o, case.h, case.w) if made.gradient else (case.c, case.oh, case.ow)
    data = 16 * 4 * case.n * channels * (height + 1) // 2 * (width + 1) // 2
    assert scratch_bytes(scheduled, TARGETS[target]) < 3 * (data + 16 * 4 * case.o * case.c) + (1 << 18)
