"""Comparisons and predicates of numbers: elementwise, with bool results. None has a derivative."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.ir.families import ALL_DTYPES, FLOATS, Attrs
from graphc.ir.ops.elementwise import Comparison

__all__ = ["Eq", "Ge", "Gt", "IsFinite", "IsInf", "IsNan", "Le", "Lt", "Ne"]


class Lt(Comparison):
    """x < y; False where either is NaN."""

    name = "lt"
    opcode = "lt"
    numpy = np.less
    dtypes = ALL_DTYPES


class Le(Comparison):
    """x <= y; False where either is NaN."""

    name = "le"
    opcode = "le"
    numpy = np.less_equal
    dtypes = ALL_DTYPES


class Gt(Comparison):
    """x > y; False where either is NaN."""

    name = "gt"
    opcode = "gt"
    numpy = np.greater
    dtypes = ALL_DTYPES


class Ge(Comparison):
    """x >= y; False where either is NaN."""

    name = "ge"
    opcode = "ge"
    numpy = np.greater_equal
    dtypes = ALL_DTYPES


class Eq(Comparison):
    """x == y; False where either is NaN."""

    name = "eq"
    opcode = "eq"
    numpy = np.equal
    dtypes = ALL_DTYPES
    traits = frozenset({"commutative", "cheap"})


class Ne(Comparison):
    """x != y; True where either is NaN."""

    name = "ne"
    opcode = "ne"
    numpy = np.not_equal
    dtypes = ALL_DTYPES
    traits = frozenset({"commutative", "cheap"})


class IsNan(Comparison):
    """True where x is NaN."""

    name = "is_nan"
    operand_names = ("x",)
    opcode = "is_nan"
    numpy = np.isnan
    dtypes = FLOATS
    draw = ("special",)


class IsInf(Comparison):
    """True where x is +inf or -inf."""

    name = "isinf"
    operand_names = ("x",)
    numpy = np.isinf
    dtypes = FLOATS
    draw = ("special",)

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return x[0].abs().eq(float("inf"))


class IsFinite(Comparison):
    """True where x is neither infinite nor NaN."""

    name = "isfinite"
    operand_names = ("x",)
    numpy = np.isfinite
    dtypes = FLOATS
    draw = ("special",)

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return x[0].abs().lt(float("inf"))
