"""Regions: a function recorded on its own, as the body of an op.

The function's arguments are inputs of the region. Any other tensor that it reads is captured: its value
outside, as it is when the op is recorded, is one more input. Invariant: nothing outside of the region
is changed by recording it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphc.core.build import GraphBuild, Marker
from graphc.core.location import user_location
from graphc.core.modes import enable_grad
from graphc.core.node import Entry, Node
from graphc.core.recording import Recording, current, pop, push
from graphc.core.storage import Storage
from graphc.core.tensor import wrap
from graphc.ir.errors import TraceError
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType

__all__ = ["Region", "record_region"]

_INPUT = Marker("region input")


class Region(Recording):
    """The recording of a region; `trace` is the region itself, which refuses what a region cannot do."""

    __slots__ = ("captured", "inputs", "outer")

    def __init__(self, outer: Recording) -> None:
        super().__init__(self)
        self.outer = outer
        self.inputs: list[Node] = []
        self.captured: dict[Node, Node] = {}
        """Values outside, and the inputs that stand for them."""
        self.region = self
        self.limit = 1 << 60
        self.depth = 1

    def add_input(self, type_: TensorType) -> Node:
        """A new input of the region."""
        (node,) = Entry(self, _INPUT, (), {}, None, (type_,), user_location()).results
        node.requires_grad = type_.dtype.is_floating_point
        return node

    def capture(self, tensor: Any) -> Node:
        """The input that stands for a tensor's value outside."""
        pop()
        try:
            node = tensor._read()
        finally:
            push(self)
        found = self.captured.get(node)
        if found is None:
            found = self.captured[node] = self.add_input(node.type)
        return found

    # -- what a recording asks of the trace it belongs to --------------------------------

    def read(self, storage: Storage) -> None:
        """Reads are noted where a value is captured."""

    def write(self, storage: Storage) -> None:
        """Raises TraceError for a tensor that was there before the region."""
        entry = storage.node.entry
        if entry is None or entry.recording is not self:
            raise _refused("write a tensor in place that was made outside of it")

    def save_grad(self, tensor: Any, value: Any) -> None:
        """Raises TraceError."""
        raise _refused("call backward or set gradients")

    def note_grad(self, tensor: Any, grad: Any) -> None:
        """Gradients are captured like other tensors."""
        if self.outer.trace is not None:
            self.outer.trace.note_grad(tensor, grad)

    def is_input(self, storage: Storage) -> bool:
        """True of what has no value that could be asked for."""
        return self.outer.trace is not None and bool(self.outer.trace.is_input(storage))

    def guard(self, snapshot: Callable[[], Any]) -> None:
        """Guards are those of the trace around the region."""
        if self.outer.trace is not None:
            self.outer.trace.guard(snapshot)


def _refused(what: str) -> TraceError:
    where = user_location()
    message = f"the body of a loop cannot {what}; carry the value and return it instead"
    if where is None:
        return TraceError(message)
    return TraceError(message, filename=where.filename, lineno=where.lineno)


def record_region(
    function: Callable[[list[Any]], Sequence[Any]], types: Sequence[TensorType]
) -> tuple[Graph, list[Node], list[Any]]:
    """Records `function` on tensors of the given types.

    `function` takes a list of tensors and returns tensors. Gives the region's graph, whose inputs are the
    arguments, then captured values, and whose outputs are what was returned; the captured values' nodes
    outside; and the returned tensors, whose types may be looked at.
    """
    region = Region(current())
    push(region)
    try:
        # What is not to be differentiated is marked relative to this; the op itself may be marked as a whole.
        with enable_grad():
            arguments = [region.add_input(t) for t in types]
            returned = list(function([wrap(node) for node in arguments]))
            outputs = [t._read() for t in returned]
    finally:
        pop()
    if region.random:
        raise NotImplementedError("random numbers cannot be drawn in the body of a loop yet")
    build = GraphBuild("body")
    for node in [*arguments, *region.captured.values()]:
        build.add_input([node], "argument", "")
    for entry in region.entries:
        build.add_entry(entry)
    build.graph.outputs = [build.values[node] for node in outputs]
    return build.graph, list(region.captured), returned
