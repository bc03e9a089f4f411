"""Conditions on values, which are known only when a program runs: a call in which one fails raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.functions.recording import record

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = ["checked"]


def checked(x: Tensor, valid: Tensor, message: str) -> Tensor:
    """`x`, where `valid` (bool, of its shape) holds everywhere.

    Else RuntimeError with `message` and the user's line is raised where values are computed, and nothing is written.
    """
    return record("checked", x, valid, check=f"RuntimeError: {message}")
