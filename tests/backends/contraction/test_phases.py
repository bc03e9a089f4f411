"""Gradients of strided convolutions in their input: phases with affine indices, and the order of their sums."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest

from graphc.backends.llvm.codegen import module_text
from graphc.backends.llvm.contraction import contraction_schedule
from graphc.backends.llvm.contraction.phases import phases
from graphc.ir.kernel import extent
from graphc.ir.target import TARGETS
from graphc.ir.types import float32
from tests.backends.contraction.kernels import Convolution
from tests.backends.contraction.native import Native
from tests.backends.contraction.test_matmul import round_to_float32


@pytest.mark.parametrize(
    ("case", "steps"),
    [
        (Convolution(1, 2, 8, 8, 3, 3, 3, pad=1), [27]),
        (Convolution(1, 2, 8, 8, 3, 3, 3, pad=1, stride=2), [3, 6, 6, 12]),
        (Convolution(1, 2, 8, 8, 3, 1, 1, stride=2), [3, 0, 0, 0]),
        (Convolution(1, 2, 13, 13, 3, 3, 3, stride=2, dilation=2), [27, 0, 0, 0]),
        (Convolution(1, 2, 25, 25, 3, 3, 3, stride=5), [27]),
    ],
    ids=lambda v: "x".join(map(str, vars(v).values())) if isinstance(v, Convolution) else "",
)
def test_phases_divide_the_steps(case: Convolution, steps: list[int]) -> None:
    """Steps of each phase; beyond 16 phases a kernel stays whole."""
    found = phases(case.input_gradient(float32))
    assert [int(np.prod([extent(a) for a in p.stages[0].axes])) for p in found] == steps
    assert len(found) == 1 or not any(")%(" in str(p) or ")//(" in str(p) for p in found)


def test_order_of_a_phase_is_stated() -> None:
    """An element sums, by fused multiply-adds from 0, the steps (o, r, s) whose offset the stride divides, in order."""
    c = Convolution(1, 2, 5, 4, 5, 3, 3, pad=1, stride=2)
    rng = np.random.default_rng(3)
    x, w, dy = (rng.standard_normal(s, np.float32) for s in c.shapes)
    got = Native(c.input_gradient(float32), TARGETS["x86-64-v3"])([dy, w, np.zeros_like(x)])[2]
    for ch, h, v in itertools.product(range(c.c), range(c.h), range(c.w)):
        total = Fraction(0)
        for o, r, s in itertools.product(range(c.o), range(c.r), range(c.s)):
            (p, left), (q, rest) = divmod(h + c.pad - r, c.stride), divmod(v + c.pad - s, c.stride)
            if left or rest:
                continue
            inside = 0 <= p < c.oh and 0 <= q < c.ow
            product = Fraction(float(dy[0, o, p, q])) * Fraction(float(w[o, ch, r, s])) if inside else 0
            total = round_to_float32(product + total)
        assert Fraction(float(got[0, ch, h, v])) == total


def test_phases_without_steps_read_no_operand() -> None:
    """Code of phases that sum nothing has no multiply-add: three of four here."""
    kernel = Convolution(1, 2, 8, 8, 3, 1, 1, stride=2).input_gradient(float32)
    target = TARGETS["x86-64-v3"]
    schedule = contraction_schedule(kernel, target)
    text = module_text(dataclasses.replace(kernel, schedule=schedule), "k", target)
    functions = text.split("\ndefine ")[1:]
    summing = {f.partition("@")[2].split(".")[1] for f in functions if "@llvm.fma" in f}
    assert len(functions) > len(summing) and summing == {"phase0"}
