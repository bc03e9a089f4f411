"""Element types and tensor types: immutable, hashable, interned where it matters.

A `DType` is compared by identity. A `TensorType` is a dtype and a shape whose dimensions are
ints or symbolic `Expr`s; a rank-0 type is a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import ml_dtypes
import numpy as np

from graphc.ir.dims import Dim, Expr, Symbol, parse_dim, product, typical
from graphc.ir.records import dataclass

__all__ = [
    "DTYPES",
    "DType",
    "Shape",
    "TensorType",
    "bfloat16",
    "bool_",
    "dtype_of",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "row_major_strides",
    "symbolic_strides",
    "uint8",
]

Kind = Literal["bool", "int", "uint", "float"]
Shape = tuple[Dim, ...]


class DType:
    """An element type. `name` is its spelling in graph text (`"f32"`), `code` its native number."""

    __slots__ = ("bits", "code", "itemsize", "kind", "name", "numpy", "torch_name")

    def __init__(self, name: str, torch_name: str, kind: Kind, bits: int, numpy_type: Any, code: int) -> None:
        self.name = name
        self.torch_name = torch_name
        self.kind: Kind = kind
        self.bits = bits
        self.itemsize = max(1, bits // 8)
        self.numpy = np.dtype(numpy_type)
        self.code = code

    @property
    def is_floating_point(self) -> bool:
        return self.kind == "float"

    @property
    def is_signed(self) -> bool:
        return self.kind in ("int", "float")

    @property
    def is_integral(self) -> bool:
        """True of signed and unsigned integers, False of bool."""
        return self.kind in ("int", "uint")

    @property
    def accumulator(self) -> DType:
        """The dtype that reductions and contractions accumulate in."""
        return float32 if self.kind == "float" and self.bits == 16 else self

    def __repr__(self) -> str:
        return f"graphc.{self.torch_name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_dtype_by_name, (self.name,))

    def __copy__(self) -> DType:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> DType:
        return self


bool_ = DType("bool", "bool", "bool", 8, np.bool_, 0)
uint8 = DType("u8", "uint8", "uint", 8, np.uint8, 1)
int8 = DType("i8", "int8", "int", 8, np.int8, 2)
int16 = DType("i16", "int16", "int", 16, np.int16, 3)
int32 = DType("i32", "int32", "int", 32, np.int32, 4)
int64 = DType("i64", "int64", "int", 64, np.int64, 5)
float16 = DType("f16", "float16", "float", 16, np.float16, 6)
bfloat16 = DType("bf16", "bfloat16", "float", 16, ml_dtypes.bfloat16, 7)
float32 = DType("f32", "float32", "float", 32, np.float32, 8)
float64 = DType("f64", "float64", "float", 64, np.float64, 9)

DTYPES: dict[str, DType] = {
    d.name: d for d in (bool_, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64)
}
_BY_NUMPY = {d.numpy: d for d in DTYPES.values()}


def _dtype_by_name(name: str) -> DType:
    return DTYPES[name]


def dtype_of(numpy_dtype: Any) -> DType:
    """The `DType` of a NumPy dtype. Raises TypeError for one that graphc does not have."""
    try:
        return _BY_NUMPY[np.dtype(numpy_dtype).newbyteorder("=")]
    except KeyError:
        raise TypeError(
            f"no graphc dtype for NumPy's {numpy_dtype}; expected one of "
            f"{', '.join(str(d) for d in _BY_NUMPY)}"
        ) from None


_numbers: dict[tuple[DType, Shape], int] = {}


@dataclass(frozen=True)
class TensorType:
    """dtype and shape of a value."""

    dtype: DType
    shape: Shape

    @cached_property
    def number(self) -> int:
        """A small integer, the same for equal types and for no others in this process: a cheap key."""
        return _numbers.setdefault((self.dtype, self.shape), len(_numbers))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @cached_property
    def is_static(self) -> bool:
        """True where every dimension is an int."""
        return not any(isinstance(d, Expr) for d in self.shape)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The shape as ints. Raises TypeError where a dimension is symbolic."""
        if not self.is_static:
            raise TypeError(f"{self} has symbolic dimensions")
        return self.shape  # type: ignore[return-value]

    @cached_property
    def numel(self) -> int:
        """Number of elements of a static type."""
        n = 1
        for d in self.sizes:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @cached_property
    def count(self) -> Dim:
        """Number of elements, symbolic where a dimension is."""
        return product(self.shape)

    @cached_property
    def typical_count(self) -> int:
        """Number of elements at the sizes that choices are made for; `numel` of a static type."""
        return typical(self.count)

    @property
    def size_bytes(self) -> Dim:
        """Number of bytes, symbolic where a dimension is."""
        return self.count * self.dtype.itemsize

    @property
    def typical_bytes(self) -> int:
        return self.typical_count * self.dtype.itemsize

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(str(d) for d in self.shape)}]"

    __repr__ = __str__

    @staticmethod
    def parse(text: str, known: Mapping[str, Symbol] | None = None) -> TensorType:
        """The type spelt `f32[batch, 784]`; `known` gives symbols by name. Raises ValueError."""
        name, bracket, rest = text.strip().partition("[")
        if name not in DTYPES or not bracket or not rest.endswith("]"):
            raise ValueError(f"expected a tensor type like f32[2, 3], got {text!r}")
        inner = rest[:-1].strip()
        return TensorType(DTYPES[name], tuple(parse_dim(d, known) for d in _split(inner)) if inner else ())


def _split(text: str) -> list[str]:
    """Splits at commas outside parentheses."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def row_major_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a contiguous row-major array of `shape`."""
    strides, step = [], 1
    for d in reversed(shape):
        strides.append(step)
        step *= max(d, 1)
    return tuple(reversed(strides))


def symbolic_strides(shape: Shape) -> Shape:
    """`row_major_strides` of a shape with symbolic dimensions."""
    strides: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        strides.append(step)
        step = step * (max(d, 1) if isinstance(d, int) else d)
    return tuple(reversed(strides))
