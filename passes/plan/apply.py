"""Makes the program: calls in phases, states written in place, temporaries in one arena.

A result that is a state's new value is stored in the state's own buffer where readers of the old
value, and all kernels that may fail, can come first; else in a temporary that a last copy moves.
A temporary whose last reader makes something of the same size at the same points is reused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphc.ir.graph import Graph, Value
from graphc.ir.program import Buffer, BufferKind, Check, KernelCall, Move, Phase, Program, Repeat
from graphc.ir.types import TensorType, uint8
from graphc.passes.context import CompileContext
from graphc.passes.fuse import Fused
from graphc.passes.fuse.blocks import Block
from graphc.passes.lower import Lowered, LoweredLoop
from graphc.passes.plan.arena import Lifetime, assign_offsets
from graphc.passes.plan.in_place import can_share
from graphc.passes.plan.loops import LoopCall, LoopRows, Walk
from graphc.passes.plan.order import Order
from graphc.passes.plan.verify import verify_program
from graphc.passes.plan.work import Call, copy_call

__all__ = ["plan"]


def plan(fused: Fused, kernels: Sequence[Lowered | LoweredLoop], context: CompileContext) -> Program:
    """The program of the scheduled `kernels` of all groups, in group order."""
    program = _program(_Planner(fused, kernels, context))
    if context.options.verify:
        verify_program(program)
    return program


class _Planner:
    """The calls of one graph: of the whole program or of a loop's step."""

    def __init__(
        self, fused: Fused, kernels: Sequence[Lowered | LoweredLoop], context: CompileContext
    ) -> None:
        self.graph = fused.graph
        self.context = context
        self.calls = [_call(k, n) for n, k in enumerate(kernels) if _does_something(k)]
        self.constants = [op.result for op in fused.constants]
        self.place: dict[Value, Value] = {}
        """Values that live in another value's buffer: a state's, an output's or a dying temporary's."""
        self.outputs: list[Value] = []
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
        self.level = levels
        self._reuse_temporaries()
        self._use_donated()
        self.steps = {
            c: _Planner(c.loop.body, c.loop.steps, context) for c in self.calls if isinstance(c, LoopCall)
        }
        """The calls of each loop's step."""

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
        if isinstance(call, LoopCall):
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

    def _reuse_temporaries(self) -> None:
        self._fixed = {*self.outputs, *self.constants, *self.place}
        last: dict[Value, int] = {}
        for c in self.calls:
            for v in c.read():
                last[v] = max(last.get(v, 0), self.level[c])
        for c in sorted(self.calls, key=lambda c: (self.level[c], c.number)):
            for new in () if isinstance(c, LoopCall) else list(c.written()):
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
        if not free or any(isinstance(c, LoopCall) for c in self.calls):
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


def _call(lowered: Lowered | LoweredLoop, number: int) -> Call:
    return LoopCall(lowered, number) if isinstance(lowered, LoweredLoop) else Call(lowered, number)


def _program(planner: _Planner) -> Program:
    rows = _Rows(planner)
    made = _Emission(rows, planner.context)
    made.add(planner)
    buffers, arena = rows.table()
    constants = tuple(_array(v) for v in rows.constants)
    return Program(
        planner.graph.name,
        buffers,
        tuple(made.phases),
        arena,
        tuple(made.checks),
        constants,
        tuple(made.repeats),
        tuple(made.together),
    )


