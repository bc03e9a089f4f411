"""Makes the program: calls in phases, states written in place, temporaries in one arena.

A result that is a state's new value is stored in the state's own buffer where readers of the old
value, and all kernels that may fail, can come first; else in a temporary that a last copy moves.
A temporary whose last reader makes something of the same size at the same points is reused.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.graph import Value
from graphc.ir.program import Buffer, BufferKind, Check, KernelCall, Phase, Program
from graphc.ir.types import TensorType, uint8
from graphc.passes.context import CompileContext
from graphc.passes.fuse import Fused
from graphc.passes.lower import Lowered
from graphc.passes.plan.arena import Lifetime, assign_offsets
from graphc.passes.plan.in_place import can_share
from graphc.passes.plan.order import Order
from graphc.passes.plan.verify import verify_program
from graphc.passes.plan.work import Call, copy_call

__all__ = ["plan"]


def plan(fused: Fused, kernels: Sequence[Lowered], context: CompileContext) -> Program:
    """The program of the scheduled `kernels` of all groups, in group order."""
    program = _Planner(fused, kernels, context).run()
    if context.options.verify:
        verify_program(program)
    return program


class _Planner:
    def __init__(self, fused: Fused, kernels: Sequence[Lowered], context: CompileContext) -> None:
        self.graph = fused.graph
        self.context = context
        self.calls = [Call(k, n) for n, k in enumerate(kernels) if _does_something(k)]
        self.constants = [op.result for op in fused.constants]
        self.place: dict[Value, Value] = {}
        """Values that live in another value's buffer: a state's, an output's or a dying temporary's."""
        self.outputs: list[Value] = []

    def run(self) -> Program:
        self._return_values()
        overwriting = self._overwrite_states()
        order = Order(self.calls)
        levels, cyclic = order.levels(overwriting)
        while cyclic:
            for call in [c for c in self.calls if c in cyclic and c in overwriting]:
                self._give_up(call, overwriting)
            order = Order(self.calls)
            levels, cyclic = order.levels(overwriting)
        self.order = order
        self.level = levels
        self._reuse_temporaries()
        return self._program(overwriting)

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
            if new is state or not new.type.numel:
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

    def _reuse_temporaries(self) -> None:
        self._fixed = {*self.outputs, *self.constants, *self.place}
        last: dict[Value, int] = {}
        for c in self.calls:
            for v in c.read():
                last[v] = max(last.get(v, 0), self.level[c])
        for c in sorted(self.calls, key=lambda c: (self.level[c], c.number)):
            for new in list(c.written()):
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

    # -- the program ----------------------------------------------------------------------

    def _program(self, overwriting: dict[Call, list[Value]]) -> Program:
        rows = _Rows(self)
        checks: list[Check] = []
        calls = sorted(self.calls, key=lambda c: (self.level[c], c.number))
        phases: dict[int, list[Call]] = {}
        for c in calls:
            phases.setdefault(self.level[c], []).append(c)
        made: list[Phase] = []
        for n, level in enumerate(sorted(phases)):
            found = []
            for c in phases[level]:
                found.append(self._call(c, n, rows, len(checks)))
                checks += c.lowered.checks
            made.append(Phase(tuple(found), any(c in overwriting for c in phases[level])))
        buffers, arena = rows.table()
        constants = tuple(_array(v) for v in self.constants)
        return Program(self.graph.name, buffers, tuple(made), arena, tuple(checks), constants)

    def _call(self, call: Call, phase: int, rows: _Rows, base: int) -> KernelCall:
        kernel = call.lowered.kernel
        buffers = tuple(rows.row(self.home(v), phase) for v in call.lowered.values)
        size = self.context.backend.scratch_bytes(kernel, self.context.target)
        scratch = rows.scratch(size, phase) if size else -1
        assert kernel.schedule is not None
        return KernelCall(kernel, buffers, kernel.schedule.parts, base if kernel.checks else 0, scratch)


class _Rows:
    """The buffer table under construction, with the phases each row lives in."""

    def __init__(self, planner: _Planner) -> None:
        self.buffers: list[Buffer] = []
        self.number: dict[Value, int] = {}
        self.lives: dict[int, list[int]] = {}
        inputs = [v for v in planner.graph.inputs if not v.is_state]
        states = [v for v in planner.graph.inputs if v.is_state]
        self._add("input", inputs)
        self._add("state", states)
        self._add("output", planner.outputs)
        self._add("constant", planner.constants)

    def _add(self, kind: BufferKind, values: Sequence[Value]) -> None:
        for i, v in enumerate(values):
            self.number[v] = len(self.buffers)
            self.buffers.append(Buffer(kind, v.type, i, 0, v.name))

    def row(self, value: Value, phase: int) -> int:
        """The row of a value that is used in a phase."""
        if value not in self.number:
            self.number[value] = len(self.buffers)
            self.buffers.append(Buffer("temporary", value.type, 0, 0, value.name))
        row = self.number[value]
        if self.buffers[row].kind == "temporary":
            life = self.lives.setdefault(row, [phase, phase])
            life[1] = phase
        return row

    def scratch(self, size: int, phase: int) -> int:
        """A row for one call's scratch memory."""
        row = len(self.buffers)
        self.buffers.append(Buffer("temporary", TensorType(uint8, (size,)), 0, 0, "scratch"))
        self.lives[row] = [phase, phase]
        return row

    def table(self) -> tuple[tuple[Buffer, ...], int]:
        """The finished table and the arena's size."""
        rows = list(self.lives)
        lifetimes = [Lifetime(self.buffers[r].type.nbytes, *self.lives[r]) for r in rows]
        offsets, total = assign_offsets(lifetimes)
        for r, offset in zip(rows, offsets, strict=True):
            b = self.buffers[r]
            self.buffers[r] = Buffer(b.kind, b.type, b.index, offset, b.name)
        return tuple(self.buffers), total


def _does_something(lowered: Lowered) -> bool:
    """False of a kernel that stores no element."""
    return any(b.access != "in" and b.type.numel for b in lowered.kernel.parameters)


def _array(constant: Value) -> object:
    assert constant.op is not None
    return constant.op.attrs["value"].array
