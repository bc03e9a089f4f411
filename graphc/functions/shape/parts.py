"""Parts of a tensor: slices, splits (views), diagonals and triangles (copies)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphc.core import assume, plain
from graphc.functions.axes import one_axis
from graphc.functions.promotion import expanded
from graphc.functions.recording import record, record_view, scalar
from graphc.functions.shape.views import movedim
from graphc.ir.dims import Dim, less_equal
from graphc.ir.types import bool_, int64

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = ["chunk", "diag", "diagonal", "narrow", "select", "sliced", "split", "tril", "triu", "unbind"]


def sliced(x: Tensor, axis: int, start: Dim, stop: Dim, step: int = 1) -> Tensor:
    """A view of elements [start, stop) with a step along one dimension, bounds already checked."""
    shape = x.tensor_type.shape
    starts = tuple(start if i == axis else 0 for i in range(len(shape)))
    stops = tuple(stop if i == axis else d for i, d in enumerate(shape))
    strides = tuple(step if i == axis else 1 for i in range(len(shape)))
    return record_view("slice", x, starts=starts, stops=stops, strides=strides)


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A view of `length` elements from `start` along `dim`."""
    axis = one_axis(dim, len(input.tensor_type.shape))
    size: Any = input.tensor_type.shape[axis]
    at = _position(start, size)
    outside = f"start out of range (expected to be in range of [-{size}, {size}], but got {start})"
    assume(at, ">=", 0, IndexError, outside)
    assume(size, ">=", at, IndexError, outside)
    beyond = f"start ({at}) + length ({length}) exceeds dimension size ({size})."
    assume(length, ">=", 0, RuntimeError, beyond)
    assume(size, ">=", at + plain(length), RuntimeError, beyond)
    return sliced(input, axis, at, at + plain(length))


def _position(at: Any, size: Dim) -> Dim:
    """A position counted from the start, where one that its bounds say is negative is counted from the end."""
    position: Dim = plain(at)
    return size + position if less_equal(position, -1) else position


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """A view without dimension `dim`, at position `index` of it."""
    shape = input.tensor_type.shape
    if not shape:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    axis = one_axis(dim, len(shape))
    size: Any = shape[axis]
    message = f"select(): index {index} out of range for tensor of size {list(shape)} at dimension {axis}"
    at = _position(index, size)
    assume(at, ">=", 0, IndexError, message)
    assume(size, ">=", at + 1, IndexError, message)
    return record_view("reshape", sliced(input, axis, at, at + 1), shape=(*shape[:axis], *shape[axis + 1 :]))


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of consecutive parts along `dim`: of one size (the last may be smaller), or of given sizes."""
    axis = one_axis(dim, len(tensor.tensor_type.shape))
    size: Any = tensor.tensor_type.shape[axis]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        if step < 0 or (step == 0 and size):
            raise RuntimeError(f"split expects split_size be non-negative, but got split_size={step}")
        sections = [min(step, size - i) for i in range(0, size, step)] if size else [0]
    else:
        sections = [plain(s) for s in split_size_or_sections]
        assume(
            sum(sections),
            "==",
            size,
            RuntimeError,
            f"split_with_sizes expects split_sizes to sum exactly to {size} (input tensor's size at dimension "
            f"{axis}), but got split_sizes={sections}",
        )
    parts, at = [], 0
    for s in sections:
        parts.append(sliced(tensor, axis, at, at + s))
        at += s
    return tuple(parts)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal parts along `dim`, the last may be smaller."""
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    size: Any = input.tensor_type.shape[one_axis(dim, len(input.tensor_type.shape))]
    return split(input, max(1, -(-size // chunks)), dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Views without dimension `dim`, one for each of its positions."""
    size: Any = input.tensor_type.shape[one_axis(dim, len(input.tensor_type.shape))]
    return tuple(select(input, dim, i) for i in range(size))


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dimensions, as the last dimension (a copy)."""
    rank = len(input.tensor_type.shape)
    a, b = one_axis(dim1, rank), one_axis(dim2, rank)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    x = movedim(input, (a, b), (rank - 2, rank - 1))
    *lead, rows, columns = x.tensor_type.shape
    x = x[..., max(0, -offset) :, max(0, offset) :]
    length: Any = min(max(0, rows + min(0, offset)), max(0, columns - max(0, offset)))
    x = x[..., :length, :length]
    mask = record("eq", *(record("iota", shape=(length, length), axis=k, dtype=int64) for k in (0, 1)))
    kept = record(
        "where",
        expanded(mask, (*lead, length, length)),
        x,
        expanded(scalar(0, x.tensor_type.dtype), x.tensor_type.shape),
    )
    return kept.sum(-1, dtype=x.tensor_type.dtype)


_diagonal = diagonal


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix with a vector on its diagonal, or the diagonal of a matrix."""
    if len(input.tensor_type.shape) == 1:
        n: Any = input.tensor_type.shape[0]
        size = n + max(diagonal, -diagonal)
        low, left = max(0, diagonal), max(0, -diagonal)
        row = record("pad", input, low=(low,), high=(size - n - low,), value=0)
        i, j = (record("iota", shape=(size, size), axis=k, dtype=int64) for k in (0, 1))
        on = record("eq", record("add", i, expanded(scalar(low - left, int64), (size, size))), j)
        grid = expanded(row, (size, size))
        return record("where", on, grid, expanded(scalar(0, input.tensor_type.dtype), (size, size)))
    if len(input.tensor_type.shape) == 2:
        return _diagonal(input, diagonal)
    raise RuntimeError("diag(): Supports 1D or 2D tensors. Got " + f"{len(input.tensor_type.shape)}D")


def _triangle(input: Tensor, diagonal: int, keep: str) -> Tensor:
    shape = input.tensor_type.shape
    if len(shape) < 2:
        raise RuntimeError("tril: input tensor must have at least 2 dimensions")
    grid = shape[-2:]
    i, j = (record("iota", shape=grid, axis=k, dtype=int64) for k in (0, 1))
    if diagonal:
        i = record("add", i, expanded(scalar(diagonal, int64), grid))
    mask = expanded(record(keep, j, i), shape)
    if input.tensor_type.dtype is bool_:
        return record("logical_and", mask, input)
    return record("where", mask, input, expanded(scalar(0, input.tensor_type.dtype), shape))


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, 0 elsewhere."""
    return _triangle(input, diagonal, "le")


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, 0 elsewhere."""
    return _triangle(input, diagonal, "ge")
