"""Aligned memory for tensors: pooled blocks owned by Python objects.

A block is aligned to 64 bytes and goes back to the pool when its owner (a capsule, the same
kind that outputs of compiled calls have) dies. Contents of a new block are undefined.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.runtime.host import pool
from graphc.runtime.layout import BLOCKS
from graphc.runtime.process import BLOCK_WORDS

__all__ = [
    "address",
    "allocate",
    "array",
    "cached_bytes",
    "clear_bytes",
    "copy_bytes",
    "data_address",
    "live_blocks",
    "set_cache_limit",
    "trim",
]

_POINTER_OFFSET = object.__basicsize__
"""Where a capsule keeps its pointer and an array the address of its data: right behind the object head."""


def allocate(nbytes: int) -> object:
    """A block of at least `nbytes` bytes; the returned owner keeps it alive.

    Raises MemoryError where there is none and ValueError for a negative size.
    """
    if nbytes < 0:
        raise ValueError(f"a block of {nbytes} bytes")
    return pool().new_block(nbytes)


def address(owner: object) -> int:
    """Address of an owner's block."""
    return ctypes.c_uint64.from_address(id(owner) + _POINTER_OFFSET).value


def data_address(array: np.ndarray) -> int:
    """Address of an array's first element, where NumPy's object has it: a tenth of the time of `array.ctypes.data`."""
    return ctypes.c_uint64.from_address(id(array) + _POINTER_OFFSET).value


def copy_bytes(to: int, source: int, nbytes: int) -> None:
    """Copies bytes between addresses."""
    ctypes.memmove(to, source, nbytes)


def clear_bytes(at: int, nbytes: int) -> None:
    """Sets bytes to zero."""
    ctypes.memset(at, 0, nbytes)


class _View:
    """What NumPy reads memory through; it keeps the owner alive as the base of the array."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, owner: object, interface: dict[str, Any]) -> None:
        self.owner = owner
        self.__array_interface__ = interface


def array(
    owner: object, shape: Sequence[int], dtype: Any, *, data: int | None = None, writable: bool = True
) -> np.ndarray:
    """A row-major NumPy array over an owner's memory, with no copy; it keeps `owner` alive.

    `data` is the address of the first element where that is not the start of the owner's block.
    """
    kind = np.dtype(dtype)
    interface = {
        "version": 3,
        "shape": tuple(shape),
        # Types NumPy has no code for (bfloat16) travel as raw bytes.
        "typestr": kind.str if kind.kind != "V" else f"|V{kind.itemsize}",
        "data": (address(owner) if data is None else data, not writable),
    }
    result = np.asarray(_View(owner, interface))
    return result if result.dtype == kind else result.view(kind)


def live_blocks() -> int:
    """Number of blocks in use."""
    return BLOCK_WORDS[BLOCKS.offset["live_blocks"]]


def cached_bytes() -> int:
    """Bytes of idle blocks kept for reuse."""
    return BLOCK_WORDS[BLOCKS.offset["cached_bytes"]]


def set_cache_limit(nbytes: int) -> None:
    """Sets how many bytes of idle blocks are kept; the default is a quarter of the memory."""
    if nbytes < 0:
        raise ValueError(f"a limit of {nbytes} bytes")
    BLOCK_WORDS[BLOCKS.offset["limit"]] = nbytes


def trim() -> None:
    """Gives all idle blocks back to the system."""
    if live_blocks() or cached_bytes():
        pool().blocks_trim()
