"""`graphc.cuda`: there is no GPU here, and ordinary code can find that out."""

from __future__ import annotations

from typing import Any

__all__ = [
    "current_device",
    "device_count",
    "empty_cache",
    "is_available",
    "manual_seed",
    "manual_seed_all",
    "synchronize",
]


def is_available() -> bool:
    """False."""
    return False


def device_count() -> int:
    """0."""
    return 0


def current_device() -> int:
    """Raises RuntimeError: there is no GPU."""
    raise RuntimeError("graphc computes on the CPU only: there is no CUDA device")


def manual_seed(seed: int) -> None:
    """Nothing: there is no GPU generator."""


manual_seed_all = manual_seed


def empty_cache() -> None:
    """Nothing."""


def synchronize(device: Any = None) -> None:
    """Nothing."""
