"""The same elements in another shape: views that share storage, as in PyTorch, and copies where data must move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphc.core import Size, assume, symbolic
from graphc.functions.axes import one_axis, resolve_shape, shape_argument
from graphc.functions.promotion import shapes_broadcast
from graphc.functions.recording import record, record_view
from graphc.functions.strides import is_contiguous, row_major, strides_of, view_strides
from graphc.ir.dims import Expr, equal, product
from graphc.ir.types import Shape

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = [
    "as_view",
    "atleast_1d",
    "broadcast_shapes",
    "broadcast_tensors",
    "broadcast_to",
    "clone",
    "contiguous",
    "expand",
    "expand_as",
    "flatten",
    "moveaxis",
    "movedim",
    "numel",
    "permute",
    "ravel",
    "reshape",
    "reshape_as",
    "reshaped",
    "squeeze",
    "stride",
    "swapaxes",
    "t",
    "transpose",
    "unflatten",
    "unsqueeze",
    "view",
    "view_as",
]


def as_view(x: Tensor, shape: Shape) -> Tensor:
    """`x` seen as `shape`, whose strides are known to exist (added or dropped size-1 dimensions, …)."""
    return x if x.tensor_type.shape == shape else record_view("reshape", x, shape=shape)


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The elements in row-major order as `shape`; one dimension may be -1. A view where no data moves."""
    new = resolve_shape(shape_argument(shape, "reshape"), input.tensor_type.shape)
    return reshaped(input, new)


def reshaped(x: Tensor, new: Shape) -> Tensor:
    """As `reshape`, for a resolved shape."""
    if not x._chain or view_strides(x.tensor_type.shape, strides_of(x), new) is not None:
        return record_view("reshape", x, shape=new)
    return record("reshape", x, shape=new)


def view(input: Tensor, *shape: Any) -> Tensor:
    """A view of the same elements as `shape`. Raises RuntimeError where that would move data."""
    new = resolve_shape(shape_argument(shape, "view"), input.tensor_type.shape)
    if input._chain and view_strides(input.tensor_type.shape, strides_of(input), new) is None:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride (at least one dimension spans "
            "across two contiguous subspaces). Use .reshape(...) instead."
        )
    return record_view("reshape", input, shape=new)


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.view(other.size())`."""
    return view(input, other.tensor_type.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.reshape(other.size())`."""
    return reshape(input, other.tensor_type.shape)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions `start_dim` to `end_dim` as one."""
    shape = input.tensor_type.shape
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
    shape = input.tensor_type.shape
    at = one_axis(dim, len(shape))
    inner = resolve_shape(tuple(sizes), (shape[at],))
    return reshaped(input, (*shape[:at], *inner, *shape[at + 1 :]))


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without dimensions of size 1 (only those in `dim`, where given)."""
    shape = input.tensor_type.shape
    if dim is None:
        _not_one("squeeze()", shape)
        return record_view("reshape", input, shape=tuple(d for d in shape if d != 1))
    wanted = {one_axis(d, len(shape)) for d in ((dim,) if isinstance(dim, int) else dim)}
    _not_one("squeeze(dim)", [shape[i] for i in wanted])
    return record_view(
        "reshape", input, shape=tuple(d for i, d in enumerate(shape) if i not in wanted or d != 1)
    )


def _not_one(function: str, sizes: Sequence[Any]) -> None:
    """Says that symbolic sizes are not 1: what `function` does depends on it."""
    for d in sizes:
        message = f"{function} drops dimensions of size 1: a dimension of size {d} must not be 1; name those to drop"
        if isinstance(d, Expr):
            assume(d, "!=", 1, RuntimeError, message)


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of size 1 before `dim`."""
    shape = input.tensor_type.shape
    at = one_axis(dim, len(shape) + 1)
    return record_view("reshape", input, shape=(*shape[:at], 1, *shape[at:]))


def permute(input: Tensor, *dims: Any) -> Tensor:
    """Dimensions in the order `dims`."""
    order = shape_argument(dims, "permute")
    rank = len(input.tensor_type.shape)
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
    rank = len(input.tensor_type.shape)
    a, b = one_axis(dim0, rank), one_axis(dim1, rank)
    if rank == 0 or a == b:
        return record_view("reshape", input, shape=input.tensor_type.shape)
    axes = list(range(rank))
    axes[a], axes[b] = b, a
    return record_view("permute", input, axes=tuple(axes))


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; vectors and scalars as they are. Raises RuntimeError for rank > 2."""
    rank = len(input.tensor_type.shape)
    if rank > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {rank}D")
    return transpose(input, 0, rank - 1) if rank else transpose(input, 0, 0)


def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Dimensions `source` moved to positions `destination`, the others in order."""
    rank = len(input.tensor_type.shape)
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
    shape = input.tensor_type.shape
    lead = len(new) - len(shape)
    if lead < 0:
        raise RuntimeError(
            f"expand({input.tensor_type}, size={new}): the number of sizes provided ({len(new)}) must be greater or equal "
            f"to the number of dimensions in the tensor ({len(shape)})"
        )
    for i, d in enumerate(new):
        if d == -1:
            if i < lead:
                raise RuntimeError(
                    f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension {i}"
                )
            new[i] = shape[i - lead]
        elif i >= lead and shape[i - lead] != 1 and equal(shape[i - lead], d) is not True:
            raise RuntimeError(
                f"The expanded size of the tensor ({d}) must match the existing size ({shape[i - lead]}) at "
                f"non-singleton dimension {i}.  Target sizes: {new}.  Tensor sizes: {list(shape)}"
            )
    return record_view("expand", input, shape=tuple(new))


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.expand(other.size())`."""
    return expand(input, other.tensor_type.shape)


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """As `expand`."""
    return expand(input, size)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Views of the tensors in their common broadcast shape."""
    shape = shapes_broadcast(*[x.tensor_type.shape for x in tensors])
    return tuple(expand(x, shape) for x in tensors)


def broadcast_shapes(*shapes: Any) -> Any:
    """The broadcast of shapes as a Size."""
    return Size(shapes_broadcast(*[(s,) if isinstance(s, int) else tuple(s) for s in shapes]))


def atleast_1d(x: Tensor) -> Tensor:
    """`x` with at least one dimension."""
    return x if x.tensor_type.shape else reshaped(x, (1,))


def contiguous(input: Tensor) -> Tensor:
    """`input` where its elements lie in row-major order, else a copy that does."""
    return input if is_contiguous(input) else record("reshape", input, shape=input.tensor_type.shape)


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with storage of its own, on the tape."""
    return record("reshape", input, shape=input.tensor_type.shape)


def stride(input: Tensor, dim: int | None = None) -> Any:
    """Strides in elements (of one dimension, where given)."""
    found = strides_of(input) if input._chain else row_major(input.tensor_type.shape)
    return found if dim is None else found[one_axis(dim, len(found))]


def numel(input: Tensor) -> int:
    """Number of elements."""
    return symbolic(product(input.tensor_type.shape))  # type: ignore[no-any-return]


swapaxes = swapdims = transpose
moveaxis = movedim
