"""Reductions over dimensions, with `dim`, `keepdim` and dtype rules as in PyTorch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from graphc.core import TensorBase
from graphc.functions import pointwise
from graphc.functions.axes import Axis, one_axis, several_axes
from graphc.functions.promotion import as_operand, converted, float_operand
from graphc.functions.recording import record, scalar
from graphc.functions.shape import as_view
from graphc.ir.dims import Dim
from graphc.ir.types import DType, Shape, bool_, int64, uint8

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor


class _ValuesIndices(NamedTuple):
    values: Any
    indices: Any


class max_result(_ValuesIndices):
    """Result of `max` along a dimension: values and their indices."""

    def __repr__(self) -> str:
        return _pair_text("max", self)


class min_result(_ValuesIndices):
    """Result of `min` along a dimension: values and their indices."""

    def __repr__(self) -> str:
        return _pair_text("min", self)


def _pair_text(name: str, pair: _ValuesIndices) -> str:
    return f"graphc.return_types.{name}(\nvalues={pair.values!r},\nindices={pair.indices!r})"


def _kept(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(1 if i in axes else d for i, d in enumerate(shape))


def _finish(result: Tensor, shape: Shape, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    return as_view(result, _kept(shape, axes)) if keepdim and axes else result


def _reduce(name: str, x: Tensor, dim: Axis, keepdim: bool) -> Tensor:
    shape = x.tensor_type.shape
    axes = several_axes(dim, len(shape))
    return _finish(record(name, x, axes=axes), shape, axes, keepdim)


def _floating(x: Tensor, function: str, dtype: DType | None) -> Tensor:
    if dtype is not None:
        x = converted(x, dtype)
    if not x.tensor_type.dtype.is_floating_point:
        raise RuntimeError(
            f"{function}(): could not infer output dtype. Input dtype must be either a floating point or complex "
            f"dtype. Got: {x.tensor_type.dtype}"
        )
    return x


def sum(input: Tensor, dim: Axis = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """Sum over `dim` (all by default). Integers and bools give int64 unless `dtype` is given."""
    x = as_operand(input, "sum")
    if dtype is not None:
        x = converted(x, dtype)
    elif x.tensor_type.dtype.kind != "float":
        x = converted(x, int64)
    if x.tensor_type.dtype is bool_:
        return _reduce("any", x, dim, keepdim)
    return _reduce("sum", x, dim, keepdim)


def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """Product over `dim` (all by default). Integers and bools give int64 unless `dtype` is given."""
    x = as_operand(input, "prod")
    if dtype is not None:
        x = converted(x, dtype)
    elif x.tensor_type.dtype.kind != "float":
        x = converted(x, int64)
    return _reduce("prod", x, dim, keepdim)


def mean(input: Tensor, dim: Axis = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """Arithmetic mean over `dim`. Raises RuntimeError for integers and bools."""
    return _reduce("mean", _floating(as_operand(input, "mean"), "mean", dtype), dim, keepdim)


def _correction(dim: Any, unbiased: bool | None, correction: float | None) -> tuple[Axis, float]:
    # var(x, False) gives `unbiased` in the place of `dim`.
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is not None:
        return dim, correction
    return dim, 1 if unbiased is None or unbiased else 0


def var(
    input: Tensor,
    dim: Axis = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Variance over `dim`: squared deviations from the mean over n - correction (1 by default)."""
    x = as_operand(input, "var")
    if not x.tensor_type.dtype.is_floating_point:
        raise RuntimeError("var and std only support floating point and complex dtypes")
    dim, less = _correction(dim, unbiased, correction)
    shape = x.tensor_type.shape
    axes = several_axes(dim, len(shape))
    result = record("var", x, axes=axes, correction=less)
    return _finish(result, shape, axes, keepdim)


def root_of_sum(x: Tensor) -> Tensor:
    """Square root whose gradient is 0 at 0 (that of a norm or standard deviation)."""
    zero = pointwise.eq(x, 0)
    safe = pointwise.chosen(zero, 1, x)
    return pointwise.chosen(zero, 0, record("sqrt", safe))


