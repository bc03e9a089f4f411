"""Batches from samples. Data is moved with NumPy, so that loading records nothing to compile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.core import TensorBase, from_array
from graphc.functions import creation, shape
from graphc.ir.types import float64

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
        return from_array(np.stack([t._values() for t in batch]), share=False)
    if isinstance(first, np.ndarray):
        return from_array(np.stack(batch), share=False)
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
    """Rows of a tensor as a new one."""
    return from_array(np.take(tensor._values(), indices, 0), share=False)
