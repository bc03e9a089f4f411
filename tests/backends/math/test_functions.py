"""Accuracy, special values and lane independence of the vector mathematics."""

from __future__ import annotations

import functools
from typing import Any

import mpmath
import numpy as np
import pytest

from graphc.backends.llvm.math import BOUNDS, FUNCTIONS
from graphc.backends.llvm.math.exponential import exp
from graphc.backends.llvm.math.reduction import TWO_OVER_PI_BITS
from graphc.backends.llvm.text import Builder, Val
from graphc.ir.target import TARGETS
from tests.backends.math.exhaustive import arguments, largest_errors
from tests.backends.math.jit import Kernel, compile_kernel, runnable
from tests.backends.math.measure import Exact, Sieve
from tests.backends.math.minimax import TABLES, Table, largest_error, stated_error, table_values
from tests.backends.math.reference import REFERENCES, Array

UNARY = [name for name in FUNCTIONS if name != "pow"]
SCALARS: dict[str, tuple[str, Any]] = {"f32": ("float", np.float32), "f64": ("double", np.float64)}
INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("format_", SCALARS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_error_stays_within_the_bound(function: str, format_: str) -> None:
    samples = {"f32": 2_000_000, "f64": 100_000}[format_]
    for target, error in largest_errors(function, format_, runnable(), samples).items():
        assert error.mismatches == 0, f"{target}: wrong NaN or sign at {error.first_mismatch}"
        assert error.ulp <= BOUNDS[function][format_], f"{target}: {error.ulp} ULP at {error.worst}"


@pytest.mark.parametrize("target", runnable())
@pytest.mark.parametrize("format_", SCALARS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_bits_do_not_depend_on_width_or_neighbours(function: str, format_: str, target: str) -> None:
    scalar, _ = SCALARS[format_]
    edges, block, *_ = arguments(function, format_, 1 << 16)
    columns = [np.resize(np.concatenate([e, c[::17]]), 3840) for e, c in zip(edges, block, strict=True)]
    order = np.random.default_rng(3).permutation(columns[0].size)

    def bits(width: int, shuffled: bool) -> Array:
        kernel = compile_kernel(FUNCTIONS[function], TARGETS[target], [scalar] * len(columns), scalar, width)
        if not shuffled:
            return kernel(*columns).view(np.uint32)
        return kernel(*(c[order].copy() for c in columns))[np.argsort(order)].view(np.uint32)

    expected = bits(1, False)
    for width in (3, 4, 8, 16):
        np.testing.assert_array_equal(bits(width, False), expected)
    np.testing.assert_array_equal(bits(8, True), expected)


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        ("exp", INF, INF), ("exp", -INF, 0.0), ("exp", 0.0, 1.0), ("exp", -0.0, 1.0), ("exp", 1e5, INF),
        ("exp", -1e5, 0.0), ("exp", NAN, NAN),
        ("expm1", INF, INF), ("expm1", -INF, -1.0), ("expm1", -0.0, -0.0), ("expm1", -1e5, -1.0),
        ("expm1", 1e-45, 1e-45), ("expm1", -1e-40, -1e-40),
        ("log", 0.0, -INF), ("log", -0.0, -INF), ("log", 1.0, 0.0), ("log", -1.0, NAN), ("log", -INF, NAN),
        ("log", INF, INF), ("log", NAN, NAN),
        ("log1p", -0.0, -0.0), ("log1p", 0.0, 0.0), ("log1p", -1.0, -INF), ("log1p", -1.5, NAN),
        ("log1p", INF, INF), ("log1p", -INF, NAN), ("log1p", 1e-45, 1e-45),
        ("sigmoid", INF, 1.0), ("sigmoid", -INF, 0.0), ("sigmoid", 0.0, 0.5), ("sigmoid", NAN, NAN),
        ("tanh", INF, 1.0), ("tanh", -INF, -1.0), ("tanh", -0.0, -0.0), ("tanh", -1e-45, -1e-45),
        ("erf", INF, 1.0), ("erf", -INF, -1.0), ("erf", -0.0, -0.0), ("erf", NAN, NAN),
        ("sqrt", -0.0, -0.0), ("sqrt", -1.0, NAN), ("sqrt", INF, INF),
        ("rsqrt", 0.0, INF), ("rsqrt", -0.0, -INF), ("rsqrt", INF, 0.0), ("rsqrt", -1.0, NAN),
        ("sin", -0.0, -0.0), ("sin", INF, NAN), ("sin", -INF, NAN), ("sin", NAN, NAN), ("sin", -1e-45, -1e-45),
        ("cos", -0.0, 1.0), ("cos", INF, NAN), ("cos", NAN, NAN),
        ("floor", -0.0, -0.0), ("floor", -0.5, -1.0), ("floor", INF, INF), ("ceil", -0.5, -0.0),
        ("trunc", -0.5, -0.0), ("round", -0.5, -0.0), ("round", 0.5, 0.0), ("round", 1.5, 2.0),
        ("round", 2.5, 2.0), ("round", -2.5, -2.0), ("round", NAN, NAN),
    ],
)  # fmt: skip
def test_special_value(function: str, x: float, expected: float) -> None:
    check_value(function, (x,), expected)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.0, 3.0, 0.0), (-0.0, 3.0, -0.0), (-0.0, 2.0, 0.0), (0.0, -3.0, INF), (-0.0, -3.0, -INF),
        (-0.0, -2.0, INF), (-0.0, -0.5, INF), (-0.0, 0.5, 0.0), (0.0, -INF, INF), (-0.0, INF, 0.0),
        (-1.0, INF, 1.0), (-1.0, -INF, 1.0), (1.0, NAN, 1.0), (1.0, INF, 1.0), (NAN, 0.0, 1.0),
        (INF, 0.0, 1.0), (0.0, 0.0, 1.0), (-1.0, NAN, NAN), (NAN, 1.0, NAN), (0.0, NAN, NAN),
        (0.5, -INF, INF), (2.0, -INF, 0.0), (0.5, INF, 0.0), (2.0, INF, INF), (-0.5, INF, 0.0),
        (-INF, -3.0, -0.0), (-INF, -2.0, 0.0), (-INF, 3.0, -INF), (-INF, 2.0, INF), (-INF, 0.5, INF),
        (-INF, -0.5, 0.0), (INF, -1.0, 0.0), (INF, 0.5, INF), (-2.0, 3.0, -8.0), (-2.0, 2.0, 4.0),
        (-2.0, 0.5, NAN), (-8.0, 1 / 3, NAN), (2.0, 10.0, 1024.0), (2.0, -2.0, 0.25), (-1.0, 16777215.0, -1.0),
        (-1.0, 16777216.0, 1.0), (-2.0, 1e30, INF), (4.0, 0.5, 2.0),
    ],
)  # fmt: skip
def test_special_value_of_pow(x: float, y: float, expected: float) -> None:
    check_value("pow", (x, y), expected)


