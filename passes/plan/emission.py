"""The program of planned calls: phases and repeats in order, rows of the buffer table, the arena."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graphc.ir.graph import Graph, Value
from graphc.ir.program import Buffer, BufferKind, Check, KernelCall, Move, Phase, Program, Repeat
from graphc.ir.types import TensorType, uint8
from graphc.passes.context import CompileContext
from graphc.passes.fuse.blocks import Block
from graphc.passes.plan.arena import Lifetime, assign_offsets
from graphc.passes.plan.loops import LoopCall, LoopRows, Walk
from graphc.passes.plan.work import Call, copy_call

if TYPE_CHECKING:
    from graphc.passes.plan.apply import Planner

__all__ = ["program_of"]


def program_of(planner: Planner) -> Program:
    """The program of all calls of a planner and of the steps of its loops."""
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

    def add(self, planner: Planner) -> None:
        """All calls of a planner; a level's kernels are one phase, its loops follow one by one."""
        for calls in planner.by_level():
            kernels = [c for c in calls if not isinstance(c, LoopCall)]
            if kernels:
                writes = any(c in planner.overwriting for c in kernels)
                self.phases.append(Phase(tuple(self.call(c, planner) for c in kernels), writes))
            for c in calls:
                if isinstance(c, LoopCall):
                    self.loop(c, planner, planner.steps[c])

    def call(self, call: Call, planner: Planner) -> KernelCall:
        kernel, phase = call.lowered.kernel, len(self.phases)
        buffers = tuple(self.rows.row(planner.home(v), phase) for v in call.lowered.values)
        size = self.context.backend.scratch_bytes(kernel, self.context.target)
        scratch = self.rows.scratch(size, phase) if size else -1
        base = len(self.checks)
        self.checks += call.lowered.checks
        assert kernel.schedule is not None
        return KernelCall(kernel, buffers, kernel.schedule.parts, base if kernel.checks else 0, scratch)

    def loop(self, call: LoopCall, outer: Planner, step: Planner) -> None:
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

    def _instance(self, call: LoopCall, found: LoopRows, outer: Planner, step: Planner) -> None:
        for block, walk in found.starts:
            self._start(block, walk, outer)
        begin = len(self.phases)
        first, then = self._moves(found, outer)
        self.add(step)
        if len(self.phases) > begin:
            length: int = call.loop.op.attrs["length"]
            self.repeats.append(Repeat(begin, len(self.phases), length, self._counter(), first, then))

    def _moves(self, found: LoopRows, outer: Planner) -> tuple[tuple[Move, ...], tuple[Move, ...]]:
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

    def _start(self, block: Block, walk: Walk, outer: Planner) -> None:
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

    def __init__(self, planner: Planner) -> None:
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


def _all_constants(planner: Planner) -> Iterator[Value]:
    """Constants of a graph and of the steps of its loops."""
    yield from planner.constants
    for step in planner.steps.values():
        yield from _all_constants(step)


def _array(constant: Value) -> object:
    assert constant.op is not None
    return constant.op.attrs["value"].array
