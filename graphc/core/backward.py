"""`backward` and `grad`: recorded as one entry per stretch of tape, expanded when compiled."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from graphc.core.build import REPLAY
from graphc.core.evaluate import evaluate, reachable
from graphc.core.location import user_location
from graphc.core.modes import _mode, unrecorded
from graphc.core.node import Entry, Node
from graphc.core.recording import Recording, current, record_nodes
from graphc.core.tape import Tape
from graphc.core.tensor import LostGradient, TensorBase, assign, record, wrap
from graphc.ir.attributes import Dense
from graphc.ir.ops.tape import Gradient
from graphc.ir.types import DType, TensorType

__all__ = ["backward", "gradients"]

_AGAIN = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have "
    "already been freed). Saved intermediate values of the graph are freed when you call .backward() or "
    "autograd.grad(). Specify retain_graph=True if you need to backward through the graph a second time or "
    "if you need to access saved tensors after calling backward."
)


class _Walk:
    """Carries cotangents from roots back to leaves, over pending entries and evaluated tapes."""

    def __init__(self, retain: bool, create: bool, inputs: Sequence[Node]) -> None:
        self.retain = retain
        self.create = create
        self.inputs = list(inputs)
        self.found: dict[Node, Node] = {}
        """Gradient of each leaf (or of each of `inputs`)."""
        self.on_tape: dict[Node, Node] = {}
        """Cotangents of values on evaluated tapes that are still to be followed."""

    def run(self, roots: Sequence[Node], seeds: Sequence[Node]) -> None:
        pending = [
            (r, s) for r, s in zip(roots, seeds, strict=True) if r.entry is not None and r.leaf is None
        ]
        for root, seed in zip(roots, seeds, strict=True):
            if root.entry is None or root.leaf is not None:
                self.arrive(root, seed)
        if pending:
            self.through_entries([r for r, _ in pending], [s for _, s in pending])
        while self.on_tape:
            self.through_tape()

    def arrive(self, node: Node, cotangent: Node) -> None:
        """Adds a cotangent that reached a leaf, an asked-for input or an evaluated tape."""
        table = self.found if node.tape is None or node.leaf is not None else self.on_tape
        if node in self.inputs:
            self.add(self.found, node, cotangent)
            if table is self.found:
                return
        self.add(table, node, cotangent)

    def add(self, table: dict[Node, Node], node: Node, cotangent: Node) -> None:
        known = table.get(node)
        table[node] = cotangent if known is None else record_nodes("add", (known, cotangent), {})[0]

    def through_entries(self, roots: list[Node], seeds: list[Node]) -> None:
        wrt = reachable(roots)
        wrt += [n for n in self.inputs if n not in wrt and n.entry is not None and n.leaf is None]
        self.check(roots)
        results = self.append(
            Gradient,
            (*roots, *seeds, *wrt),
            {"roots": len(roots), "create_graph": self.create},
            ("gradient", len(roots), self.create),
            [n.type for n in wrt],
        )
        for node, gradient in zip(wrt, results, strict=True):
            if node.entry is not None and node.leaf is None:
                self.add(self.found, node, gradient)
            else:
                self.arrive(node, gradient)

    def through_tape(self) -> None:
        """Follows the youngest tape that has cotangents."""
        tape: Tape = max((n.tape[0] for n in self.on_tape if n.tape is not None), key=lambda t: t.number)
        given: dict[int, Node] = {}
        for node in [n for n in self.on_tape if n.tape is not None and n.tape[0] is tape]:
            assert node.tape is not None
            given[node.tape[1]] = self.on_tape.pop(node)
        if tape.freed(given):
            raise RuntimeError(_AGAIN)
        assert tape.plan is not None
        for node in tape.needed(given):
            check_version(node)
        seeds = [given[i] if i in given else _filled(t, 0) for i, t in enumerate(tape.roots)]
        attrs: dict[str, Any] = {"plan": tape.plan, "create_graph": self.create}
        results = self.append(
            REPLAY,
            (*tape.residuals, *seeds),
            attrs,
            ("replay", tape.plan.number, self.create),
            [n.type for n in tape.wrt],
        )
        reached = [(tape.wrt[i], results[i]) for i in tape.ends(given)]
        if not self.retain:
            tape.free(given)
            attrs["frees"] = tape.plan is None and not self.create
        for node, gradient in reached:
            self.arrive(node, gradient)

    def check(self, roots: Sequence[Node]) -> None:
        """Raises where an entry on the way was freed; marks the way as freed unless retained."""
        way: list[Entry] = []
        seen: set[Entry] = set()
        stack = list(roots)
        while stack:
            node = stack.pop()
            entry = node.entry
            if node.leaf is not None or entry is None or entry in seen:
                continue
            seen.add(entry)
            if entry.freed:
                raise RuntimeError(_AGAIN)
            way.append(entry)
            stack.extend(n for n in entry.operands if n.requires_grad)
        if not self.retain:
            for entry in way:
                entry.freed = True

    def append(
        self, kind: Any, operands: tuple[Node, ...], attrs: dict[str, Any], key: Any, types: list[TensorType]
    ) -> tuple[Node, ...]:
        recording = current()
        entry = Entry(recording, kind, operands, attrs, key, tuple(types), user_location())
        recording.append(entry)
        if self.create:
            entry.taped = True
            for r in entry.results:
                r.requires_grad = True
        return entry.results


def check_version(node: Node) -> None:
    """Raises RuntimeError where a realised value was overwritten since it was kept."""
    if node.memory is not None and node.version != node.memory.version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: [{node.type}] is at version {node.memory.version}; expected version {node.version} instead."
        )


@functools.cache
def _number(dtype: DType, number: float) -> Dense:
    return Dense(dtype.numpy.type(number))


def _filled(type_: TensorType, number: float) -> Node:
    (scalar,) = record_nodes("constant", (), {"value": _number(type_.dtype, number)})
    return scalar if not type_.shape else record_nodes("expand", (scalar,), {"shape": type_.shape})[0]


def _seed(root: TensorBase, gradient: Any) -> Node:
    if gradient is None:
        if root.tensor_type.numel != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        return _filled(root.tensor_type, 1)
    if gradient.tensor_type.shape != root.tensor_type.shape:
        raise RuntimeError(
            f"Mismatch in shape: grad_output has a shape of {gradient.shape} and output has a shape of {root.shape}."
        )
    if gradient.dtype is not root.dtype:
        gradient = record("cast", gradient, dtype=root.dtype)
    node: Node = gradient._read()
    return node


def _walk(
    roots: Sequence[Any], seeds: Sequence[Any], retain: bool | None, create: bool, inputs: Sequence[Node]
) -> _Walk:
    for root in roots:
        if not root.requires_grad:
            raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
    recording = current()
    if recording.trace is None and recording.cut:
        evaluate(recording, recording.cut)
    walk = _Walk(create if retain is None else retain, create, inputs)
    before = _mode.enabled
    nodes = [r._read() for r in roots]
    _mode.enabled = create
    try:
        walk.run(nodes, [_seed(r, s) for r, s in zip(roots, seeds, strict=True)])
    finally:
        _mode.enabled = before
    return walk


def backward(
    roots: Sequence[Any],
    seeds: Sequence[Any],
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Sequence[Any] | None = None,
) -> None:
    """Adds the gradients of `roots` to `.grad` of the leaves (of `inputs` only, where given).

    Raises RuntimeError as PyTorch does: a root that does not require grad, a non-scalar without
    gradient, a tape that was freed.
    """
    chosen = None if inputs is None else [t._read() for t in inputs]
    walk = _walk(roots, seeds, retain_graph, create_graph, chosen or ())
    for node, gradient in walk.found.items():
        if node.leaf is None or (chosen is not None and node not in chosen):
            continue
        leaf = node.leaf()
        if leaf is not None:
            _accumulate(leaf, gradient, create_graph)
    recording: Recording = current()
    if recording.trace is None and not recording.cut:
        recording.cut = len(recording.entries)


def _accumulate(leaf: Any, gradient: Node, create: bool) -> None:
    known = leaf._grad
    if known is None or type(known) is LostGradient:
        leaf.grad = wrap(gradient)
    elif create:
        leaf.grad = record("add", known, wrap(gradient))
    else:
        known = leaf.grad  # tells a trace whose gradient it reads
        with unrecorded():
            assign(known, record("add", known, wrap(gradient)))


def _of_leaf(walk: _Walk, leaf: Any) -> Node | None:
    """The gradient of a leaf: the sum over the nodes that stand for it (one an evaluation)."""
    total: Node | None = None
    for node, gradient in walk.found.items():
        if node.leaf is not None and node.leaf() is leaf:
            total = gradient if total is None else record_nodes("add", (total, gradient), {})[0]
    return total


def gradients(
    outputs: Sequence[Any],
    inputs: Sequence[Any],
    seeds: Sequence[Any],
    retain_graph: bool | None,
    create_graph: bool,
    allow_unused: bool,
) -> tuple[Any, ...]:
    """Gradients of the sum of `outputs` (weighted by `seeds`) by `inputs`; None where unused and allowed."""
    for t in inputs:
        if not t.requires_grad:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    nodes = [t._read() for t in inputs]
    walk = _walk(outputs, seeds, retain_graph, create_graph, nodes)
    result = []
    for tensor, node in zip(inputs, nodes, strict=True):
        gradient = walk.found.get(node) if not tensor._leaf else _of_leaf(walk, tensor)
        if gradient is None and not allow_unused:
            raise RuntimeError(
                "One of the differentiated Tensors appears to not have been used in the graph. "
                "Set allow_unused=True if this is the desired behavior."
            )
        result.append(None if gradient is None else wrap(gradient))
    return tuple(result)
