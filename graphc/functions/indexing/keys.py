"""Keys of `x[...]`: parsed into views and index tensors, and several index tensors merged into one.

A key is split into a basic part (numbers, slices, None, `...`), which is a chain of views, and
index tensors, which become one `take` along one merged dimension. Boolean masks whose number of
true elements matters are evaluated, so they are not for traced code; `x[mask] = number` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graphc.core import TensorBase, assume, plain
from graphc.core.symint import known
from graphc.functions import pointwise
from graphc.functions.promotion import (
    converted,
    expanded,
    shapes_broadcast,
)
from graphc.functions.recording import from_array, record, record_view
from graphc.ir.dims import Dim, Expr, ceil_div, less_equal, maximum, minimum, product
from graphc.ir.types import Shape, bool_, int64, uint8

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = ["Advanced", "Merged", "Parsed", "merge", "parse_key", "positions_of", "wrapped"]


class Advanced(NamedTuple):
    """An index tensor (integers, or a mask) in place of dimension `at` (and following, for a mask)."""

    at: int
    index: Any
    mask: bool


class Parsed(NamedTuple):
    view: Any
    advanced: list[Advanced]


def _as_index(key: Any) -> Any:
    """A list, tuple or array inside a key as an index tensor."""
    if isinstance(key, TensorBase):
        index = key
    else:
        if isinstance(key, (list, tuple)):
            key = [k._values() if isinstance(k, TensorBase) else k for k in key]
        array = np.asarray(key)
        if array.size == 0 and array.dtype.kind == "f":
            array = array.astype(np.int64)
        index = from_array(array, share=False)
    dtype = index.tensor_type.dtype
    if dtype.is_floating_point:
        raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    if dtype is uint8:
        return pointwise.ne(index, 0)
    return index


def _bounds(key: slice, size: Dim) -> tuple[Dim, Dim, int]:
    step = 1 if key.step is None else int(key.step)
    if step <= 0:
        raise ValueError("step must be greater than zero")
    start, stop = plain(key.start), plain(key.stop)
    if isinstance(size, int) and not isinstance(start, Expr) and not isinstance(stop, Expr):
        low, high, _ = slice(
            None if start is None else int(start), None if stop is None else int(stop), step
        ).indices(size)
        return low, max(low, high), step
    if not isinstance(start, Expr) and not isinstance(stop, Expr):
        return (
            *_clamped(0 if start is None else int(start), None if stop is None else int(stop), size),
            step,
        )
    low_dim = 0 if start is None else _from_start(start, size)
    high_dim = size if stop is None else minimum(_from_start(stop, size), size)
    message = f"the slice {_spelt(start)}:{_spelt(stop)} must lie inside of a dimension of size {size}"
    for least, most in ((0, low_dim), (low_dim, size), (0, high_dim)):
        assume(most, ">=", least, IndexError, message)
    if less_equal(high_dim, low_dim):
        high_dim = low_dim
    assume(high_dim, ">=", low_dim, IndexError, message)
    return low_dim, high_dim, step


def _clamped(start: int, stop: int | None, size: Dim) -> tuple[Dim, Dim]:
    """Bounds of a slice by numbers of a symbolic size, as Python clamps them. Lengths come first, so that x[1:] and
    x[:-1] are of one type."""

    def positive(x: Dim) -> Dim:
        return x if known(x, ">=") else maximum(x, 0)

    first = start if start >= 0 else positive(size + start)
    end = size if stop is None else size + stop if stop < 0 else minimum(size, stop)
    length = positive(end - first)
    low = first if known(size - first, ">=") else minimum(first, size)
    return low, low + length


def _spelt(bound: Any) -> str:
    return "" if bound is None else str(bound)


def _from_start(at: Any, size: Dim) -> Dim:
    """A position of a slice as one that is not negative. One that is symbolic is taken for a position from the start
    unless its bounds say that it is negative."""
    position: Dim = at if isinstance(at, Expr) else int(at)
    return size + position if less_equal(position, -1) else position


def _consumed(key: Any) -> int:
    """Dimensions of the indexed tensor that one item of a key uses up."""
    if key is None or key is Ellipsis or isinstance(key, (bool, np.bool_)):
        return 0
    if isinstance(key, TensorBase) and key.tensor_type.dtype is bool_:
        return len(key.tensor_type.shape)
    return 1


def parse_key(x: Tensor, key: Any) -> Parsed:
    shape = x.tensor_type.shape
    items = list(key) if isinstance(key, tuple) else [key]
    for i, item in enumerate(items):
        if isinstance(item, (list, tuple, np.ndarray, TensorBase)):
            items[i] = _as_index(item)
    used = sum(_consumed(item) for item in items)
    if used > len(shape):
        raise IndexError(f"too many indices for tensor of dimension {len(shape)}")
    fill = [slice(None)] * (len(shape) - used)
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if dots:
        items[dots[0] : dots[0] + 1] = fill
    else:
        items += fill
    starts: list[Dim] = []
    stops: list[Dim] = []
    strides: list[int] = []
    result: list[Dim] = []
    advanced: list[Advanced] = []
    axis = 0
    for item in items:
        if item is None or isinstance(item, (bool, np.bool_)):
            if item is not None:
                advanced.append(Advanced(len(result), item, True))
            result.append(1)
            continue
        size: Any = shape[axis] if axis < len(shape) else 1
        if isinstance(item, slice):
            low, high, step = _bounds(item, size)
            result.append(ceil_div(high - low, step))
        elif isinstance(item, TensorBase):
            mask = item.tensor_type.dtype is bool_
            count = len(item.tensor_type.shape) if mask else 1
            advanced.append(Advanced(len(result), item, mask))
            if mask:
                _check_mask(item, shape, axis)  # type: ignore[arg-type]
            for d in shape[axis : axis + count]:
                starts.append(0)
                stops.append(d)
                strides.append(1)
                result.append(d)
            if count == 0:
                result.append(1)
            axis += count
            continue
        else:
            low, high, step = *_one(item, size, axis), 1
        starts.append(low)
        stops.append(high)
        strides.append(step)
        axis += 1
    view = x
    if any(a != 0 or b != d or s != 1 for a, b, s, d in zip(starts, stops, strides, shape, strict=True)):
        view = record_view("slice", x, starts=tuple(starts), stops=tuple(stops), strides=tuple(strides))
    if tuple(result) != view.tensor_type.shape or (view is x and not advanced):
        view = record_view("reshape", view, shape=tuple(result))
    return Parsed(view, advanced)


def _one(item: Any, size: Any, axis: int) -> tuple[Dim, Dim]:
    try:
        at = plain(item) if isinstance(item, (int, Expr)) else item.__index__()
    except AttributeError:
        raise (TypeError if isinstance(item, str) else IndexError)(
            "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices "
            f"(got {type(item).__name__})"
        ) from None
    message = f"index {at} is out of bounds for dimension {axis} with size {size}"
    low = _from_start(at, size)
    assume(low, ">=", 0, IndexError, message)
    assume(size, ">=", low + 1, IndexError, message)
    return low, low + 1


def _check_mask(mask: Tensor, shape: Shape, axis: int) -> None:
    for i, (m, d) in enumerate(zip(mask.tensor_type.shape, shape[axis:], strict=False)):
        if m != d:
            raise IndexError(
                f"The shape of the mask {list(mask.tensor_type.shape)} at index {i} does not match the shape of the "
                f"indexed tensor {list(shape)} at index {axis + i}"
            )


def positions_of(view: Tensor, advanced: list[Advanced]) -> list[tuple[int, Tensor]]:
    """(dimension, int64 index) pairs; masks become the positions of their true elements."""
    found: list[tuple[int, Any]] = []
    for at, index, mask in advanced:
        if not mask:
            found.append((at, converted(index, int64)))
        elif not isinstance(index, TensorBase) or not index.tensor_type.shape:
            true = bool(index)
            found.append((at, from_array(np.zeros(int(true), np.int64), share=False)))
        else:
            for k, line in enumerate(np.nonzero(index._values())):
                found.append((at + k, from_array(line.astype(np.int64), share=False)))
    return found


class Merged(NamedTuple):
    """The indexed dimensions merged into dimension `axis` of `value`, and how to undo it."""

    value: Any
    axis: int
    index: Any
    order: tuple[int, ...]
    permuted: Shape
    check: str
    """What an index outside of its dimension raises."""


def merge(view: Tensor, positions: list[tuple[int, Tensor]]) -> Merged:
    shape = view.tensor_type.shape
    axes = [at for at, _ in positions]
    rank = len(shape)
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    start = axes[0] if adjacent else 0
    rest = [a for a in range(rank) if a not in axes]
    order = (*rest[:start], *axes, *rest[start:])
    value = view if order == tuple(range(rank)) else record("permute", view, axes=order)
    permuted = value.tensor_type.shape
    common = shapes_broadcast(*[i.tensor_type.shape for _, i in positions])
    sizes = [shape[a] for a in axes]
    if len(positions) == 1:
        index = wrapped(positions[0][1], sizes[0])
        return Merged(value, start, index, order, permuted, _check(axes[0]))
    merged = record(
        "reshape", value, shape=(*permuted[:start], product(sizes), *permuted[start + len(axes) :])
    )
    linear: Any = None
    step: Dim = 1
    for (at, index), size in reversed(list(zip(positions, sizes, strict=True))):
        # Reading positions from a table of each dimension's own size checks the range.
        table = record("iota", shape=(size,), axis=0, dtype=int64)
        if step != 1:
            table = pointwise.mul(table, step)
        part = expanded(record("take", table, wrapped(index, size), axis=0, check=_check(at)), common)
        linear = part if linear is None else record("add", linear, part)
        step = step * size
    return Merged(merged, start, linear, order, permuted, _check(axes[0]))


def _check(axis: int) -> str:
    return f"IndexError: index {{wrapped}} is out of bounds for dimension {axis} with size {{size}}"


def wrapped(index: Tensor, size: Dim) -> Tensor:
    """Negative positions counted from the end."""
    below = pointwise.lt(index, 0)
    return pointwise.chosen(below, pointwise.add(index, size), index)
