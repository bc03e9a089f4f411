"""The core's recording functions, typed as giving the public `Tensor` (no wrapper, no cost)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graphc import core

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = ["from_array", "record", "record_view", "scalar"]

record: Callable[..., Tensor] = core.record
record_view: Callable[..., Tensor] = core.record_view
scalar: Callable[..., Tensor] = core.scalar
from_array: Callable[..., Tensor] = core.from_array
