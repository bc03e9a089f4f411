"""Functions that change shape: views (sharing storage, as in PyTorch), joins, splits, repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphc.core import Size
from graphc.functions.axes import one_axis, resolve_shape, shape_argument
from graphc.functions.promotion import as_operand, converted, expanded, result_type, shapes_broadcast
from graphc.functions.recording import record, record_view, scalar
from graphc.functions.strides import is_contiguous, row_major, strides_of, view_strides
from graphc.ir.dims import Dim, product
from graphc.ir.types import Shape, bool_, int64

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

# -- views of the same elements -----------------------------------------------------------------


def as_view(x: Tensor, shape: Shape) -> Tensor:
    """`x` seen as `shape`, whose strides are known to exist (added or dropped size-1 dimensions, …)."""
    return x if x.type.shape == shape else record_view("reshape", x, shape=shape)


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The elements in row-major order as `shape`; one dimension may be -1. A view where no data moves."""
    new = resolve_shape(shape_argument(shape, "reshape"), input.type.shape)
    return reshaped(input, new)


def reshaped(x: Tensor, new: Shape) -> Tensor:
    """As `reshape`, for a resolved shape."""
    if not x._chain or view_strides(x.type.shape, strides_of(x), new) is not None:
        return record_view("reshape", x, shape=new)
    return record("reshape", x, shape=new)


def view(input: Tensor, *shape: Any) -> Tensor:
    """A view of the same elements as `shape`. Raises RuntimeError where that would move data."""
    new = resolve_shape(shape_argument(shape, "view"), input.type.shape)
    if input._chain and view_strides(input.type.shape, strides_of(input), new) is None:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride (at least one dimension spans "
            "across two contiguous subspaces). Use .reshape(...) instead."
        )
    return record_view("reshape", input, shape=new)


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.view(other.size())`."""
    return view(input, other.type.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.reshape(other.size())`."""
    return reshape(input, other.type.shape)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions `start_dim` to `end_dim` as one."""
    shape = input.type.shape
    if not shape:
        return reshaped(input, (1,))
    start, end = one_axis(start_dim, len(shape)), one_axis(end_dim, len(shape))
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if start == end:
        return input
    return reshaped(input, (*shape[:start], product(shape[start : end + 1]), *shape[end + 1 :]))


