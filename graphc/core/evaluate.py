"""Evaluation: a recording becomes one program, cached by its structure, and is run.

Everything that a live tensor can still see becomes an output, which is PyTorch's cost model.
Values on the tape that outlive the evaluation get an evaluated tape, whose residuals are hidden
outputs. A storage that has memory already is written in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from graphc.core.build import REPLAY, SECTION_PLANS, GraphBuild, ReplayPlan
from graphc.core.copies import Copy, take_copies
from graphc.core.node import Entry, Node
from graphc.core.recording import Recording, take_random
from graphc.core.scopes import ScopeWords
from graphc.core.storage import Memory, Storage, allocate_memory
from graphc.core.tape import FREED, Tape, Way, ways_back
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Role
from graphc.ir.lazy import lazy_module
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.runtime.state import bump_epoch

if TYPE_CHECKING:
    from graphc.passes import gradients, split
else:
    gradients = lazy_module("graphc.passes.gradients")
    split = lazy_module("graphc.passes.split")

__all__ = [
    "Runner",
    "cache_clear",
    "cache_size",
    "evaluate",
    "on_compile",
    "pending_build",
    "pending_graph",
    "reachable",
    "ways",
]


class Runner(Protocol):
    """A compiled program over memory."""

    def run(self, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> None:
        """Runs on all graph inputs and on those outputs that alias no input, in order.

        Raises the exception of a failed data-dependent check; then nothing was written.
        """


Compile = Callable[[Graph], Runner]
_compile: list[Compile] = []
_programs: dict[Any, _Program] = {}


def on_compile(compile_: Compile) -> None:
    """Says how graphs become programs; called once by the compiler."""
    _compile[:] = [compile_]


def cache_size() -> int:
    """Number of recorded-mode programs compiled so far."""
    return len(_programs)


def cache_clear() -> None:
    """Forgets recorded-mode programs."""
    _programs.clear()
    SECTION_PLANS.clear()


@dataclass(eq=False)
class _Program:
    runner: Runner
    plan: ReplayPlan | None
    sources: Sequence[tuple[str, int]]
    """Where the backward graph's residual inputs come from: ("input", i) or ("residual", output)."""
    residual_types: list[TensorType]
    ways: tuple[Way, ...] = ()
    again: Sequence[tuple[str, int]] | None = None
    """Where the inputs of the plan's `again` come from."""
    hooked: Sequence[int] = ()
    """Which of the layout's `wrt` have hooks and were made here: the first residuals."""


class _Layout:
    """The structure of a stretch of a recording: node numbers, inputs by memory, outputs."""

    def __init__(self, recording: Recording, entries: list[Entry], rest: list[Entry]) -> None:
        self.entries = entries
        self.index: dict[Node, int] = {}
        self.inputs: list[list[Node]] = []
        self.memories: list[Memory] = []
        self._by_memory: dict[int, int] = {}
        self.parts: list[Any] = []
        index, number, words = self.index, self.number, ScopeWords()
        for entry in entries:
            operands = tuple([index[n] if n in index else number(n) for n in entry.operands])
            leaves = False
            for r in entry.results:
                index[r] = len(index)
                leaves = leaves or r.leaf is not None or r.hooked is not None
            word = None if entry.scope is None else words.word(entry.scope)
            self.parts.append((entry.key, operands, entry.taped, leaves, word))
        self.donated = _donated(entries, rest)
        self.outputs: list[tuple[Node, Storage | None]] = []
        self.find_outputs(recording, rest)
        self.copies: list[Copy] = []
        """What is copied instead of being computed; no outputs then."""
        self.roots = [n for n in dict.fromkeys(n for n, _ in self.outputs) if _needs_tape(n)]
        self.wrt, way = ways(self.roots) if self.roots else ([], set())
        if not self.wrt:
            self.roots = []
        if len(self.roots) > 1:
            # Roots that gradients of others pass can be differentiated by too.
            read = {n for e in way for n in e.operands}
            self.wrt += [n for n in self.roots if n in read]

    def number(self, node: Node) -> int:
        """Number of a node; a realised one is an input, one per memory."""
        found = self.index.get(node)
        if found is None:
            memory = node.memory
            if memory is None:
                raise RuntimeError("this tensor has no value: the computation that made it failed")
            found = self.index[node] = -1 - self.input(memory)
            self.inputs[-1 - found].append(node)
        return found

    def input(self, memory: Memory) -> int:
        """Position of the input that stands for `memory`."""
        found = self._by_memory.get(id(memory))
        if found is None:
            found = self._by_memory[id(memory)] = len(self.memories)
            self.memories.append(memory)
            self.inputs.append([])
        return found

    def find_outputs(self, recording: Recording, rest: list[Entry]) -> None:
        seen: set[int] = set()
        kept = []
        for reference in recording.storages:
            storage = reference()
            if storage is None or id(storage) in seen:
                continue
            seen.add(id(storage))
            if storage.node.entry is None or storage.node.entry.recording is not recording:
                continue
            if storage.node in self.index:
                self.outputs.append((storage.node, storage))
            else:
                kept.append(reference)
        recording.storages = kept
        if rest:
            have = {n for n, _ in self.outputs}
            for entry in rest:
                for n in entry.operands:
                    if n.entry is not None and n in self.index and n not in have:
                        have.add(n)
                        self.outputs.append((n, None))

    def roles(self) -> list[Role]:
        """What each input is to the program. Plain data that is only read may be elsewhere at every call."""
        written = set(self.aliases)
        return [
            ("donated" if id(m) in self.donated else "argument")
            if m.role == "donated" or (m.role == "buffer" and i not in written)
            else m.role
            for i, m in enumerate(self.memories)
        ]

    def key(self) -> Any:
        """Equal for recordings that one program serves."""
        aliases = [
            self.input(s.memory) if s is not None and s.memory is not None else None for _, s in self.outputs
        ]
        self.aliases = aliases
        return (
            tuple(self.parts),
            tuple([(m.type.number, role) for m, role in zip(self.memories, self.roles(), strict=True)]),
            tuple([self.index[n] for n, _ in self.outputs]),
            tuple(aliases),
            tuple([self.index[n] for n in self.roots]),
            tuple([self.index[n] for n in self.wrt]),
        )


