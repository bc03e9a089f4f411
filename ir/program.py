"""The planned program: what a backend turns into native drivers and a runtime calls.

A program is a table of buffers and an ordered sequence of phases. Kernels of one phase do
not depend on each other; a barrier stands between phases. Every kernel reads and writes only
buffers named by its call, so its code holds no address and equal kernels are one.

Invariants: temporaries whose lifetimes meet do not overlap in the arena; every read of a
state's old value comes in an earlier phase than its first write (or element by element in
the same kernel call); a phase that writes state follows the last phase that can fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from graphc.ir.types import TensorType

__all__ = ["Buffer", "BufferKind", "Check", "KernelCall", "Phase", "Program"]

BufferKind = Literal["input", "state", "output", "temporary", "constant"]


@dataclass(frozen=True)
class Buffer:
    """One row of the buffer table. Row-major and contiguous; base aligned to 64 bytes.

    `index` numbers buffers within their kind: the position among the program's inputs, states,
    outputs or constants. `offset` is the byte offset in the arena of a temporary, or in the
    state block for a state of an exported library.
    """

    kind: BufferKind
    type: TensorType
    index: int = 0
    offset: int = 0
    name: str = ""


@dataclass(frozen=True)
class KernelCall:
    """A call of `kernel` (a scheduled kernel, `graphc.ir.kernel.Kernel`) on rows of the buffer table."""

    kernel: Any
    buffers: tuple[int, ...]
    parts: int = 1
    """Number of partitions; from shape and target alone."""
    check_base: int = 0
    """Position in `Program.checks` of the kernel's check number 0."""
    scratch: int = -1
    """Row of the scratch buffer passed after the kernel's parameters; -1 for none."""


@dataclass(frozen=True)
class Phase:
    """Kernel calls with no barrier between them."""

    calls: tuple[KernelCall, ...]
    writes_state: bool = False

    @property
    def parts(self) -> int:
        """Work items of the phase: the sum of its calls' partitions."""
        return sum(call.parts for call in self.calls)


@dataclass(frozen=True)
class Check:
    """A data-dependent check a kernel may fail; its code in the error word is its position + 1."""

    message: str
    exception: str
    """Name of the built-in exception class to raise (`"IndexError"`)."""
    filename: str | None = None
    lineno: int | None = None


@dataclass(frozen=True)
class Program:
    """A compiled program's plan: the buffer table, phases, arena size and failure table."""

    name: str
    buffers: tuple[Buffer, ...]
    phases: tuple[Phase, ...]
    arena_bytes: int
    checks: tuple[Check, ...] = ()
    constants: tuple[Any, ...] = field(default=(), repr=False)
    """NumPy arrays of the constant buffers, by `Buffer.index`."""

    def of_kind(self, kind: BufferKind) -> list[Buffer]:
        """Buffers of one kind in the order of their index."""
        return sorted((b for b in self.buffers if b.kind == kind), key=lambda b: b.index)
