"""`backward` and `grad`: recorded as one entry per stretch of tape, expanded when compiled."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

from graphc.core.anomaly import anomaly, check_gradients
from graphc.core.build import REPLAY
from graphc.core.evaluate import evaluate, ways
from graphc.core.hooked import HookPoint, run_hooks
from graphc.core.location import user_location
from graphc.core.modes import _mode, set_grad_enabled, unrecorded
from graphc.core.node import Entry, Node
from graphc.core.recording import Recording, current, record_nodes
from graphc.core.scopes import WAY_BACK
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


_OVERWRITTEN = (
    "one of the variables needed for gradient computation has been modified by an inplace operation: "
    "create_graph computes its value again, and it was overwritten in the program that read it; "
    "call backward before the write, or write to a copy"
)


class _Walk:
    """Carries cotangents from roots back to leaves, over pending entries and evaluated tapes."""

    def __init__(
        self, retain: bool, create: bool, inputs: Sequence[Node], instances: int | None = None
    ) -> None:
        self.retain = retain
        self.instances = instances
        """Cotangents have a leading axis of so many; None is none."""
        self.create = create
        self.inputs = list(inputs)
        self.found: dict[Node, Node] = {}
        """Gradient of each leaf (or of each of `inputs`)."""
        self.on_tape: dict[Node, Node] = {}
        """Cotangents of values on evaluated tapes that are still to be followed."""
        self.at_hooks: dict[Node, Node] = {}
        """Cotangents of hooked values whose hooks are still to be asked."""
        self.passed: set[Entry] = set()
        """Pending operations that this walk has freed."""
        self.replayed: list[tuple[Tape, list[int], dict[str, Any]]] = []
        """Evaluated tapes to be freed, by way of which roots, with what says so to their replays."""
        self.points: list[HookPoint] = []
        """Points to be released."""

    def run(self, roots: Sequence[Node], seeds: Sequence[Node]) -> None:
        self.start(roots, seeds)
        while self.on_tape or self.at_hooks:
            point = self.next_point()
            if point is not None:
                self.through_point(point)
            else:
                self.through_tape()
        # A way may be passed more than once where there are hooks, so tapes are freed at the end.
        for tape, given, attrs in self.replayed:
            tape.free(given)
            attrs["frees"] = tape.plan is None and not self.create
        for passed in self.points:
            assert passed.release is not None
            passed.freed = True
            passed.release()

    def start(self, roots: Sequence[Node], seeds: Sequence[Node]) -> None:
        pending = []
        for root, seed in zip(roots, seeds, strict=True):
            if root.entry is None or root.leaf is not None or root.hooked is not None:
                self.arrive(root, seed)
            else:
                pending.append((root, seed))
        if pending:
            self.through_entries([r for r, _ in pending], [s for _, s in pending])

    def next_point(self) -> HookPoint | None:
        """The youngest point with cotangents, if nothing younger is still to be followed."""
        if not self.at_hooks:
            return None
        points = [(n.entry is not None, n.hooked[0]) for n in self.at_hooks if n.hooked is not None]
        is_pending, point = max(points, key=lambda p: (p[0], p[1].age))
        oldest = max((n.tape[0].number for n in self.on_tape if n.tape is not None), default=-1)
        found: HookPoint | None = point if is_pending or point.age > oldest else None
        return found

    def hold(self) -> list[Any]:
        """Tensors that keep the cotangents so far, while a function of the user may ask for values."""
        return [wrap(n) for t in (self.found, self.on_tape, self.at_hooks) for n in t.values()]

    def through_point(self, point: HookPoint) -> None:
        """Asks a point's function and goes on from what it stands behind."""
        if point.freed:
            raise RuntimeError(_AGAIN)
        if self.instances is not None:
            raise NotImplementedError(
                "gradients of many instances at once cannot pass a hook or an autograd.Function; "
                "take them one by one"
            )
        if point.release is not None and not self.retain:
            self.points.append(point)
        given: list[Any] = [None] * point.count
        arrived: dict[int, Node] = {}
        for node in [n for n in self.at_hooks if n.hooked is not None and n.hooked[0] is point]:
            assert node.hooked is not None
            position, cotangent = node.hooked[1], self.at_hooks.pop(node)
            if node in self.inputs:
                self.add(self.found, node, cotangent)  # as it came, like PyTorch
            # A value that a function saved stands behind its point once more.
            self.add(arrived, position, cotangent)
        for position, cotangent in arrived.items():
            given[position] = _gradient_of(cotangent)
        held = self.hold()
        changed = [(i, g) for i, g in enumerate(point.function(given)) if g is not None]
        del held
        self.start([point.sources[i]._read() for i, _ in changed], [g._read() for _, g in changed])

    def arrive(self, node: Node, cotangent: Node) -> None:
        """Adds a cotangent that reached a leaf, an asked-for input or an evaluated tape."""
        if node.hooked is not None:
            self.add(self.at_hooks, node, cotangent)
            return
        table = self.found if node.tape is None or node.leaf is not None else self.on_tape
        inner = node.tape is not None and node.leaf is None and node.tape[1] in node.tape[0].inner
        if node in self.inputs and not inner:
            self.add(self.found, node, cotangent)
            if table is self.found:
                return
        self.add(table, node, cotangent)

    def add(self, table: dict[Any, Node], key: Any, cotangent: Node) -> None:
        known = table.get(key)
        table[key] = cotangent if known is None else record_nodes("add", (known, cotangent), {})[0]

    def through_entries(self, roots: list[Node], seeds: list[Node]) -> None:
        wrt, way = ways(roots)
        wrt += [n for n in self.inputs if n not in wrt and _between(n)]
        self.pass_by(way)
        # A recording is looked at by itself; what is compiled looks whenever it runs.
        check = anomaly.checks_nan and current().trace is not None
        attrs = {
            "roots": len(roots),
            "create_graph": self.create,
            "instances": self.instances,
            "check_nan": check,
        }
        types = [self.stacked(n.type) for n in wrt]
        results = self.append(Gradient, (*roots, *seeds, *wrt), attrs, ("gradient", *attrs.values()), types)
        for node, gradient in zip(wrt, results, strict=True):
            if _between(node):
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
        # Residuals are numbers; what is to be differentiated again is computed again from where it came from.
        plan, residuals = (tape.plan.again, tape.again) if self.create else (tape.plan, tape.residuals)
        if residuals is None:
            raise RuntimeError(_OVERWRITTEN)
        for node in residuals if self.create else tape.needed(given):
            check_version(node)
        if self.instances is not None:
            plan = plan.for_instances(self.instances, len(tape.roots))
        seeds = [given[i] if i in given else _filled(self.stacked(t), 0) for i, t in enumerate(tape.roots)]
        attrs: dict[str, Any] = {"plan": plan, "create_graph": self.create}
        results = self.append(
            REPLAY,
            (*residuals, *seeds),
            attrs,
            ("replay", plan.number, self.create),
            [self.stacked(n.type) for n in tape.wrt],
        )
        passed = tape.passed(given)
        for node in self.inputs:
            if node.tape is not None and node.tape[0] is tape and node.tape[1] in passed:
                self.add(self.found, node, results[passed[node.tape[1]]])
        reached = [(tape.wrt[i], results[i]) for i in tape.ends(given)]
        if not self.retain:
            self.replayed.append((tape, list(given), attrs))
        for node, gradient in reached:
            self.arrive(node, gradient)

    def stacked(self, type_: TensorType) -> TensorType:
        """The type of a cotangent of a value."""
        return type_ if self.instances is None else type_.with_shape((self.instances, *type_.shape))

    def pass_by(self, way: Collection[Entry]) -> None:
        """Raises where an operation on the way was freed; marks the way as freed unless retained."""
        for entry in way:
            if entry.freed and entry not in self.passed:
                raise RuntimeError(_AGAIN)
        if not self.retain:
            self.passed.update(way)
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


