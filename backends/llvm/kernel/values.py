"""How scalars of each dtype stand in registers and in memory, and conversion between the two.

A scalar's *carrier* is the LLVM type it is computed in: bool is i1, the 16-bit floats are
float (always holding a value of the 16-bit format, so widening costs nothing), every other
dtype is its natural type. In memory a bool is a byte of 0 or 1 and the 16-bit floats are two
bytes. Rounding to a 16-bit format is to nearest, ties to even, with the same bits whether the
target has an instruction for it or not; a NaN stays a NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.backends.llvm.math import bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16
from graphc.backends.llvm.text import Builder, Val, lanes, vector
from graphc.ir.types import DType

__all__ = ["carrier", "constant", "from_memory", "memory_type", "round_to", "to_memory"]

_CARRIERS = {"bool": "i1", "f16": "float", "bf16": "float", "f32": "float", "f64": "double"}
_MEMORY = {"bool": "i8", "f16": "i16", "bf16": "i16", "f32": "float", "f64": "double"}


def carrier(dtype: DType) -> str:
    """LLVM's scalar type of a value of `dtype` in a register."""
    return _CARRIERS.get(dtype.name) or f"i{dtype.bits}"


def memory_type(dtype: DType) -> str:
    """LLVM's scalar type of an element of `dtype` in memory."""
    return _MEMORY.get(dtype.name) or f"i{dtype.bits}"


def constant(b: Builder, dtype: DType, value: Any) -> Val:
    """A constant of `dtype` in its carrier: rounded once, integers wrapped."""
    if dtype.kind == "bool":
        return b.const("i1", bool(value))
    if dtype.is_integral:
        wrapped = int(value) & ((1 << dtype.bits) - 1)
        return b.const(
            carrier(dtype), wrapped - (1 << dtype.bits) if wrapped >> (dtype.bits - 1) else wrapped
        )
    with np.errstate(over="ignore"):
        rounded = float(np.asarray(value, np.float64).astype(dtype.numpy))
    return b.const(carrier(dtype), rounded)


def from_memory(b: Builder, dtype: DType, raw: Val) -> Val:
    """A loaded element (or vector of them) in its carrier."""
    match dtype.name:
        case "bool":
            return b.icmp("ne", raw, b.const(raw.type, 0))
        case "bf16":
            return bf16_to_f32(b, raw)
        case "f16":
            return f16_to_f32(b, raw)
    return raw


def to_memory(b: Builder, dtype: DType, value: Val) -> Val:
    """A carried value (already rounded to `dtype`) as it is stored."""
    match dtype.name:
        case "bool":
            return b.cast("zext", value, vector("i8", lanes(value.type)))
        case "bf16":
            # On the bf16 grid the lower half of the bits is zero.
            bits = b.cast("bitcast", value, vector("i32", lanes(value.type)))
            upper = b.binary("lshr", bits, b.const(bits.type, 16))
            return b.cast("trunc", upper, vector("i16", lanes(value.type)))
        case "f16":
            return f32_to_f16(b, value)
    return value


def round_to(b: Builder, dtype: DType, value: Val) -> Val:
    """A float32 result rounded to the 16-bit format of `dtype`, carried as float; others unchanged."""
    match dtype.name:
        case "bf16":
            return bf16_to_f32(b, f32_to_bf16(b, value))
        case "f16":
            return f16_to_f32(b, f32_to_f16(b, value))
    return value
