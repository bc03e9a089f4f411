"""How far results are from what they should be, in units in the last place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc.ir.types import dtype_of

__all__ = ["assert_within", "ulp_error"]

# dtype name -> (bits after the leading one, least exponent of a normal number)
SIGNIFICAND = {"f16": (10, -14), "bf16": (7, -126), "f32": (23, -126), "f64": (52, -1022)}


def ulp_error(got: Any, expected: Any, magnitude: Any = None) -> Any:
    """|got - expected| of floats in units of the last place of the larger of |expected| and `magnitude`.

    0 where both are NaN or the same infinity, infinite where only one is.
    """
    bits, least = SIGNIFICAND[dtype_of(expected.dtype).name]
    a, b = got.astype(np.longdouble), expected.astype(np.longdouble)
    with np.errstate(all="ignore"):
        size = np.abs(b) if magnitude is None else np.maximum(np.abs(b), np.asarray(magnitude, np.longdouble))
        exponent = np.maximum(np.frexp(np.where(np.isfinite(size), size, 1))[1] - 1, least)
        error = np.abs(a - b) / np.ldexp(np.longdouble(1), exponent - bits)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0, np.where(np.isfinite(error), error, np.inf))


def assert_within(
    ulp: Mapping[str, float], got: Any, expected: Any, magnitude: Any = None, label: str = ""
) -> None:
    """Raises AssertionError unless `got` has the type of `expected` and is within the dtype's bound (0 is equal)."""
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), (
        f"{label}: expected {expected.dtype}{list(expected.shape)}, got {got.dtype}{list(got.shape)}"
    )
    name = dtype_of(expected.dtype).name
    if name not in SIGNIFICAND:
        np.testing.assert_array_equal(got, expected, err_msg=label)
        return
    error = ulp_error(got, expected, magnitude)
    bound = ulp.get(name, 0)
    if error.size and error.max() > bound:
        at = np.unravel_index(int(np.argmax(error)), error.shape)
        raise AssertionError(
            f"{label}: {float(error.max()):.3g} units off at {tuple(map(int, at))}, bound {bound} for {name}: "
            f"expected {expected[at]!r}, got {got[at]!r}"
        )