def _gradient_of(node: Node) -> Any:
    """A gradient as a tensor; a leaf that was given as a cotangent stays on the tape, as a value of its own."""
    if node.leaf is not None:
        node = record_nodes("reshape", (node,), {"shape": node.type.shape})[0]
    return wrap(node)


def _between(node: Node) -> bool:
    """True of a pending value that no gradient ends at by itself."""
    return node.entry is not None and node.leaf is None and node.hooked is None


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


def _seed(root: TensorBase, gradient: Any, instances: int | None) -> Node:
    if gradient is None:
        if root.tensor_type.numel != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        type_ = root.tensor_type
        return _filled(type_ if instances is None else type_.with_shape((instances, *type_.shape)), 1)
    lead = () if instances is None else (instances,)
    if gradient.tensor_type.shape != (*lead, *root.tensor_type.shape):
        raise RuntimeError(
            f"Mismatch in shape: grad_output has a shape of {gradient.shape} and output has a shape of {root.shape}."
        )
    if gradient.dtype is not root.dtype:
        gradient = record("cast", gradient, dtype=root.dtype)
    node: Node = gradient._read()
    return node


def _walk(
    roots: Sequence[Any],
    seeds: Sequence[Any],
    retain: bool | None,
    create: bool,
    inputs: Sequence[Node],
    instances: int | None = None,
) -> _Walk:
    for root in roots:
        if not root.requires_grad:
            raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
    recording = current()
    if recording.trace is not None:
        recording.trace.guard(lambda: anomaly.checks_nan)
    elif recording.cut:
        evaluate(recording, recording.cut)
    walk = _Walk(create if retain is None else retain, create, inputs, instances)
    before = _mode.enabled
    nodes = [r._read() for r in roots]
    if recording.region is not None and any(n in recording.region.captured.values() for n in nodes):
        raise RuntimeError(
            "the result to differentiate was computed outside of the function that is being mapped or looped; "
            "compute it inside (for example with func.vjp), or use func.jacrev"
        )
    start = len(recording.entries)
    scope, recording.scope = recording.scope, WAY_BACK
    _mode.enabled = create
    try:
        walk.run(nodes, [_seed(r, s, instances) for r, s in zip(roots, seeds, strict=True)])
    finally:
        _mode.enabled = before
        recording.scope = scope
    if anomaly.checks_nan and recording.trace is None:
        check_gradients(recording, start, list(walk.found.values()))
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
    if current().region is not None:
        current().region.save_grad(None, None)
    chosen = None if inputs is None else [t._read() for t in inputs]
    walk = _walk(roots, seeds, retain_graph, create_graph, chosen or ())
    hooked: set[int] = set()
    behind: dict[int, Any] = {}
    # Adding to a gradient whose memory somebody outside can see evaluates what is recorded so far.
    kept = walk.hold() if any(_seen_outside(n.leaf() if n.leaf else None) for n in walk.found) else ()
    for node, gradient in list(walk.found.items()):
        if node.leaf is None or (chosen is not None and node not in chosen):
            continue
        leaf = node.leaf()
        if leaf is None or id(leaf) in hooked:
            continue
        hooks = _leaf_hooks(leaf)
        if hooks:
            hooked.add(id(leaf))
            total, held = _of_leaf(walk, leaf), walk.hold()
            assert total is not None
            with set_grad_enabled(create_graph):
                gradient = run_hooks(hooks, wrap(total))._read()
            del held
        _accumulate(leaf, gradient, create_graph)
        if _hooks_behind(leaf):
            behind[id(leaf)] = leaf
    del kept
    for leaf in behind.values():
        with set_grad_enabled(create_graph):
            for hook in list(_hooks_behind(leaf).values()):
                hook(leaf)
    recording: Recording = current()
    if recording.trace is None and not recording.cut:
        recording.cut = len(recording.entries)


