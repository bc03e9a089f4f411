"""Symbolic integers: a canonical form that agrees with integer arithmetic everywhere."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir.dims import (
    Dim,
    Expr,
    Symbol,
    bounds,
    ceil_div,
    equal,
    floor_div,
    less_equal,
    maximum,
    minimum,
    mod,
    parse_dim,
    product,
    quotient,
    split_linear,
    substitute,
    symbols,
)
from graphc.ir.errors import TraceError

N, M, K = Symbol("n", 0, 9), Symbol("m", 1), Symbol("k", 2, 5)
KNOWN = {s.name: s for s in (N, M, K)}
n, m, k = N.expr, M.expr, K.expr

Pair = tuple[Dim, Callable[[dict[Symbol, int]], int]]
"""An expression and what it should evaluate to."""


def _leaf() -> st.SearchStrategy[Pair]:
    def constant(c: int) -> Pair:
        return c, lambda v: c

    def symbol(s: Symbol) -> Pair:
        return s.expr, lambda v: v[s]

    return st.one_of(st.integers(-6, 12).map(constant), st.sampled_from([N, M, K]).map(symbol))


def _grow(pairs: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    symbolic: dict[str, Any] = {
        "+": (operator.add, operator.add),
        "-": (operator.sub, operator.sub),
        "*": (operator.mul, operator.mul),
        "min": (minimum, min),
        "max": (maximum, max),
    }

    def combine(name: str, a: Pair, b: Pair) -> Pair:
        make, plain = symbolic[name]
        return make(a[0], b[0]), lambda v: plain(a[1](v), b[1](v))

    def divide(name: str, a: Pair, b: int) -> Pair:
        if name == "//":
            return floor_div(a[0], b), lambda v: a[1](v) // b
        return mod(a[0], b), lambda v: a[1](v) % b

    return st.one_of(
        st.builds(combine, st.sampled_from(sorted(symbolic)), pairs, pairs),
        st.builds(divide, st.sampled_from(["//", "%"]), pairs, st.integers(1, 7)),
    )


expressions = st.recursive(_leaf(), _grow, max_leaves=6)
values = st.fixed_dictionaries({N: st.integers(0, 9), M: st.integers(1, 30), K: st.integers(2, 5)})


@settings(max_examples=200, deadline=None, derandomize=True)
@given(expressions, values)
def test_agrees_with_integers(pair: Pair, v: dict[Symbol, int]) -> None:
    x, evaluate = pair
    expected = evaluate(v)
    assert substitute(x, v) == expected
    low, high = bounds(x)
    assert (low is None or low <= expected) and (high is None or expected <= high)
    assert parse_dim(str(x), KNOWN) == x
    assert symbols(x) <= {N, M, K}
    assert isinstance(x, int) == (not symbols(x)) or isinstance(x, Expr)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(expressions, expressions, values)
def test_comparisons_are_right_where_they_answer(a: Pair, b: Pair, v: dict[Symbol, int]) -> None:
    left, right = a[1](v), b[1](v)
    assert less_equal(a[0], b[0]) in (None, left <= right)
    assert equal(a[0], b[0]) in (None, left == right)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(expressions, expressions, expressions)
def test_form_is_canonical(a: Pair, b: Pair, c: Pair) -> None:
    x, y, z = a[0], b[0], c[0]
    for left, right in (
        (x + y, y + x),
        (x * y, y * x),
        ((x + y) + z, x + (y + z)),
        ((x * y) * z, x * (y * z)),
        (x * (y + z), x * y + x * z),
        (x - x, 0),
        (x + y - y, x),
        (minimum(x, y), minimum(y, x)),
        (maximum(x, y), maximum(y, x)),
    ):
        assert left == right
        assert hash(left) == hash(right)
        assert str(left) == str(right)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (n + 1, "n+1"),
        (1 - n, "-n+1"),
        (2 * n * m + n, "2*m*n+n"),
        (n * n, "n*n"),
        ((n * 4 + 2) // 2, "2*n+1"),
        ((n * 4 + 2) % 4, "2"),
        (n // 4, "((n)//(4))"),
        ((n // 4) // 2, "((n)//(8))"),
        (n % 10, "n"),
        (n // 10, "0"),
        ((m // 4) * 4 + m % 4, "m"),
        (minimum(n, 9), "n"),
        (maximum(n, 9), "9"),
        (minimum(n, m), "min(m, n)"),
        (ceil_div(m, 4), "((m+3)//(4))"),
        (product((n, 2, m)), "2*m*n"),
        (product(()), "1"),
    ],
)
def test_text(x: Dim, text: str) -> None:
    assert str(x) == text


@pytest.mark.parametrize(
    ("x", "symbol", "expected"),
    [
        (3 * n + m, N, (3, m)),
        (m + 2, N, (0, m + 2)),
        (n * m, N, None),
        (n // 2 + n, M, (0, n // 2 + n)),
        (m // 2 + m, M, None),
        (5, N, (0, 5)),
    ],
)
def test_split_linear(x: Dim, symbol: Symbol, expected: tuple[int, Dim] | None) -> None:
    assert split_linear(x, symbol) == expected


@pytest.mark.parametrize("text", ["", "n +", "(n", "n)", "3 3", "n..m[", "min(n)", "*n"])
def test_bad_text(text: str) -> None:
    with pytest.raises(ValueError, match="dimension"):
        parse_dim(text)


@pytest.mark.parametrize("make", [lambda: n // 0, lambda: n % 0, lambda: floor_div(3, 0)])
def test_division_by_zero(make: Callable[[], Dim]) -> None:
    with pytest.raises(ZeroDivisionError):
        make()


def test_digits_of_symbolic_size() -> None:
    i, j = Symbol("i", 0, None, n).expr, Symbol("j", 0, None, m).expr  # below n, below m
    place = m * i + j
    assert (floor_div(place, m), mod(place, m)) == (i, j)
    assert mod(place, n * m) == place
    assert floor_div(place, n * m) == 0
    assert m * floor_div(i + j, m) + mod(i + j, m) == i + j
    assert floor_div(3 * m * i + j + n, m) == 3 * i + floor_div(j + n, m)
    assert mod(mod(5 * i + Symbol("k", 0, 4).expr, 5 * n), 5) == Symbol("k", 0, 4).expr


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (6 * n * m, 2 * n, 3 * m),
        (6 * n * m + 4 * n, 2 * n, 3 * m + 2),
        (6 * n, 4, None),
        (n + 1, n, None),
        (n + m, n + m, 1),
        (12, 4, 3),
        (n, 0, None),
    ],
)
def test_quotient(a: Dim, b: Dim, expected: Dim | None) -> None:
    assert quotient(a, b) == expected


def test_order_and_numbers() -> None:
    assert n >= 0 and n + 1 > 0 and not n < 0 and 2 * n <= 2 * n + 1
    with pytest.raises(TraceError, match="whether n > 3 depends on the size"):
        assert n > 3
    for convert in (int, float, range):
        with pytest.raises(TraceError, match="the size n is wanted as a Python number"):
            convert(n)  # type: ignore[call-overload]


def test_floor_division_is_between_its_bounds() -> None:
    n, m = Symbol("n"), Symbol("m")
    x, y = n.expr, m.expr
    assert less_equal(x // 2, x) and less_equal(2 * (x // 2), x) and less_equal(x - 1, 2 * (x // 2))
    assert less_equal(x // 2, x - 1) is None and less_equal(x, x // 2) is None
    rng = np.random.default_rng(0)
    parts = (x, y, x // 2, y // 3, (x + y) // 4, (2 * x + 1) // 3, 1)
    for factors in rng.integers(-3, 4, (500, len(parts))):
        total = sum((int(k) * p for k, p in zip(factors, parts, strict=True)), 0)
        answer = less_equal(0, total)
        values = [substitute(total, {n: i, m: j}) for i in range(9) for j in range(9)]
        assert answer is not True or all(v >= 0 for v in values), total
        assert answer is not False or all(v < 0 for v in values), total
