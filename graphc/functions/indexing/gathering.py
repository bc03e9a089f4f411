"""Reading and writing along one dimension by index tensors: gather, scatter, take, index_*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.core import TensorBase
from graphc.functions import pointwise
from graphc.functions.axes import one_axis
from graphc.functions.indexing.keys import wrapped
from graphc.functions.indexing.subscript import put_along
from graphc.functions.promotion import (
    Number,
    as_operand,
    converted,
    expanded,
    plain_number,
    shapes_broadcast,
)
from graphc.functions.recording import from_array, record, scalar
from graphc.functions.shape import as_view
from graphc.ir.dims import product
from graphc.ir.ops.indexing import GATHER_CHECK
from graphc.ir.types import Shape, bool_, int64, uint8

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = [
    "argwhere",
    "gather",
    "index_add",
    "index_copy",
    "index_fill",
    "index_select",
    "nonzero",
    "one_hot",
    "scatter",
    "scatter_add",
    "take",
    "take_along_dim",
]


def _index_operand(index: Any, function: str) -> Tensor:
    x = as_operand(index, function, "index")
    if x.tensor_type.dtype is not int64 and x.tensor_type.dtype.name != "i32":
        raise RuntimeError(
            f"{function}(): Expected dtype int32/int64 for index, but got {x.tensor_type.dtype}"
        )
    return converted(x, int64)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Elements at positions `index` (a vector) along `dim`."""
    x, i = as_operand(input, "index_select"), _index_operand(index, "index_select")
    if len(i.tensor_type.shape) > 1:
        raise IndexError(
            "index_select(): Index is supposed to be a vector, but got dim: " + str(len(i.tensor_type.shape))
        )
    axis = one_axis(dim, len(x.tensor_type.shape))
    return record("take", x, as_view(i, (product(i.tensor_type.shape),)), axis=axis)


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements at flat positions `index`, negative ones counted from the end."""
    flat = record("reshape", input, shape=(product(input.tensor_type.shape),))
    positions = wrapped(_index_operand(index, "take"), product(input.tensor_type.shape))
    return record("take", flat, positions, axis=0, check=_FLAT_CHECK)


_FLAT_CHECK = "IndexError: out of range: tried to access index {wrapped} on a tensor of {size} elements."
_CLASS_CHECK = "RuntimeError: Class values must be non-negative and smaller than num_classes."


def _cut(x: Tensor, shape: Shape, axis: int, function: str) -> Tensor:
    """`x` without what lies beyond `shape` in dimensions other than `axis`."""
    have = x.tensor_type.shape
    if len(have) != len(shape):
        raise RuntimeError(
            f"Index tensor must have the same number of dimensions as input tensor ({function})"
        )
    stops = tuple(d if i == axis else shape[i] for i, d in enumerate(have))
    if stops == have:
        return x
    for i, (d, e) in enumerate(zip(have, stops, strict=True)):
        if isinstance(d, int) and isinstance(e, int) and e > d:
            raise RuntimeError(
                f"Size does not match at dimension {i} expected index {list(shape)} to be no larger than self "
                f"{list(have)} apart from dimension {axis}"
            )
    return record("slice", x, starts=(0,) * len(have), stops=stops, strides=(1,) * len(have))


def _flat_rank(x: Tensor) -> Tensor:
    return as_view(x, (1,)) if not x.tensor_type.shape else x


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """result[i][j] = input[index[i][j]][j] for dim 0, and so on."""
    x, i = as_operand(input, "gather"), as_operand(index, "gather", "index")
    if i.tensor_type.dtype is not int64 and i.tensor_type.dtype.name != "i32":
        raise RuntimeError("gather(): Expected dtype int32/int64 for index")
    axis = one_axis(dim, len(x.tensor_type.shape))
    i = converted(i, int64)
    if not x.tensor_type.shape or not i.tensor_type.shape:
        return as_view(gather(_flat_rank(x), 0, _flat_rank(i)), i.tensor_type.shape)
    return record("gather", _cut(x, i.tensor_type.shape, axis, "gather"), i, axis=axis)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """As `gather`, with broadcasting of the other dimensions; without `dim`, of flat elements."""
    if dim is None:
        return take(input, record("reshape", indices, shape=(product(indices.tensor_type.shape),)))
    axis = one_axis(dim, len(input.tensor_type.shape))
    x_shape, i_shape = list(input.tensor_type.shape), list(indices.tensor_type.shape)
    common = list(
        shapes_broadcast(
            tuple(d for k, d in enumerate(x_shape) if k != axis),
            tuple(d for k, d in enumerate(i_shape) if k != axis),
        )
    )
    x = expanded(input, (*common[:axis], x_shape[axis], *common[axis:]))
    return gather(x, axis, expanded(indices, (*common[:axis], i_shape[axis], *common[axis:])))


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """`input` with src[i][j] added at [index[i][j]][j] for dim 0, and so on."""
    if src.tensor_type.dtype is not input.tensor_type.dtype:
        raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
    i = _index_operand(index, "scatter_add")
    axis = one_axis(dim, len(input.tensor_type.shape))
    return record("scatter_add", input, i, _trimmed(src, i.tensor_type.shape), axis=axis)


def _trimmed(src: Tensor, shape: Shape) -> Tensor:
    if src.tensor_type.shape == shape:
        return src
    if len(src.tensor_type.shape) != len(shape) or any(
        isinstance(d, int) and isinstance(e, int) and e > d
        for d, e in zip(src.tensor_type.shape, shape, strict=True)
    ):
        raise RuntimeError(
            f"Expected index {list(shape)} to be no larger than src {list(src.tensor_type.shape)}"
        )
    return record("slice", src, starts=(0,) * len(shape), stops=shape, strides=(1,) * len(shape))


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Number | None = None
) -> Tensor:
    """`input` with src (a tensor or number) written at [index[i][j]][j] for dim 0, and so on."""
    i = _index_operand(index, "scatter")
    axis = one_axis(dim, len(input.tensor_type.shape))
    dtype = input.tensor_type.dtype
    given = value if src is None else src
    if isinstance(given, TensorBase):
        if given.tensor_type.dtype is not dtype:
            raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
        source = _trimmed(given, i.tensor_type.shape)  # type: ignore[arg-type]
    else:
        source = expanded(scalar(plain_number(given), dtype), i.tensor_type.shape)
    shape = input.tensor_type.shape
    zeros, ones = expanded(scalar(0, int64), shape), expanded(scalar(1, int64), i.tensor_type.shape)
    counts = record("scatter_add", zeros, i, ones, axis=axis)
    wide = uint8 if dtype is bool_ else dtype
    total = record("scatter_add", expanded(scalar(0, wide), shape), i, converted(source, wide), axis=axis)
    many = converted(pointwise.clamp(counts, 1), wide)
    mean = record("div" if wide.is_floating_point else "floor_div", total, many)
    found = record("where", pointwise.gt(counts, 1), mean, total)
    return record("where", pointwise.gt(counts, 0), converted(found, dtype), input)


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Number = 1) -> Tensor:
    """`input` with alpha · source added at positions `index` (a vector) along `dim`."""
    if source.tensor_type.dtype is not input.tensor_type.dtype:
        raise RuntimeError(
            f"index_add_(): self ({input.tensor_type.dtype.torch_name}) and source ({source.tensor_type.dtype.torch_name}) must "
            "have the same scalar type"
        )
    axis = one_axis(dim, len(input.tensor_type.shape))
    add = source if alpha == 1 else pointwise.mul(source, alpha)
    return record("take_add", input, _index_operand(index, "index_add"), add, axis=axis, check=GATHER_CHECK)


def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """`input` with `source` written at positions `index` (a vector) along `dim`."""
    axis = one_axis(dim, len(input.tensor_type.shape))
    return put_along(input, _index_operand(index, "index_copy"), axis, None, source)


def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """`input` with a number written at positions `index` (a vector) along `dim`."""
    axis = one_axis(dim, len(input.tensor_type.shape))
    filler = value if isinstance(value, TensorBase) else scalar(plain_number(value), input.tensor_type.dtype)
    splat = expanded(converted(filler, input.tensor_type.dtype), input.tensor_type.shape)  # type: ignore[arg-type]
    return put_along(input, _index_operand(index, "index_fill"), axis, splat, None)


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Indices of nonzero elements: one row each, or a tuple of vectors. Evaluates `input`."""
    found = np.nonzero(np.atleast_1d(input._values()))[: max(1, len(input.tensor_type.shape))]
    if as_tuple:
        return tuple(from_array(line.astype(np.int64), share=False) for line in found)
    rows = np.stack(found, 1) if input.tensor_type.shape else np.zeros((len(found[0]), 0))
    return from_array(rows.astype(np.int64), share=False)


def argwhere(input: Tensor) -> Tensor:
    """`nonzero(input)`."""
    result: Tensor = nonzero(input)
    return result


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at the position of each class number along a new last dimension, 0 elsewhere.

    `num_classes=-1` reads the largest class (evaluates). Raises RuntimeError for other than int64.
    """
    if tensor.tensor_type.dtype is not int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    if num_classes == -1:
        values = tensor._values()
        if values.size == 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        if values.min() < 0:
            raise RuntimeError("Class values must be non-negative.")
        num_classes = int(values.max()) + 1
    if num_classes <= 0:
        raise RuntimeError("num_classes should be positive")
    shape = (*tensor.tensor_type.shape, num_classes)
    classes = record("iota", shape=shape, axis=len(shape) - 1, dtype=int64)
    # Reading a table by class number makes a number that is too large an error.
    line = record("iota", shape=(num_classes,), axis=0, dtype=int64)
    checked = record("take", line, tensor, axis=0, check=_CLASS_CHECK)
    return converted(
        record("eq", expanded(as_view(checked, (*tensor.tensor_type.shape, 1)), shape), classes), int64
    )
