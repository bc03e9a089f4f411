"""`Size`: the shape of a tensor as a tuple with PyTorch's extras."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["Size"]


class Size(tuple[Any, ...]):
    """Sizes of a tensor's dimensions."""

    __slots__ = ()

    def numel(self) -> int:
        """Number of elements of a tensor of this shape."""
        return math.prod(self)

    def __repr__(self) -> str:
        return f"graphc.Size({list(self)})"

    def __add__(self, other: Any) -> Size:
        return Size(tuple(self) + tuple(other))

    def __getitem__(self, key: Any) -> Any:
        found = tuple.__getitem__(self, key)
        return Size(found) if isinstance(key, slice) else found
