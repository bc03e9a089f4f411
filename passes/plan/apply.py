"""Makes the program: calls in phases, states written in place, temporaries in one arena.

A result that is a state's new value is stored in the state's own buffer where readers of the old
value, and all kernels that may fail, can come first; else in a temporary that a last copy moves.
A temporary whose last reader makes something of the same size at the same points is reused.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.control import Branch, Control, Loop, While
from graphc.ir.dims import ample, typical
from graphc.ir.graph import Value
from graphc.ir.kernel import Kernel
from graphc.ir.marks import is_clone
from graphc.ir.program import Program
from graphc.ir.symbolic import graph_sizes
from graphc.passes.context import CompileContext
from graphc.passes.fuse import Fused
from graphc.passes.kept import KeptOperand
from graphc.passes.lower import Lowered, LoweredControl
from graphc.passes.plan.control import BranchCall, ControlCall, WhileCall
from graphc.passes.plan.emission import program_of
from graphc.passes.plan.in_place import can_share
from graphc.passes.plan.loops import LoopCall
from graphc.passes.plan.order import Order
from graphc.passes.plan.phasing import Needs, phases_for_memory
from graphc.passes.plan.verify import verify_program
from graphc.passes.plan.work import Call, copy_call

__all__ = ["plan"]


def plan(
    fused: Fused,
    kernels: Sequence[Lowered | LoweredControl],
    context: CompileContext,
    kept: Sequence[KeptOperand] = (),
) -> Program:
    """The program of the scheduled `kernels` of all groups, in group order, and of what they keep."""
    program = program_of(Planner(fused, kernels, context, [k.packed for k in kept]), kept)
    if context.options.verify:
        verify_program(program)
    return program


class Planner:
    """The calls of one graph: of the whole program or of a loop's step."""

    def __init__(
        self,
        fused: Fused,
        kernels: Sequence[Lowered | LoweredControl],
        context: CompileContext,
        kept: Sequence[Value] = (),
    ) -> None:
        self.graph = fused.graph
        self.context = context
        self.calls = [_call(k, n) for n, k in enumerate(kernels) if _does_something(k)]
        self.constants = [op.result for op in fused.constants]
        self.place: dict[Value, Value] = {}
        """Values that live in another value's buffer: a state's, an output's or a dying temporary's."""
        self.outputs: list[Value] = []
        self._scratch: dict[int, tuple[Kernel, int]] = {}
        """Scratch memory by the identity of kernels, which equal calls share."""
        self._return_values()
        self.overwriting = self._overwrite_states()
        order = Order(self.calls)
        levels, cyclic = order.levels(self.overwriting)
        while cyclic:
            for call in [c for c in self.calls if c in cyclic and c in self.overwriting]:
                self._give_up(call, self.overwriting)
            order = Order(self.calls)
            levels, cyclic = order.levels(self.overwriting)
        self.order = order
        self._fixed = {*self.outputs, *self.constants, *self.place, *kept}
        self.steps = {
            c: [Planner(r.body, r.steps, context) for r in c.control.regions]
            for c in self.calls
            if isinstance(c, ControlCall)
        }
        """The calls of each region of ops that have some."""
        edges = order.edges(self.overwriting)
        self.level, self.most_live = phases_for_memory(levels, edges, self._needs())
        self._reuse_temporaries()
        self._use_donated()

    def by_level(self) -> list[list[Call]]:
        """Calls that do not wait for each other, in the order in which they come."""
        found: dict[int, list[Call]] = {}
        for c in sorted(self.calls, key=lambda c: (self.level[c], c.number)):
            found.setdefault(self.level[c], []).append(c)
        return list(found.values())

    # -- outputs and states ---------------------------------------------------------------

    def _return_values(self) -> None:
        """Binds returned values to output buffers, copying what has another home."""
        made = {v for c in self.calls for v in c.written()}
        for k, i in enumerate(self.graph.returned()):
            v = self.graph.outputs[i]
            if v in made and v not in self.outputs:
                self.outputs.append(v)
            else:
                home = Value(v.type, self.graph, k, f"output{k}")
                self.outputs.append(home)
                if v in made or v.op is None or v in self.constants:
                    self._copy(v, home)

    def _copy(self, source: Value, target: Value) -> Call:
        call = copy_call(source, target, len(self.calls), self.context)
        if _does_something(call.lowered):
            self.calls.append(call)
        return call

    def _overwrite_states(self) -> dict[Call, list[Value]]:
        """Gives new values of states their buffers; the calls that write them, with the states."""
        makers = {v: c for c in self.calls for v in c.written()}
        taken = set(self.outputs)
        overwriting: dict[Call, list[Value]] = {}
        for i, j in self.graph.aliases.items():
            new, state = self.graph.outputs[i], self.graph.inputs[j]
            if new is state or new.type.count == 0:
                continue
            call = makers.get(new)
            if call is not None and new not in taken and self._in_place(call, new, state):
                taken.add(new)
            else:
                home = Value(new.type, self.graph, j, f"{state.name}.new")
                call = self._copy(new, home)
                self.place[home] = state
            overwriting.setdefault(call, []).append(state)
        return overwriting

    def _in_place(self, call: Call, new: Value, state: Value) -> bool:
        if isinstance(call, ControlCall):
            return False
        values = call.lowered.values
        if state in values:
            if not can_share(call.lowered.kernel, call.position(state), call.position(new)):
                return False
            call.store_over(new, state)
        self.place[new] = state
        return True

    def _give_up(self, call: Call, overwriting: dict[Call, list[Value]]) -> None:
        """Lets a call store new values of states in temporaries, which copies move at the end."""
        states = overwriting.pop(call)
        new_values = [v for v in call.written() if self.place.get(v) in states]
        call.restore()
        for new in new_values:
            state = self.place.pop(new)
            home = Value(new.type, self.graph, state.index, f"{state.name}.new")
            self.place[home] = state
            overwriting.setdefault(self._copy(new, home), []).append(state)

    # -- temporaries ----------------------------------------------------------------------

    def home(self, value: Value) -> Value:
        """The value whose buffer `value` is in."""
        while value in self.place:
            value = self.place[value]
        return value

    def _is_temporary(self, value: Value) -> bool:
        return value.op is not None and value not in self._fixed

    def _needs(self) -> Needs:
        """What the calls take of temporary and of donated memory."""
        given = [v for v in self.graph.inputs if v.role == "donated"]
        values = [v for c in self.calls for v in c.taken() if self._is_temporary(v)] + given
        over = {}
        for c in self.calls:
            if not isinstance(c, ControlCall):
                pairs = [
                    (new, old) for new in c.written() for old in c.read() if self._can_replace(c, new, old)
                ]
                if pairs:
                    over[c] = pairs
        # What is computed again is to save memory where there is much of it.
        weigh = ample if any(is_clone(op) for op in self.graph.ops) else typical
        return Needs(
            self.calls, {v: weigh(v.type.size_bytes) for v in values}, over, given, self.scratch_bytes
        )

    def scratch_bytes(self, call: Call) -> int:
        """Bytes of memory for itself that a call takes in each partition, or an op with regions for what they make."""
        if isinstance(call, ControlCall):
            return max(region.most_live for region in self.steps[call]) * call.control.instances
        kernel = call.lowered.kernel
        known = self._scratch.get(id(kernel))
        if known is None:
            size = self.context.backend.scratch_bytes(kernel, self.context.target)
            known = self._scratch[id(kernel)] = (kernel, size)
        return known[1]

    def _can_replace(self, call: Call, new: Value, old: Value) -> bool:
        """Whether a call may store one temporary in another's place."""
        if not (self._is_temporary(new) and self._is_temporary(old)) or call.over:
            return False
        return can_share(call.lowered.kernel, call.position(old), call.position(new))

    def _reuse_temporaries(self) -> None:
        last: dict[Value, int] = {}
        for c in self.calls:
            for v in c.read():
                last[v] = max(last.get(v, 0), self.level[c])
        for c in sorted(self.calls, key=lambda c: (self.level[c], c.number)):
            for new in () if isinstance(c, ControlCall) else list(c.written()):
                if self._is_temporary(new) and new not in c.over:
                    self._reuse_for(c, new, last)

    def _reuse_for(self, call: Call, new: Value, last: dict[Value, int]) -> None:
        kernel = call.lowered.kernel
        for old in list(call.read()):
            if not self._is_temporary(old) or old in call.over.values() or last[old] != self.level[call]:
                continue
            if sum(self.level[r] == self.level[call] for r in self.order.readers[old]) > 1:
                continue
            if can_share(kernel, call.position(old), call.position(new)):
                call.store_over(new, old)
                self.place[new] = old
                return

    def _use_donated(self) -> None:
        """Puts temporaries into donated inputs of the same size that nobody reads any more."""
        free = {v: -1 for v in self.graph.inputs if v.role == "donated"}
        if not free or any(isinstance(c, ControlCall) for c in self.calls) or graph_sizes(self.graph):
            return
        lives: dict[Value, list[int]] = {}
        for c in self.calls:
            at = self.level[c]
            for v in (*c.read(), *c.written()):
                if v in free:
                    free[v] = max(free[v], at)
                elif self._is_temporary(home := self.home(v)):
                    life = lives.setdefault(home, [at, at])
                    life[0], life[1] = min(life[0], at), max(life[1], at)
        by_size: dict[int, list[Value]] = {}
        for v in free:
            by_size.setdefault(v.type.nbytes, []).append(v)
        for temporary, (first, last) in sorted(lives.items(), key=lambda item: item[1]):
            for v in by_size.get(temporary.type.nbytes, ()):
                if free[v] < first and temporary.type.nbytes:
                    self.place[temporary] = v
                    free[v] = last
                    break


def _call(lowered: Lowered | LoweredControl, number: int) -> Call:
    if isinstance(lowered, LoweredControl):
        families: dict[type[Control], type[ControlCall]] = {
            Loop: LoopCall,
            Branch: BranchCall,
            While: WhileCall,
        }
        (found,) = [made for family, made in families.items() if isinstance(lowered.op, family)]
        return found(lowered, number)
    return Call(lowered, number)


def _does_something(lowered: Lowered | LoweredControl) -> bool:
    """False of a kernel that stores no element."""
    if isinstance(lowered, LoweredControl):
        return True
    return any(b.access != "in" and b.type.count != 0 for b in lowered.kernel.parameters)
