"""Joins, repeats and rearrangements: results with storage of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphc.core import plain
from graphc.functions.axes import one_axis, shape_argument
from graphc.functions.promotion import as_operand, converted, result_type
from graphc.functions.recording import record
from graphc.functions.shape.parts import sliced
from graphc.functions.shape.views import atleast_1d, clone, expand, reshape, reshaped, unsqueeze
from graphc.ir.dims import Dim, maximum, mod, product

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = [
    "cat",
    "concat",
    "flip",
    "hstack",
    "meshgrid",
    "repeat",
    "repeat_interleave",
    "roll",
    "stack",
    "tile",
    "vstack",
]


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along `dim`. Empty one-dimensional tensors are skipped, as in PyTorch."""
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"cat(): argument 'tensors' must be tuple of Tensors, not {type(tensors).__name__}")
    if not tensors:
        raise ValueError("cat(): expected a non-empty list of Tensors")
    items = [as_operand(x, "cat", f"tensors[{i}]") for i, x in enumerate(tensors)]
    dtype = result_type(*items)
    kept = [x for x in items if x.tensor_type.shape != (0,)] or items[:1]
    rank = len(kept[0].tensor_type.shape)
    if rank == 0:
        raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    axis = one_axis(dim, rank)
    for i, x in enumerate(kept):
        if len(x.tensor_type.shape) != rank:
            raise RuntimeError(
                f"Tensors must have same number of dimensions: got {rank} and {len(x.tensor_type.shape)}"
            )
        for k, (d, e) in enumerate(zip(kept[0].tensor_type.shape, x.tensor_type.shape, strict=True)):
            if k != axis and d != e:
                raise RuntimeError(
                    f"Sizes of tensors must match except in dimension {axis}. Expected size {d} but got size {e} "
                    f"for tensor number {i} in the list."
                )
    if len(kept) == 1:
        return clone(converted(kept[0], dtype))
    return record("concat", *[converted(x, dtype) for x in kept], axis=axis)


concat = concatenate = cat


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension."""
    if not tensors:
        raise RuntimeError("stack expects a non-empty TensorList")
    first = tensors[0].tensor_type.shape
    for i, x in enumerate(tensors):
        if x.tensor_type.shape != first:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(first)} at entry 0 and "
                f"{list(x.tensor_type.shape)} at entry {i}"
            )
    return cat([unsqueeze(x, dim) for x in tensors], dim)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Side by side: along dimension 1, or 0 of vectors."""
    items = [atleast_1d(x) for x in tensors]
    return cat(items, 0 if len(items[0].tensor_type.shape) == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """One below the other: vectors are rows."""
    return cat(
        [
            reshaped(x, (1, product(x.tensor_type.shape))) if len(x.tensor_type.shape) < 2 else x
            for x in tensors
        ],
        0,
    )


def flip(input: Tensor, *dims: Any) -> Tensor:
    """Reversed along `dims` (a copy)."""
    axes = tuple(sorted(one_axis(d, len(input.tensor_type.shape)) for d in shape_argument(dims, "flip")))  # type: ignore[arg-type]
    return record("flip", input, axes=axes)


def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """Rotated by `shifts` along `dims`; without dims, of the flattened elements."""
    if dims is None:
        return reshaped(roll(reshape(input, -1), shifts, 0), input.tensor_type.shape)
    pairs = zip(
        (shifts,) if isinstance(shifts, int) else shifts,
        (dims,) if isinstance(dims, int) else dims,
        strict=True,
    )
    x = input
    for shift, dim in pairs:
        axis = one_axis(dim, len(x.tensor_type.shape))
        size: Any = x.tensor_type.shape[axis]
        by = mod(plain(shift), maximum(size, 1))
        x = cat([sliced(x, axis, size - by, size), sliced(x, axis, 0, size - by)], axis) if by else clone(x)
    return x


def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """Copies side by side, `repeats` times along each dimension (new leading ones included)."""
    counts = shape_argument(repeats, "repeat")
    shape = input.tensor_type.shape
    lead = len(counts) - len(shape)
    if lead < 0:
        raise RuntimeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor"
        )
    sizes = (1,) * lead + shape
    spread: tuple[Dim, ...] = ()
    unit: tuple[Dim, ...] = ()
    for n, d in zip(counts, sizes, strict=True):
        spread, unit = (*spread, n, d), (*unit, 1, d)
    x = record("expand", record("reshape", input, shape=unit), shape=spread)
    return record("reshape", x, shape=tuple(n * d for n, d in zip(counts, sizes, strict=True)))


def tile(input: Tensor, *dims: Any) -> Tensor:
    """As `repeat`; missing leading counts are 1."""
    counts = shape_argument(dims, "tile")
    return repeat(input, (1,) * (len(input.tensor_type.shape) - len(counts)) + counts)


def repeat_interleave(input: Tensor, repeats: int, dim: int | None = None) -> Tensor:
    """Each element `repeats` times in a row along `dim`; without dim, of the flattened elements."""
    if dim is None:
        input, dim = reshape(input, -1), 0
    shape = input.tensor_type.shape
    axis = one_axis(dim, len(shape))
    x = record("reshape", input, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))
    x = record("expand", x, shape=(*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    return record("reshape", x, shape=(*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Grids of coordinates from vectors; `indexing="xy"` exchanges the first two dimensions."""
    items = tuple(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f'meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    swap = indexing == "xy" and len(items) > 1
    # "xy" is "ij" of the first two exchanged, with their dimensions exchanged.
    order = [1, 0, *range(2, len(items))] if swap else list(range(len(items)))
    sizes = tuple(items[i].tensor_type.numel for i in order)
    grids: list[Any] = [None] * len(items)
    for place, i in enumerate(order):
        lined = reshape(items[i], tuple(-1 if k == place else 1 for k in range(len(items))))
        grids[i] = expand(lined, sizes)
    return tuple(grids)