def ravel(input: Tensor) -> Tensor:
    """All elements as one dimension."""
    return reshape(input, -1)


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` as the dimensions `sizes`, one of which may be -1."""
    shape = input.type.shape
    at = one_axis(dim, len(shape))
    inner = resolve_shape(tuple(sizes), (shape[at],))
    return reshaped(input, (*shape[:at], *inner, *shape[at + 1 :]))


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without dimensions of size 1 (only those in `dim`, where given)."""
    shape = input.type.shape
    if dim is None:
        return record_view("reshape", input, shape=tuple(d for d in shape if d != 1))
    wanted = {one_axis(d, len(shape)) for d in ((dim,) if isinstance(dim, int) else dim)}
    return record_view(
        "reshape", input, shape=tuple(d for i, d in enumerate(shape) if i not in wanted or d != 1)
    )


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of size 1 before `dim`."""
    shape = input.type.shape
    at = one_axis(dim, len(shape) + 1)
    return record_view("reshape", input, shape=(*shape[:at], 1, *shape[at:]))


def permute(input: Tensor, *dims: Any) -> Tensor:
    """Dimensions in the order `dims`."""
    order = shape_argument(dims, "permute")
    rank = len(input.type.shape)
    if len(order) != rank:
        raise RuntimeError(
            "permute(sparse_coo): number of dimensions in the tensor input does not match the length of the "
            f"desired ordering of dimensions i.e. input.dim() = {rank} is not equal to len(dims) = {len(order)}"
        )
    axes = tuple(one_axis(d, rank) for d in order)  # type: ignore[arg-type]
    if len(set(axes)) != rank:
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return record_view("permute", input, axes=axes)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """With two dimensions exchanged."""
    rank = len(input.type.shape)
    a, b = one_axis(dim0, rank), one_axis(dim1, rank)
    if rank == 0 or a == b:
        return record_view("reshape", input, shape=input.type.shape)
    axes = list(range(rank))
    axes[a], axes[b] = b, a
    return record_view("permute", input, axes=tuple(axes))


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; vectors and scalars as they are. Raises RuntimeError for rank > 2."""
    rank = len(input.type.shape)
    if rank > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {rank}D")
    return transpose(input, 0, rank - 1) if rank else transpose(input, 0, 0)


def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Dimensions `source` moved to positions `destination`, the others in order."""
    rank = len(input.type.shape)
    sources = [one_axis(d, rank) for d in ((source,) if isinstance(source, int) else source)]
    targets = [one_axis(d, rank) for d in ((destination,) if isinstance(destination, int) else destination)]
    if len(sources) != len(targets):
        raise RuntimeError("movedim: Invalid source or destination dims: they must have one length")
    rest = iter([i for i in range(rank) if i not in sources])
    place = dict(zip(targets, sources, strict=True))
    return record_view(
        "permute", input, axes=tuple(place[i] if i in place else next(rest) for i in range(rank))
    )


def expand(input: Tensor, *size: Any) -> Tensor:
    """A view with size-1 and missing leading dimensions repeated; -1 keeps a size."""
    new = list(shape_argument(size, "expand"))
    shape = input.type.shape
    lead = len(new) - len(shape)
    if lead < 0:
        raise RuntimeError(
            f"expand({input.type}, size={new}): the number of sizes provided ({len(new)}) must be greater or equal "
            f"to the number of dimensions in the tensor ({len(shape)})"
        )
    for i, d in enumerate(new):
        if d == -1:
            if i < lead:
                raise RuntimeError(
                    f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension {i}"
                )
            new[i] = shape[i - lead]
        elif i >= lead and shape[i - lead] != 1 and shape[i - lead] != d:
            raise RuntimeError(
                f"The expanded size of the tensor ({d}) must match the existing size ({shape[i - lead]}) at "
                f"non-singleton dimension {i}.  Target sizes: {new}.  Tensor sizes: {list(shape)}"
            )
    return record_view("expand", input, shape=tuple(new))


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.expand(other.size())`."""
    return expand(input, other.type.shape)


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """As `expand`."""
    return expand(input, size)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Views of the tensors in their common broadcast shape."""
    shape = shapes_broadcast(*[x.type.shape for x in tensors])
    return tuple(expand(x, shape) for x in tensors)


def broadcast_shapes(*shapes: Any) -> Any:
    """The broadcast of shapes as a Size."""
    return Size(shapes_broadcast(*[(s,) if isinstance(s, int) else tuple(s) for s in shapes]))


# -- parts ----------------------------------------------------------------------------------------


