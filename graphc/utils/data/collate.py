"""Batches from samples. Data is moved with NumPy, so that loading records nothing to compile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.core import TensorBase, from_array, is_tracing
from graphc.core.storage import allocate_memory, type_of
from graphc.core.tensor import from_memory, known_address
from graphc.functions import creation, shape
from graphc.ir.types import float64
from graphc.runtime.buffers import copy_bytes

__all__ = ["default_collate", "rows"]


def default_collate(batch: Sequence[Any]) -> Any:
    """Samples of one structure as a batch: tensors, arrays and numbers are stacked, containers kept.

    Raises RuntimeError for samples of different lengths, TypeError for other things.
    """
    first = batch[0]
    if isinstance(first, TensorBase):
        if any(t.requires_grad for t in batch):
            return shape.stack(list(batch), 0)
        for i, t in enumerate(batch):
            if t.tensor_type.shape != first.tensor_type.shape:
                raise RuntimeError(
                    f"stack expects each tensor to be equal size, but got {list(first.shape)} at entry 0 and "
                    f"{list(t.shape)} at entry {i}"
                )
        return _joined_rows(batch)
    if isinstance(first, np.ndarray):
        return _stacked(batch)
    if isinstance(first, np.generic):
        return from_array(np.asarray(batch), share=False)
    if isinstance(first, bool):
        return creation.tensor(list(batch))
    if isinstance(first, float):
        return creation.tensor(batch, dtype=float64)
    if isinstance(first, int):
        return creation.tensor(list(batch))
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        return {key: default_collate([d[key] for d in batch]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(column) for column in zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(sample) != len(first) for sample in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        return [default_collate(column) for column in zip(*batch, strict=True)]
    raise TypeError(
        f"default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {type(first)}"
    )


def rows(tensor: Any, indices: Sequence[int]) -> Any:
    """Rows of a tensor as a new one. Raises IndexError for an index outside."""
    values, places = tensor._values(), np.asarray(indices, np.intp)
    count = len(values)
    if places.size and not -count <= places.min() <= places.max() < count:
        raise IndexError(f"index out of range for a tensor of {count} rows")
    memory = allocate_memory(type_of(values.dtype, (*places.shape, *values.shape[1:])))
    # Indices are known to be good: otherwise NumPy would take rows into memory of its own first.
    np.take(values, places, 0, out=memory.array, mode="wrap")
    return from_memory(memory)


def _joined_rows(tensors: Sequence[Any]) -> Any:
    """Tensors of one shape along a new leading axis, copied from where they lie."""
    type_ = tensors[0].tensor_type
    if is_tracing() or any(t.tensor_type.dtype is not type_.dtype for t in tensors):
        return _stacked([t._values() for t in tensors])
    memory = allocate_memory(type_.with_shape((len(tensors), *type_.shape)))
    to, nbytes = memory.address, type_.nbytes
    for i, t in enumerate(tensors):
        address = known_address(t)
        if address is None:
            memory.array[i] = t._values()
        else:
            copy_bytes(to + i * nbytes, address, nbytes)
    return from_memory(memory)


def _stacked(arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
    """Arrays of one shape along a new leading axis."""
    first = arrays[0]
    if any(a.dtype != first.dtype or a.shape != first.shape for a in arrays) or not first.dtype.isnative:
        return from_array(np.stack(arrays), share=False)
    memory = allocate_memory(type_of(first.dtype, (len(arrays), *first.shape)))
    np.stack(arrays, out=memory.array)
    return from_memory(memory)
