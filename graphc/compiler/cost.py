"""What a program costs: arithmetic and memory traffic, counted from its kernels.

A floating-point operation is one scalar arithmetic instruction on a float at one point: a
multiplication and an addition of a matrix product are two, `exp` is one, comparisons, selections,
conversions and index arithmetic are none. Bytes are what a call must at least move if no two
kernels share a cache: each buffer that a kernel reads or writes counts once, and never for more
than the elements that its points touch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from graphc.ir.dims import Symbol
from graphc.ir.graph import Graph
from graphc.ir.kernel import Instruction, Kernel, Stage, extent
from graphc.ir.program import KernelCall, Program, kernel_title
from graphc.ir.records import dataclass
from graphc.ir.scalar import BINARY, UNARY

__all__ = ["Cost", "KernelCost", "program_cost"]

_NO_ARITHMETIC = frozenset({"not", "is_nan", "and", "or", "xor", "shl", "shr", "mulhi"})
_FLOPS = {**dict.fromkeys((op for op in (*UNARY, *BINARY) if op not in _NO_ARITHMETIC), 1), "fma": 2}
_MODEL_ROLES = ("parameter", "buffer")


@dataclass(frozen=True)
class KernelCost:
    """One kernel call: operations on floats, bytes read and written, partitions."""

    title: str
    phase: int
    flops: int
    bytes_read: int
    bytes_written: int
    parts: int

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True)
class Cost:
    """A whole call. `arena_bytes` is its scratch memory, `weights_bytes` that of parameters and buffers."""

    name: str
    per_kernel: tuple[KernelCost, ...]
    arena_bytes: int
    weights_bytes: int

    @property
    def kernels(self) -> int:
        """Number of kernel calls."""
        return len(self.per_kernel)

    @property
    def flops(self) -> int:
        """Operations on floats of all kernels."""
        return sum(k.flops for k in self.per_kernel)

    @property
    def bytes(self) -> int:
        """Bytes read and written by all kernels."""
        return sum(k.bytes for k in self.per_kernel)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("phase", "FLOPs", "read", "written", "FLOPs/byte", "parts", "kernel")]
        for k in self.per_kernel:
            intensity = f"{k.flops / k.bytes:.2f}" if k.bytes else "-"
            numbers = (
                k.phase,
                f"{k.flops:,}",
                f"{k.bytes_read:,}",
                f"{k.bytes_written:,}",
                intensity,
                k.parts,
            )
            rows.append((*map(str, numbers), k.title))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = [
            f"cost of @{self.name}: {self.flops:,} FLOPs, {self.bytes:,} bytes moved, {self.kernels} kernels, "
            f"arena {self.arena_bytes:,} bytes, weights {self.weights_bytes:,} bytes"
        ]
        for row in rows:
            lines.append(
                "  " + "  ".join(f"{t:>{w}}" for t, w in zip(row[:6], widths, strict=True)) + "  " + row[6]
            )
        return "\n".join(lines)


def program_cost(program: Program, graph: Graph) -> Cost:
    """The cost of one call of `program`, which was planned for `graph`."""
    kernels = [_call_cost(n, call) for n, phase in enumerate(program.phases) for call in phase.calls]
    weights = sum(v.type.nbytes for v in graph.inputs if v.role in _MODEL_ROLES)
    return Cost(program.name, tuple(kernels), program.arena_bytes, weights)


def _call_cost(phase: int, call: KernelCall) -> KernelCost:
    kernel: Kernel = call.kernel
    read, written = _traffic(kernel)
    return KernelCost(kernel_title(kernel), phase, _kernel_flops(kernel), read, written, call.parts)


def _kernel_flops(kernel: Kernel) -> int:
    own = _points(kernel.axes) * sum(map(_stage_flops, kernel.stages))
    return own + sum(_kernel_flops(link.kernel) for link in kernel.links)


def _points(axes: Iterable[Symbol]) -> int:
    return math.prod(map(extent, axes))


def _stage_flops(stage: Stage) -> int:
    combine = _flops(stage.combine.body) if stage.combine is not None else 0
    adds = sum(i.dtype.is_floating_point for i in stage.body if i.opcode == "store" and i.value == "add")
    return _points(stage.axes) * (_flops(stage.body) + combine + adds)


def _flops(body: Sequence[Instruction]) -> int:
    return sum(_FLOPS.get(i.opcode, 0) for i in body if i.dtype.is_floating_point)


def _traffic(kernel: Kernel) -> tuple[int, int]:
    """Bytes read and written, each buffer at most once."""
    touched = {way: [0] * len(kernel.buffers) for way in ("load", "store")}
    _count_touched(kernel, range(len(kernel.buffers)), touched)
    read, written = (
        sum(
            min(n, b.type.nbytes)
            for n, b in zip(touched[way], kernel.buffers, strict=True)
            if b.access != "local"
        )
        for way in ("load", "store")
    )
    return read, written


def _count_touched(kernel: Kernel, numbers: Sequence[int], touched: dict[str, list[int]]) -> None:
    """Adds the bytes of a kernel's accesses; `numbers` says which buffers its own are, further ones count nowhere."""
    for stage in kernel.stages:
        points = _points(kernel.axes) * _points(stage.axes)
        for i in stage.body:
            if i.opcode in touched and i.buffer < len(numbers):
                size = points * kernel.buffers[i.buffer].type.dtype.itemsize
                touched[i.opcode][numbers[i.buffer]] += size
                if i.value == "add":
                    touched["load"][numbers[i.buffer]] += size
    for link in kernel.links:
        _count_touched(link.kernel, [numbers[n] for n in link.buffers], touched)