def _leaf_hooks(leaf: Any) -> Any:
    """The hooks of a leaf, if any; a trace depends on them."""
    trace = current().trace
    if trace is not None:
        trace.guard(lambda: (tuple(getattr(leaf, "_hooks", None) or ()), tuple(_hooks_behind(leaf))))
    return getattr(leaf, "_hooks", None)


def _hooks_behind(leaf: Any) -> Any:
    """The hooks of a leaf that are called when its gradient has been added, by number."""
    return leaf.__dict__.get("_hooks_behind", {})


def _seen_outside(leaf: Any) -> bool:
    """True where somebody outside holds the memory of a leaf's gradient, so that writes are made at once."""
    known = None if leaf is None else leaf._grad
    if known is None or type(known) is LostGradient:
        return False
    memory = known._storage.memory
    return memory is not None and bool(memory.shared)


def _accumulate(leaf: Any, gradient: Node, create: bool) -> None:
    trace = current().trace
    if trace is not None:
        trace.look(leaf, "added")
    known = leaf._grad
    if type(known) is LostGradient:
        return  # what is added to a gradient that was not kept is not known either: reading it says so
    used = trace is not None and trace.is_used(leaf)
    if known is None:
        leaf.grad = _gradient_of(gradient)
    elif create:
        leaf.grad = record("add", known, _gradient_of(gradient))
    else:
        with unrecorded():
            assign(known, record("add", known, wrap(gradient)))
    if used:
        # A step took the gradient in this call, so what comes after it is kept no more than what it took.
        trace.use(leaf)


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
    instances: int | None = None,
) -> tuple[Any, ...]:
    """Gradients of the sum of `outputs` (weighted by `seeds`) by `inputs`; None where unused and allowed.

    With `instances`, seeds and gradients have a leading axis of so many.
    """
    for t in inputs:
        if not t.requires_grad:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    nodes = [t._read() for t in inputs]
    # In a region a leaf from outside is an input like any other.
    leaves = current().region is None
    walk = _walk(outputs, seeds, retain_graph, create_graph, nodes, instances)
    result: list[Any] = []
    for tensor, node in zip(inputs, nodes, strict=True):
        gradient = _of_leaf(walk, tensor) if leaves and tensor._leaf else walk.found.get(node)
        hooks = _leaf_hooks(tensor) if leaves and tensor._leaf else None
        if gradient is not None and hooks:
            held = [walk.hold(), result]
            with set_grad_enabled(create_graph):
                gradient = run_hooks(hooks, wrap(gradient))._read()
            del held
        if gradient is None and not allow_unused:
            raise RuntimeError(
                "One of the differentiated Tensors appears to not have been used in the graph. "
                "Set allow_unused=True if this is the desired behavior."
            )
        result.append(None if gradient is None else _gradient_of(gradient))
    return tuple(result)
