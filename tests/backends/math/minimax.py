"""Computes the polynomial tables of `graphc.backends.llvm.math.coefficients`.

`python -m tests.backends.math.minimax [NAME ...]` prints the named tables (all without a
name) as Python source. Each table is the polynomial of least weighted error over its
interval, found by the Remez exchange in 80-digit arithmetic. The coefficients are then
rounded to the format one after another, lowest power first, and the rest corrected after
each rounding by a linear program for the least largest error (the exchange does not apply
any more: powers without the lowest are no Chebyshev system on an interval around 0).
"""

from __future__ import annotations

import inspect
import re
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
from mpmath import mp, mpf

from graphc.backends.llvm.math import coefficients

__all__ = ["TABLES", "Table", "fit", "largest_error", "stated_error", "table_values"]

mp.dps = 80
Function = Callable[[mpf], mpf]


@dataclass(frozen=True)
class Table:
    """One approximation: Σ c[j]·x^j ≈ `function` with error weighted by `weight`."""

    name: str
    format: str
    """`float` or `double`: what the coefficients are rounded to."""
    terms: int
    lower: str
    upper: str
    function: Function
    weight: Function
    meaning: str


def round_to(format_: str, value: mpf) -> float:
    """`value` rounded to nearest in `format_` (exact for a double, via double for a float)."""
    wide = float(value)
    if format_ == "double":
        return wide
    narrow: float = struct.unpack("f", struct.pack("f", wide))[0]
    return narrow


def _grid(lower: mpf, upper: mpf, count: int) -> list[mpf]:
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    return [middle - half * mp.cos(mp.pi * i / (count - 1)) for i in range(count)]


def _evaluate(coefficients: Sequence[mpf], x: mpf) -> mpf:
    total = mpf(0)
    for c in reversed(coefficients):
        total = total * x + c
    return total


def _exchange(grid: list[mpf], values: list[mpf], weights: list[mpf], terms: int) -> list[mpf]:
    """Remez exchange on a grid: the polynomial of `terms` coefficients of least largest error."""
    count = len(grid)
    points = [round(i * (count - 1) / terms) for i in range(terms + 1)]
    solution: list[mpf] = []
    for _ in range(60):
        matrix = mp.matrix(terms + 1, terms + 1)
        right = mp.matrix(terms + 1, 1)
        for row, p in enumerate(points):
            for column in range(terms):
                matrix[row, column] = weights[p] * grid[p] ** column
            matrix[row, terms] = (-1) ** row
            right[row] = weights[p] * values[p]
        answer = mp.lu_solve(matrix, right)
        solution = [answer[i] for i in range(terms)]
        errors = [w * (v - _evaluate(solution, x)) for w, v, x in zip(weights, values, grid, strict=True)]
        following = _alternation(errors, terms + 1)
        if following is None or following == points:
            break
        points = following
    return solution


def _correct(grid: list[mpf], errors: list[mpf], weights: list[mpf], powers: Sequence[int]) -> list[mpf]:
    """What to add to the coefficients of `powers` so that the largest weighted error is least."""
    level = max(abs(e) for e in errors)
    reach = max(abs(x) for x in grid)
    rows = np.array(
        [[float(w * (x / reach) ** p) for p in powers] for w, x in zip(weights, grid, strict=True)]
    )
    target = np.array([float(e / level) for e in errors])
    size = np.abs(rows).max(axis=0)
    rows = rows / size
    ones = np.ones((len(grid), 1))
    answer = scipy.optimize.linprog(
        np.r_[np.zeros(len(powers)), 1.0],
        A_ub=np.block([[rows, -ones], [-rows, -ones]]),
        b_ub=np.r_[target, -target],
        bounds=[(None, None)] * len(powers) + [(0, None)],
    )
    return [mpf(v) / mpf(s) * level / reach**p for v, s, p in zip(answer.x, size, powers, strict=False)]


def _alternation(errors: list[mpf], wanted: int) -> list[int] | None:
    """Positions of `wanted` largest errors of alternating sign; None where there are fewer."""
    peaks: list[int] = []
    for i, e in enumerate(errors):
        if peaks and (errors[peaks[-1]] > 0) == (e > 0):
            if abs(e) > abs(errors[peaks[-1]]):
                peaks[-1] = i
        else:
            peaks.append(i)
    while len(peaks) > wanted:
        if len(peaks) == wanted + 1:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        else:
            least = min(range(len(peaks)), key=lambda i: abs(errors[peaks[i]]))
            if least in (0, len(peaks) - 1):
                peaks.pop(least)
            else:
                other = (
                    least - 1 if abs(errors[peaks[least - 1]]) < abs(errors[peaks[least + 1]]) else least + 1
                )
                for i in sorted((least, other), reverse=True):
                    peaks.pop(i)
    return peaks if len(peaks) == wanted else None


