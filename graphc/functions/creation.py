"""Functions that make tensors: from Python data, from arrays, filled, ranges, random numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.core import TensorBase, assume, is_tracing, plain
from graphc.core.storage import allocate_memory, type_of
from graphc.core.tensor import from_memory
from graphc.devices import check_device
from graphc.functions import pointwise
from graphc.functions.axes import checked_size, shape_argument
from graphc.functions.promotion import (
    Number,
    as_dtype,
    converted,
    expanded,
    get_default_dtype,
    is_number,
    number_dtype,
    plain_number,
    size_operand,
)
from graphc.functions.recording import from_array, record, scalar
from graphc.ir.dims import Dim, Expr, ceil_div
from graphc.ir.types import DType, Shape, bool_, float64, int64
from graphc.runtime.buffers import clear_bytes

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

Array = np.ndarray[Any, Any]


def _finished(x: Tensor, requires_grad: bool) -> Tensor:
    return x.requires_grad_(True) if requires_grad else x


# -- from data ------------------------------------------------------------------------------------


def _checked_nest(data: Any, depth: int = 0) -> Any:
    """Nested sequences with tensors and arrays turned into lists. Raises ValueError for ragged ones."""
    if isinstance(data, TensorBase):
        return data._values().tolist()
    if isinstance(data, np.ndarray):
        return data.tolist()
    if isinstance(data, (list, tuple)):
        items = [_checked_nest(d, depth + 1) for d in data]
        lengths = [len(i) if isinstance(i, list) else -1 for i in items]
        for n in lengths:
            if n != lengths[0]:
                if -1 in (n, lengths[0]):
                    raise TypeError("not a sequence")
                raise ValueError(f"expected sequence of length {lengths[0]} at dim {depth + 1} (got {n})")
        return items
    if is_number(data):
        return plain_number(data)
    if isinstance(data, str):
        raise TypeError(f"new(): invalid data type '{type(data).__name__}'")
    if hasattr(data, "__array__"):
        return np.asarray(data).tolist()
    raise RuntimeError(f"Could not infer dtype of {type(data).__name__}")


def array_of(data: Any, dtype: DType | None) -> Array:
    """A fresh NumPy array of Python data with the dtype that PyTorch infers, or with `dtype`."""
    if isinstance(data, TensorBase):
        array = np.array(data._values())
    elif isinstance(data, (np.ndarray, np.generic)):
        array = np.array(data)
    elif (
        isinstance(data, (list, tuple))
        and data
        and all(isinstance(d, (np.ndarray, np.generic)) for d in data)
    ):
        array = np.stack([np.asarray(d) for d in data])
    else:
        try:
            array = np.array(_checked_nest(data))
        except OverflowError as error:
            raise RuntimeError("Overflow when unpacking long") from error
        if array.dtype == object:
            raise RuntimeError(f"Overflow when unpacking long, or data of mixed kinds: {data!r}")
        if (dtype is None and array.dtype.kind == "f") or (array.size == 0 and array.dtype.kind == "f"):
            array = array.astype(get_default_dtype().numpy)
        elif array.dtype.kind == "u":
            raise RuntimeError("Overflow when unpacking long")
    if dtype is not None and array.dtype != dtype.numpy:
        with np.errstate(all="ignore"):
            array = array.astype(bool if dtype is bool_ else dtype.numpy)
    return array


def tensor(
    data: Any,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A leaf tensor with a copy of `data`: numbers, nested sequences, arrays or tensors.

    Floats get the default dtype, integers int64, bools bool; arrays keep theirs. Raises ValueError
    for ragged sequences, TypeError or RuntimeError for data that is no numbers.
    """
    dtype = _options(dtype, device)
    if isinstance(data, Expr):
        return converted(size_operand(data), dtype or int64)
    array = array_of(data, dtype)
    return _finished(from_array(array, share=False), requires_grad)


