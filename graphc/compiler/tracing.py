"""Tracing: a function is run once on its arguments while everything is recorded, and becomes a graph.

Nothing is executed and nothing that outlives the trace is changed: storages, gradients and the
random state are put back. What the function would have changed is in the result: state inputs
with new values, gradients that are kept or lost.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field
from typing import Any

from graphc.compiler.grad_state import GradientsLeft, GradientTrace, Owner, owned, zero_gradient
from graphc.compiler.shared import share_results
from graphc.compiler.tree import Tree, argument_names, flatten, unflatten
from graphc.core.build import GraphBuild
from graphc.core.evaluate import reachable
from graphc.core.hooked import Refusal
from graphc.core.location import locate
from graphc.core.modes import is_grad_enabled
from graphc.core.node import Node
from graphc.core.recording import Recording, flush_random, pop, push, record_nodes
from graphc.core.storage import Memory, Storage
from graphc.core.symint import Assumption, plain
from graphc.core.tensor import TensorBase
from graphc.ir.errors import TraceError
from graphc.ir.graph import Graph, Role
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.runtime.state import bump_epoch

__all__ = ["State", "Trace", "Traced", "trace_function"]


class Trace(GradientTrace):
    """What a trace has touched so far; the recording calls it back."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        super().__init__(arguments)
        self.old: dict[int, tuple[Storage, Node]] = {}
        self.guards: list[tuple[Callable[[], Any], Any]] = []
        self.assumptions: list[Assumption] = []
        """What calls must bring of sizes, in order."""

    def read(self, storage: Storage) -> None:
        if storage.memory is not None and id(storage) not in self.arguments:
            self.states.setdefault(id(storage), storage)

    def write(self, storage: Storage) -> None:
        if storage.memory is not None and id(storage) not in self.old:
            self.read(storage)
            self.old[id(storage)] = (storage, storage.node)

    def is_input(self, storage: Storage) -> bool:
        return id(storage) in self.arguments or id(storage) in self.states

    def guard(self, snapshot: Callable[[], Any]) -> None:
        """The compiled program is valid only while `snapshot()` gives what it gives now."""
        self.guards.append((snapshot, snapshot()))

    def restore(self) -> None:
        """Puts back every storage and gradient."""
        for storage, node in self.old.values():
            storage.node = node
        self.restore_gradients()


@dataclass(frozen=True)
class State:
    """Memory that a program reads or writes at every call: a storage's, or a tensor's gradient's."""

    fixed: Memory
    grad_of: Owner | None = None
    storage: Storage | None = None
    leaf: TensorBase | None = None
    """The tensor whose `.grad` gradients of this state go to."""

    @property
    def memory(self) -> Memory:
        """The memory now, to be looked at. A gradient that is not there is zeros."""
        if self.grad_of is None or isinstance(self.grad_of, int):
            return self.fixed
        return _gradient_memory(self.grad_of, lambda made: None)

    def bind(self, tensors: Sequence[Any], made: list[TensorBase]) -> Memory:
        """The memory for a call with these argument leaves.

        A gradient that is not there is made, of zeros to be added to; whose it is comes to `made`.
        """
        if self.grad_of is None:
            return self.fixed
        tensor = owned(self.grad_of, tensors)

        def keep(gradient: TensorBase) -> None:
            tensor._grad = gradient
            made.append(tensor)
            bump_epoch()

        return _gradient_memory(tensor, keep)


def _gradient_memory(tensor: TensorBase, keep: Callable[[TensorBase], None]) -> Memory:
    gradient = tensor._grad
    if not isinstance(gradient, TensorBase):
        gradient = zero_gradient(tensor)
        keep(gradient)
    gradient.realize()
    memory: Memory | None = gradient._storage.memory
    assert memory is not None
    return memory


