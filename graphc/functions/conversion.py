"""Conversions between dtypes and devices, and to other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.core import TensorBase
from graphc.devices import check_device, device
from graphc.functions.pointwise import where
from graphc.functions.promotion import as_dtype, converted
from graphc.functions.recording import record
from graphc.functions.strides import is_contiguous
from graphc.ir.types import (
    DType,
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


def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`to(dtype)`, `to(device)`, `to(device, dtype)` or `to(other)`; itself where nothing changes."""
    dtype = as_dtype(kwargs.pop("dtype", None))
    check_device(kwargs.pop("device", None))
    copy = bool(kwargs.pop("copy", False))
    for name in ("non_blocking", "memory_format"):
        kwargs.pop(name, None)
    if kwargs:
        raise TypeError(f"to() received an invalid combination of arguments: {', '.join(kwargs)}")
    for a in args:
        if isinstance(a, (DType, type)):
            dtype = as_dtype(a)
        elif isinstance(a, TensorBase):
            dtype = a.tensor_type.dtype
        elif isinstance(a, (str, device)):
            check_device(a)
        elif not isinstance(a, bool) and a is not None:
            raise TypeError(f"to() received an invalid argument: {a!r} of type {type(a).__name__}")
    if dtype is not None and dtype is not self.tensor_type.dtype:
        return converted(self, dtype)
    return self.clone() if copy else self


def dtype_method(name: str, dtype: DType) -> Callable[..., Any]:
    """The method `name` that converts to `dtype`."""

    def convert(self: Tensor, memory_format: Any = None) -> Tensor:
        return self if self.tensor_type.dtype is dtype else record("cast", self, dtype=dtype)

    convert.__name__ = convert.__qualname__ = name
    convert.__doc__ = f"The tensor as {dtype}."
    return convert


def new_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """A creation function as a method: of the tensor's dtype unless another is given."""

    def method(self: Tensor, *args: Any, dtype: DType | None = None, **kwargs: Any) -> Tensor:
        result: Tensor = function(*args, dtype=dtype or self.tensor_type.dtype, **kwargs)
        return result

    method.__name__ = method.__qualname__ = f"new_{function.__name__}"
    method.__doc__ = f"As `graphc.{function.__name__}`, of this tensor's dtype unless given."
    return method


def on_cpu(self: Tensor, memory_format: Any = None) -> Tensor:
    """Itself."""
    return self


def on_cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """Raises RuntimeError: graphc computes on the CPU only."""
    return to(self, "cuda" if device is None else device)


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """The tensor in the dtype of another."""
    return to(self, other.tensor_type.dtype)


_OLD_NAMES = {
    "BoolTensor": bool_,
    "ByteTensor": uint8,
    "CharTensor": int8,
    "ShortTensor": int16,
    "IntTensor": int32,
    "LongTensor": int64,
    "HalfTensor": float16,
    "BFloat16Tensor": bfloat16,
    "FloatTensor": float32,
    "DoubleTensor": float64,
}
"""PyTorch's names of tensors by dtype, from before there were dtypes."""


def of_type(self: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """The tensor in a dtype, given itself or as a name such as `"torch.LongTensor"`; without one, that name."""
    if dtype is None:
        (name,) = (n for n, d in _OLD_NAMES.items() if d is self.tensor_type.dtype)
        return f"torch.{name}"
    if isinstance(dtype, str):
        name = dtype.removeprefix("torch.").removeprefix("graphc.")
        if name not in _OLD_NAMES:
            raise ValueError(f"invalid type: {dtype!r}")
        dtype = _OLD_NAMES[name]
    return to(self, dtype)


def where_method(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """This tensor where `condition` holds, else `other`."""
    result: Tensor = where(condition, self, other)
    return result


def to_array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    """NumPy's `__array__`: shares memory unless a conversion or copy is asked for."""
    array = self.numpy()
    if dtype is not None and array.dtype != np.dtype(dtype):
        return array.astype(dtype)
    return array.copy() if copy else array


def to_dlpack(self: Tensor, **options: Any) -> Any:
    """DLPack's export, through NumPy. Raises BufferError for what NumPy cannot export."""
    if self.requires_grad:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    x = self if is_contiguous(self) else self.contiguous()
    return x.numpy().__dlpack__(**{k: v for k, v in options.items() if k != "copy" or v is not None})


def dlpack_device(self: Tensor) -> tuple[int, int]:
    """DLPack's (device type, device number): the CPU."""
    return (1, 0)


def is_floating_point(input: Tensor) -> bool:
    """True of tensors of a floating dtype."""
    return input.tensor_type.dtype.is_floating_point


def is_tensor(obj: Any) -> bool:
    """True of graphc's tensors."""
    return isinstance(obj, TensorBase)
