"""Sections: stretches of recording that are the same every time and are appended again as one entry.

An optimiser step records the same operations at every step. They are recorded once, become a
graph, and from then on one entry stands for them. Invariant: a section reads and writes only the
tensors that its owner names, so that replaying it means what recording it again would mean.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from graphc.core.build import REPLAY, SECTION_PLANS, GraphBuild, ReplayPlan
from graphc.core.location import user_location
from graphc.core.node import Entry, Node
from graphc.core.recording import UNLIMITED, Recording, current
from graphc.core.storage import Storage
from graphc.core.tensor import replace_value

__all__ = ["Sections"]

_MOST_SECTIONS = 16


class _Section:
    """One stretch: which of the owner's tensors it reads and writes, by position, and its graph."""

    __slots__ = ("keep", "plan", "reads", "types", "writes")

    def __init__(self, plan: ReplayPlan, reads: list[int], writes: list[int], keep: Any) -> None:
        self.plan = plan
        self.reads = reads
        self.writes = writes
        self.types = [v.type.number for v in plan.graph.inputs]
        self.keep = keep
        """What the key names by identity."""


class Sections:
    """The sections of one owner, by a key of the owner's choice."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[Hashable, _Section] = {}

    def run(
        self,
        key: Callable[[], Hashable],
        tensors: Callable[[], list[Any]],
        body: Callable[[], None],
        keep: Callable[[], Any],
    ) -> None:
        """Records what `body` records, as one entry where that is possible.

        `tensors()` are all tensors that `body` reads or writes, in an order that `key()` decides;
        they are asked for again after `body`, which may create some (state). `body` must depend on
        nothing but what `key()` names; `keep()` gives the objects that the key names by identity.
        Gradients and other tensors that come and go must not be among those.
        """
        at = key()
        found = self._known.get(at)
        if found is not None and _replay(found, tensors()):
            return
        learnt = _learn(tensors, body)
        # A stretch that made state does not do so again: the next one is learnt.
        if learnt is not None and at == key():
            if len(self._known) >= _MOST_SECTIONS:
                self._known.clear()
            self._known[at] = _Section(*learnt, keep())


def _replay(section: _Section, tensors: Sequence[Any]) -> bool:
    """Appends the section's entry; False, with nothing done, where it does not fit the tensors."""
    storages = [t._storage for t in tensors]
    if len(set(map(id, storages))) != len(storages):
        return False
    nodes = [tensors[i]._read() for i in section.reads]
    if [n.type.number for n in nodes] != section.types:
        return False
    _append(current(), section.plan, tuple(nodes), [storages[i] for i in section.writes])
    return True


def _append(
    recording: Recording, plan: ReplayPlan, operands: tuple[Node, ...], written: Sequence[Storage]
) -> None:
    entry = Entry(
        recording,
        REPLAY,
        operands,
        {"plan": plan, "create_graph": False},
        ("replay", plan.number, False),
        plan.types,
        user_location(),
    )
    recording.append(entry)
    for storage, node in zip(written, entry.results, strict=True):
        replace_value(recording, storage, node)


def _learn(
    tensors: Callable[[], list[Any]], body: Callable[[], None]
) -> tuple[ReplayPlan, list[int], list[int]] | None:
    """Runs `body` and puts one entry in the place of what it recorded; None where that cannot be."""
    recording = current()
    before = {t._read(): t for t in tensors()}
    entries, begin = recording.entries, len(recording.entries)
    tracked, drawn = len(recording.storages), dict(recording.random)
    limit, recording.limit = recording.limit, UNLIMITED
    try:
        body()
    finally:
        recording.limit = limit
    made = recording.entries[begin:]
    if recording.entries is not entries or recording.random != drawn:
        return None  # evaluated meanwhile, or not told by its operands alone
    found = _Found(recording, made, before, tensors())
    if not found.inputs or not found.find(tracked):
        return None
    plan = found.plan()
    del recording.entries[begin:]
    for storage, node in found.written:
        storage.node = found.old(storage, node)
    for entry in made:
        for node in entry.results:
            node.entry = None
        entry.clear()
    for tensor in found.tensors:
        tensor._cache = None
    _append(recording, plan, tuple(found.inputs), [s for s, _ in found.written])
    return plan, found.reads, found.writes


class _Found:
    """What a stretch of entries reads from outside and which storages it gives values."""

    def __init__(
        self, recording: Recording, made: list[Entry], before: dict[Node, Any], tensors: list[Any]
    ) -> None:
        self.recording = recording
        self.made = made
        self.before = before
        self.tensors = tensors
        self.numbers: dict[Node, int] = {}
        self.inputs: list[Node] = []
        self.reads: list[int] = []
        self.written: list[tuple[Storage, Node]] = []
        self.writes: list[int] = []
        inside = {node for entry in made for node in entry.results}
        for entry in made:
            for node in entry.operands:
                if node not in inside and node not in self.numbers:
                    self.numbers[node] = len(self.inputs)
                    self.inputs.append(node)

    def find(self, tracked: int) -> bool:
        """Names inputs and written storages by the owner's tensors; False where one has no name."""
        position = {id(t): i for i, t in enumerate(self.tensors)}
        by_memory = {id(t._storage.memory): i for i, t in enumerate(self.tensors) if not t._chain}
        for node in self.inputs:
            known = self.before.get(node)
            at = position.get(id(known)) if known is not None else by_memory.get(id(node.memory))
            if at is None or (known is None and node.memory is None):
                return False
            self.reads.append(at)
        inside = {node for entry in self.made for node in entry.results}
        own = {id(t._storage): i for i, t in enumerate(self.tensors)}
        if len(own) != len(self.tensors):
            return False  # two tensors share a storage: another time they may not
        seen: set[int] = set()
        for reference in self.recording.storages[tracked:]:
            storage = reference()
            if storage is None or id(storage) in seen or storage.node not in inside:
                continue
            seen.add(id(storage))
            at = own.get(id(storage))
            if at is None:
                return False  # a value that lives on without the owner naming it
            self.written.append((storage, storage.node))
            self.writes.append(at)
        return True

    def old(self, storage: Storage, new: Node) -> Node:
        """The value that `storage` had before the stretch, with the new one's place on the tape."""
        for node in self.inputs:
            if storage.memory is not None and node.memory is storage.memory:
                old = node
                break
        else:
            old = next((n for n, t in self.before.items() if t._storage is storage and not t._chain), new)
            if old is new:
                old = Node(new.type, memory=storage.memory)
        old.leaf, old.requires_grad = new.leaf, new.requires_grad
        return old

    def plan(self) -> ReplayPlan:
        """The graph of the stretch, shared by all stretches of the same structure."""
        numbers = dict(self.numbers)
        for i, node in enumerate(self.inputs):
            numbers[node] = -1 - i
        parts = []
        count = 0
        for entry in self.made:
            parts.append((entry.key, tuple([numbers[n] for n in entry.operands]), entry.taped))
            for node in entry.results:
                numbers[node] = count
                count += 1
        key = (
            tuple(parts),
            tuple([(n.type.number, n.requires_grad) for n in self.inputs]),
            tuple([numbers[n] for _, n in self.written]),
        )
        found = SECTION_PLANS.get(key)
        if found is None:
            found = SECTION_PLANS[key] = self._build()
        return found

    def _build(self) -> ReplayPlan:
        build = GraphBuild("section")
        for node in self.inputs:
            build.add_input([node], "buffer", "")
        for entry in self.made:
            build.add_entry(entry)
        build.graph.outputs = [build.values[node] for _, node in self.written]
        return ReplayPlan(build.graph)
