"""The order of keys: read off where values are known, a sorting network inside of compiled functions.

Both give one result, since equal keys stay in the order of their positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.core import constant, from_array, is_tracing
from graphc.functions import pointwise
from graphc.functions.control.scan import scan
from graphc.functions.recording import record
from graphc.functions.shape import cat

__all__ = ["order_of"]


def order_of(keys: Any) -> Any:
    """Positions of the elements in ascending order along the last axis, [...] in int64; keys are no NaN."""
    if not is_tracing():
        return from_array(np.argsort(keys._values(), axis=-1, kind="stable").astype(np.int64), share=False)
    sizes = keys.tensor_type.sizes
    count = sizes[-1] if sizes else 1
    rows = keys.reshape(-1, count)
    return _network(rows, count).reshape(*sizes)


def _network(keys: Any, count: int) -> Any:
    """Batcher's bitonic sort of rows: in each stage, every element is compared with one partner."""
    size = 1 << max(count - 1, 0).bit_length()
    rows = keys.tensor_type.sizes[0]
    place = constant(np.arange(size, dtype=np.int64))
    positions = record("expand", place, shape=(rows, size))
    if size > count:
        dtype = keys.dtype.numpy
        last = np.inf if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
        keys = cat([keys, constant(np.full((rows, size - count), last, dtype))], 1)
    stages = [(1 << k, 1 << j) for k in range(1, size.bit_length()) for j in reversed(range(k))]

    def stage(carry: tuple[Any, Any], step: tuple[Any, Any]) -> tuple[tuple[Any, Any], None]:
        (key, position), (run, distance) = carry, step
        partner = pointwise.bitwise_xor(place, distance)
        other, there = (record("take", x, partner, axis=1, check=None) for x in (key, position))
        before = (key < other) | ((key == other) & (position < there))
        ascending = pointwise.bitwise_and(place, run) == 0
        keep = before == ((place < partner) == ascending)
        return (pointwise.where(keep, key, other), pointwise.where(keep, position, there)), None

    if stages:
        table = np.array(stages, np.int64)
        steps = constant(table[:, 0].copy()), constant(table[:, 1].copy())
        (keys, positions), _ = scan(stage, (keys, positions), steps)
    return positions[:, :count]