@functools.cache
def kernel_of(function: str, target: str, scalar: str) -> Kernel:
    arity = 2 if function == "pow" else 1
    return compile_kernel(FUNCTIONS[function], TARGETS[target], [scalar] * arity, scalar, 4)


def check_value(function: str, x: tuple[float, ...], expected: float) -> None:
    """Every lane of every runnable target gives `expected`, the sign of zero included."""
    for target in runnable():
        for scalar, dtype in SCALARS.values():
            result = kernel_of(function, target, scalar)(*(np.full(4, v, dtype) for v in x))
            wanted = np.full(4, expected, dtype)
            np.testing.assert_array_equal(result, wanted, err_msg=f"{target} {scalar}")
            if expected == expected:
                np.testing.assert_array_equal(np.signbit(result), np.signbit(wanted))


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_coefficients_have_the_stated_error(table: Table) -> None:
    with mpmath.workdps(60):
        error = float(mpmath.log(largest_error(table, table_values(table)), 2))
    assert error == pytest.approx(stated_error(table), abs=0.01)


def test_bits_of_two_over_pi() -> None:
    with mpmath.workprec(1400):
        expected = int(mpmath.floor(mpmath.ldexp(2 / mpmath.pi, 4 * len(TWO_OVER_PI_BITS))))
    assert int(TWO_OVER_PI_BITS, 16) == expected


