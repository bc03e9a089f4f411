"""PyTorch's type promotion and broadcasting, made explicit for recorded ops.

Python numbers are weak: they decide the category of the result (bool < integer < float) but not
its width. Zero-dimensional tensors are weak against tensors with dimensions in the same way.
"""

from __future__ import annotations

import functools
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.core import TensorBase, assume, register_division
from graphc.functions.recording import from_array, record, scalar
from graphc.ir.builder import broadcast_shapes
from graphc.ir.dims import Dim, Expr, equal, symbols
from graphc.ir.types import (
    DType,
    Shape,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = [
    "Number",
    "as_operand",
    "broadcast_pair",
    "can_cast",
    "category",
    "converted",
    "expanded",
    "float_operand",
    "get_default_dtype",
    "is_number",
    "operands",
    "promote_types",
    "result_type",
    "set_default_dtype",
    "shapes_broadcast",
    "size_operand",
]

Number = int | float | bool

_INTEGER_ORDER = (int8, int16, int32, int64)
_CATEGORY = {"bool": 0, "int": 1, "uint": 1, "float": 2}
_default: list[DType] = [float32]


def get_default_dtype() -> DType:
    """The floating dtype that Python floats and creation functions give."""
    return _default[0]


def set_default_dtype(d: DType) -> None:
    """Sets the default floating dtype. Raises TypeError for one that is not floating."""
    if not isinstance(d, DType) or not d.is_floating_point:
        raise TypeError(f"only floating-point types are supported as the default type, got {d}")
    _default[0] = d
    _pair_result.cache_clear()


def category(dtype: DType) -> int:
    """0 for bool, 1 for integers, 2 for floats."""
    return _CATEGORY[dtype.kind]


def _promote(a: DType, b: DType) -> DType:
    if a is b or b is bool_:
        return a
    if a is bool_:
        return b
    if a.is_floating_point != b.is_floating_point:
        return a if a.is_floating_point else b
    if a.is_floating_point:
        return float32 if {a, b} == {float16, bfloat16} else (a if a.bits > b.bits else b)
    if uint8 in (a, b):
        other = b if a is uint8 else a
        return int16 if other is int8 else other
    return a if _INTEGER_ORDER.index(a) > _INTEGER_ORDER.index(b) else b


_DTYPES = (bool_, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64)
_TABLE = {(a, b): _promote(a, b) for a in _DTYPES for b in _DTYPES}


def promote_types(type1: DType, type2: DType) -> DType:
    """The smallest dtype to which both may be converted."""
    return _TABLE[type1, type2]


def can_cast(from_: DType, to: DType) -> bool:
    """True where converting does not lower the category (float > integer > bool)."""
    return category(from_) <= category(to)


def _combine(higher: DType | None, lower: DType | None) -> DType | None:
    if higher is None or lower is None:
        return higher if lower is None else lower
    if higher.is_floating_point:
        return higher
    if higher is bool_ or lower.is_floating_point:
        return _TABLE[higher, lower]
    return higher


def as_dtype(dtype: Any) -> DType | None:
    """A dtype given as such, as Python's float, int or bool, or not at all. Raises TypeError for others."""
    if dtype is None or isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, type) and dtype in _PYTHON_DTYPES:
        return _PYTHON_DTYPES[dtype]
    raise TypeError(f"argument 'dtype' must be graphc.dtype, not {type(dtype).__name__}")


_PYTHON_DTYPES: dict[type, DType] = {float: float64, int: int64, bool: bool_}


def is_number(x: Any) -> bool:
    """True of Python and NumPy real scalars."""
    return isinstance(x, (int, float, np.number, np.bool_)) or (
        isinstance(x, numbers.Real) and not isinstance(x, TensorBase)
    )


def number_dtype(x: Any) -> DType:
    """The dtype that a Python number stands for before weakening."""
    if isinstance(x, (bool, np.bool_)):
        return bool_
    return int64 if isinstance(x, (int, np.integer)) else _default[0]


def _key(x: Any) -> tuple[DType, int]:
    if isinstance(x, TensorBase):
        t = x.tensor_type
        return t.dtype, (2 if t.shape else 1)
    return number_dtype(x), 0


_SIZE_KEY = (int64, 0)


def _result(keys: tuple[tuple[DType, int], ...]) -> DType:
    found: list[DType | None] = [None, None, None]
    for dtype, priority in keys:
        before = found[priority]
        found[priority] = dtype if before is None else _TABLE[before, dtype]
    result = _combine(found[2], _combine(found[1], found[0]))
    assert result is not None
    return result


@functools.lru_cache(maxsize=4096)
def _pair_result(a: tuple[DType, int], b: tuple[DType, int]) -> DType:
    return _result((a, b))


def result_type(*tensors: Any) -> DType:
    """The dtype of an arithmetic operation on tensors and numbers."""
    return _result(tuple(_key(x) for x in tensors))


