"""Run-time numbers: native slots whose value changes without recompiling."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.core.recording import current
from graphc.core.tensor import constant, from_array, record
from graphc.ir.types import DType

__all__ = ["NumberSlot", "number_slot", "scalar"]


class NumberSlot:
    """One float64 in native memory. Compiled programs read it at every call."""

    __slots__ = ("_tensor", "_words")

    def __init__(self, value: float, name: str = "") -> None:
        self._tensor = from_array(np.array(value, np.float64), share=False, role="scalar", name=name)
        self._words = self._tensor._storage.memory.array

    @property
    def value(self) -> float:
        """The number now."""
        return float(self._words[()])

    @value.setter
    def value(self, value: float) -> None:
        if current().trace is None and current().entries:
            # Pending operations were recorded with the old number.
            self._tensor.numpy()
        self._words[()] = value

    def tensor(self) -> Any:
        """The number as a rank-0 float64 tensor, a scalar input of the program."""
        return self._tensor


def number_slot(value: float, name: str = "") -> NumberSlot:
    """A native float64 slot holding `value`; `name` is what graphs and exported libraries call it."""
    return NumberSlot(value, name)


def scalar(value: float | int | bool, dtype: DType) -> Any:
    """A Python number as a rank-0 tensor of `dtype`.

    In recorded mode a float is a run-time input, so that another value needs no compiling; integers,
    booleans and the floats 0, 1 and -1 are constants, as is every number inside a compiled function.
    """
    if not isinstance(value, float) or value in (0.0, 1.0, -1.0) or current().trace is not None:
        with np.errstate(over="ignore"):
            return constant(np.asarray(value).astype(dtype.numpy))
    number = from_array(np.array(value, np.float64), share=False, role="scalar")
    return number if dtype.name == "f64" else record("cast", number, dtype=dtype)