EXACT: dict[str, Any] = {
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "pow": mpmath.power,
}


@pytest.mark.filterwarnings("ignore:overflow", "ignore:underflow", "ignore:invalid", "ignore:divide")
@pytest.mark.parametrize("function", [f for f in FUNCTIONS if BOUNDS[f]["f64"]])
def test_reference_of_doubles(function: str) -> None:
    """The longdouble reference is within 0.01 ULP of the exact result, by mpmath."""
    _, block, *_ = arguments(function, "f64", 1 << 15)
    columns = [c[::101].astype(np.longdouble) for c in block]
    reference = REFERENCES[function](*columns)
    exact = EXACT.get(function) or getattr(mpmath, function)
    tried = 0
    # Arguments up to 2^1024 need as many bits again for the reduction by pi.
    with mpmath.workprec(2400 if function in ("sin", "cos") else 200):
        for y, *x in zip(reference, *columns, strict=True):
            if not np.finfo(np.float64).tiny <= abs(y) <= np.finfo(np.float64).max:
                continue
            result = exact(*(_exactly(v) for v in x))
            assert abs(_exactly(y) - result) <= abs(result) * mpmath.mpf(2) ** -53 / 100, x
            tried += 1
    assert tried > 50


def _exactly(x: Any) -> Any:
    """A longdouble as an mpmath number, without rounding."""
    mantissa, exponent = np.frexp(x)
    high = float(mantissa)
    return mpmath.ldexp(mpmath.mpf(high) + mpmath.mpf(float(mantissa - high)), int(exponent))


@pytest.mark.filterwarnings("ignore:overflow")
def test_sieve_finds_what_exact_finds() -> None:
    sieve = Sieve()
    rng = np.random.default_rng(11)
    reference = rng.uniform(-4, 4, 512) * 2.0 ** rng.integers(-160, 140, 512)
    reference[:8] = INF, -INF, NAN, 0.0, -0.0, 1e300, -1e-300, 2.0**-149
    good = reference.astype(np.float32)
    units = np.exp2(np.maximum(np.floor(np.log2(np.abs(reference[8:]))), -126) - 23)
    for place in range(512):
        result = good.copy()
        if place >= 8:
            result[place] = np.float32(reference[place] + np.copysign(3 * units[place - 8], reference[place]))
        error = Exact(reference, np.float32).error(result, reference)
        assert sieve(reference, result, error.ulp) is False
        assert sieve(reference, result, error.ulp * (1 - 1e-12)) is True
        if place == 3:
            continue
        wrong = good.copy()
        wrong[place] = 1.0 if np.isnan(reference[place]) else -good[place]
        assert Exact(reference, np.float32).error(wrong, reference).mismatches == 1
        assert sieve(reference, wrong, INF) is True


@pytest.mark.parametrize("target", runnable())
@pytest.mark.parametrize("format_", SCALARS)
def test_exp_of_an_opposite_has_the_bits_of_exp(format_: str, target: str) -> None:
    def opposite(b: Builder, minus_x: Val) -> Val:
        return exp(b, b.fneg(minus_x), minus_x)

    scalar, _ = SCALARS[format_]
    x = np.concatenate([block[0] for block in arguments("exp", format_, 100_000)])
    got, expected = (compile_kernel(f, TARGETS[target], [scalar], scalar, 16) for f in (opposite, exp))
    np.testing.assert_array_equal(_one_nan(got(-x)), _one_nan(expected(x)))


def _one_nan(values: Array) -> Array:
    """The bits, with one NaN for all."""
    return np.where(np.isnan(values), np.nan, values).astype(values.dtype).view(np.uint32)
