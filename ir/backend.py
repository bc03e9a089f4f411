"""What passes may ask of a code generator, without importing one."""

from __future__ import annotations

from typing import Protocol

from graphc.ir.kernel import Kernel, Schedule
from graphc.ir.target import Target

__all__ = ["BackendInfo"]


class BackendInfo(Protocol):
    """Implemented by each backend and carried by the compile context."""

    def contraction_schedule(self, kernel: Kernel, target: Target) -> Schedule | None:
        """Tiles, vector axis and partitions where the contraction engine takes `kernel`, else None."""

    def scratch_bytes(self, kernel: Kernel, target: Target) -> int:
        """Bytes of scratch that the scheduled kernel needs as its last buffer; 0 for none."""
