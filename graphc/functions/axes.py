"""Dimension arguments: negative numbers wrapped, ranges checked, lists normalised."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from graphc.core import assume, plain
from graphc.ir.dims import Dim, Expr, floor_div, product, quotient

__all__ = ["Axis", "one_axis", "resolve_shape", "several_axes", "shape_argument"]

Axis = int | Sequence[int] | None


def one_axis(dim: int, rank: int) -> int:
    """`dim` wrapped into [0, rank). Raises IndexError outside of [-rank, rank-1], TypeError for no integer."""
    if not isinstance(dim, int):
        try:
            dim = dim.__index__()
        except AttributeError:
            raise TypeError(f"argument 'dim' must be int, not {type(dim).__name__}") from None
    span = rank or 1
    if not -span <= dim < span:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-span}, {span - 1}], but got {dim})"
        )
    return dim + span if dim < 0 else dim


def several_axes(dim: Axis, rank: int) -> tuple[int, ...]:
    """Sorted axes of a reduction; None and the empty list mean all. Raises RuntimeError for repeats."""
    if dim is None:
        return tuple(range(rank))
    if isinstance(dim, int) or not isinstance(dim, Sequence):
        axis = one_axis(dim, rank)
        return (axis,) if rank else ()
    if not dim:
        return tuple(range(rank))
    axes = sorted(one_axis(d, rank) for d in dim)
    for a, b in itertools.pairwise(axes):
        if a == b:
            raise RuntimeError(f"dim {a} appears multiple times in the list of dims")
    return tuple(axes) if rank else ()


def shape_argument(size: tuple[Any, ...], function: str) -> tuple[Dim, ...]:
    """A shape given as separate numbers or as one sequence. Raises TypeError for other things."""
    if len(size) == 1 and isinstance(size[0], Sequence):
        size = tuple(size[0])
    shape: list[Dim] = []
    for d in size:
        if isinstance(d, Expr):
            d = plain(d)
        elif not isinstance(d, int):
            try:
                d = d.__index__()
            except (AttributeError, TypeError):
                raise TypeError(
                    f"{function}(): argument 'size' must be tuple of ints, but found element of type {type(d).__name__}"
                ) from None
        shape.append(d)
    return tuple(shape)


def checked_size(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """`shape` unless a dimension is negative. Raises RuntimeError then."""
    for d in shape:
        if isinstance(d, int) and d < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {d}: {list(shape)}")
    return shape


def _invalid(shape: tuple[Dim, ...], count: Dim) -> str:
    return f"shape '{list(shape)}' is invalid for input of size {count}"


def resolve_shape(shape: tuple[Dim, ...], current: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """`shape` with its one -1 replaced so that the number of elements stays. Raises RuntimeError."""
    if -1 not in shape:
        count = product(current)
        if product(shape) != count:
            assume(product(shape), "==", count, RuntimeError, _invalid(shape, count))
        return shape
    at = shape.index(-1)
    rest = shape[:at] + shape[at + 1 :]
    if -1 in rest:
        raise RuntimeError("only one dimension can be inferred")
    if any(isinstance(d, int) and d < 0 for d in rest):
        raise RuntimeError(f"invalid shape dimension in {list(shape)}")
    total, known = product(current), product(rest)
    exact = None if known == 0 else quotient(total, known)
    if exact is not None:
        return (*shape[:at], exact, *shape[at + 1 :])
    if known == 0:
        if total == 0:
            raise RuntimeError(
                f"cannot reshape tensor of 0 elements into shape {list(shape)} because the unspecified "
                "dimension size -1 can be any value and is ambiguous"
            )
        raise RuntimeError(_invalid(shape, total))
    inferred = floor_div(total, known)
    if inferred * known != total:
        assume(inferred * known, "==", total, RuntimeError, _invalid(shape, total))
    return (*shape[:at], inferred, *shape[at + 1 :])
