"""What passes may ask of a code generator, without importing one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from graphc.ir.dims import Symbol
from graphc.ir.kernel import Kernel, Schedule
from graphc.ir.target import Target

__all__ = ["BackendInfo"]


class BackendInfo(Protocol):
    """Implemented by each backend and carried by the compile context."""

    def contraction_schedule(self, kernel: Kernel, target: Target, vector: bool) -> Schedule | None:
        """Tiles, vector axis and partitions where the contraction engine takes `kernel`, else None.

        `vector` says that one side of the contraction op has a single point, by the op's own operands:
        the order of its sum may depend on that, and not on what the kernel reads in their place.
        """

    def contraction_cycles(self, kernel: Kernel, target: Target, vector: bool) -> float | None:
        """Estimated cycles of a contraction kernel on one core; None where nobody can say. `vector` as for its schedule."""

    def chain_schedule(self, kernel: Kernel, target: Target) -> Schedule | None:
        """Blocks and partitions of a chain of scheduled kernels; None where they cannot be run by rows, or had better not."""

    def kept_operand(self, kernel: Kernel, target: Target) -> tuple[int, int] | None:
        """(buffer, columns of a panel) of a matrix that an unscheduled contraction kernel had better read packed, where that
        is done once for many calls; None where it had not. Element (row, k) is then at [row // columns, k, row % columns]."""

    def scratch_bytes(self, kernel: Kernel, target: Target) -> int:
        """Bytes of memory that each partition of the scheduled kernel needs for itself, passed as the last buffer;
        0 for none."""

    def division(self, kernel: Kernel, target: Target) -> Callable[[Mapping[Symbol, int]], int]:
        """A function that says into how many partitions a scheduled contraction kernel is divided at given symbolic
        sizes."""

    def numbers_at(self, kernel: Kernel, sizes: Mapping[Symbol, int]) -> tuple[int, ...]:
        """What a scheduled contraction kernel is called with after its symbolic sizes, at given ones."""
