"""Activation functions: elementwise formulas of one float operand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir.families import FLOATS, Attrs
from graphc.ir.graph import Value
from graphc.ir.ops.elementwise import Mapped
from graphc.ir.ops.transcendental import error_function

__all__ = ["Gelu", "LeakyRelu", "Relu", "Silu"]


class Relu(Mapped):
    """max(x, 0); NaN stays NaN."""

    name = "relu"
    operand_names = ("x",)
    numpy = staticmethod(lambda x: np.maximum(x, x.dtype.type(0)))
    dtypes = FLOATS
    traits = frozenset({"cheap", "idempotent"})

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return x[0].max(0)

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        # NaN lets the cotangent through, as in PyTorch.
        return [b.where(b.le(self.results[0], 0), 0, cotangents[0])]


class LeakyRelu(Mapped):
    """x where x > 0, else `slope` · x."""

    name = "leaky_relu"
    operand_names = ("x",)
    attributes = {"slope": 0.01}
    numpy_attrs = True
    numpy = staticmethod(lambda x, slope: np.where(x > 0, x, x * x.dtype.type(slope)))
    dtypes = FLOATS
    traits = frozenset({"cheap"})

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return x[0].gt(0).select(x[0], x[0] * attrs["slope"])

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        return [b.where(b.gt(x[0], 0), g, b.mul(g, self.attrs["slope"]))]


class Silu(Mapped):
    """x · sigmoid(x)."""

    name = "silu"
    operand_names = ("x",)
    numpy = staticmethod(lambda x: x / (1 + np.exp(-x)))
    precise = True
    dtypes = FLOATS
    ulp = {"f16": 1, "bf16": 1, "f32": 4, "f64": 4}

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        return x[0] * x[0].sigmoid()

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        s = b.sigmoid(x[0])
        return [b.mul(g, b.mul(s, b.add(1, b.mul(x[0], b.sub(1, s)))))]


_GELU_LINEAR = -2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR


def _gelu(x: Any, approximate: str) -> Any:
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + error_function(x / np.sqrt(x.dtype.type(2))))


class Gelu(Mapped):
    """x · Φ(x), Φ the normal distribution function; `approximate` is "none" (by erf) or "tanh".

    The tanh form is x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), Hendrycks and Gimpel 2016, which is
    computed as x / (1 + e^(-2√(2/π) · (x + 0.044715 x³))). By erf, for negative x the result is a
    difference of nearby numbers: the bound counts units of |x| / 2.
    """

    name = "gelu"
    operand_names = ("x",)
    attributes = {"approximate": "none"}
    numpy_attrs = True
    numpy = staticmethod(_gelu)
    precise = True
    dtypes = FLOATS
    ulp = {"f16": 1, "bf16": 1, "f32": 6, "f64": 6}
    sample_attrs = ({"approximate": "none"}, {"approximate": "tanh"})

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return np.abs(arrays[0].astype(np.float64)) / 2

    @classmethod
    def formula(cls, attrs: Attrs, *x: Any) -> Any:
        v = x[0]
        if attrs["approximate"] == "tanh":
            return v / (1 + (((v * v) * _GELU_CUBIC + _GELU_LINEAR) * v).exp())
        return (v * 0.5) * (1 + (v * math.sqrt(0.5)).erf())

    def derivative(self, b: Any, g: Any, y: Any, *x: Any) -> Sequence[Value | None]:
        v = x[0]
        square = b.mul(v, v)
        if self.attrs["approximate"] == "tanh":
            # With e the exponential and s = 1/(1 + e) the derivative is s - s·(1 - s)·x·(ln e)';
            # 1 - s cancels for positive x, where it is e·s.
            e = b.exp(b.mul(b.add(b.mul(square, _GELU_CUBIC), _GELU_LINEAR), v))
            part = b.div(1, b.add(e, 1))
            rest = b.where(b.lt(v, 0), b.sub(1, part), b.mul(e, part))
            slope = b.add(b.mul(square, 3 * _GELU_CUBIC), _GELU_LINEAR)
            tail = b.mul(b.mul(b.mul(part, rest), v), slope)
            return [b.mul(g, b.sub(part, tail))]
        cdf = b.mul(b.add(b.erf(b.mul(v, math.sqrt(0.5))), 1), 0.5)
        pdf = b.mul(b.exp(b.mul(square, -0.5)), 1 / math.sqrt(2 * math.pi))
        return [b.mul(g, b.add(cdf, b.mul(v, pdf)))]