def as_tensor(data: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
    """`data` as a tensor, sharing its memory or being it where possible."""
    dtype = _options(dtype, device)
    if isinstance(data, TensorBase):
        return data if dtype is None else converted(data, dtype)  # type: ignore[arg-type,return-value]
    if isinstance(data, np.ndarray) and (dtype is None or data.dtype == dtype.numpy):
        return from_array(data, share=True)
    return tensor(data, dtype=dtype)


asarray = as_tensor


def from_numpy(ndarray: Array) -> Tensor:
    """A tensor that shares the memory of a NumPy array. Raises TypeError for another type or dtype."""
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(ndarray).__name__})")
    if min(ndarray.strides, default=0) < 0:
        raise ValueError(
            "At least one stride in the given numpy array is negative, and tensors with negative strides are not "
            "supported. (You can probably work around this by making a copy of your array  with array.copy().) "
        )
    try:
        type_of(ndarray.dtype, ndarray.shape)
    except TypeError:
        raise TypeError(
            f"can't convert np.ndarray of type {ndarray.dtype}. The only supported types are: float64, float32, "
            "float16, int64, int32, int16, int8, uint8, and bool."
        ) from None
    return from_array(ndarray, share=True)


def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor that shares the memory of any object with the DLPack protocol, where it is writable."""
    if isinstance(ext_tensor, TensorBase):
        return ext_tensor.detach()  # type: ignore[no-any-return]
    return from_array(np.from_dlpack(ext_tensor), share=True)


def scalar_tensor(
    s: Number, *, dtype: DType | None = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A rank-0 tensor of a number, of the default dtype unless given."""
    return tensor(s, dtype=dtype or get_default_dtype(), device=device, requires_grad=requires_grad)


# -- filled -------------------------------------------------------------------------------------------


def filled(shape: Shape, value: Number, dtype: DType) -> Tensor:
    """A tensor of one number: data of its own, or inside a traced function a constant."""
    checked_size(shape)
    if is_tracing() or not all(isinstance(d, int) for d in shape):
        splat = scalar(value, dtype)
        return expanded(splat, shape) if shape else splat
    memory = allocate_memory(type_of(dtype.numpy, tuple(shape)))
    if not (isinstance(value, int) and value == 0):  # not of -0.0
        with np.errstate(over="ignore"):
            memory.array[...] = np.asarray(value).astype(dtype.numpy)
    else:
        clear_bytes(memory.address, memory.type.nbytes)
    made: Tensor = from_memory(memory)
    return made


def _options(dtype: Any, device: Any, out: Any = None) -> DType | None:
    """Checks what is given beside sizes; returns the dtype."""
    check_device(device)
    if out is not None:
        raise NotImplementedError("out= is not supported: assign the result, or use copy_()")
    return as_dtype(dtype)


def zeros(
    *size: Any,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    out: Any = None,
    pin_memory: bool = False,
) -> Tensor:
    """Zeros of a shape."""
    dtype = _options(dtype, device, out)
    return _finished(filled(shape_argument(size, "zeros"), 0, dtype or get_default_dtype()), requires_grad)


def ones(
    *size: Any,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    out: Any = None,
    pin_memory: bool = False,
) -> Tensor:
    """Ones of a shape."""
    dtype = _options(dtype, device, out)
    return _finished(filled(shape_argument(size, "ones"), 1, dtype or get_default_dtype()), requires_grad)


