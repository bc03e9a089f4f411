"""Tensors print as PyTorch prints them, but for the package's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)

PRINTED: list[Callable[[Any], Any]] = [
    lambda t: t.tensor(3),
    lambda t: t.tensor(2.5),
    lambda t: t.tensor(True),
    lambda t: t.tensor([]),
    lambda t: t.zeros(0, 3),
    lambda t: t.zeros(2, 0, dtype=t.int32),
    lambda t: t.tensor([1, -20, 300]),
    lambda t: t.tensor([1.0, 2.0, -3.0]),
    lambda t: t.tensor([1.5, 2.25, -300.125]),
    lambda t: t.tensor([1e-5, 1.0]),
    lambda t: t.tensor([1e10, 1.0]),
    lambda t: t.tensor([1e9]),
    lambda t: t.tensor([0.0, -0.0]),
    lambda t: t.tensor([float("nan"), float("inf"), -float("inf"), 1.0]),
    lambda t: t.tensor([float("nan"), 0.5]),
    lambda t: t.tensor([float("inf")]),
    lambda t: t.tensor([[True, False], [False, True]]),
    lambda t: t.tensor([1.0, 2.0], dtype=t.float64),
    lambda t: t.tensor([1.5, 2.0], dtype=t.float16),
    lambda t: t.tensor([1.5, 2.0], dtype=t.bfloat16),
    lambda t: t.tensor([1, 2], dtype=t.uint8),
    lambda t: t.tensor([1.0, 2.0], requires_grad=True),
    lambda t: t.tensor(RNG_DATA[0]),
    lambda t: t.tensor(RNG_DATA[1]),
    lambda t: t.tensor(RNG_DATA[2]),
    lambda t: t.tensor(RNG_DATA[3]),
    lambda t: t.arange(1001),
    lambda t: t.arange(2000.0).reshape(20, 100),
    lambda t: t.tensor(RNG_DATA[4], requires_grad=True),
    lambda t: t.tensor(RNG_DATA[5], dtype=t.float64, requires_grad=True),
    lambda t: t.nn.Parameter(t.ones(2, 3)),
    lambda t: t.tensor(0.1 + np.arange(30)),
    lambda t: t.ones(2, 3).shape,
    lambda t: t.float32,
    lambda t: t.device("cpu"),
    lambda t: t.ones(2).max(0),
    lambda t: t.finfo(t.float16),
    lambda t: t.iinfo(t.int8),
    lambda t: f"{t.tensor(1.25):.1f} {t.tensor(3)}",
]
RNG_DATA = [
    RNG.standard_normal((3, 4)).astype(np.float32),
    RNG.standard_normal((2, 3, 4)).astype(np.float32) * 1000,
    RNG.integers(-1000, 1000, (5, 30)),
    RNG.standard_normal((30, 50)).astype(np.float32),
    RNG.standard_normal(13).astype(np.float32),
    RNG.standard_normal((1, 6)),
]


@pytest.mark.parametrize("make", PRINTED, ids=range(len(PRINTED)))
def test_text(make: Callable[[Any], Any]) -> None:
    assert repr(make(graphc)) == repr(make(torch)).replace("torch.", "graphc.")
