"""Points on the tape where functions see gradients and may replace them.

A hooked value is an identity that no gradient passes by itself: a walk back stops there, asks the
point's function, and goes on from the point's source. Invariant: the gradients of a point's values
are complete when its function is asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from graphc.core.node import Entry, Node
from graphc.core.recording import Recording, current, record_nodes
from graphc.core.storage import Storage
from graphc.core.tape import AGES
from graphc.core.tensor import wrap

__all__ = ["HookPoint", "Refusal", "hook_value", "hook_values", "move_before", "put_behind", "run_hooks"]

Gradients = list[Any]
"""One gradient tensor for each value or source of a point; None where there is none."""


class HookPoint:
    """What stands between `sources`, the values before it, and the hooked values.

    `function` gets one gradient for each hooked value and gives one for each source. Where there is a
    `release`, the point is passed once: a walk that does not retain calls it at its end.
    """

    __slots__ = ("age", "count", "freed", "function", "release", "sources")

    def __init__(
        self,
        sources: Sequence[Any],
        function: Callable[[Gradients], Gradients],
        count: int | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        _refuse_in_region()
        self.sources = [_held(t._read()) for t in sources]
        self.function = function
        self.count = len(self.sources) if count is None else count
        """How many hooked values there are."""
        self.release = release
        self.freed = False
        self.age = next(AGES)


def _held(node: Node) -> Any:
    """A tensor that keeps a value on evaluated tapes, whatever is written to the tensor that it was read from."""
    leaf = None if node.leaf is None else node.leaf()
    return wrap(node) if leaf is None else leaf


class Refusal:
    """The function of a point that no gradient may pass: asking it raises the error."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, gradients: Gradients) -> Gradients:
        raise self.error


class _Ordered:
    """Runs the hooks of one tensor in order."""

    __slots__ = ("hooks",)

    def __init__(self) -> None:
        self.hooks: OrderedDict[int, Callable[[Any], Any]] = OrderedDict()

    def __call__(self, gradients: Gradients) -> Gradients:
        (gradient,) = gradients
        return [run_hooks(self.hooks, gradient)]


def run_hooks(hooks: OrderedDict[int, Callable[[Any], Any]], gradient: Any) -> Any:
    """The gradient after all hooks; each sees what the one before made of it."""
    for hook in list(hooks.values()):
        changed = hook(gradient)
        if changed is not None:
            if changed.tensor_type != gradient.tensor_type:
                raise RuntimeError(
                    f"hook has changed the type of value (was {gradient.tensor_type} got {changed.tensor_type})"
                )
            gradient = changed
    return gradient


def hook_values(tensors: Sequence[Any], function: Callable[[Gradients], Gradients]) -> list[Any]:
    """The same values behind a point whose `function` gets the gradients of all of them at once."""
    point = HookPoint(tensors, function)
    return [value_behind(t, point, i) for i, t in enumerate(tensors)]


def value_behind(tensor: Any, point: HookPoint, position: int) -> Any:
    """A tensor of the same value that is value `position` of a point; what made `tensor` gets no gradient."""
    (node,) = record_nodes("detach", (tensor._read(),), {})
    return wrap(_behind(node, point, position))


def _refuse_in_region() -> None:
    """Raises TraceError where a loop or branch is recorded: its body is differentiated as a whole, with no stops."""
    region = current().region
    if region is not None:
        region.refuse(
            "have backward hooks of Modules in it; register hooks on tensors there, or on the Module that holds the loop"
        )


def _behind(node: Node, point: HookPoint, position: int) -> Node:
    node.requires_grad = True
    node.hooked = (point, position)
    return node


def hook_value(tensor: Any) -> OrderedDict[int, Callable[[Any], Any]]:
    """The hooks of a tensor that an operation made; it stands behind a point from now on.

    Operations that have read it already read the hooked value instead. Raises RuntimeError where its
    value has been computed, since a tape may have passed it.
    """
    node: Node = tensor._read()
    if node.hooked is not None and isinstance(node.hooked[0].function, _Ordered):
        return node.hooked[0].function.hooks
    if node.entry is None:
        raise RuntimeError(
            "register_hook(): the value of this tensor has been computed already; register the hook before "
            "any value that depends on it is read"
        )
    ordered = _Ordered()
    point = HookPoint([wrap(node)], ordered)
    hooked = _behind(record_nodes("detach", (node,), {})[0], point, 0)
    put_behind(tensor, node, hooked)
    return ordered.hooks


def put_behind(tensor: Any, node: Node, hooked: Node) -> None:
    """Makes `hooked`, which the last entry gives, the value of a tensor that is `node`, also where it was read."""
    recording = current()
    _move_behind(recording, node, hooked)
    if tensor._chain:
        # A view with a hook is a value of its own.
        tensor._stored, tensor._chain, tensor._cache = Storage(hooked), (), None
        recording.track(tensor._stored)
    else:
        tensor._storage.node = hooked


def move_before(recording: Recording, entry: Entry) -> None:
    """Puts the last entry before another. Raises RuntimeError where it reads something that is made later."""
    last = recording.entries.pop()
    at = next(i for i, e in enumerate(recording.entries) if e is entry)
    if any(n.entry in recording.entries[at:] for n in last.operands):
        raise RuntimeError(_LATE)
    recording.entries.insert(at, last)


_LATE = "register_hook(): the hook reads values that were made after the tensor was used; register it before"


def _move_behind(recording: Recording, node: Node, hooked: Node) -> None:
    """Puts the entry of `hooked`, the last one, behind all that it reads; what reads `node` reads `hooked`."""
    last = recording.entries.pop()
    made: set[Entry | None] = {n.entry for n in last.operands}
    at = max((i + 1 for i, e in enumerate(recording.entries) if e in made), default=0)
    first = next((i + 1 for i, e in enumerate(recording.entries) if e is node.entry), 0)
    if any(n is node for e in recording.entries[first:at] for n in e.operands):
        raise RuntimeError(_LATE)
    for entry in recording.entries[at:]:
        if any(n is node for n in entry.operands) and entry.taped:
            entry.operands = tuple([hooked if n is node else n for n in entry.operands])
    recording.entries.insert(at, last)
    if recording.cut >= at:
        recording.cut += 1
