"""Element strides of views: which reshapes move no data.

A tensor without views is row-major. A view's strides follow from its chain of view ops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.ir.dims import Dim, equal

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = ["is_contiguous", "row_major", "strides_of", "view_strides"]

Strides = tuple[Dim, ...]


def row_major(shape: tuple[Dim, ...]) -> Strides:
    """Strides, in elements, of a row-major array."""
    strides: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        strides.append(step)
        if d != 0:
            step = step * d
    return tuple(reversed(strides))


def strides_of(x: Tensor) -> Strides:
    """Strides, in elements, of a tensor over its storage."""
    if not x._chain:
        return row_major(x.tensor_type.shape)
    shape = x._storage.node.type.shape
    strides = row_major(shape)
    for name, pairs in x._chain:
        attrs = dict(pairs)
        if name == "permute":
            shape = tuple(shape[a] for a in attrs["axes"])
            strides = tuple(strides[a] for a in attrs["axes"])
        elif name == "expand":
            new = attrs["shape"]
            lead = len(new) - len(shape)
            strides = (0,) * lead + tuple(
                0 if d == 1 and new[i + lead] != 1 else s
                for i, (d, s) in enumerate(zip(shape, strides, strict=True))
            )
            shape = new
        elif name == "slice":
            strides = tuple(s * k for s, k in zip(strides, attrs["strides"], strict=True))
            shape = tuple(
                -(-(stop - start) // k)
                for start, stop, k in zip(attrs["starts"], attrs["stops"], attrs["strides"], strict=True)
            )
        else:
            new = attrs["shape"]
            found = view_strides(shape, strides, new)
            assert found is not None, "a view's reshape moves no data"
            shape, strides = new, found
    return strides


def is_contiguous(x: Tensor) -> bool:
    """True where elements lie in row-major order without gaps."""
    if not x._chain:
        return True
    shape = x.tensor_type.shape
    if 0 in shape:
        return True
    return all(d == 1 or s == r for d, s, r in zip(shape, strides_of(x), row_major(shape), strict=True))


def view_strides(shape: tuple[Dim, ...], strides: Strides, new: tuple[Dim, ...]) -> Strides | None:
    """Strides of `shape`/`strides` seen as `new`, or None where that would move data."""
    if 0 in shape:
        return row_major(new)
    # Runs of dimensions that lie in memory as one, innermost first: (size, stride).
    runs: list[tuple[Dim, Dim]] = []
    for d, s in reversed(list(zip(shape, strides, strict=True))):
        if d == 1:
            continue
        if runs and equal(runs[-1][0] * runs[-1][1], s):
            runs[-1] = (runs[-1][0] * d, runs[-1][1])
        else:
            runs.append((d, s))
    result: list[Dim] = []
    filled: Dim = 1
    at = 0
    for d in reversed(new):
        if d == 1:
            result.append(filled * runs[at][1] if at < len(runs) else 1)
            continue
        if at < len(runs) and equal(filled, runs[at][0]):
            at, filled = at + 1, 1
        if at == len(runs):
            return None
        size, stride = runs[at]
        result.append(filled * stride)
        filled = filled * d
        if isinstance(size, int) and isinstance(filled, int) and size % filled:
            return None
    done = (at == len(runs) and filled == 1) or (at == len(runs) - 1 and equal(filled, runs[at][0]))
    return tuple(reversed(result)) if done else None