def fit(table: Table) -> tuple[float, ...]:
    """The rounded coefficients of a table, lowest power first."""
    lower, upper = mp.mpmathify(table.lower), mp.mpmathify(table.upper)
    grid = _grid(lower, upper, 24 * (table.terms + 1))
    grid = [x if x else mpf(10) ** -25 for x in grid]
    values = [table.function(x) for x in grid]
    weights = [abs(table.weight(x)) for x in grid]
    current = _exchange(grid, values, weights, table.terms)
    for position in range(table.terms):
        current[position] = mpf(round_to(table.format, current[position]))
        powers = range(position + 1, table.terms)
        if powers:
            errors = [w * (v - _evaluate(current, x)) for w, v, x in zip(weights, values, grid, strict=True)]
            for power, change in zip(powers, _correct(grid, errors, weights, powers), strict=True):
                current[power] += change
    return tuple(float(c) for c in current)


def largest_error(table: Table, coefficients: Sequence[float], count: int = 400) -> mpf:
    """Largest weighted error of the polynomial over `count` points of the interval."""
    lower, upper = mp.mpmathify(table.lower), mp.mpmathify(table.upper)
    exact = [mpf(c) for c in coefficients]
    points = [x if x else mpf(10) ** -25 for x in _grid(lower, upper, count)]
    return max(abs(table.weight(x) * (table.function(x) - _evaluate(exact, x))) for x in points)


def table_values(table: Table) -> tuple[float, ...]:
    """The coefficients that the emitters use."""
    values: tuple[float, ...] = getattr(coefficients, table.name)
    return values


def stated_error(table: Table) -> float:
    """log2 of the largest error that the coefficients module states for a table."""
    stated = re.search(
        rf'^{table.name} = \(\n.*?^\)\n"""{re.escape(table.meaning)}: 2\^(-[0-9.]+)\."""',
        inspect.getsource(coefficients), re.MULTILINE | re.DOTALL,
    )  # fmt: skip
    if stated is None:
        raise ValueError(f"no statement of {table.name}'s error in the coefficients module")
    return float(stated[1])


# -- the functions that are approximated -------------------------------------------------


def _exp_tail(x: mpf) -> mpf:
    return (mp.expm1(x) - x) / x**2


def _log_tail(x: mpf) -> mpf:
    return (mp.log1p(x) - x) / x**2


def _odd_tail(f: Function) -> Function:
    """(f(√u)/√u - 1)/u: what an odd function with slope 1 leaves behind x, in u = x²."""
    return lambda u: (f(mp.sqrt(u)) / mp.sqrt(u) - 1) / u


def _odd_tail_weight(f: Function) -> Function:
    return lambda u: u * mp.sqrt(u) / f(mp.sqrt(u))


def _cos_tail(u: mpf) -> mpf:
    return (mp.cos(mp.sqrt(u)) - 1 + u / 2) / u**2


def _cos_weight(u: mpf) -> mpf:
    return u**2 / mp.cos(mp.sqrt(u))


def _log2_erfc(x: mpf) -> mpf:
    return mp.log(mp.erfc(x), 2)


def _erfc_weight(x: mpf) -> mpf:
    return mp.log(2) * mp.erfc(x) / mp.erf(x)


def _atanh_tail(terms: int, scale: mpf) -> Function:
    """2·scale·atanh(s)/s without its first `terms` Taylor terms, in z = s²."""

    def tail(z: mpf) -> mpf:
        s = mp.sqrt(z)
        known = sum((z**j / (2 * j + 1) for j in range(terms)), mpf(0))
        return 2 * scale * (mp.atanh(s) / s - known) / z**terms

    return tail


_HALF_LN2 = "0.34661"

