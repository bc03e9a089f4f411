"""What a trace was compiled to: one program for a signature, and that program at the sizes of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.compiler.arguments import meet, span
from graphc.compiler.driver import CompiledGraph
from graphc.compiler.dynamic import SizeChecks
from graphc.compiler.grad_state import owned
from graphc.compiler.outer import WayBack
from graphc.compiler.tracing import Traced
from graphc.compiler.tree import tree_at, unflatten
from graphc.core.node import Node
from graphc.core.storage import Memory, allocate_memory
from graphc.core.symint import plain
from graphc.core.tensor import LostGradient, TensorBase, wrap
from graphc.ir.dims import Symbol
from graphc.ir.specialise import concrete
from graphc.ir.types import TensorType
from graphc.runtime import entry
from graphc.runtime.binding import Binding
from graphc.runtime.executable import Executable
from graphc.runtime.state import bump_epoch, epoch, same_guards

__all__ = ["CompiledProgram", "SizedProgram", "is_exposed"]

_MOST_SIZES = 256
"""Tuples of sizes that a program with dynamic dimensions keeps what it has worked out for."""


def is_exposed(memory: Memory) -> bool:
    """True where memory may be written without being told of: nothing that is made from it can be kept."""
    return memory.shared or memory.pointed or memory.whole is not None


class CompiledProgram:
    """What one trace of a function was compiled to: a program for one signature, whatever its dynamic sizes."""

    def __init__(
        self,
        traced: Traced,
        compiled: CompiledGraph,
        arguments: int,
        outputs: list[TensorType],
        way: WayBack | None,
        checks: SizeChecks | None,
    ) -> None:
        self.traced = traced
        self._checks = checks
        self.compiled = compiled
        self.arguments = arguments
        self.fresh_types = outputs
        self.way_back = way
        self._sized: dict[tuple[int, ...], SizedProgram] = {}
        self._forgotten = 0
        self._checked: int | None = None
        """The epoch in which guards were looked at last and held."""

    def valid(self, tensors: Sequence[Any]) -> bool:
        """True where everything that the trace depended on is as it was, for a call with these argument leaves, and what
        is kept is of states that nobody outside can write."""
        if any(tensors[i] is not t for i, t in self.traced.same):
            return False
        if not self.traced.same and any(id(t) in self.traced.others for t in tensors):
            return False  # the gradient of a tensor by two names
        now = epoch()
        if self._checked is None or not same_guards(self._checked, now):
            self._checked = None
            if not all(snapshot() == value for snapshot, value in self.traced.guards):
                return False
            self._checked = now
        if not all(d.holds(tensors) for d in self.traced.gradients.depends):
            return False
        return not any(is_exposed(self.traced.states[s].memory) for s in self.kept_states())

    def kept_states(self) -> list[int]:
        """Of which states something is kept, in order."""
        kept, positions = self.compiled.program.kept, self.compiled.state_positions
        return [positions[s] - self.arguments for s, _, _ in kept]

    def at(self, sizes: Mapping[Symbol, int]) -> SizedProgram:
        """The program at the sizes of a call. Raises where the trace does not hold for them."""
        key = tuple(sizes.values())
        found = self._sized.get(key)
        if found is None:
            if self._checks is not None:
                self._checks.check(sizes)
            if len(self._sized) >= _MOST_SIZES:
                oldest = self._sized.pop(next(iter(self._sized)))
                self._forgotten += oldest.variant.calls if oldest.variant is not None else 0
            found = self._sized[key] = SizedProgram(self, sizes)
        return found

    @property
    def native_calls(self) -> int:
        """Calls that the native entry has served."""
        return self._forgotten + sum(s.variant.calls for s in self._sized.values() if s.variant is not None)


class SizedProgram:
    """A program at the sizes of a call (none where no dimension is dynamic)."""

    def __init__(self, program: CompiledProgram, sizes: Mapping[Symbol, int]) -> None:
        self.program = program
        self.traced = program.traced
        self.compiled = program.compiled
        self.arguments = program.arguments
        self.dims = {s.name: n for s, n in sizes.items()}
        self.fresh_types: list[TensorType] = [concrete(t, sizes) for t in program.fresh_types]
        self.way_back = None if program.way_back is None else program.way_back.at(sizes)
        self.tree = (
            tree_at(program.traced.tree, lambda d: concrete(plain(d), sizes))
            if sizes
            else program.traced.tree
        )
        self.bound: list[Memory] = []
        self.written: list[Memory] = []
        """States that a call writes, of those in `bound`."""
        self.made: list[TensorBase] = []
        """Whose gradients were made for the call at hand."""
        self.spans = np.zeros((0, 2), np.int64)
        """Where they begin and end."""
        self.variant: entry.Variant | None = None
        self._fixed = all(s.grad_of is None for s in program.traced.states)
        """True where the states' memory is the same in all calls."""
        self._binding: tuple[list[Memory], Binding] | None = None
        self.native: list[Memory] = []
        """The states' memory that `variant` is bound to."""

    @property
    def executable(self) -> Executable:
        """What runs at these sizes."""
        return self.compiled.resolved(self.dims)

    def bind(self, tensors: Sequence[Any] = ()) -> list[Memory]:
        """The states' memory now. Gradients that are added to and are not there are made; `undo` takes them away."""
        if self._fixed and self.bound:
            return self.bound
        states = [s.bind(tensors, self.made) for s in self.traced.states]
        if len(states) != len(self.bound) or any(a is not b for a, b in zip(states, self.bound, strict=True)):
            self.bound = states
            written = sorted(
                p - self.arguments for p in self.compiled.aliases.values() if p >= self.arguments
            )
            self.written = [states[p] for p in written]
            self.spans = np.array([span(m) for m in self.written], np.int64).reshape(-1, 2)
        return self.bound

    def undo(self) -> None:
        """Takes away the gradients that were made for a call that has not been run."""
        for tensor in self.made:
            tensor._grad = None
            bump_epoch()
        self.made.clear()

    def binding(self, tensors: Sequence[Any] = ()) -> Binding:
        """The states' addresses now, and what is kept of them; it is made again where they have been written otherwise
        than by programs."""
        states = self.bind(tensors)
        if self._binding is None or self._binding[0] is not states:
            positions = self.compiled.state_positions
            addresses = [states[p - self.arguments].address for p in positions]
            self._binding = states, self.executable.bind(addresses, tuple(states))
        found = self._binding[1]
        for (_, block), s in zip(found.kept, self.program.kept_states(), strict=True):
            memory = states[s]
            memory.kept = True
            block.renew((memory.version, memory.exposures))
        return found

    def overlaps(self, tensors: Sequence[Any]) -> bool:
        """True where what a call writes is also an argument by another name: the program takes them for different."""
        if not tensors or not self.compiled.aliases:
            return False
        written = [p for p in self.compiled.aliases.values() if p < self.arguments]
        states = self.bind(tensors)
        spans = np.array([span(t._storage.memory) for t in tensors], np.int64)
        if len(self.spans) and meet(spans, self.spans).any():
            return True
        if not written:
            return False
        storages = [t._storage for t in tensors]
        others = np.array([span(m) for m in states], np.int64).reshape(-1, 2)
        for p in written:
            rest = [i for i, s in enumerate(storages) if s is not storages[p]]
            if meet(spans[p : p + 1], np.concatenate([spans[rest], others])).any():
                return True
        return False

    def returnable(self, copies: dict[int, Any]) -> bool:
        """True where what a call writes of arguments that were copied can be copied back."""
        return not any(
            isinstance(copies.get(p), TensorBase) and copies[p].requires_grad
            for p in self.compiled.aliases.values()
        )

    def run(self, tensors: Sequence[Any]) -> Any:
        """One call through Python, on realised argument tensors."""
        try:
            binding = self.binding(tensors)
            inputs = [t._storage.memory for t in tensors] + self.bound
            outputs = [allocate_memory(t) for t in self.fresh_types]
            self.compiled.run(inputs, outputs, self.dims, binding)
        except BaseException:
            self.undo()
            raise
        self.made.clear()
        for position in self.compiled.aliases.values():
            inputs[position].version += 1
            if position < self.arguments:
                inputs[position].written_otherwise()
        nodes = [Node(m.type, memory=m) for m in outputs]
        if self.way_back is not None:
            self.way_back.attach(nodes, tensors, inputs, self.traced)
        made = [wrap(n) for n in nodes]
        self._leave_gradients(tensors, made)
        return unflatten(self.tree, iter(made[: self.traced.returned]))

    def holds(self, now: int) -> bool:
        """True where what the native entry knows holds in the epoch `now`, once what is pending has been evaluated."""
        return self.variant is not None and same_guards(self.variant.epoch, now)

    def count_writes(self) -> None:
        """Counts the writes of a native call: the first one after something has been recorded."""
        for memory in self.written:
            memory.version += 1

    def _leave_gradients(self, tensors: Sequence[Any], made: Sequence[Any]) -> None:
        left, changed = self.traced.gradients, False
        values = [(owner, made[at]) for owner, at in self.traced.grads]
        values += [*left.assigned, *((owner, None) for owner in left.nones)]
        for owner, value in values:
            tensor = owned(owner, tensors)
            changed |= tensor._grad is not value
            tensor._grad = value
        for owner in left.lost:
            tensor = owned(owner, tensors)
            if type(tensor._grad) is not LostGradient:
                tensor._grad, changed = LostGradient(tensor._storage.memory.name), True
        if changed:
            bump_epoch()
