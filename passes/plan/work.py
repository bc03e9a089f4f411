"""Calls under planning, and the copy kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from graphc.ir.dims import Dim, Symbol
from graphc.ir.graph import Value
from graphc.ir.kernel import Instruction, Kernel, KernelBuffer, Stage, new_axis
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.passes.context import CompileContext
from graphc.passes.lower import Lowered
from graphc.passes.plan.in_place import share
from graphc.passes.schedule import schedule

__all__ = ["Call", "copy_call"]


@dataclass(eq=False)
class Call:
    """A kernel to be called. `over[v] = s`: result v is stored over the old value of s (`inout`)."""

    lowered: Lowered
    number: int
    is_barrier: bool = False

    def __post_init__(self) -> None:
        self.over: dict[Value, Value] = {}
        self.separate = self.lowered

    def restore(self) -> None:
        """Undoes every `store_over`."""
        self.lowered = self.separate
        self.over.clear()

    @staticmethod
    def barrier() -> Call:
        """A node of the order that is no call."""
        return Call(Lowered(Kernel((), (), ()), ()), -1, True)

    def read(self) -> Iterator[Value]:
        """Values that the call reads."""
        for v, b in zip(self.lowered.values, self.lowered.kernel.parameters, strict=True):
            if b.access != "out":
                yield v

    def written(self) -> Iterator[Value]:
        """Values that the call makes."""
        for v, b in zip(self.lowered.values, self.lowered.kernel.parameters, strict=True):
            if b.access == "out":
                yield v
        yield from self.over

    def taken(self) -> Iterator[Value]:
        """Values whose memory the call needs besides that of what it reads."""
        yield from self.written()

    def position(self, value: Value) -> int:
        """The parameter bound to a value."""
        return self.lowered.values.index(value)

    def store_over(self, written: Value, read: Value) -> None:
        """Makes `written` share the parameter of `read`; see `in_place.can_share`."""
        kernel = share(self.lowered.kernel, self.position(read), self.position(written))
        values = tuple(v for v in self.lowered.values if v is not written)
        self.lowered = replace(self.lowered, kernel=kernel, values=values)
        self.over[written] = read


def copy_call(source: Value, target: Value, number: int, context: CompileContext) -> Call:
    """A call that copies `source` to `target` (a value of the same type)."""
    count = source.type.count
    flat = TensorType(source.type.dtype, (count,))
    axes: tuple[Symbol, ...] = ()
    index: tuple[Dim, ...] = (0,)
    if count != 1:
        axis = new_axis("o0", count)
        axes, index = (axis,), (axis.expr,)
    body = (
        Instruction(0, "load", flat.dtype, buffer=0, index=index),
        Instruction(-1, "store", flat.dtype, (0,), buffer=1, index=index),
    )
    buffers = (KernelBuffer(flat, "in"), KernelBuffer(flat, "out"))
    kernel = Kernel(buffers, axes, (Stage("map", (), body),))
    (lowered,) = schedule(Lowered(kernel, (source, target)), context)
    return Call(lowered, number)
