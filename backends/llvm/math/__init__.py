"""graphc's own mathematical functions as LLVM instructions, in line, for any vector width.

`FUNCTIONS` maps a scalar operation's name to its emitter: `emit(builder, x) -> value` (`pow`
takes x and y), for x of type float, double or a vector of either. A lane's result depends
on its argument and the target alone, never on the width or on other lanes. No emitter calls
a library. `exp`, `sin` and `cos` contain a branch, so `Builder.current` may be another block
afterwards. `BOUNDS` states the largest error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphc.backends.llvm.math.conversion import (
    bf16_to_f32,
    f16_to_f32,
    f32_to_bf16,
    f32_to_f16,
    float_to_int,
    int_to_float,
)
from graphc.backends.llvm.math.error_function import erf
from graphc.backends.llvm.math.exponential import exp, expm1, sigmoid, tanh
from graphc.backends.llvm.math.logarithm import log, log1p
from graphc.backends.llvm.math.power import pow_
from graphc.backends.llvm.math.rounding import ceil, floor, round_even, rsqrt, sqrt, trunc
from graphc.backends.llvm.math.trigonometry import cos, sin
from graphc.backends.llvm.text import Val

__all__ = [
    "BOUNDS",
    "FUNCTIONS",
    "bf16_to_f32",
    "f16_to_f32",
    "f32_to_bf16",
    "f32_to_f16",
    "float_to_int",
    "int_to_float",
]

FUNCTIONS: Mapping[str, Callable[..., Val]] = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "erf": erf,
    "sqrt": sqrt,
    "rsqrt": rsqrt,
    "sin": sin,
    "cos": cos,
    "pow": pow_,
    "floor": floor,
    "ceil": ceil,
    "trunc": trunc,
    "round": round_even,
}
"""Scalar operation → emitter; all unary but `pow`."""

BOUNDS: Mapping[str, Mapping[str, float]] = {
    "exp": {"f32": 1.25, "f64": 1.25},
    "expm1": {"f32": 1.5, "f64": 2.0},
    "log": {"f32": 1.5, "f64": 2.0},
    "log1p": {"f32": 1.5, "f64": 2.0},
    "sigmoid": {"f32": 2.0, "f64": 2.0},
    "tanh": {"f32": 1.5, "f64": 2.0},
    "erf": {"f32": 1.75, "f64": 2.0},
    "sqrt": {"f32": 0.5, "f64": 0.5},
    "rsqrt": {"f32": 1.5, "f64": 2.0},
    "sin": {"f32": 2.0, "f64": 2.0},
    "cos": {"f32": 2.0, "f64": 2.0},
    "pow": {"f32": 1.0, "f64": 1.5},
    "floor": {"f32": 0.0, "f64": 0.0},
    "ceil": {"f32": 0.0, "f64": 0.0},
    "trunc": {"f32": 0.0, "f64": 0.0},
    "round": {"f32": 0.0, "f64": 0.0},
}
"""Largest error of each function by format, in units in the last place of the exact result.

Seen without and with fused multiply-add (x86-64 and x86-64-v3): every unary function on every
float32, `pow` on ten million pairs, every function on ten million doubles, and all of them on
every combination of edge cases. `python -m tests.backends.math.exhaustive` tries them again.
"""
