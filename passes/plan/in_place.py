"""Kernels that write where they read: one `inout` parameter in place of an `in` and an `out`.

Allowed where every element is read only at the very point that writes it, and not after that.
"""

from __future__ import annotations

import dataclasses

from graphc.ir.dims import Dim
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer
from graphc.ir.types import symbolic_strides

__all__ = ["can_share", "share", "shareable"]


def shareable(kernel: Kernel) -> list[tuple[int, int]]:
    """The pairs (read, written) of parameters for which `can_share` holds."""
    return [
        (r, w)
        for r, a in enumerate(kernel.parameters)
        if a.access == "in"
        for w, b in enumerate(kernel.parameters)
        if b.access == "out" and can_share(kernel, r, w)
    ]


def can_share(kernel: Kernel, read: int, written: int) -> bool:
    """True where parameter `written` may be stored over parameter `read`."""
    a, b = kernel.buffers[read], kernel.buffers[written]
    if (
        kernel.links
        or (a.access, b.access) != ("in", "out")
        or a.type.dtype is not b.type.dtype
        or a.type.count != b.type.count
    ):
        return False
    place: Dim | None = None
    last_read, stored_in = -1, -1
    for k, stage in enumerate(kernel.stages):
        for i in stage.body:
            if i.opcode not in ("load", "store") or i.buffer not in (read, written):
                continue
            if i.guards or stage.kind == "scatter":
                return False
            at = _offset(i, kernel.buffers[i.buffer])
            if place is None:
                place = at
            if at != place:
                return False
            if i.opcode == "store":
                if stored_in >= 0:
                    return False
                stored_in = k
            elif i.buffer == read:
                last_read = k
    return stored_in >= last_read


def _offset(i: Instruction, buffer: KernelBuffer) -> Dim:
    total: Dim = 0
    for x, stride in zip(i.index, symbolic_strides(buffer.type.shape), strict=True):
        total = total + x * stride
    return total


def share(kernel: Kernel, read: int, written: int) -> Kernel:
    """The kernel with parameter `written` dropped and `read` made `inout`. See `can_share`."""
    shape = kernel.buffers[read].type
    buffers = [
        KernelBuffer(b.type, "inout") if n == read else b
        for n, b in enumerate(kernel.buffers)
        if n != written
    ]
    moved = [n - (n > written) for n in range(len(kernel.buffers))]
    moved[written] = moved[read]

    def change(i: Instruction) -> Instruction:
        if i.opcode not in ("load", "store"):
            return i
        index = i.index
        if i.buffer == written and kernel.buffers[written].type.shape != shape.shape:
            index = place
        if moved[i.buffer] == i.buffer and index is i.index:
            return i
        return dataclasses.replace(i, buffer=moved[i.buffer], index=index)

    place = next(i.index for i in kernel.instructions() if i.opcode == "load" and i.buffer == read)
    stages = tuple(dataclasses.replace(s, body=tuple(change(i) for i in s.body)) for s in kernel.stages)
    return dataclasses.replace(kernel, buffers=tuple(buffers), stages=stages)
