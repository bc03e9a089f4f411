"""Transcendental functions and roots of floats, each within its stated bound of the exact value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir.families import Attrs
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import MathFunction

__all__ = [
    "Cos",
    "Erf",
    "Exp",
    "Expm1",
    "Log",
    "Log1p",
    "Log2",
    "Log10",
    "Rsqrt",
    "Sigmoid",
    "Sin",
    "Sqrt",
    "Tanh",
    "error_function",
]


def error_function(x: Any) -> Any:
    """erf by its all-positive series 2x/√π · exp(-x²) · Σ (2x²)ⁿ / (1·3·…·(2n+1)), in x's dtype.

    Abramowitz and Stegun 7.1.6; beyond |x| = 6.5 it is ±1 to more than 64 bits.
    """
    bounded = np.clip(np.nan_to_num(x), -6.5, 6.5)
    square = 2 * bounded * bounded
    term = np.ones_like(bounded)
    total = np.ones_like(bounded)
    for n in range(1, 220):
        term = term * square / (2 * n + 1)
        total = total + term
    y = 2 * bounded * np.exp(-bounded * bounded) * total / np.sqrt(bounded.dtype.type(math.pi))
    return np.where(np.isnan(x), x, np.where(np.abs(x) >= 6.5, np.sign(x), y))


class Exp(MathFunction):
    """e to the power x."""

    name = "exp"
    opcode = "exp"
    numpy = np.exp

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.mul(g, y)]


class Expm1(MathFunction):
    """exp(x) - 1, precise near 0."""

    name = "expm1"
    opcode = "expm1"
    numpy = np.expm1

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.mul(g, b.add(y, 1))]


class Log(MathFunction):
    """Natural logarithm; -inf at 0, NaN below."""

    name = "log"
    opcode = "log"
    numpy = np.log
    draw = ("positive",)

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.div(g, x[0])]


class Log1p(MathFunction):
    """log(1 + x), precise near 0; -inf at -1, NaN below."""

    name = "log1p"
    opcode = "log1p"
    numpy = np.log1p
    draw = ("positive",)

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.div(g, b.add(x[0], 1))]


class Log2(MathFunction):
    """Logarithm to base 2, as log(x) / log(2)."""

    name = "log2"
    numpy = np.log2
    draw = ("positive",)
    ulp = {"f16": 1, "bf16": 1, "f32": 4, "f64": 4}

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return x[0].log() / math.log(2)

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.div(g, b.mul(x[0], math.log(2)))]


class Log10(MathFunction):
    """Logarithm to base 10, as log(x) / log(10)."""

    name = "log10"
    numpy = np.log10
    draw = ("positive",)
    ulp = {"f16": 1, "bf16": 1, "f32": 4, "f64": 4}

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return x[0].log() / math.log(10)

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.div(g, b.mul(x[0], math.log(10)))]


class Tanh(MathFunction):
    """Hyperbolic tangent."""

    name = "tanh"
    opcode = "tanh"
    numpy = np.tanh

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.mul(g, b.sub(1, b.mul(y, y)))]


class Sigmoid(MathFunction):
    """1 / (1 + exp(-x))."""

    name = "sigmoid"
    opcode = "sigmoid"
    numpy = staticmethod(lambda x: 1 / (1 + np.exp(-x)))

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.mul(g, b.mul(y, b.sub(1, y)))]


class Erf(MathFunction):
    """The error function 2/√π ∫₀ˣ exp(-t²) dt."""

    name = "erf"
    opcode = "erf"
    numpy = staticmethod(error_function)

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        slope = b.mul(b.exp(b.neg(b.mul(x[0], x[0]))), 2 / math.sqrt(math.pi))
        return [b.mul(g, slope)]


class Sqrt(MathFunction):
    """Square root, correctly rounded; NaN below 0."""

    name = "sqrt"
    opcode = "sqrt"
    numpy = np.sqrt
    draw = ("positive",)
    precise = False
    ulp = {}

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.div(g, b.mul(y, 2))]


class Rsqrt(MathFunction):
    """1 / sqrt(x); inf at 0, NaN below."""

    name = "rsqrt"
    opcode = "rsqrt"
    numpy = staticmethod(lambda x: 1 / np.sqrt(x))
    draw = ("positive",)

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.mul(b.mul(g, -0.5), b.mul(y, b.mul(y, y)))]


class Sin(MathFunction):
    """Sine of x radians, for arguments of any size; NaN at infinities."""

    name = "sin"
    opcode = "sin"
    numpy = np.sin

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.mul(g, b.cos(x[0]))]


class Cos(MathFunction):
    """Cosine of x radians, for arguments of any size; NaN at infinities."""

    name = "cos"
    opcode = "cos"
    numpy = np.cos

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.neg(b.mul(g, b.sin(x[0])))]
