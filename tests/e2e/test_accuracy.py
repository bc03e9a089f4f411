"""Sums of many floats stay near the exact value: their error does not grow with the number of terms."""

from __future__ import annotations

import numpy as np
import pytest

import graphc


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("shape", [(100_000, 4), (4, 100_000), (2000, 300), (70, 65)])
def test_sums_of_equal_terms(shape: tuple[int, int], axis: int | None) -> None:
    """A tenth is rounded, so that the errors of a sequential sum all have one sign and add up."""
    x = np.full(shape, 0.1, np.float32)
    found = graphc.tensor(x).sum(axis).numpy()
    exact = x.astype(np.float64).sum(axis)
    assert np.max(np.abs(found - exact) / np.spacing(exact.astype(np.float32))) < 32