def _donated(entries: Sequence[Entry], rest: Sequence[Entry]) -> set[int]:
    """Identities of residuals whose only reader is a `backward` that frees its tape."""
    last = [e for e in entries if e.kind is REPLAY and e.attrs.get("frees")]
    if not last:
        return set()
    found = {id(n.memory) for e in last for n in e.operands if n.memory and n.memory.role == "donated"}
    others = [e for e in (*entries, *rest) if e not in last]
    return found.difference([id(n.memory) for e in others for n in e.operands])


def _needs_tape(node: Node) -> bool:
    return (
        node.requires_grad
        and node.leaf is None
        and node.hooked is None
        and node.entry is not None
        and not node.entry.freed
    )


def reachable(roots: Sequence[Node]) -> list[Node]:
    """Where gradients from pending `roots` end, in order found: leaves, hooked values, values on evaluated tapes."""
    return ways(roots)[0]


def ways(roots: Sequence[Node]) -> tuple[list[Node], set[Entry]]:
    """Where gradients from pending `roots` end, as `reachable` says, and the operations that they pass."""
    found: dict[Node, None] = {}
    seen: set[Entry] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.leaf is not None or node.hooked is not None:
            found[node] = None
            continue
        if node.entry is None:
            if node.tape is not None:
                found[node] = None
            continue
        entry = node.entry
        if entry in seen:
            continue
        seen.add(entry)
        stack.extend([n for n in entry.operands if n.requires_grad])
    return list(found), seen


def evaluate(recording: Recording, upto: int | None = None) -> None:
    """Compiles (at most once per structure) and runs the first `upto` entries, or all of them."""
    with recording.lock:
        advances = take_random(recording) if upto is None else []
        entries = recording.entries if upto is None else recording.entries[:upto]
        rest = [] if upto is None else recording.entries[upto:]
        recording.entries = rest
        recording.cut = 0
        if not rest:
            recording.parts.clear()
        recording.modules.clear()
        if not entries:
            return
        layout = _Layout(recording, entries, rest)
        layout.copies, layout.outputs = take_copies(layout.outputs)
        try:
            _keep_old_values(layout, rest)
            _run(layout)
            for copy in layout.copies:
                copy.perform()
            for advance in advances:
                advance()
        except BaseException:
            _abandon(layout)
            raise
        finally:
            for entry in entries:
                for node in entry.results:
                    node.entry = None
                entry.clear()


def _run(layout: _Layout) -> None:
    key = layout.key()
    if not layout.outputs:
        return
    program = _programs.get(key)
    if program is None:
        program = _programs[key] = _compile_layout(layout)
    fresh: list[Memory] = []
    results: list[Memory] = []
    for (node, _), alias in zip(layout.outputs, layout.aliases, strict=True):
        if alias is None:
            memory = allocate_memory(node.type)
            fresh.append(memory)
        else:
            memory = layout.memories[alias]
        results.append(memory)
    residuals = [allocate_memory(t) for t in program.residual_types]
    for memory in residuals:
        memory.role = "donated"
    program.runner.run(layout.memories, [*fresh, *residuals])
    for (node, storage), memory in zip(layout.outputs, results, strict=True):
        if node.memory is None or node.memory not in layout.memories:
            node.memory = memory
            node.version = memory.version
        if storage is not None:
            storage.memory = memory
            if node.memory is not memory:
                storage.node = _twin(node, memory)
    _attach_tape(layout, program, residuals)


def _twin(node: Node, memory: Memory) -> Node:
    """The same value in another storage's memory."""
    twin = Node(node.type, memory=memory)
    twin.requires_grad, twin.leaf, twin.tape = node.requires_grad, node.leaf, node.tape
    twin.hooked = node.hooked
    return twin


