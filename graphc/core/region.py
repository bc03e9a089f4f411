"""Regions: a function recorded on its own, as part of an op.

The function's arguments are inputs of the region. Any other tensor that it reads is captured: its value
outside, as it is when the op is recorded, is one more input. Tensors from outside that it writes in place have
their new values given back, and what it draws from a random generator is such a write. Invariant: nothing
outside of the region is changed by recording it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphc.core.build import GraphBuild, Marker
from graphc.core.location import user_location
from graphc.core.modes import enable_grad
from graphc.core.node import Entry, Node
from graphc.core.recording import MOST_TRACED, Recording, current, flush_random, pop, push
from graphc.core.storage import Storage
from graphc.core.tensor import TensorBase, assign, wrap
from graphc.ir.errors import TraceError
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType

__all__ = ["RecordedRegion", "Region", "read_states", "record_region", "write_states"]

_INPUT = Marker("region input")


class Region(Recording):
    """The recording of a region; `trace` is the region itself, which refuses what a region cannot do."""

    __slots__ = ("captured", "hooks", "inputs", "outer", "written")

    def __init__(self, outer: Recording) -> None:
        super().__init__(self)
        self.outer = outer
        self.plain = outer.plain
        self.inputs: list[Node] = []
        self.captured: dict[Node, Node] = {}
        """Values outside, and the inputs that stand for them."""
        self.written: dict[int, tuple[Storage, Node]] = {}
        """Storages from outside that the region writes, with what they held."""
        self.region = self
        self.hooks: set[Any] = set()
        """Entries that stand for hooks of tensors."""
        self.limit = MOST_TRACED
        self.depth = 1

    def add_input(self, type_: TensorType) -> Node:
        """A new input of the region."""
        (node,) = Entry(self, _INPUT, (), {}, None, (type_,), user_location()).results
        node.requires_grad = type_.dtype.is_floating_point
        return node

    def bind(self, storage: Storage) -> Node:
        """Makes what a storage holds an input of the region: it is carried, not captured."""
        self.written[id(storage)] = (storage, storage.node)
        node = storage.node = self.add_input(storage.node.type)
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

    def restore(self) -> None:
        """Puts back what storages held."""
        for storage, node in self.written.values():
            storage.node = node

    # -- what a recording asks of the trace it belongs to --------------------------------

    @property
    def assumptions(self) -> list[Any]:
        """What the trace around the region assumes of sizes."""
        return [] if self.outer.trace is None else self.outer.trace.assumptions

    def read(self, storage: Storage) -> None:
        """Reads are noted where a value is captured."""

    def write(self, storage: Storage) -> None:
        """Notes what a storage from outside held."""
        entry = storage.node.entry
        if entry is None or entry.recording is not self:
            self.written.setdefault(id(storage), (storage, storage.node))

    def save_grad(self, tensor: Any, value: Any) -> None:
        """Raises TraceError."""
        self.refuse("call backward or set gradients; use autograd.grad there, or return the loss")

    def refuse(self, what: str) -> None:
        """Raises TraceError: the body cannot do this."""
        where = user_location()
        message = f"the body of a loop or branch cannot {what}"
        if where is None:
            raise TraceError(message)
        raise TraceError(message, filename=where.filename, lineno=where.lineno)

    def look(self, tensor: Any, how: Any) -> None:
        """Gradients are captured like other tensors."""
        if self.outer.trace is not None:
            self.outer.trace.look(tensor, how)

    def use(self, tensor: Any) -> None:
        """Reading a gradient in the region is reading it."""
        if self.outer.trace is not None:
            self.outer.trace.use(tensor)

    def is_input(self, storage: Storage) -> bool:
        """True of what has no value that could be asked for."""
        return self.outer.trace is not None and bool(self.outer.trace.is_input(storage))

    def guard(self, snapshot: Callable[[], Any]) -> None:
        """Guards are those of the trace around the region."""
        if self.outer.trace is not None:
            self.outer.trace.guard(snapshot)


class RecordedRegion:
    """A region that was recorded. `arguments` and `bound` are its inputs, `outputs` what was returned.

    `captured` are values outside that it reads; `written` maps storages from outside to what they hold after it.
    `returned` are the tensors of `outputs`, whose types may be looked at.
    """

    def __init__(
        self,
        region: Region,
        arguments: list[Node],
        bound: list[Node],
        returned: list[Any],
        outputs: list[Node],
    ) -> None:
        self.arguments, self.bound = arguments, bound
        self.returned, self.outputs = returned, outputs
        self.written: dict[Storage, Node] = {s: s.node for s, _ in region.written.values()}
        self.captured = list(region.captured)
        self._region = region

    def graph(self, inputs: Sequence[Node], captured: Sequence[Node], outputs: Sequence[Node]) -> Graph:
        """The region's graph, with the given inputs and one for each of `captured`, read or not.

        An output is a node of the region or one of `captured`.
        """
        build = GraphBuild("body")
        for node in inputs:
            build.add_input([node], "argument", "")
        for node in captured:
            inside = self._region.captured.get(node)
            build.add_input([node] if inside is None else [node, inside], "argument", "")
        for entry in self._region.entries:
            build.add_entry(entry)
        build.graph.outputs = [build.values[node] for node in outputs]
        return build.graph


def record_region(
    function: Callable[[list[Any]], Sequence[Any]],
    types: Sequence[TensorType],
    states: Sequence[Storage] = (),
) -> RecordedRegion:
    """Records `function` on tensors of the given types; it takes a list of tensors and returns tensors.

    What `states` hold is bound to inputs of the region. Storages that it writes are all to be among them where
    the region is run more than once.
    """
    region = Region(current())
    push(region)
    try:
        # What is not to be differentiated is marked relative to this; the op itself may be marked as a whole.
        with enable_grad():
            bound = [region.bind(s) for s in states]
            arguments = [region.add_input(t) for t in types]
            returned = list(function([wrap(node) for node in arguments]))
            outputs = [t._read() for t in returned]
            flush_random(region)
        return RecordedRegion(region, arguments, bound, returned, outputs)
    finally:
        pop()
        region.restore()


def read_states(states: Sequence[Storage]) -> list[Node]:
    """What storages hold, as nodes of the current recording."""
    return [TensorBase._tensor_class._new(s, s.node.type)._read() for s in states]


def write_states(states: Sequence[Storage], values: Sequence[Node], tracked: Sequence[bool]) -> None:
    """Writes what storages hold after an op with regions; gradients flow into those that are `tracked`."""
    for storage, node, on in zip(states, values, tracked, strict=True):
        node.requires_grad = node.requires_grad and on
        assign(TensorBase._tensor_class._new(storage, storage.node.type), wrap(node))
