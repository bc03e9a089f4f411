"""Indexing: `x[...]`, `x[...] = v`, gathers and scatters.

A key is split into a basic part (numbers, slices, None, `...`), which is a chain of views, and
index tensors, which become one `take` along one merged dimension. Boolean masks whose number of
true elements matters are evaluated, so they are not for traced code; `x[mask] = number` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graphc.core import TensorBase, assign
from graphc.functions import pointwise
from graphc.functions.axes import one_axis
from graphc.functions.promotion import (
    Number,
    as_operand,
    converted,
    expanded,
    is_number,
    plain_number,
    shapes_broadcast,
)
from graphc.functions.recording import from_array, record, record_view, scalar
from graphc.functions.shape import as_view, select
from graphc.ir.dims import Dim, minimum, product
from graphc.ir.types import Shape, bool_, int64, uint8

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor


class _Advanced(NamedTuple):
    """An index tensor (integers, or a mask) in place of dimension `at` (and following, for a mask)."""

    at: int
    index: Any
    mask: bool


class _Parsed(NamedTuple):
    view: Any
    advanced: list[_Advanced]


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
    dtype = index.type.dtype
    if dtype.is_floating_point:
        raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    if dtype is uint8:
        return pointwise.ne(index, 0)
    return index


def _bounds(key: slice, size: Dim) -> tuple[Dim, Dim, int]:
    step = 1 if key.step is None else int(key.step)
    if step <= 0:
        raise ValueError("step must be greater than zero")
    start, stop = key.start, key.stop
    if isinstance(size, int):
        low, high, _ = slice(
            None if start is None else int(start), None if stop is None else int(stop), step
        ).indices(size)
        return low, max(low, high), step
    low_dim: Dim = 0 if start is None else start if start >= 0 else size + start
    high_dim: Dim = size if stop is None else minimum(stop, size) if stop >= 0 else size + stop
    return low_dim, high_dim, step


def _consumed(key: Any) -> int:
    """Dimensions of the indexed tensor that one item of a key uses up."""
    if key is None or key is Ellipsis or isinstance(key, (bool, np.bool_)):
        return 0
    if isinstance(key, TensorBase) and key.type.dtype is bool_:
        return len(key.type.shape)
    return 1


def _parse(x: Tensor, key: Any) -> _Parsed:
    shape = x.type.shape
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
    advanced: list[_Advanced] = []
    axis = 0
    for item in items:
        if item is None or isinstance(item, (bool, np.bool_)):
            if item is not None:
                advanced.append(_Advanced(len(result), item, True))
            result.append(1)
            continue
        size: Any = shape[axis] if axis < len(shape) else 1
        if isinstance(item, slice):
            low, high, step = _bounds(item, size)
            result.append(-(-(high - low) // step) if step != 1 else high - low)
        elif isinstance(item, TensorBase):
            mask = item.type.dtype is bool_
            count = len(item.type.shape) if mask else 1
            advanced.append(_Advanced(len(result), item, mask))
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
    if tuple(result) != view.type.shape or (view is x and not advanced):
        view = record_view("reshape", view, shape=tuple(result))
    return _Parsed(view, advanced)


def _one(item: Any, size: Any, axis: int) -> tuple[Dim, Dim]:
    try:
        at = item if isinstance(item, int) else item.__index__()
    except AttributeError:
        raise (TypeError if isinstance(item, str) else IndexError)(
            "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices "
            f"(got {type(item).__name__})"
        ) from None
    if isinstance(size, int) and not -size <= at < size:
        raise IndexError(f"index {at} is out of bounds for dimension {axis} with size {size}")
    low = at + size if at < 0 else at
    return low, low + 1


def _check_mask(mask: Tensor, shape: Shape, axis: int) -> None:
    for i, (m, d) in enumerate(zip(mask.type.shape, shape[axis:], strict=False)):
        if m != d:
            raise IndexError(
                f"The shape of the mask {list(mask.type.shape)} at index {i} does not match the shape of the "
                f"indexed tensor {list(shape)} at index {axis + i}"
            )


def getitem(x: Tensor, key: Any) -> Tensor:
    """`x[key]`: a view for numbers, slices, None and `...`; a copy for index tensors and masks.

    Raises IndexError for positions outside, too many indices, and masks of another shape.
    """
    if type(key) is int:
        return select(x, 0, key) if x.type.shape else _scalar_key()
    view, advanced = _parse(x, key)
    return _taken(view, _positions(view, advanced)) if advanced else view


def _scalar_key() -> Any:
    raise IndexError(
        "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` in C++ to convert a "
        "0-dim tensor to a number"
    )


def _positions(view: Tensor, advanced: list[_Advanced]) -> list[tuple[int, Tensor]]:
    """(dimension, int64 index) pairs; masks become the positions of their true elements."""
    found: list[tuple[int, Any]] = []
    for at, index, mask in advanced:
        if not mask:
            found.append((at, converted(index, int64)))
        elif not isinstance(index, TensorBase) or not index.type.shape:
            true = bool(index)
            found.append((at, from_array(np.zeros(int(true), np.int64), share=False)))
        else:
            for k, line in enumerate(np.nonzero(index._values())):
                found.append((at + k, from_array(line.astype(np.int64), share=False)))
    return found


class _Merged(NamedTuple):
    """The indexed dimensions merged into dimension `axis` of `value`, and how to undo it."""

    value: Any
    axis: int
    index: Any
    order: tuple[int, ...]
    permuted: Shape


def _merge(view: Tensor, positions: list[tuple[int, Tensor]]) -> _Merged:
    shape = view.type.shape
    axes = [at for at, _ in positions]
    rank = len(shape)
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    start = axes[0] if adjacent else 0
    rest = [a for a in range(rank) if a not in axes]
    order = (*rest[:start], *axes, *rest[start:])
    value = view if order == tuple(range(rank)) else record("permute", view, axes=order)
    permuted = value.type.shape
    common = shapes_broadcast(*[i.type.shape for _, i in positions])
    sizes = [shape[a] for a in axes]
    if len(positions) == 1:
        return _Merged(value, start, _wrapped(positions[0][1], sizes[0]), order, permuted)
    merged = record(
        "reshape", value, shape=(*permuted[:start], product(sizes), *permuted[start + len(axes) :])
    )
    linear: Any = None
    step: Dim = 1
    for (_, index), size in reversed(list(zip(positions, sizes, strict=True))):
        # Reading positions from a table of each dimension's own size checks the range.
        table = record("iota", shape=(size,), axis=0, dtype=int64)
        if step != 1:
            table = pointwise.mul(table, step)
        part = expanded(record("take", table, _wrapped(index, size), axis=0), common)
        linear = part if linear is None else record("add", linear, part)
        step = step * size
    return _Merged(merged, start, linear, order, permuted)


def _wrapped(index: Tensor, size: Dim) -> Tensor:
    """Negative positions counted from the end."""
    below = pointwise.lt(index, 0)
    return pointwise.chosen(below, pointwise.add(index, size), index)


def _taken(view: Tensor, positions: list[tuple[int, Tensor]]) -> Tensor:
    merged = _merge(view, positions)
    return record("take", merged.value, merged.index, axis=merged.axis)


# -- writing ------------------------------------------------------------------------------------


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """`x[key] = value`, with `value` converted to x's dtype and broadcast.

    Where an index occurs more than once with different values, the result there is unspecified
    (as in PyTorch).
    """
    view, advanced = _parse(x, key)
    if isinstance(value, TensorBase):
        source: Any = converted(value, x.type.dtype)  # type: ignore[arg-type]
    elif is_number(value):
        source = scalar(plain_number(value), x.type.dtype)
    elif isinstance(value, np.ndarray):
        source = from_array(value.astype(x.type.dtype.numpy), share=False)
    else:
        raise TypeError(f"can't assign a {type(value).__name__} to a {x.type.dtype}")
    if not advanced:
        assign(view, _fitted(source, view.type.shape))
    elif (
        len(advanced) == 1
        and advanced[0].mask
        and not source.type.shape
        and isinstance(advanced[0].index, TensorBase)
    ):
        _set_masked(view, advanced[0], source)
    else:
        _set_positions(view, _positions(view, advanced), source)


def _fitted(value: Tensor, shape: Shape) -> Tensor:
    """`value` broadcast to `shape`; extra leading dimensions of size 1 are dropped."""
    have = value.type.shape
    while len(have) > len(shape) and have[0] == 1:
        have = have[1:]
    lead = len(shape) - len(have)
    if lead < 0 or any(d not in (1, shape[i + lead]) for i, d in enumerate(have)):
        raise RuntimeError(
            f"The expanded size of the tensor ({list(shape)}) must match the existing size ({list(have)}): "
            f"shape mismatch: value tensor of shape {list(value.type.shape)} cannot be broadcast to indexing result "
            f"of shape {list(shape)}"
        )
    if have != value.type.shape:
        value = record("reshape", value, shape=have)
    return expanded(value, shape)


def _set_masked(view: Tensor, item: _Advanced, value: Tensor) -> None:
    mask, shape = item.index, view.type.shape
    rank = max(1, len(mask.type.shape))
    spread = (*(1,) * item.at, *(mask.type.shape or (1,)), *(1,) * (len(shape) - item.at - rank))
    full = expanded(as_view(mask, spread), shape)
    assign(view, record("where", full, expanded(value, shape), view))


def _set_positions(view: Tensor, positions: list[tuple[int, Tensor]], source: Tensor) -> None:
    merged = _merge(view, positions)
    shape = merged.value.type.shape
    target = (*shape[: merged.axis], *merged.index.type.shape, *shape[merged.axis + 1 :])
    if not source.type.shape:
        put = expanded(source, shape)
    else:
        put = None
    new = _put(
        merged.value, merged.index, merged.axis, put, None if put is not None else _fitted(source, target)
    )
    new = record("reshape", new, shape=merged.permuted)
    inverse = tuple(merged.order.index(i) for i in range(len(merged.order)))
    assign(
        view,
        new
        if inverse == merged.order == tuple(range(len(inverse)))
        else record("permute", new, axes=inverse),
    )


def _put(base: Tensor, index: Tensor, axis: int, splat: Tensor | None, source: Tensor | None) -> Tensor:
    """`base` with `splat` (of base's shape) or `source` at positions `index` along `axis`."""
    size = base.type.shape[axis]
    zeros = expanded(scalar(0, int64), (size,))
    counts = record("take_add", zeros, index, expanded(scalar(1, int64), index.type.shape), axis=0)
    lead = (*(1 if i != axis else size for i in range(len(base.type.shape))),)
    counts = expanded(as_view(counts, lead), base.type.shape)
    hit = pointwise.gt(counts, 0)
    if splat is not None:
        return record("where", hit, splat, base)
    assert source is not None
    dtype = base.type.dtype
    wide = uint8 if dtype is bool_ else dtype
    empty = expanded(scalar(0, wide), base.type.shape)
    total = record("take_add", empty, index, converted(source, wide), axis=axis)
    # Equal values written several times are summed; their mean is the value.
    many = converted(pointwise.clamp(counts, 1), wide)
    mean = record("div" if wide.is_floating_point else "floor_div", total, many)
    value = record("where", pointwise.gt(counts, 1), mean, total)
    return record("where", hit, converted(value, dtype), base)


# -- functions ------------------------------------------------------------------------------------


def _index_operand(index: Any, function: str) -> Tensor:
    x = as_operand(index, function, "index")
    if x.type.dtype is not int64 and x.type.dtype.name != "i32":
        raise RuntimeError(f"{function}(): Expected dtype int32/int64 for index, but got {x.type.dtype}")
    return converted(x, int64)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Elements at positions `index` (a vector) along `dim`."""
    x, i = as_operand(input, "index_select"), _index_operand(index, "index_select")
    if len(i.type.shape) > 1:
        raise IndexError(
            "index_select(): Index is supposed to be a vector, but got dim: " + str(len(i.type.shape))
        )
    axis = one_axis(dim, len(x.type.shape))
    return record("take", x, as_view(i, (product(i.type.shape),)), axis=axis)


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements at flat positions `index`, negative ones counted from the end."""
    flat = record("reshape", input, shape=(product(input.type.shape),))
    return record("take", flat, _wrapped(_index_operand(index, "take"), product(input.type.shape)), axis=0)


def _cut(x: Tensor, shape: Shape, axis: int, function: str) -> Tensor:
    """`x` without what lies beyond `shape` in dimensions other than `axis`."""
    have = x.type.shape
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
    return as_view(x, (1,)) if not x.type.shape else x


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """result[i][j] = input[index[i][j]][j] for dim 0, and so on."""
    x, i = as_operand(input, "gather"), as_operand(index, "gather", "index")
    if i.type.dtype is not int64 and i.type.dtype.name != "i32":
        raise RuntimeError("gather(): Expected dtype int32/int64 for index")
    axis = one_axis(dim, len(x.type.shape))
    i = converted(i, int64)
    if not x.type.shape or not i.type.shape:
        return as_view(gather(_flat_rank(x), 0, _flat_rank(i)), i.type.shape)
    return record("gather", _cut(x, i.type.shape, axis, "gather"), i, axis=axis)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """As `gather`, with broadcasting of the other dimensions; without `dim`, of flat elements."""
    if dim is None:
        return take(input, record("reshape", indices, shape=(product(indices.type.shape),)))
    axis = one_axis(dim, len(input.type.shape))
    x_shape, i_shape = list(input.type.shape), list(indices.type.shape)
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
    if src.type.dtype is not input.type.dtype:
        raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
    i = _index_operand(index, "scatter_add")
    axis = one_axis(dim, len(input.type.shape))
    return record("scatter_add", input, i, _trimmed(src, i.type.shape), axis=axis)


def _trimmed(src: Tensor, shape: Shape) -> Tensor:
    if src.type.shape == shape:
        return src
    if len(src.type.shape) != len(shape) or any(
        isinstance(d, int) and isinstance(e, int) and e > d
        for d, e in zip(src.type.shape, shape, strict=True)
    ):
        raise RuntimeError(f"Expected index {list(shape)} to be no larger than src {list(src.type.shape)}")
    return record("slice", src, starts=(0,) * len(shape), stops=shape, strides=(1,) * len(shape))


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Number | None = None
) -> Tensor:
    """`input` with src (a tensor or number) written at [index[i][j]][j] for dim 0, and so on."""
    i = _index_operand(index, "scatter")
    axis = one_axis(dim, len(input.type.shape))
    dtype = input.type.dtype
    given = value if src is None else src
    if isinstance(given, TensorBase):
        if given.type.dtype is not dtype:
            raise RuntimeError("scatter(): Expected self.dtype to be equal to src.dtype")
        source = _trimmed(given, i.type.shape)  # type: ignore[arg-type]
    else:
        source = expanded(scalar(plain_number(given), dtype), i.type.shape)
    shape = input.type.shape
    zeros, ones = expanded(scalar(0, int64), shape), expanded(scalar(1, int64), i.type.shape)
    counts = record("scatter_add", zeros, i, ones, axis=axis)
    wide = uint8 if dtype is bool_ else dtype
    total = record("scatter_add", expanded(scalar(0, wide), shape), i, converted(source, wide), axis=axis)
    many = converted(pointwise.clamp(counts, 1), wide)
    mean = record("div" if wide.is_floating_point else "floor_div", total, many)
    found = record("where", pointwise.gt(counts, 1), mean, total)
    return record("where", pointwise.gt(counts, 0), converted(found, dtype), input)


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Number = 1) -> Tensor:
    """`input` with alpha · source added at positions `index` (a vector) along `dim`."""
    if source.type.dtype is not input.type.dtype:
        raise RuntimeError(
            f"index_add_(): self ({input.type.dtype.torch_name}) and source ({source.type.dtype.torch_name}) must "
            "have the same scalar type"
        )
    axis = one_axis(dim, len(input.type.shape))
    add = source if alpha == 1 else pointwise.mul(source, alpha)
    return record("take_add", input, _index_operand(index, "index_add"), add, axis=axis)