@dataclass(eq=False)
class Traced:
    """A traced function: its graph and what the graph's inputs and outputs are.

    Inputs are the argument leaves, then `states`. Outputs are the returned leaves, then kept
    gradients, then new values of states (those alias their inputs).
    """

    graph: Graph
    states: list[State]
    tree: Tree
    returned: int
    gradients: GradientsLeft = field(default_factory=GradientsLeft)
    grads: list[tuple[Owner, int]] = field(default_factory=list)
    """Whose gradients are kept, and as which outputs."""
    guards: list[tuple[Callable[[], Any], Any]] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    """Positions of returned outputs on the tape whose `backward` may come after the call."""
    wrt: list[int] = field(default_factory=list)
    """Positions of the inputs that gradients of `roots` go to."""
    assumptions: list[Assumption] = field(default_factory=list)
    """What calls must bring of sizes, beyond what inference with them finds."""
    shared: list[int] = field(default_factory=list)
    """Positions of leaves that the function has otherwise, too: it is to be traced with these themselves."""
    same: list[tuple[int, TensorBase]] = field(default_factory=list)
    """Leaves that the function has otherwise, so that the trace holds for them alone."""
    others: dict[int, TensorBase] = field(default_factory=dict)
    """Tensors that the function has otherwise and whose gradients it sets, by identity: no argument may be one."""


@contextmanager
def _recording(trace: Trace, *, symbolic: bool) -> Iterator[Recording]:
    recording = Recording(trace)
    recording.plain = plain if symbolic else None
    push(recording)
    try:
        yield recording
        flush_random(recording)
    finally:
        pop()


def trace_function(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    name: str,
    keep_grads: bool,
    types: Sequence[TensorType] | None = None,
    share: bool = False,
    originals: Sequence[Any] = (),
) -> Traced:
    """The graph of `function` on arguments whose tensor leaves are realised Tensors.

    `types` are the leaves' types with symbolic sizes, where some are dynamic, `originals` the tensors that the leaves stand for. With `share` results that share a
    storage are one output, and aliases again when the tree is filled. Raises whatever the function
    raises, and TraceError where it asks for a value, or for a number in place of a symbolic size.
    """
    leaves, nest = flatten((args, kwargs))
    symbolic = types is not None and not all(t.is_static for t in types)
    if types is not None and symbolic:
        leaves = _stand_ins(leaves, types)
        args, kwargs = unflatten(nest, iter(leaves))
    trace = Trace(leaves)
    inputs = list(zip(argument_names(function, args, kwargs), leaves, strict=True))
    recording: Recording | None = None
    try:
        with _recording(trace, symbolic=symbolic) as recording:
            result = function(*args, **kwargs)
            returned, tree = flatten(result)
            if share:
                returned, tree = share_results(returned, tree)
            outputs = [_output(t) for t in returned]
            gradients = trace.leave(keep_grads)
        traced = _Finish(trace, recording, inputs, name, gradients).run(outputs, tree)
        if symbolic:
            _forbid_gradients(trace, args, kwargs)
    except TraceError as error:
        locate(error)
        raise
    finally:
        trace.restore()
        if recording is not None:
            for entry in recording.entries:
                entry.clear()
    traced.shared = [
        i
        for i, (t, leaf) in enumerate(zip(originals, leaves, strict=False))
        if leaf is not t and t._leaf and (id(t._storage) in trace.states or id(t) in trace.looks)
    ]
    traced.others = {i: look.tensor for i, look in trace.looks.items() if i not in trace.positions}
    storages = list(trace.states.values())
    trace.guard(lambda: [s.node.requires_grad for s in storages])
    return traced


def _stand_ins(leaves: Sequence[Any], types: Sequence[TensorType]) -> list[Any]:
    """Argument leaves without bytes, of symbolic types; leaves that share a storage share one again."""
    storages: dict[int, Storage] = {}
    made = []
    for leaf, type_ in zip(leaves, types, strict=True):
        storage = storages.get(id(leaf._storage))
        if storage is None:
            storage = Storage(Node(type_, memory=Memory(type_, None, 0)))
            storage.node.requires_grad = leaf.requires_grad
            storages[id(leaf._storage)] = storage
        elif storage.node.type != type_:
            raise TraceError(
                f"one tensor is two arguments, once of type {storage.node.type} and once of type {type_}: name the same "
                "dynamic axes for both, or pass a clone() for one"
            )
        stand_in = type(leaf)._new(storage, type_)
        stand_in._leaf = leaf._leaf
        if leaf._leaf:
            storage.node.leaf = weakref.ref(stand_in)
        made.append(stand_in)
    return made