class _Emission:
    """Phases, checks and repeats as they are put in order."""

    def __init__(self, rows: _Rows, context: CompileContext) -> None:
        self.rows = rows
        self.context = context
        self.phases: list[Phase] = []
        self.checks: list[Check] = []
        self.repeats: list[Repeat] = []
        self.together: list[tuple[tuple[int, int], ...]] = []

    def add(self, planner: _Planner) -> None:
        """All calls of a planner; a level's kernels are one phase, its loops follow one by one."""
        for calls in planner.by_level():
            kernels = [c for c in calls if not isinstance(c, LoopCall)]
            if kernels:
                writes = any(c in planner.overwriting for c in kernels)
                self.phases.append(Phase(tuple(self.call(c, planner) for c in kernels), writes))
            for c in calls:
                if isinstance(c, LoopCall):
                    self.loop(c, planner, planner.steps[c])

    def call(self, call: Call, planner: _Planner) -> KernelCall:
        kernel, phase = call.lowered.kernel, len(self.phases)
        buffers = tuple(self.rows.row(planner.home(v), phase) for v in call.lowered.values)
        size = self.context.backend.scratch_bytes(kernel, self.context.target)
        scratch = self.rows.scratch(size, phase) if size else -1
        base = len(self.checks)
        self.checks += call.lowered.checks
        assert kernel.schedule is not None
        return KernelCall(kernel, buffers, kernel.schedule.parts, base if kernel.checks else 0, scratch)

    def loop(self, call: LoopCall, outer: _Planner, step: _Planner) -> None:
        """The phases of a loop: first entries of histories, then the step's, repeated; once for each instance."""
        around = [outer.home(v) for v in (*call.read(), *call.written())] + list(call.others.values())
        start, count = len(self.phases), call.loop.instances
        for value in around:
            self.rows.row(value, start)
        outside, first_row = dict(self.rows.number), len(self.rows.buffers)
        ranges = []
        for instance in range(count):
            begin = len(self.phases)
            self._instance(call, call.rows(step.outputs, instance), outer, step)
            ranges.append((begin, len(self.phases)))
            # Another instance has rows of its own for the values of a step.
            self.rows.number = dict(outside)
        last = max(start, len(self.phases) - 1)
        # Whatever a moving row may show is there from before the first step until after the last.
        for value in around:
            self.rows.keep(value, start, last)
        if count > 1 and len(self.phases) > start:
            self.together.append(tuple(ranges))
            for row in range(first_row, len(self.rows.buffers)):
                self.rows.keep_row(row, start, last)

    def _instance(self, call: LoopCall, found: LoopRows, outer: _Planner, step: _Planner) -> None:
        for block, walk in found.starts:
            self._start(block, walk, outer)
        begin = len(self.phases)
        first, then = self._moves(found, outer)
        self.add(step)
        if len(self.phases) > begin:
            length: int = call.loop.op.attrs["length"]
            self.repeats.append(Repeat(begin, len(self.phases), length, self._counter(), first, then))

    def _moves(self, found: LoopRows, outer: _Planner) -> tuple[tuple[Move, ...], tuple[Move, ...]]:
        phase = len(self.phases)
        first, then = [], []
        for w in found.walks:
            row = self.rows.moving(w.inner)
            first.append(Move(row, self.rows.row(outer.home(w.outer), phase), w.start))
            if w.stride:
                then.append(Move(row, row, w.stride))
        for s in found.swaps:
            before, after = self.rows.moving(s.before), self.rows.moving(s.after)
            spare = self.rows.moving(Value(s.after.type, outer.graph, 0, "spare"))
            initial = self.rows.row(outer.home(s.initial.value), phase)
            buffers = [self.rows.row(outer.home(v), phase) for v in (s.first, s.second)]
            first += [
                Move(before, initial, s.initial.offset_bytes),
                Move(after, buffers[0], s.start),
                Move(spare, buffers[1], s.start),
            ]
            # What the last step wrote is read; what it did not write is written.
            then += [Move(before, after), Move(after, spare), Move(spare, before)]
        return tuple(first), tuple(then)

    def _start(self, block: Block, walk: Walk, outer: _Planner) -> None:
        """A phase that copies a history's first entry to its place."""
        if not walk.inner.type.numel:
            return
        phase = len(self.phases)
        source, target = (Value(walk.inner.type, outer.graph, 0, "initial") for _ in range(2))
        moves = [
            Move(self.rows.moving(source), self.rows.row(outer.home(block.value), phase), block.offset_bytes),
            Move(self.rows.moving(target), self.rows.row(outer.home(walk.outer), phase), walk.start),
        ]
        copy = copy_call(source, target, 0, self.context)
        self.phases.append(Phase((self.call(copy, outer),)))
        self.repeats.append(Repeat(phase, phase + 1, 1, self._counter(), tuple(moves)))

    def _counter(self) -> int:
        return self.rows.moving(Value(TensorType(uint8, (0,)), Graph(), 0, "counter"))


class _Rows:
    """The buffer table under construction, with the phases each row lives in."""

    def __init__(self, planner: _Planner) -> None:
        self.buffers: list[Buffer] = []
        self.number: dict[Value, int] = {}
        self.lives: dict[int, list[int]] = {}
        inputs = [v for v in planner.graph.inputs if not v.is_state]
        states = [v for v in planner.graph.inputs if v.is_state]
        self.constants = list(_all_constants(planner))
        self._add("input", inputs)
        self._add("state", states)
        self._add("output", planner.outputs)
        self._add("constant", self.constants)

    def _add(self, kind: BufferKind, values: Sequence[Value]) -> None:
        for i, v in enumerate(values):
            self.number[v] = len(self.buffers)
            self.buffers.append(Buffer(kind, v.type, i, 0, v.name))

    def row(self, value: Value, phase: int) -> int:
        """The row of a value that is used in a phase."""
        if value not in self.number:
            self.number[value] = len(self.buffers)
            self.buffers.append(Buffer("temporary", value.type, 0, 0, value.name))
        self.keep(value, phase, phase)
        return self.number[value]

    def keep(self, value: Value, first: int, last: int) -> None:
        """Notes that a value with a row is there from one phase to another."""
        row = self.number.get(value)
        if row is not None:
            self.keep_row(row, first, last)

    def keep_row(self, row: int, first: int, last: int) -> None:
        """Notes that a temporary is there from one phase to another."""
        if self.buffers[row].kind == "temporary":
            life = self.lives.setdefault(row, [first, last])
            life[0], life[1] = min(life[0], first), max(life[1], last)

    def moving(self, value: Value) -> int:
        """The row of a value that has no memory of its own."""
        if value not in self.number:
            self.number[value] = len(self.buffers)
            self.buffers.append(Buffer("moving", value.type, 0, 0, value.name))
        return self.number[value]

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


def _all_constants(planner: _Planner) -> Iterator[Value]:
    """Constants of a graph and of the steps of its loops."""
    yield from planner.constants
    for step in planner.steps.values():
        yield from _all_constants(step)


def _does_something(lowered: Lowered | LoweredLoop) -> bool:
    """False of a kernel that stores no element."""
    if isinstance(lowered, LoweredLoop):
        return True
    return any(b.access != "in" and b.type.numel for b in lowered.kernel.parameters)


def _array(constant: Value) -> object:
    assert constant.op is not None
    return constant.op.attrs["value"].array
