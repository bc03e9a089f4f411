"""`finfo` and `iinfo`: the limits of dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from graphc.functions.promotion import get_default_dtype
from graphc.ir.types import DType

__all__ = ["finfo", "iinfo"]


class finfo:
    """Limits of a floating dtype. Raises TypeError for another."""

    def __init__(self, type: DType | None = None) -> None:
        d = type or get_default_dtype()
        if not d.is_floating_point:
            raise TypeError(
                f"graphc.finfo() requires a floating point input type. Use graphc.iinfo to handle '{d}'"
            )
        info: Any = ml_dtypes.finfo(d.numpy) if d.name == "bf16" else np.finfo(d.numpy)  # type: ignore[no-untyped-call]
        self.bits = d.bits
        self.dtype = d.torch_name
        self.eps = float(info.eps)
        self.max = float(info.max)
        self.min = float(info.min)
        self.tiny = self.smallest_normal = float(info.smallest_normal)
        # By its decimal text: 0.001, not the nearest 16-bit number.
        self.resolution = float(str(info.resolution))

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, eps={self.eps:g}, "
            f"smallest_normal={self.smallest_normal:g}, tiny={self.tiny:g}, dtype={self.dtype})"
        )


class iinfo:
    """Limits of an integer dtype. Raises TypeError for another."""

    def __init__(self, type: DType) -> None:
        if not type.is_integral:
            raise TypeError(
                f"graphc.iinfo() requires an integer input type. Use graphc.finfo to handle '{type}'"
            )
        info = np.iinfo(type.numpy)
        self.bits = type.bits
        self.dtype = type.torch_name
        self.max = int(info.max)
        self.min = int(info.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
