"""The random ops: Philox's published words, dependence on (seed, base + offset, i) alone, and distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.ir.families import REGISTRY
from graphc.ir.ops.philox import philox_reference
from graphc.ir.types import DTYPES

# First words of Random123's known-answer file for philox4x32-10: counter and key all zero.
KNOWN = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)


def drawn(
    op: str, count: int, seed: int = 1, base: int = 0, offset: int = 0, dtype: str = "f32", **attrs: Any
) -> Any:
    """`count` numbers of an op."""
    given = {"shape": (count,), "offset": offset, "dtype": DTYPES[dtype], **attrs}
    return REGISTRY[op].reference(given, np.array([seed, base], np.int64))


def test_published_words() -> None:
    """Counter 0 under key 0 gives the published words."""
    assert tuple(philox_reference(0, 0, 1)[:, 0].tolist()) == KNOWN


@pytest.mark.parametrize("op", ["random_uniform", "random_normal", "random_bits", "random_int"])
def test_counters(op: str) -> None:
    """Element i depends on base + offset + i alone, so a stream may be drawn in pieces; seeds differ."""
    extra: dict[str, Any] = {"low": 0, "high": 1000} if op == "random_int" else {}
    dtype = {"random_bits": "i32", "random_int": "i64"}.get(op, "f32")
    whole = drawn(op, 100, dtype=dtype, **extra)
    np.testing.assert_array_equal(drawn(op, 40, base=50, offset=10, dtype=dtype, **extra), whole[60:])
    assert (drawn(op, 100, seed=2, dtype=dtype, **extra) != whole).mean() > 0.9
    # Counters beyond 32 bits are other numbers.
    assert (drawn(op, 100, base=1 << 32, dtype=dtype, **extra) != whole).mean() > 0.9


@pytest.mark.parametrize(("dtype", "bits"), [("f16", 11), ("bf16", 8), ("f32", 24), ("f64", 53)])
def test_uniform(dtype: str, bits: int) -> None:
    """In [0, 1) on the grid of 2^-bits, with the uniform distribution's moments and counts."""
    x = drawn("random_uniform", 100_000, dtype=dtype).astype(np.float64)
    assert x.min() >= 0 and x.max() < 1
    assert np.all(x * 2.0**bits == np.trunc(x * 2.0**bits))
    # Standard errors: mean 0.00091, variance 0.00024; five of each. A grid of 2^-8 lies 2^-9 low.
    assert abs(x.mean() - 0.5 + 2.0 ** -(bits + 1)) < 0.0046
    assert abs(x.var() - 1 / 12) < 0.0012
    counts = np.bincount((x * 16).astype(int), minlength=16)
    # Chi-square with 15 degrees of freedom: above 50 once in 100,000.
    assert ((counts - 6250.0) ** 2 / 6250).sum() < 50


def test_normal() -> None:
    """Moments of the standard normal, and independence of neighbours."""
    x = drawn("random_normal", 200_000).astype(np.float64)
    assert abs(x.mean()) < 0.0112 and abs(x.var() - 1) < 0.0158
    assert abs((x**3).mean()) < 0.05 and abs((x**4).mean() - 3) < 0.11
    assert abs((x[1:] * x[:-1]).mean()) < 0.0112
    assert np.isfinite(x).all()


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-3, 4), (0, 1 << 32), (-(1 << 40), 1 << 50)])
def test_integers(low: int, high: int) -> None:
    """In [low, high), every value of a small range about equally often."""
    x = drawn("random_int", 60_000, dtype="i64", low=low, high=high)
    assert x.min() >= low and x.max() < high
    span = high - low
    assert abs(((x - low) / span).mean() - 0.5 + (0.5 / span)) < 0.006
    if span < 10:
        counts = np.bincount(x - low, minlength=span)
        assert ((counts - 60_000 / span) ** 2 / (60_000 / span)).sum() < 40


def test_dropout_rate() -> None:
    """The share of kept elements is 1 - p, and they are scaled by its inverse."""
    x = np.ones(100_000, np.float32)
    y = REGISTRY["dropout"].reference({"p": 0.3, "offset": 0}, x, np.array([3, 0], np.int64))
    assert abs((y != 0).mean() - 0.7) < 0.0073
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
