"""Recordings: every tensor operation is appended to the thread's recording, none is run at once.

Recording an operation again that was seen before is a chain of dictionary look-ups: inferred types
are kept by (op, operand types, attributes). Shape and dtype errors are raised here, so they point
at the user's own line.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from graphc.core.location import annotate, user_location
from graphc.core.modes import _mode, on_grad_mode_change
from graphc.core.node import Entry, Node
from graphc.core.scopes import Scope
from graphc.core.storage import Storage
from graphc.ir.families import REGISTRY, GraphOp
from graphc.ir.graph import Graph
from graphc.ir.structure import structure
from graphc.ir.types import TensorType
from graphc.runtime.state import bump_pending, grad_mode, set_grad_mode

MOST_ENTRIES = 2000
"""The last resort against recordings that nothing ever asks a value of."""
MOST_TRACED = 40_000
"""A trace of so many operations is warned of: it unrolled a long Python loop."""
UNLIMITED = 1 << 60
"""The limit while a stretch must stay in one recording."""

__all__ = [
    "MOST_TRACED",
    "UNLIMITED",
    "Recording",
    "checkpointed",
    "current",
    "flush_random",
    "pop",
    "push",
    "record_nodes",
    "take_random",
]


class Recording:
    """Pending operations of one thread, or of one trace (`trace` is then the Trace object)."""

    __slots__ = (
        "__weakref__",
        "cut",
        "depth",
        "entries",
        "limit",
        "lock",
        "modules",
        "parts",
        "plain",
        "random",
        "region",
        "scope",
        "storages",
        "trace",
    )

    def __init__(self, trace: Any = None) -> None:
        self.entries: list[Entry] = []
        self.storages: list[weakref.ref[Storage]] = []
        """Storages whose current value was made here; some may be dead by now."""
        self.parts: dict[Storage, dict[Node, None]] = {}
        """Storages of which entries read parts where they lie, and the values that these are."""
        self.trace = trace
        self.plain: Callable[[Any], Any] | None = None
        """Where sizes may be symbolic: makes plain expressions of what attributes hold of them."""
        self.region: Any = None
        """The recording itself where it is that of a region: see `core.region`."""
        self.scope: Scope | None = None
        """What operations are recorded in: see `core.scopes`."""
        self.depth = 0
        """How many Modules the thread is inside of."""
        self.modules: set[int] = set()
        """Identities of the outermost Modules that were entered since the last evaluation."""
        self.cut = 0
        """Where the first `backward` ended; a second one evaluates up to here first."""
        self.limit = MOST_ENTRIES if trace is None else MOST_TRACED
        """Evaluated at this length, or warned of."""
        self.random: dict[Any, int] = {}
        """Random numbers drawn here so far, by what records the generator's advance by a count."""
        self.lock = threading.RLock()

    def track(self, storage: Storage) -> None:
        """Notes that `storage`'s current value is pending here."""
        self.storages.append(weakref.ref(storage))

    def append(self, entry: Entry) -> None:
        """Adds an entry. The first one makes compiled calls look before they run."""
        if not self.entries and self.trace is None:
            bump_pending()
        self.entries.append(entry)


class _Thread(threading.local):
    def __init__(self) -> None:
        self.stack: list[Recording] = [Recording()]


_thread = _Thread()


def current() -> Recording:
    """The recording that this thread's operations go to."""
    return _thread.stack[-1]


def push(recording: Recording) -> None:
    """Starts recording into `recording` (a trace)."""
    _thread.stack.append(recording)
    _tell(bool(grad_mode() & 1))


def pop() -> Recording:
    """Ends the innermost trace."""
    assert len(_thread.stack) > 1, "no trace to end"
    recording = _thread.stack.pop()
    _tell(bool(grad_mode() & 1))
    return recording


def _tell(enabled: bool) -> None:
    """Tells the native entry this thread's grad mode, and that no program serves a call while a trace records it."""
    set_grad_mode(int(enabled) + (2 if len(_thread.stack) > 1 else 0))


on_grad_mode_change(_tell)


_inferred: dict[Any, tuple[dict[str, Any], tuple[TensorType, ...], int]] = {}
_numbers = itertools.count()


def _infer(cls: type[GraphOp], types: tuple[TensorType, ...], attrs: dict[str, Any], key: Any) -> Any:
    unknown = [k for k in attrs if k not in cls.attributes]
    full = {**cls.attributes, **attrs}
    missing = [k for k, v in full.items() if v is ...]
    if unknown or missing:
        raise TypeError(f"{cls.name}: unknown attributes {unknown}, missing {missing}")
    results = cls.infer(types, full)
    if len(_inferred) > 200_000:
        _inferred.clear()
    # One number per distinct operation, so that recordings are compared by small integers.
    found = _inferred[key] = (full, results, next(_numbers))
    return found


def record_nodes(
    name: str, operands: Sequence[Node], attrs: dict[str, Any], regions: tuple[Graph, ...] = ()
) -> tuple[Node, ...]:
    """Appends op `name` on nodes of this recording; returns its result nodes. Regions are not changed."""
    cls = REGISTRY[name]
    recording = _thread.stack[-1]
    if recording.plain is not None:
        attrs = {k: recording.plain(v) for k, v in attrs.items()}
    key: tuple[Any, ...] = (name, tuple([n.type.number for n in operands]), *attrs.items())
    if regions:
        key = (*key, *map(structure, regions))
    found = _inferred.get(key)
    if found is None:
        try:
            found = _infer(cls, tuple([n.type for n in operands]), attrs, key)
        except (TypeError, RuntimeError, ValueError, IndexError, NotImplementedError) as error:
            annotate(error)
            raise
    full, results, identity = found
    entry = Entry(recording, cls, tuple(operands), full, identity, results, user_location(), regions)
    recording.append(entry)
    if _mode.enabled and cls.differentiable:
        for n in operands:
            if n.requires_grad:
                entry.taped = True
                for r in entry.results:
                    r.requires_grad = r.type.dtype.kind == "float"
                break
    return entry.results


def flush_random(recording: Recording) -> None:
    """Records the advance of every random generator drawn from, once per recording."""
    drawn, recording.random = recording.random, {}
    for generator, count in drawn.items():
        generator.advance(count)


def take_random(recording: Recording) -> list[Callable[[], None]]:
    """What advances the generators drawn from once the recording's program has run.

    Recorded instead where the state is pending, or a tape may read what the program read.
    """
    drawn, recording.random = recording.random, {}
    taped = any(e.taped for e in recording.entries) if drawn else False
    found = []
    for generator, count in drawn.items():
        advance = None if taped else generator.advance_behind(count)
        if advance is None:
            generator.advance(count)
        else:
            found.append(advance)
    return found


@contextmanager
def checkpointed() -> Iterator[None]:
    """What is recorded inside is in a checkpoint of its own: ways back compute its values again."""
    recording = _thread.stack[-1]
    scope = recording.scope
    recording.scope = Scope(scope)
    try:
        yield
    finally:
        recording.scope = scope
