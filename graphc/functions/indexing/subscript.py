"""`x[...]`, `x[...] = v`, and functions that read or write at several index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.core import TensorBase, assign
from graphc.core.tensor import record_rows
from graphc.functions import pointwise
from graphc.functions.indexing.keys import Advanced, merge, parse_key, positions_of
from graphc.functions.promotion import (
    converted,
    expanded,
    is_number,
    plain_number,
    shapes_broadcast,
)
from graphc.functions.recording import from_array, record, scalar
from graphc.functions.shape import as_view, select
from graphc.ir.ops.indexing import TAKE_CHECK
from graphc.ir.types import Shape, bool_, int64, uint8

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = ["fitted", "getitem", "index_put", "masked_select", "put_along", "setitem"]


_PLAIN = (int, type(None))


def getitem(x: Tensor, key: Any) -> Tensor:
    """`x[key]`: a view for numbers, slices, None and `...`; a copy for index tensors and masks.

    Raises IndexError for positions outside, too many indices, and masks of another shape.
    """
    if type(key) is int:
        type_ = x.tensor_type
        if type_.shape and type_.is_static and -type_.sizes[0] <= key < type_.sizes[0]:
            row: Tensor = record_rows(x, key if key >= 0 else key + type_.sizes[0])
            return row
        return select(x, 0, key) if x.tensor_type.shape else _scalar_key()
    if type(key) is slice and key.step is None and type(key.start) in _PLAIN and type(key.stop) in _PLAIN:
        type_ = x.tensor_type
        if type_.shape and type_.is_static:
            start, stop, _ = key.indices(type_.sizes[0])
            rows: Tensor = record_rows(x, start, max(start, stop))
            return rows
    view, advanced = parse_key(x, key)
    return _taken(view, positions_of(view, advanced)) if advanced else view


def _scalar_key() -> Any:
    raise IndexError(
        "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` in C++ to convert a "
        "0-dim tensor to a number"
    )


def _taken(view: Tensor, positions: list[tuple[int, Tensor]]) -> Tensor:
    merged = merge(view, positions)
    return record("take", merged.value, merged.index, axis=merged.axis, check=merged.check)


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """`x[key] = value`, with `value` converted to x's dtype and broadcast.

    Where an index occurs more than once with different values, the result there is unspecified
    (as in PyTorch).
    """
    view, advanced = parse_key(x, key)
    if isinstance(value, TensorBase):
        source: Any = converted(value, x.tensor_type.dtype)  # type: ignore[arg-type]
    elif is_number(value):
        source = scalar(plain_number(value), x.tensor_type.dtype)
    elif isinstance(value, np.ndarray):
        source = from_array(value.astype(x.tensor_type.dtype.numpy), share=False)
    else:
        raise TypeError(f"can't assign a {type(value).__name__} to a {x.tensor_type.dtype}")
    if not advanced:
        assign(view, fitted(source, view.tensor_type.shape))
    elif (
        len(advanced) == 1
        and advanced[0].mask
        and not source.tensor_type.shape
        and isinstance(advanced[0].index, TensorBase)
    ):
        _set_masked(view, advanced[0], source)
    else:
        _set_positions(view, positions_of(view, advanced), source)


def fitted(value: Tensor, shape: Shape) -> Tensor:
    """`value` broadcast to `shape`; extra leading dimensions of size 1 are dropped."""
    have = value.tensor_type.shape
    while len(have) > len(shape) and have[0] == 1:
        have = have[1:]
    lead = len(shape) - len(have)
    if lead < 0 or any(d not in (1, shape[i + lead]) for i, d in enumerate(have)):
        raise RuntimeError(
            f"The expanded size of the tensor ({list(shape)}) must match the existing size ({list(have)}): "
            f"shape mismatch: value tensor of shape {list(value.tensor_type.shape)} cannot be broadcast to indexing result "
            f"of shape {list(shape)}"
        )
    if have != value.tensor_type.shape:
        value = record("reshape", value, shape=have)
    return expanded(value, shape)


def _set_masked(view: Tensor, item: Advanced, value: Tensor) -> None:
    mask, shape = item.index, view.tensor_type.shape
    rank = max(1, len(mask.tensor_type.shape))
    spread = (*(1,) * item.at, *(mask.tensor_type.shape or (1,)), *(1,) * (len(shape) - item.at - rank))
    full = expanded(as_view(mask, spread), shape)
    assign(view, record("where", full, expanded(value, shape), view))


def _set_positions(view: Tensor, positions: list[tuple[int, Tensor]], source: Tensor) -> None:
    merged = merge(view, positions)
    shape = merged.value.tensor_type.shape
    target = (*shape[: merged.axis], *merged.index.tensor_type.shape, *shape[merged.axis + 1 :])
    if not source.tensor_type.shape:
        put = expanded(source, shape)
    else:
        put = None
    values = None if put is not None else fitted(source, target)
    new = put_along(merged.value, merged.index, merged.axis, put, values, merged.check)
    new = record("reshape", new, shape=merged.permuted)
    inverse = tuple(merged.order.index(i) for i in range(len(merged.order)))
    assign(
        view,
        new
        if inverse == merged.order == tuple(range(len(inverse)))
        else record("permute", new, axes=inverse),
    )


def put_along(
    base: Tensor,
    index: Tensor,
    axis: int,
    splat: Tensor | None,
    source: Tensor | None,
    check: str = TAKE_CHECK,
) -> Tensor:
    """`base` with `splat` (of base's shape) or `source` at positions `index` along `axis`."""
    size = base.tensor_type.shape[axis]
    zeros = expanded(scalar(0, int64), (size,))
    ones = expanded(scalar(1, int64), index.tensor_type.shape)
    counts = record("take_add", zeros, index, ones, axis=0, check=check)
    lead = (*(1 if i != axis else size for i in range(len(base.tensor_type.shape))),)
    counts = expanded(as_view(counts, lead), base.tensor_type.shape)
    hit = pointwise.gt(counts, 0)
    if splat is not None:
        return record("where", hit, splat, base)
    assert source is not None
    dtype = base.tensor_type.dtype
    wide = uint8 if dtype is bool_ else dtype
    empty = expanded(scalar(0, wide), base.tensor_type.shape)
    total = record("take_add", empty, index, converted(source, wide), axis=axis, check=check)
    # Equal values written several times are summed; their mean is the value.
    many = converted(pointwise.clamp(counts, 1), wide)
    mean = record("div" if wide.is_floating_point else "floor_div", total, many)
    value = record("where", pointwise.gt(counts, 1), mean, total)
    return record("where", hit, converted(value, dtype), base)


def index_put(input: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False) -> Tensor:
    """`input` with `values` written (or added) at the positions that index tensors give."""
    view, advanced = parse_key(input, tuple(slice(None) if i is None else i for i in indices))
    positions = positions_of(view, advanced)
    if not accumulate:
        result = pointwise.record_copy(input)
        setitem(result, tuple(indices), values)
        return result
    merged = merge(view, positions)
    shape = merged.value.tensor_type.shape
    target = (*shape[: merged.axis], *merged.index.tensor_type.shape, *shape[merged.axis + 1 :])
    new = record(
        "take_add", merged.value, merged.index, fitted(values, target), axis=merged.axis, check=merged.check
    )
    inverse = tuple(merged.order.index(i) for i in range(len(merged.order)))
    return record("permute", record("reshape", new, shape=merged.permuted), axes=inverse)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """Elements where `mask` is true, as a vector. Evaluates the mask."""
    if mask.tensor_type.dtype is not bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    shape = shapes_broadcast(input.tensor_type.shape, mask.tensor_type.shape)
    return getitem(expanded(input, shape), expanded(mask, shape))