@functools.lru_cache(maxsize=65536)
def shapes_broadcast(*shapes: Shape) -> Shape:
    """The broadcast of shapes. Raises RuntimeError as PyTorch does."""
    return broadcast_shapes(shapes)


def expanded(x: Tensor, shape: Shape) -> Tensor:
    """`x` expanded to `shape` as a new value (not a view)."""
    return x if x.tensor_type.shape == shape else record("expand", x, shape=shape)


def converted(x: Tensor, dtype: DType) -> Tensor:
    """`x` converted to `dtype`."""
    return x if x.tensor_type.dtype is dtype else record("cast", x, dtype=dtype)


def as_operand(x: Any, function: str, position: str = "input") -> Tensor:
    """`x` if it is a Tensor, or a Tensor of a NumPy array. Raises TypeError for anything else."""
    if isinstance(x, TensorBase):
        return x  # type: ignore[return-value]
    if isinstance(x, np.ndarray):
        return from_array(x, share=False)
    raise TypeError(f"{function}(): argument '{position}' must be Tensor, not {type(x).__name__}")


def size_operand(size: Dim) -> Tensor:
    """A dimension, symbolic or not, as a rank-0 int64 tensor."""
    return scalar(size, int64) if isinstance(size, int) else record("size", value=size, dtype=int64)


def _size_quotient(a: Any, b: Any) -> Tensor:
    """a / b of sizes and numbers as a rank-0 float64 tensor, which beside other tensors is of their dtype."""
    x, y = (size_operand(v) if isinstance(v, Expr) else scalar(v, float64) for v in (a, b))
    return record("div", converted(x, float64), converted(y, float64))


register_division(_size_quotient)


def plain_number(x: Any) -> Number:
    """A NumPy scalar (or other real) as a Python number."""
    if isinstance(x, (int, float)):
        return x
    if isinstance(x, (np.number, np.bool_)):
        value: Number = x.item()
        return value
    return float(x)


def operands(a: Any, b: Any, function: str) -> tuple[Tensor, Tensor]:
    """Two operands converted to their common dtype and broadcast to their common shape.

    Raises TypeError for what is neither tensor nor number, RuntimeError for shapes that do not
    broadcast.
    """
    if isinstance(a, TensorBase) and isinstance(b, TensorBase):
        s, t = a.tensor_type, b.tensor_type
        if s is t or (s.dtype is t.dtype and s.shape == t.shape):
            return a, b  # type: ignore[return-value]
    return broadcast_pair(a, b, function, None)


def broadcast_pair(a: Any, b: Any, function: str, dtype: DType | None) -> tuple[Tensor, Tensor]:
    """As `operands`, for one dtype of the caller's choice (None: the promoted one)."""
    sizes = isinstance(a, Expr), isinstance(b, Expr)  # promoted like the Python numbers that they stand for
    if not isinstance(a, TensorBase) and not is_number(a):
        a = size_operand(a) if isinstance(a, Expr) else as_operand(a, function)
    if not isinstance(b, TensorBase) and not is_number(b):
        b = size_operand(b) if isinstance(b, Expr) else as_operand(b, function, "other")
    if dtype is None:
        dtype = _pair_result(_SIZE_KEY if sizes[0] else _key(a), _SIZE_KEY if sizes[1] else _key(b))
    x = converted(a, dtype) if isinstance(a, TensorBase) else scalar(plain_number(a), dtype)  # type: ignore[arg-type]
    y = converted(b, dtype) if isinstance(b, TensorBase) else scalar(plain_number(b), dtype)  # type: ignore[arg-type]
    s, t = x.tensor_type.shape, y.tensor_type.shape
    if s != t:
        if any(isinstance(d, Expr) for d in (*s, *t)):
            y = _spelt_alike(s, y)
            t = y.tensor_type.shape
        shape = t if not s else s if not t else shapes_broadcast(s, t)
        if s != shape:
            x = record("expand", x, shape=shape)
        if t != shape:
            y = record("expand", y, shape=shape)
    return x, y


def _spelt_alike(shape: Shape, y: Tensor) -> Tensor:
    """`y` with sizes as they are spelt in `shape` where they are made of the same symbols: they are the same, which calls
    are checked for."""
    found = list(y.tensor_type.shape)
    for n, (a, b) in enumerate(
        zip(reversed(shape), reversed(found[-len(shape) :] if shape else []), strict=False), 1
    ):
        if a != b and symbols(a) and symbols(a) == symbols(b) and equal(a, b) is None:
            message = f"The size of tensor a ({a}) must match the size of tensor b ({b}) at dimension -{n}"
            assume(a, "==", b, RuntimeError, message)
            found[-n] = a
    return y if tuple(found) == y.tensor_type.shape else record("reshape", y, shape=tuple(found))


def float_operand(x: Any, function: str) -> Tensor:
    """`x` as a floating tensor: integers and bools become the default dtype."""
    if not isinstance(x, TensorBase):
        x = as_operand(x, function)
    return x if x.tensor_type.dtype.kind == "float" else record("cast", x, dtype=_default[0])