def std(
    input: Tensor,
    dim: Axis = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Standard deviation: the root of `var`."""
    return root_of_sum(var(input, dim, unbiased, keepdim, correction=correction))


def var_mean(
    input: Tensor,
    dim: Axis = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Variance and mean."""
    return var(input, dim, unbiased, keepdim, correction=correction), mean(
        input, None if isinstance(dim, bool) else dim, keepdim
    )


def std_mean(
    input: Tensor,
    dim: Axis = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean."""
    return std(input, dim, unbiased, keepdim, correction=correction), mean(
        input, None if isinstance(dim, bool) else dim, keepdim
    )


# -- extremes -----------------------------------------------------------------------------------


def _nonempty(name: str, shape: Shape, axes: tuple[int, ...]) -> None:
    for a in axes:
        if shape[a] == 0:
            raise IndexError(
                f"{name}(): Expected reduction dim {a} to have non-zero size."
                if len(axes) < len(shape)
                else f"{name}(): Expected reduction dim to be specified for input.numel() == 0. "
                "Specify the reduction dim with the 'dim' argument."
            )


def _extreme(name: str, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    if x.tensor_type.dtype is bool_:
        return record("any" if name == "max" else "all", x, axes=axes)
    return record(name, x, axes=axes)


def amax(input: Tensor, dim: Axis = (), keepdim: bool = False) -> Tensor:
    """Largest elements over `dim`; the gradient is shared by equal ones."""
    x = as_operand(input, "amax")
    axes = several_axes(dim, len(x.tensor_type.shape))
    _nonempty("amax", x.tensor_type.shape, axes)
    return _finish(_extreme("max", x, axes), x.tensor_type.shape, axes, keepdim)


def amin(input: Tensor, dim: Axis = (), keepdim: bool = False) -> Tensor:
    """Smallest elements over `dim`; the gradient is shared by equal ones."""
    x = as_operand(input, "amin")
    axes = several_axes(dim, len(x.tensor_type.shape))
    _nonempty("amin", x.tensor_type.shape, axes)
    return _finish(_extreme("min", x, axes), x.tensor_type.shape, axes, keepdim)


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Smallest and largest elements."""
    return amin(input, dim, keepdim), amax(input, dim, keepdim)


def _selected(name: str, input: Tensor, dim: Any, keepdim: bool, other: Any) -> Any:
    x = as_operand(input, name)
    if isinstance(dim, TensorBase) or other is not None:
        function = pointwise.maximum if name == "max" else pointwise.minimum
        return function(x, dim if other is None else other)
    if dim is None:
        axes = several_axes(None, len(x.tensor_type.shape))
        if 0 in x.tensor_type.shape:
            raise RuntimeError(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0. "
                "Specify the reduction dim with the 'dim' argument."
            )
        return _extreme(name, x, axes)
    kind = max_result if name == "max" else min_result
    shape = x.tensor_type.shape
    if not shape:
        one_axis(dim, 0)
        return kind(pointwise.record_copy(x), scalar(0, int64))
    axis = one_axis(dim, len(shape))
    _nonempty(name, shape, (axis,))
    values = converted(x, uint8) if x.tensor_type.dtype is bool_ else x
    # The gradient goes to the chosen element only, so the value is read at the index.
    index = as_view(record(f"arg{name}", values, axes=(axis,)), _kept(shape, (axis,)))
    found = record("gather", x, index, axis=axis)
    if keepdim:
        return kind(found, index)
    dropped = (*shape[:axis], *shape[axis + 1 :])
    return kind(as_view(found, dropped), as_view(index, dropped))


def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest element; with `dim`, (values, indices) along it; with a tensor, `maximum`."""
    return _selected("max", input, dim, keepdim, other)


def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The smallest element; with `dim`, (values, indices) along it; with a tensor, `minimum`."""
    return _selected("min", input, dim, keepdim, other)


def _index_of(name: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    x = as_operand(input, name)
    if x.tensor_type.dtype is bool_:
        raise NotImplementedError(f"\"{name}_cpu\" not implemented for 'Bool'")
    shape = x.tensor_type.shape
    if dim is None:
        if 0 in shape:
            raise IndexError(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0. "
                "Specify the reduction dim with the 'dim' argument."
            )
        found = record(name, x, axes=tuple(range(len(shape))))
        return as_view(found, (1,) * len(shape)) if keepdim else found
    axis = one_axis(dim, len(shape))
    if not shape:
        return record(name, x, axes=())
    _nonempty(name, shape, (axis,))
    return _finish(record(name, x, axes=(axis,)), shape, (axis,), keepdim)


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first largest element along `dim`, or of the flattened elements."""
    return _index_of("argmax", input, dim, keepdim)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first smallest element along `dim`, or of the flattened elements."""
    return _index_of("argmin", input, dim, keepdim)


# -- logic and counts ------------------------------------------------------------------------------


def all(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """True where every element over `dim` is nonzero."""
    x = as_operand(input, "all")
    result = _reduce("all", converted(x, bool_), dim, keepdim)
    return converted(result, uint8) if x.tensor_type.dtype is uint8 else result


def any(input: Tensor, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """True where some element over `dim` is nonzero."""
    x = as_operand(input, "any")
    result = _reduce("any", converted(x, bool_), dim, keepdim)
    return converted(result, uint8) if x.tensor_type.dtype is uint8 else result


def count_nonzero(input: Tensor, dim: Axis = None) -> Tensor:
    """Number of nonzero elements over `dim`."""
    return _reduce("sum", converted(converted(input, bool_), int64), dim, False)


def equal(input: Tensor, other: Tensor) -> bool:
    """True where shapes and all elements are equal. Evaluates, so it is not for traced code."""
    input, other = as_operand(input, "equal"), as_operand(other, "equal", "other")
    if input.tensor_type.shape != other.tensor_type.shape:
        return False
    return bool(all(pointwise.eq(input, other)).item())


def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """True where `isclose` holds everywhere. Evaluates, so it is not for traced code."""
    return bool(all(pointwise.isclose(input, other, rtol, atol, equal_nan)).item())


# -- norms and exponentials ---------------------------------------------------------------------------


def norm(
    input: Tensor, p: Any = "fro", dim: Axis = None, keepdim: bool = False, dtype: DType | None = None
) -> Tensor:
    """The p-norm over `dim`: (sum |x|^p)^(1/p); 0 counts nonzeros, inf is the largest |x|."""
    x = as_operand(input, "norm")
    if dtype is not None:
        x = converted(x, dtype)
    if not x.tensor_type.dtype.is_floating_point:
        raise RuntimeError(
            "linalg.vector_norm: Expected a floating point or complex tensor as input. Got "
            + str(x.tensor_type.dtype)
        )
    p = 2.0 if p in ("fro", None) else float(p)
    if p == 2.0:
        return root_of_sum(_reduce("sum", record("square", x), dim, keepdim))
    size = record("abs", x)
    if p == math.inf:
        return amax(size, dim if dim is not None else (), keepdim)
    if p == -math.inf:
        return amin(size, dim if dim is not None else (), keepdim)
    if p == 0.0:
        return _reduce("sum", converted(pointwise.ne(x, 0), x.tensor_type.dtype), dim, keepdim)
    if p == 1.0:
        return _reduce("sum", size, dim, keepdim)
    return pointwise.pow(_reduce("sum", pointwise.pow(size, p), dim, keepdim), 1.0 / p)


def logsumexp(input: Tensor, dim: Axis, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over `dim`, without overflow."""
    x = float_operand(input, "logsumexp")
    shape = x.tensor_type.shape
    axes = several_axes(dim, len(shape))
    top = record("detach", as_view(record("max", x, axes=axes), _kept(shape, axes)))
    top = pointwise.chosen(pointwise.isfinite(top), top, 0)
    total = record("sum", record("exp", pointwise.sub(x, top)), axes=axes)
    result = pointwise.add(record("log", as_view(total, _kept(shape, axes))), top)
    return result if keepdim else as_view(result, tuple(d for i, d in enumerate(shape) if i not in axes))


def softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`."""
    return _normalised("softmax", input, dim, dtype)


def log_softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """log(softmax(x)) along `dim`."""
    return _normalised("log_softmax", input, dim, dtype)


def _normalised(name: str, input: Tensor, dim: int, dtype: DType | None) -> Tensor:
    x = as_operand(input, name)
    if dtype is not None:
        x = converted(x, dtype)
    if not x.tensor_type.dtype.is_floating_point:
        raise NotImplementedError(
            f"\"{name}_lastdim_kernel_impl\" not implemented for '{x.tensor_type.dtype.torch_name}'"
        )
    axis = one_axis(dim, len(x.tensor_type.shape))
    if not x.tensor_type.shape:
        return as_view(record(name, as_view(x, (1,)), axis=0), ())
    return record(name, x, axis=axis)


def _triangular_sum(x: Tensor, axis: int) -> Tensor:
    n: Dim = x.tensor_type.shape[axis]
    i, j = (record("iota", shape=(n, n), axis=k, dtype=int64) for k in (0, 1))
    mask = converted(record("le", j, i), x.tensor_type.dtype)
    result = record("dot", x, mask, contract=((axis,), (1,)), batch=((), ()))
    rank = len(x.tensor_type.shape)
    order = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return record("permute", result, axes=tuple(order))


def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Running sums along `dim`, as a product with a triangular matrix."""
    x = as_operand(input, "cumsum")
    x = converted(x, dtype or (x.tensor_type.dtype if x.tensor_type.dtype.is_floating_point else int64))
    if not x.tensor_type.shape:
        return pointwise.record_copy(x)
    return _triangular_sum(x, one_axis(dim, len(x.tensor_type.shape)))
