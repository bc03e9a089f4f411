"""What the mathematical functions should give, in a wider format, on whole arrays.

Floats are judged against float64, doubles against the 80-bit `longdouble` of x86: NumPy's
functions there, whose own errors are below 0.01 ULP of the format under test. erf has no
`longdouble` form in NumPy or SciPy and is summed here from its series; a test compares it
with mpmath.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

__all__ = ["EDGES", "REFERENCES", "Array", "erf_extended"]

Array = NDArray[Any]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _erf(x: Array) -> Array:
    return erf_extended(x) if x.dtype == np.longdouble else scipy.special.erf(x)


def erf_extended(x: Array) -> Array:
    """erf in longdouble: 2/√π·e^(-x²)·Σ 2^n·x^(2n+1)/(1·3·…·(2n+1)), all terms of one sign."""
    two_over_root_pi = np.longdouble("1.12837916709551257389615890312154517")
    inside = np.clip(np.nan_to_num(x, nan=0.0, posinf=7, neginf=-7), -7, 7)
    square = inside * inside
    term = inside.copy()
    total = inside.copy()
    for n in range(1, 220):
        term = term * (2 * square / (2 * n + 1))
        total += term
    # Beyond 6.5 the rest is below 2^-64; near 0 the series alone keeps subnormal arguments.
    result = two_over_root_pi * np.exp(-square) * total
    result = np.where(np.abs(inside) > 6.5, np.sign(inside), result)
    return np.where(np.isnan(x), x, np.where(x == 0, x, result))


REFERENCES: dict[str, Callable[..., Array]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "erf": _erf,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "pow": np.power,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round": np.rint,
}
"""Function → reference on arrays of float64 or longdouble."""

EDGES = (
    0.0, 5e-324, 1e-320, 1e-310, 2.0**-1022, 1e-300, 1e-45, 1e-40, 2.0**-149, 2.0**-126, 1e-30, 2.0**-60,
    2.0**-25, 2.0**-24, 1e-3, 0.25, 0.3, 0.49999997, 0.5, 0.55, 2 / 3, 0.75, 0.9, 0.99999994, 1.0,
    1 + 2.0**-52, 1 + 2.0**-23, 1.25, 4 / 3, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 9.0, 10.0, 16.0,
    19.0, 20.0, 22.180709777918249, 70.0, 87.33654, 88.72283, 88.72284, 89.0, 100.0, 103.97208, 104.0, 511.0,
    708.3964185322641, 709.782712893384, 710.0, 745.1332191019411, 746.0, 1023.0, 32768.0, 32769.0, 8388607.5,
    8388608.0, 8388609.0, 16777215.0, 16777216.0, 2097152.0, 2097153.0, 2.0**31, 2.0**52 - 0.5, 2.0**52,
    2.0**53 - 1, 2.0**53, 2.0**53 + 2, 1e10, 1e22, 1e30, 2.0**127, 3.4028234663852886e38, 2.0**128, 1e300,
    6381956970095103 * 2.0**797, 1.7976931348623157e308, float("inf"), float("nan"),
)  # fmt: skip
"""Arguments at which functions change form or have special values; used with both signs."""