def _forbid_gradients(trace: Trace, args: Any, kwargs: Any) -> None:
    """Raises where `.grad` of a dynamic argument was set: it would have another shape at each call."""
    leaves, _ = flatten((args, kwargs))
    if any(not leaf.tensor_type.is_static and isinstance(leaf._grad, TensorBase) for leaf in leaves):
        raise TraceError(
            "backward inside of a compiled function sets .grad of an argument with dynamic dimensions, which cannot be "
            "kept from call to call; return the gradient (graphc.autograd.grad), or call backward outside"
        )


def _output(leaf: Any) -> Node:
    if not isinstance(leaf, TensorBase):
        raise TraceError("a compiled function returned a NumPy array; return a Tensor instead")
    node = leaf._read()
    if node.entry is None and node.requires_grad and is_grad_enabled():
        # Returned as it came: a result of its own, which its gradient passes through.
        node = record_nodes("reshape", (node,), {"shape": node.type.shape})[0]
    return node


def _refuses(node: Node) -> bool:
    """True of a value that no gradient may pass."""
    return node.hooked is not None and isinstance(node.hooked[0].function, Refusal)


class _Finish:
    """Turns a finished recording into a graph and works out what becomes of gradients."""

    def __init__(
        self,
        trace: Trace,
        recording: Recording,
        inputs: list[tuple[str, Any]],
        name: str,
        gradients: GradientsLeft,
    ) -> None:
        self.trace = trace
        self.recording = recording
        self.inputs = inputs
        self.name = name
        self.gradients = gradients

    def run(self, outputs: list[Node], tree: Tree) -> Traced:
        trace = self.trace
        written = [s for s in {**trace.arguments, **trace.states}.values() if s.node.entry is not None]
        build = self.build()
        graph = build.graph
        roots, ends = self.gradients_outside(outputs)
        leaves = {id(n.memory): n.leaf() for n in ends if n.leaf is not None}
        traced = Traced(
            graph,
            [
                State(s.memory, trace.grad_of.get(id(s)), s, leaves.get(id(s.memory)))
                for s in trace.states.values()
                if s.memory
            ],
            tree,
            len(outputs),
            gradients=self.gradients,
            guards=trace.guards,
            assumptions=trace.assumptions,
            roots=[outputs.index(n) for n in roots],
            wrt=list(dict.fromkeys(build.values[n].index for n in ends)),
        )
        for node in outputs:
            graph.outputs.append(build.values[node])
        for owner, node in self.gradients.kept:
            traced.grads.append((owner, len(graph.outputs)))
            graph.outputs.append(build.values[node])
        for storage in written:
            graph.aliases[len(graph.outputs)] = self.position[id(storage)]
            graph.outputs.append(build.values[storage.node])
        return traced

    def gradients_outside(self, outputs: list[Node]) -> tuple[list[Node], list[Node]]:
        """Returned values that a later `backward` may start from, and where it may end."""
        roots = [
            n
            for n in dict.fromkeys(outputs)
            if n.requires_grad and n.leaf is None and n.entry is not None and not n.entry.freed
        ]
        ends = reachable(roots)
        if any(_refuses(n) for n in (*roots, *ends)):
            # Nothing may be differentiated by way of these, and no tape says so outside: they are off the tape.
            roots = [n for n in roots if not any(_refuses(e) for e in (n, *reachable([n])))]
            ends = reachable(roots)
        if any(n.hooked is not None for n in (*roots, *ends)):
            raise TraceError(
                "a value with a hook inside of a compiled function is differentiated outside of it; call "
                "backward inside of the function, or leave it uncompiled"
            )
        return (roots, ends) if ends else ([], [])

    def build(self) -> GraphBuild:
        """The graph with one input for each argument leaf and state."""
        nodes: dict[int, list[Node]] = {}
        for entry in self.recording.entries:
            for node in entry.operands:
                if node.memory is not None:
                    nodes.setdefault(id(node.memory), []).append(node)
        build = GraphBuild(self.name)
        self.position: dict[int, int] = {}
        inputs: list[tuple[Storage, Role, str]] = [(t._storage, "argument", name) for name, t in self.inputs]
        inputs += [(s, s.memory.role, s.memory.name) for s in self.trace.states.values() if s.memory]
        for storage, role, name in inputs:
            old = self.trace.old.get(id(storage))
            first = old[1] if old is not None else storage.node
            self.position.setdefault(id(storage), len(build.graph.inputs))
            build.add_input([first, *nodes.get(id(storage.memory), ())], role, name)
        for entry in self.recording.entries:
            build.add_entry(entry)
        return build