TABLES: tuple[Table, ...] = (
    Table(
        "EXP_F32",
        "float",
        5,
        "-" + _HALF_LN2,
        _HALF_LN2,
        _exp_tail,
        lambda x: x**2 / mp.expm1(x),
        "(e^r - 1 - r)/r² for |r| <= ln(2)/2, relative error of e^r - 1",
    ),
    Table(
        "TANH_F32",
        "float",
        4,
        "0",
        "0.3136",
        _odd_tail(mp.tanh),
        _odd_tail_weight(mp.tanh),
        "(tanh(x)/x - 1)/x² in x² for |x| <= 0.56, relative error of tanh",
    ),
    Table(
        "LOG_F32",
        "float",
        8,
        "-0.2501",
        "0.5001",
        _log_tail,
        lambda x: x**2 / mp.log1p(x),
        "(log(1+f) - f)/f² for -1/4 <= f <= 1/2, relative error of log(1+f)",
    ),
    Table(
        "SIN_F32",
        "float",
        3,
        "0",
        "0.62",
        _odd_tail(mp.sin),
        _odd_tail_weight(mp.sin),
        "(sin(r)/r - 1)/r² in r² for |r| <= 0.787, relative error of sin",
    ),
    Table(
        "COS_F32",
        "float",
        3,
        "0",
        "0.62",
        _cos_tail,
        _cos_weight,
        "(cos(r) - 1 + r²/2)/r⁴ in r² for |r| <= 0.787, relative error of cos",
    ),
    Table(
        "ERF_F32",
        "float",
        6,
        "0",
        "0.81",
        lambda u: mp.erf(mp.sqrt(u)) / mp.sqrt(u) - 1,
        lambda u: mp.sqrt(u) / mp.erf(mp.sqrt(u)),
        "erf(x)/x - 1 in x² for |x| <= 0.9, relative error of erf",
    ),
    Table(
        "ERFC_F32",
        "float",
        7,
        "0.89",
        "4.0",
        _log2_erfc,
        _erfc_weight,
        "log2(erfc(x)) for 0.89 <= x <= 4, relative error of erf",
    ),
    Table(
        "EXP2_F32",
        "float",
        5,
        "-0.5001",
        "0.5001",
        lambda x: (mp.mpf(2) ** x - 1) / x,
        lambda x: x / mp.mpf(2) ** x,
        "(2^f - 1)/f for |f| <= 1/2, relative error of 2^f",
    ),
    Table(
        "POW_LOG2_F32",
        "double",
        5,
        "0",
        "0.02945",
        _atanh_tail(0, 1 / mp.log(2)),
        lambda z: mp.log(2) / _atanh_tail(0, mpf(1))(z),
        "log2((1+s)/(1-s))/s in s² for |s| <= 0.1716, relative error",
    ),
    Table(
        "POW_EXP2_F32",
        "double",
        6,
        "-0.5001",
        "0.5001",
        lambda x: (mp.mpf(2) ** x - 1) / x,
        lambda x: x / mp.mpf(2) ** x,
        "(2^f - 1)/f for |f| <= 1/2, relative error of 2^f",
    ),
    Table(
        "EXP_F64",
        "double",
        11,
        "-" + _HALF_LN2,
        _HALF_LN2,
        _exp_tail,
        lambda x: x**2 / mp.expm1(x),
        "(e^r - 1 - r)/r² for |r| <= ln(2)/2, relative error of e^r - 1",
    ),
    Table(
        "TANH_F64",
        "double",
        10,
        "0",
        "0.3136",
        _odd_tail(mp.tanh),
        _odd_tail_weight(mp.tanh),
        "(tanh(x)/x - 1)/x² in x² for |x| <= 0.56, relative error of tanh",
    ),
    Table(
        "LOG_F64",
        "double",
        7,
        "0",
        "0.0401",
        _atanh_tail(1, mpf(1)),
        lambda z: z / _atanh_tail(0, mpf(1))(z),
        "(log((1+s)/(1-s))/s - 2)/s² in s² for |s| <= 0.2, relative error of log",
    ),
    Table(
        "SIN_F64",
        "double",
        6,
        "0",
        "0.62",
        _odd_tail(mp.sin),
        _odd_tail_weight(mp.sin),
        "(sin(r)/r - 1)/r² in r² for |r| <= 0.787, relative error of sin",
    ),
    Table(
        "COS_F64",
        "double",
        6,
        "0",
        "0.62",
        _cos_tail,
        _cos_weight,
        "(cos(r) - 1 + r²/2)/r⁴ in r² for |r| <= 0.787, relative error of cos",
    ),
    Table(
        "ERF_F64",
        "double",
        12,
        "0",
        "0.81",
        lambda u: mp.erf(mp.sqrt(u)) / mp.sqrt(u) - 1,
        lambda u: mp.sqrt(u) / mp.erf(mp.sqrt(u)),
        "erf(x)/x - 1 in x² for |x| <= 0.9, relative error of erf",
    ),
    Table(
        "ERFC_F64",
        "double",
        18,
        "0.89",
        "6.0",
        _log2_erfc,
        _erfc_weight,
        "log2(erfc(x)) for 0.89 <= x <= 6, relative error of erf",
    ),
    Table(
        "EXP2_F64",
        "double",
        11,
        "-0.5001",
        "0.5001",
        lambda x: (mp.mpf(2) ** x - 1) / x,
        lambda x: x / mp.mpf(2) ** x,
        "(2^f - 1)/f for |f| <= 1/2, relative error of 2^f",
    ),
    Table(
        "POW_LOG_F64",
        "double",
        8,
        "0",
        "0.02945",
        _atanh_tail(2, mpf(1)),
        lambda z: z**2 / _atanh_tail(0, mpf(1))(z),
        "(log((1+s)/(1-s))/s - 2 - 2s²/3)/s⁴ in s² for |s| <= 0.1716, relative error of log",
    ),
)
"""Every table, in the order of the coefficients module."""


def source(table: Table) -> str:
    """The table as a Python assignment with its stated error."""
    values = fit(table)
    error = mp.log(largest_error(table, values), 2)
    body = "".join(f'    float.fromhex("{c.hex()}"),\n' for c in values)
    return f'{table.name} = (\n{body})\n"""{table.meaning}: 2^{mp.nstr(error, 4)}."""\n'


def main(names: Sequence[str]) -> None:
    """Prints the tables of those names, or all."""
    for table in TABLES:
        if not names or table.name in names:
            print(source(table), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
