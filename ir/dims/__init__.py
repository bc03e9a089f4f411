"""Symbolic integers: polynomials over named symbols with //, %, min and max, kept canonical.

One class serves the dimensions of shapes and the index expressions of kernels. A result with
no symbol left is always a plain `int`, so an `Expr` is never a constant, and equal expressions
built in different orders compare and hash alike. `bounds` gives interval bounds; comparisons
answer True, False or None (unknown).
"""

from __future__ import annotations

from graphc.ir.dims.expression import (
    Apply,
    Dim,
    Expr,
    Symbol,
    bounds,
    ceil_div,
    floor_div,
    less_equal,
    maximum,
    minimum,
    mod,
    pinned,
    product,
    quotient,
    symbols,
    undecided,
)
from graphc.ir.dims.parsing import parse_dim
from graphc.ir.dims.queries import (
    ample,
    axis_symbols,
    equal,
    plain_symbol,
    size_symbols,
    split_linear,
    substitute,
    typical,
)

__all__ = [
    "Apply",
    "Dim",
    "Expr",
    "Symbol",
    "ample",
    "axis_symbols",
    "bounds",
    "ceil_div",
    "equal",
    "floor_div",
    "less_equal",
    "maximum",
    "minimum",
    "mod",
    "parse_dim",
    "pinned",
    "plain_symbol",
    "product",
    "quotient",
    "size_symbols",
    "split_linear",
    "substitute",
    "symbols",
    "typical",
    "undecided",
]
