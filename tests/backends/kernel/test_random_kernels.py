"""Random kernels under random schedules against the interpreter, bit for bit."""

from __future__ import annotations

import random

import pytest

from graphc.ir.kernel_parser import parse_kernel
from tests.backends.kernel.check import check
from tests.backends.kernel.native import RUNNABLE
from tests.backends.kernel.random_kernels import random_kernel, random_schedule


def check_seed(seed: int) -> None:
    rng = random.Random(seed)
    kernel = random_kernel(rng)
    for _ in range(2):
        scheduled = random_schedule(rng, kernel)
        assert parse_kernel(str(scheduled)) == scheduled
        check(scheduled, targets=[rng.choice(RUNNABLE)], parts=(1, rng.randrange(2, 8)), error=None)


@pytest.mark.parametrize("seed", [*range(40), 2098])
def test_random_kernel(seed: int) -> None:
    check_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 3000))
def test_many_random_kernels(seed: int) -> None:
    check_seed(seed)
