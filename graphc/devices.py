"""`device`: there is one, the CPU."""

from __future__ import annotations

from typing import Any

__all__ = ["check_device", "cpu", "device"]


class device:
    """A compute device, `"cpu"`. Raises RuntimeError for any other."""

    __slots__ = ("index", "type")

    def __init__(self, type: Any = "cpu", index: int | None = None) -> None:
        if isinstance(type, device):
            type = str(type)
        if not isinstance(type, str):
            raise TypeError(f"device(): argument 'type' must be str, not {type.__class__.__name__}")
        name, _, number = type.partition(":")
        if name != "cpu":
            raise RuntimeError(f"graphc computes on the CPU only: expected device 'cpu', got '{type}'")
        self.type: str = name
        self.index: int | None = int(number) if number else index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"device(type='{self.type}'" + (")" if self.index is None else f", index={self.index})")


cpu = device("cpu")


def check_device(d: Any) -> None:
    """Raises RuntimeError for a device that graphc does not have; None means the CPU."""
    if d is not None and d is not cpu and d != "cpu":
        device(d)