def _attach_tape(layout: _Layout, program: _Program, residuals: list[Memory]) -> None:
    for node, _ in layout.outputs:
        if node.requires_grad and node.leaf is None and node.entry is not None and node.entry.freed:
            node.tape = (FREED, 0)
    if program.plan is None:
        return
    outputs = [n for n, _ in layout.outputs] + [Node(m.type, memory=m) for m in residuals]
    for at, i in enumerate(program.hooked, len(layout.outputs)):
        outputs[at].requires_grad, outputs[at].hooked = True, layout.wrt[i].hooked
    leaves = set(layout.wrt)

    def kept(sources: Sequence[tuple[str, int]]) -> list[Node]:
        found = []
        for kind, i in sources:
            nodes = layout.inputs[i] if kind == "input" else outputs[i : i + 1]
            node = next((n for n in nodes if n in leaves), nodes[0])
            if kind == "input" and node.memory is not None:
                node.version = node.memory.version  # the program has just read it
                if node.memory.role == "donated":
                    node.memory.role = "buffer"  # two tapes hold it
            found.append(node)
        return found

    again = None if program.again is None else kept(program.again)
    tape = Tape(program.plan, kept(program.sources), layout.roots, layout.wrt, program.ways, again)
    for position, node in enumerate(layout.roots):
        node.tape = (tape, position)


def _keep_old_values(layout: _Layout, rest: list[Entry]) -> None:
    """Copies state that later entries still read as it was before this program writes it."""
    if not rest:
        return
    written = {id(s.memory) for _, s in layout.outputs if s is not None and s.memory is not None}
    written |= {id(c.target) for c in layout.copies}
    for entry in rest:
        for node in entry.operands:
            if node.memory is not None and id(node.memory) in written:
                copy = allocate_memory(node.type)
                copy.array[...] = node.memory.array
                node.memory, node.version = copy, copy.version


def _abandon(layout: _Layout) -> None:
    """After a failure: states keep the value that their memory holds; other results have none."""
    for storage in [s for _, s in layout.outputs] + [c.storage for c in layout.copies]:
        if storage is not None and storage.memory is not None:
            leaf = storage.node.leaf
            storage.node = Node(storage.memory.type, memory=storage.memory)
            storage.node.leaf, storage.node.requires_grad = leaf, leaf is not None
            bump_epoch()


def _build(layout: _Layout) -> GraphBuild:
    build = GraphBuild("recorded")
    for memory, nodes, role in zip(layout.memories, layout.inputs, layout.roles(), strict=True):
        build.add_input(nodes or [Node(memory.type, memory=memory)], role, "")
    for entry in layout.entries:
        build.add_entry(entry)
    for i, ((node, _), alias) in enumerate(zip(layout.outputs, layout.aliases, strict=True)):
        build.graph.outputs.append(build.values[node])
        if alias is not None:
            build.graph.aliases[i] = alias
    return build


def _compile_layout(layout: _Layout) -> _Program:
    build = _build(layout)
    if not layout.roots:
        return _Program(_compile[0](build.graph), None, (), [])
    moved = gradients.expand_gradients(build.graph)
    build.values = {n: moved.get(v, v) for n, v in build.values.items()}
    graph = build.graph  # what is kept for later may not keep nodes alive
    roots, wrt = ([build.values[n] for n in nodes] for nodes in (layout.roots, layout.wrt))
    blocked = gradients.blocked_values(graph)
    # Values with hooks are where differentiating again starts from, so they are kept.
    hooked = {i: v for i, (n, v) in enumerate(zip(layout.wrt, wrt, strict=True)) if n.hooked and v.op}
    given = len(graph.outputs)
    graph.outputs += hooked.values()
    cuts = range(given, len(graph.outputs))
    parts = split.split_joint(graph, roots, wrt, blocked=blocked, cuts=cuts)
    b = Builder(parts.backward)
    parts.backward.outputs = [
        b.zeros_like(node.type) if i is None else parts.backward.outputs[i]
        for node, i in zip(layout.wrt, parts.gradients, strict=True)
    ]
    hidden = [v.type for v in parts.forward.outputs[len(layout.outputs) :]]
    return _Program(
        _compile[0](parts.forward),
        ReplayPlan(
            parts.backward, lambda: split.backward_again(graph, roots, wrt, blocked=blocked, cuts=cuts)
        ),
        parts.sources,
        hidden,
        ways_back(layout.roots, layout.wrt, parts.backward),
        parts.again,
        tuple(hooked),
    )


def pending_build(recording: Recording) -> tuple[GraphBuild, list[Memory]]:
    """The recording as a graph, not evaluated, and the memory of its inputs."""
    with recording.lock:
        storages = list(recording.storages)
        layout = _Layout(recording, recording.entries, [])
        recording.storages = storages
        layout.key()
        return _build(layout), layout.memories


def pending_graph(recording: Recording) -> Graph:
    """The recording as a graph, not evaluated."""
    return pending_build(recording)[0].graph
