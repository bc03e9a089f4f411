"""Flatten and Unflatten."""

from __future__ import annotations

from typing import Any

from graphc.functions import shape
from graphc.nn.modules.module import Module
from graphc.tensor_class import Tensor

__all__ = ["Flatten", "Unflatten"]


class Flatten(Module):
    """Dimensions `start_dim` to `end_dim` as one; by default all but the first."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        """The flattened tensor."""
        return shape.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Dimension `dim` as the dimensions `unflattened_size`."""

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        super().__init__()
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        """The tensor with more dimensions."""
        return shape.unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