def empty(
    *size: Any,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    out: Any = None,
    pin_memory: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """A tensor of unspecified elements (zeros)."""
    dtype = _options(dtype, device, out)
    return _finished(filled(shape_argument(size, "empty"), 0, dtype or get_default_dtype()), requires_grad)


def full(
    size: Any,
    fill_value: Any,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    out: Any = None,
) -> Tensor:
    """A tensor of one number; its dtype follows the number unless given."""
    dtype = _options(dtype, device, out)
    shape = shape_argument((size,), "full")
    if isinstance(fill_value, TensorBase):
        value = converted(fill_value, dtype or fill_value.tensor_type.dtype)  # type: ignore[arg-type]
        return _finished(expanded(value, checked_size(shape)), requires_grad)
    if isinstance(fill_value, Expr):
        return _finished(expanded(converted(size_operand(fill_value), dtype or int64), shape), requires_grad)
    number = plain_number(fill_value)
    return _finished(filled(shape, number, dtype or number_dtype(number)), requires_grad)


def _like(input: Tensor, value: Number, dtype: DType | None, device: Any, requires_grad: bool) -> Tensor:
    dtype = _options(dtype, device)
    return _finished(filled(input.tensor_type.shape, value, dtype or input.tensor_type.dtype), requires_grad)


def zeros_like(
    input: Tensor,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
) -> Tensor:
    """Zeros of the shape and dtype of another tensor."""
    return _like(input, 0, dtype, device, requires_grad)


def ones_like(
    input: Tensor,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
) -> Tensor:
    """Ones of the shape and dtype of another tensor."""
    return _like(input, 1, dtype, device, requires_grad)


def empty_like(
    input: Tensor,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
) -> Tensor:
    """Unspecified elements (zeros) of the shape and dtype of another tensor."""
    return _like(input, 0, dtype, device, requires_grad)


def full_like(
    input: Tensor,
    fill_value: Number,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
) -> Tensor:
    """One number in the shape and dtype of another tensor."""
    return _like(input, plain_number(fill_value), dtype, device, requires_grad)


def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The identity matrix, n by m."""
    dtype = _options(dtype, device)
    grid = checked_size((plain(n), plain(n if m is None else m)))
    i, j = (record("iota", shape=grid, axis=k, dtype=int64) for k in (0, 1))
    return _finished(converted(record("eq", i, j), dtype or get_default_dtype()), requires_grad)


# -- ranges --------------------------------------------------------------------------------------------


def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    out: Any = None,
) -> Tensor:
    """start, start + step, … below `end`. int64 if all are integers, else the default dtype."""
    dtype = _options(dtype, device, out)
    if end is None:
        start, end = 0, start
    if not is_number(start) and not isinstance(start, Expr) and hasattr(start, "item"):
        start = start.item()
    symbolic = isinstance(start, Expr) or isinstance(end, Expr)
    if not symbolic and not is_number(end) and hasattr(end, "item"):
        end = end.item()
    integral = symbolic or all(isinstance(v, (int, np.integer)) for v in (start, end, step))
    if dtype is None:
        dtype = int64 if integral else get_default_dtype()
    if dtype is bool_:
        raise NotImplementedError("\"arange_cpu\" not implemented for 'Bool'")
    if symbolic:
        return _finished(_symbolic_range(plain(start), plain(end), step, dtype), requires_grad)
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise RuntimeError(f"unsupported range: {start} -> {end}")
    if (step > 0) != (end > start) and end != start:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    count = max(0, -((start - end) // step)) if integral else max(0, math.ceil((end - start) / step))
    return _finished(_progression(int(count), start, step, dtype, integral), requires_grad)


def _symbolic_range(start: Dim, end: Dim, step: Any, dtype: DType) -> Tensor:
    """start, start + step, … below an end, of which one depends on sizes."""
    if not all(isinstance(v, (int, Expr)) for v in (start, end)) or not isinstance(step, int) or step == 0:
        raise RuntimeError(
            "arange over a symbolic size takes integers, and a step that is a number other than 0"
        )
    length = end - start if step > 0 else start - end
    assume(
        length,
        ">=",
        0,
        RuntimeError,
        f"upper bound {end} and lower bound {start} inconsistent with step sign",
    )
    count = ceil_div(length, abs(step))
    if start == 0 and step == 1:
        return record("iota", shape=(count,), axis=0, dtype=dtype)
    line = record("iota", shape=(count,), axis=0, dtype=int64)
    if step != 1:
        line = pointwise.mul(line, step)
    return converted(pointwise.add(line, start), dtype)


def _progression(count: int, start: Any, step: Any, dtype: DType, integral: bool) -> Tensor:
    line = record("iota", shape=(count,), axis=0, dtype=int64)
    if integral:
        if step != 1:
            line = pointwise.mul(line, int(step))
        if start != 0:
            line = pointwise.add(line, int(start))
        return converted(line, dtype)
    wide = converted(line, float64)
    return converted(pointwise.add(pointwise.mul(wide, float(step)), float(start)), dtype)


def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` evenly spaced numbers from `start` to `end`, both included."""
    dtype = _options(dtype, device)
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    dtype = dtype or get_default_dtype()
    start, end = float(start), float(end)
    if steps < 2:
        return _finished(filled((steps,), start, dtype), requires_grad)
    step = (end - start) / (steps - 1)
    low = _progression(steps, start, step, float64, False)
    # The upper half counts back from the end, so that the last element is exact.
    back = pointwise.sub(end, pointwise.mul(_progression(steps, steps - 1, -1, float64, True), step))
    first = pointwise.lt(record("iota", shape=(steps,), axis=0, dtype=int64), steps // 2)
    return _finished(converted(pointwise.chosen(first, low, back), dtype), requires_grad)


def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`base` to the powers linspace(start, end, steps)."""
    powers = linspace(start, end, steps, dtype=float64, device=device)
    return _finished(
        converted(pointwise.pow(float(base), powers), dtype or get_default_dtype()), requires_grad
    )