def sliced(x: Tensor, axis: int, start: Dim, stop: Dim, step: int = 1) -> Tensor:
    """A view of elements [start, stop) with a step along one dimension, bounds already checked."""
    shape = x.type.shape
    starts = tuple(start if i == axis else 0 for i in range(len(shape)))
    stops = tuple(stop if i == axis else d for i, d in enumerate(shape))
    strides = tuple(step if i == axis else 1 for i in range(len(shape)))
    return record_view("slice", x, starts=starts, stops=stops, strides=strides)


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A view of `length` elements from `start` along `dim`."""
    axis = one_axis(dim, len(input.type.shape))
    size: Any = input.type.shape[axis]
    if start < 0:
        start += size
    if not 0 <= start <= size:
        raise IndexError(
            f"start out of range (expected to be in range of [-{size}, {size}], but got {start})"
        )
    if length < 0 or start + length > size:
        raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({size}).")
    return sliced(input, axis, start, start + length)


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """A view without dimension `dim`, at position `index` of it."""
    shape = input.type.shape
    if not shape:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    axis = one_axis(dim, len(shape))
    size: Any = shape[axis]
    if not -size <= index < size:
        raise IndexError(
            f"select(): index {index} out of range for tensor of size {list(shape)} at dimension {axis}"
        )
    at = index + size if index < 0 else index
    return record_view("reshape", sliced(input, axis, at, at + 1), shape=(*shape[:axis], *shape[axis + 1 :]))


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of consecutive parts along `dim`: of one size (the last may be smaller), or of given sizes."""
    axis = one_axis(dim, len(tensor.type.shape))
    size: Any = tensor.type.shape[axis]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        if step < 0 or (step == 0 and size):
            raise RuntimeError(f"split expects split_size be non-negative, but got split_size={step}")
        sections = [min(step, size - i) for i in range(0, size, step)] if size else [0]
    else:
        sections = list(split_size_or_sections)
        if sum(sections) != size:
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {size} (input tensor's size at dimension "
                f"{axis}), but got split_sizes={sections}"
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
    size: Any = input.type.shape[one_axis(dim, len(input.type.shape))]
    return split(input, max(1, -(-size // chunks)), dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Views without dimension `dim`, one for each of its positions."""
    size: Any = input.type.shape[one_axis(dim, len(input.type.shape))]
    return tuple(select(input, dim, i) for i in range(size))


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dimensions, as the last dimension (a copy)."""
    rank = len(input.type.shape)
    a, b = one_axis(dim1, rank), one_axis(dim2, rank)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    x = movedim(input, (a, b), (rank - 2, rank - 1))
    *lead, rows, columns = x.type.shape
    x = x[..., max(0, -offset) :, max(0, offset) :]
    length: Any = min(max(0, rows + min(0, offset)), max(0, columns - max(0, offset)))  # type: ignore[type-var]
    x = x[..., :length, :length]
    mask = record("eq", *(record("iota", shape=(length, length), axis=k, dtype=int64) for k in (0, 1)))
    kept = record(
        "where", expanded(mask, (*lead, length, length)), x, expanded(scalar(0, x.type.dtype), x.type.shape)
    )
    return kept.sum(-1, dtype=x.type.dtype)


_diagonal = diagonal


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix with a vector on its diagonal, or the diagonal of a matrix."""
    if len(input.type.shape) == 1:
        n: Any = input.type.shape[0]
        size = n + max(diagonal, -diagonal)
        low, left = max(0, diagonal), max(0, -diagonal)
        row = record("pad", input, low=(low,), high=(size - n - low,), value=0)
        i, j = (record("iota", shape=(size, size), axis=k, dtype=int64) for k in (0, 1))
        on = record("eq", record("add", i, expanded(scalar(low - left, int64), (size, size))), j)
        grid = expanded(row, (size, size))
        return record("where", on, grid, expanded(scalar(0, input.type.dtype), (size, size)))
    if len(input.type.shape) == 2:
        return _diagonal(input, diagonal)
    raise RuntimeError("diag(): Supports 1D or 2D tensors. Got " + f"{len(input.type.shape)}D")


def contiguous(input: Tensor) -> Tensor:
    """`input` where its elements lie in row-major order, else a copy that does."""
    return input if is_contiguous(input) else record("reshape", input, shape=input.type.shape)


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with storage of its own, on the tape."""
    return record("reshape", input, shape=input.type.shape)


def stride(input: Tensor, dim: int | None = None) -> Any:
    """Strides in elements (of one dimension, where given)."""
    found = strides_of(input) if input._chain else row_major(input.type.shape)
    return found if dim is None else found[one_axis(dim, len(found))]


# -- joins and repeats -------------------------------------------------------------------------------


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along `dim`. Empty one-dimensional tensors are skipped, as in PyTorch."""
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"cat(): argument 'tensors' must be tuple of Tensors, not {type(tensors).__name__}")
    if not tensors:
        raise ValueError("cat(): expected a non-empty list of Tensors")
    items = [as_operand(x, "cat", f"tensors[{i}]") for i, x in enumerate(tensors)]
    dtype = result_type(*items)
    kept = [x for x in items if x.type.shape != (0,)] or items[:1]
    rank = len(kept[0].type.shape)
    if rank == 0:
        raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    axis = one_axis(dim, rank)
    for i, x in enumerate(kept):
        if len(x.type.shape) != rank:
            raise RuntimeError(
                f"Tensors must have same number of dimensions: got {rank} and {len(x.type.shape)}"
            )
        for k, (d, e) in enumerate(zip(kept[0].type.shape, x.type.shape, strict=True)):
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
    first = tensors[0].type.shape
    for i, x in enumerate(tensors):
        if x.type.shape != first:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(first)} at entry 0 and "
                f"{list(x.type.shape)} at entry {i}"
            )
    return cat([unsqueeze(x, dim) for x in tensors], dim)


def atleast_1d(x: Tensor) -> Tensor:
    """`x` with at least one dimension."""
    return x if x.type.shape else reshaped(x, (1,))


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Side by side: along dimension 1, or 0 of vectors."""
    items = [atleast_1d(x) for x in tensors]
    return cat(items, 0 if len(items[0].type.shape) == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """One below the other: vectors are rows."""
    return cat([reshaped(x, (1, product(x.type.shape))) if len(x.type.shape) < 2 else x for x in tensors], 0)


def flip(input: Tensor, *dims: Any) -> Tensor:
    """Reversed along `dims` (a copy)."""
    axes = tuple(sorted(one_axis(d, len(input.type.shape)) for d in shape_argument(dims, "flip")))  # type: ignore[arg-type]
    return record("flip", input, axes=axes)


def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """Rotated by `shifts` along `dims`; without dims, of the flattened elements."""
    if dims is None:
        return reshaped(roll(reshape(input, -1), shifts, 0), input.type.shape)
    pairs = zip(
        (shifts,) if isinstance(shifts, int) else shifts,
        (dims,) if isinstance(dims, int) else dims,
        strict=True,
    )
    x = input
    for shift, dim in pairs:
        axis = one_axis(dim, len(x.type.shape))
        size: Any = x.type.shape[axis]
        by = shift % size if size else 0
        x = cat([sliced(x, axis, size - by, size), sliced(x, axis, 0, size - by)], axis) if by else clone(x)
    return x


def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """Copies side by side, `repeats` times along each dimension (new leading ones included)."""
    counts = shape_argument(repeats, "repeat")
    shape = input.type.shape
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
    return repeat(input, (1,) * (len(input.type.shape) - len(counts)) + counts)


def repeat_interleave(input: Tensor, repeats: int, dim: int | None = None) -> Tensor:
    """Each element `repeats` times in a row along `dim`; without dim, of the flattened elements."""
    if dim is None:
        input, dim = reshape(input, -1), 0
    shape = input.type.shape
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
    sizes = tuple(items[i].type.numel for i in order)
    grids: list[Any] = [None] * len(items)
    for place, i in enumerate(order):
        lined = reshape(items[i], tuple(-1 if k == place else 1 for k in range(len(items))))
        grids[i] = expand(lined, sizes)
    return tuple(grids)


def _triangle(input: Tensor, diagonal: int, keep: str) -> Tensor:
    shape = input.type.shape
    if len(shape) < 2:
        raise RuntimeError("tril: input tensor must have at least 2 dimensions")
    grid = shape[-2:]
    i, j = (record("iota", shape=grid, axis=k, dtype=int64) for k in (0, 1))
    if diagonal:
        i = record("add", i, expanded(scalar(diagonal, int64), grid))
    mask = expanded(record(keep, j, i), shape)
    if input.type.dtype is bool_:
        return record("logical_and", mask, input)
    return record("where", mask, input, expanded(scalar(0, input.type.dtype), shape))


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, 0 elsewhere."""
    return _triangle(input, diagonal, "le")


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, 0 elsewhere."""
    return _triangle(input, diagonal, "ge")


def numel(input: Tensor) -> int:
    """Number of elements."""
    return product(input.type.shape)  # type: ignore[return-value]


swapaxes = swapdims = transpose
moveaxis = movedim