def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """`input` with `source` written at positions `index` (a vector) along `dim`."""
    axis = one_axis(dim, len(input.type.shape))
    return _put(input, _index_operand(index, "index_copy"), axis, None, source)


def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """`input` with a number written at positions `index` (a vector) along `dim`."""
    axis = one_axis(dim, len(input.type.shape))
    filler = value if isinstance(value, TensorBase) else scalar(plain_number(value), input.type.dtype)
    splat = expanded(converted(filler, input.type.dtype), input.type.shape)  # type: ignore[arg-type]
    return _put(input, _index_operand(index, "index_fill"), axis, splat, None)


def index_put(input: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False) -> Tensor:
    """`input` with `values` written (or added) at the positions that index tensors give."""
    view, advanced = _parse(input, tuple(slice(None) if i is None else i for i in indices))
    positions = _positions(view, advanced)
    if not accumulate:
        result = pointwise.record_copy(input)
        setitem(result, tuple(indices), values)
        return result
    merged = _merge(view, positions)
    shape = merged.value.type.shape
    target = (*shape[: merged.axis], *merged.index.type.shape, *shape[merged.axis + 1 :])
    new = record("take_add", merged.value, merged.index, _fitted(values, target), axis=merged.axis)
    inverse = tuple(merged.order.index(i) for i in range(len(merged.order)))
    return record("permute", record("reshape", new, shape=merged.permuted), axes=inverse)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """Elements where `mask` is true, as a vector. Evaluates the mask."""
    if mask.type.dtype is not bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    shape = shapes_broadcast(input.type.shape, mask.type.shape)
    return getitem(expanded(input, shape), expanded(mask, shape))


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Indices of nonzero elements: one row each, or a tuple of vectors. Evaluates `input`."""
    found = np.nonzero(np.atleast_1d(input._values()))[: max(1, len(input.type.shape))]
    if as_tuple:
        return tuple(from_array(line.astype(np.int64), share=False) for line in found)
    rows = np.stack(found, 1) if input.type.shape else np.zeros((len(found[0]), 0))
    return from_array(rows.astype(np.int64), share=False)


def argwhere(input: Tensor) -> Tensor:
    """`nonzero(input)`."""
    result: Tensor = nonzero(input)
    return result


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at the position of each class number along a new last dimension, 0 elsewhere.

    `num_classes=-1` reads the largest class (evaluates). Raises RuntimeError for other than int64.
    """
    if tensor.type.dtype is not int64:
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
    shape = (*tensor.type.shape, num_classes)
    classes = record("iota", shape=shape, axis=len(shape) - 1, dtype=int64)
    # Reading a table by class number makes a number that is too large an error.
    checked = record("take", record("iota", shape=(num_classes,), axis=0, dtype=int64), tensor, axis=0)
    return converted(record("eq", expanded(as_view(checked, (*tensor.type.shape, 1)), shape), classes), int64)
