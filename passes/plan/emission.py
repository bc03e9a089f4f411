"""The program of planned calls: phases and repeats in order, rows of the buffer table, the arena."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphc.ir.dims import Dim, bounds, floor_div
from graphc.ir.graph import Graph, Value
from graphc.ir.kernel import kernel_sizes
from graphc.ir.program import (
    Buffer,
    BufferKind,
    Check,
    Choice,
    KernelCall,
    Move,
    Phase,
    Program,
    Repeat,
    SizeArray,
)
from graphc.ir.symbolic import graph_sizes
from graphc.ir.types import TensorType, int64, uint8
from graphc.passes.context import CompileContext
from graphc.passes.fuse.blocks import Block
from graphc.passes.kept import KeptOperand
from graphc.passes.plan.arena import Lifetime, assign_offsets
from graphc.passes.plan.control import BranchCall, ControlCall, WhileCall
from graphc.passes.plan.loops import LoopCall, LoopRows, Swap, Walk
from graphc.passes.plan.work import Call, copy_call

if TYPE_CHECKING:
    from graphc.passes.plan.apply import Planner

__all__ = ["program_of"]


def program_of(planner: Planner, kept: Sequence[KeptOperand] = ()) -> Program:
    """The program of all calls of a planner and of the regions of its ops, after those that fill what is kept."""
    rows = _Rows(planner, kept)
    made = _Emission(rows, planner.context)
    made.fill(planner, kept)
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
        tuple(made.choices),
        rows.kept(kept),
        tuple((row, life[0], life[1]) for row, life in rows.lives.items())
        if graph_sizes(planner.graph)
        else (),
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
        self.choices: list[Choice] = []

    def add(self, planner: Planner) -> None:
        """All calls of a planner; a level's kernels are one phase, its ops with regions follow one by one."""
        for calls in planner.by_level():
            kernels = [c for c in calls if not isinstance(c, ControlCall)]
            if kernels:
                writes = any(c in planner.overwriting for c in kernels)
                self.phases.append(Phase(tuple(self.call(c, planner) for c in kernels), writes))
            for c in calls:
                match c:
                    case LoopCall():
                        self.loop(c, planner, planner.steps[c][0])
                    case BranchCall():
                        self.branch(c, planner, planner.steps[c])
                    case WhileCall():
                        self.while_(c, planner, *planner.steps[c])

    def fill(self, planner: Planner, kept: Sequence[KeptOperand]) -> None:
        """The phases that fill what is kept, each run where a byte says so."""
        for k in kept:
            begin = len(self.phases)
            self.phases += [Phase((self.call(Call(k.filling, -1), planner),)), Phase(())]
            self.choices.append(Choice(self.rows.number[k.head], 0, begin, begin + 1, begin + 2))

    def call(self, call: Call, planner: Planner) -> KernelCall:
        kernel, phase = call.lowered.kernel, len(self.phases)
        buffers = tuple(self.rows.row(planner.home(v), phase) for v in call.lowered.values)
        size = planner.scratch_bytes(call)
        scratch = self.rows.scratch(size, phase) if size else -1
        base = len(self.checks)
        self.checks += call.lowered.checks
        assert kernel.schedule is not None
        symbols = kernel_sizes(kernel)
        own = kernel if kernel.schedule.engine != "loops" else None
        sizes = self.rows.sizes(SizeArray(symbols, own)) if symbols else -1
        return KernelCall(
            kernel, buffers, kernel.schedule.parts, base if kernel.checks else 0, scratch, sizes
        )

    def loop(self, call: LoopCall, outer: Planner, step: Planner) -> None:
        """The phases of a loop: first entries of histories, then the step's, repeated; once for each instance."""
        start, count = len(self.phases), call.control.instances
        around = self._around(call, outer)
        outside, first_row = dict(self.rows.number), len(self.rows.buffers)
        ranges = []
        if count > 1 and self.rows.joint_scratch is None:
            self.rows.joint_scratch, joint = start, True
        else:
            joint = False
        for instance in range(count):
            begin = len(self.phases)
            self._instance(call, call.rows(step.outputs, instance), outer, step)
            ranges.append((begin, len(self.phases)))
            # Another instance has rows of its own for the values of a step.
            self.rows.number = dict(outside)
        if joint:
            self.rows.joint_scratch = None
        last = self._keep(around, start)
        if count > 1 and len(self.phases) > start:
            self.together.append(tuple(ranges))
            for row in range(first_row, len(self.rows.buffers)):
                self.rows.keep_row(row, start, last)

    def _instance(self, call: LoopCall, found: LoopRows, outer: Planner, step: Planner) -> None:
        for block, walk in found.starts:
            self._start(block, walk, outer)
        length = call.length
        if not isinstance(length, int) and bounds(length)[0] == 0:
            for s in found.swaps:
                # Without steps the result, which is the first buffer here, is what there was before them.
                self._start(s.initial, Walk(s.before, s.first, s.start), outer, floor_div(1, length + 1))
        begin = len(self.phases)
        first, even, then = self._moves(found, outer)
        even = even if found.swaps and not isinstance(length, int) else ()
        self.add(step)
        if len(self.phases) > begin:
            self.repeats.append(Repeat(begin, len(self.phases), length, self._counter(), first, then, even))

    def _around(self, call: ControlCall, outer: Planner) -> list[Value]:
        """Gives all that an op with regions uses a row; the values."""
        around = [outer.home(v) for v in call.used()]
        for value in around:
            self.rows.row(value, len(self.phases))
        return around

    def _keep(self, around: Sequence[Value], start: int) -> int:
        """Keeps what rows of regions may show from phase `start` until after the last; that one."""
        last = max(start, len(self.phases) - 1)
        for value in around:
            self.rows.keep(value, start, last)
        return last

    def branch(self, call: BranchCall, outer: Planner, regions: Sequence[Planner]) -> None:
        """The phases of both regions, of which one or the other is run."""
        start = len(self.phases)
        around = self._around(call, outer)
        predicate, *given = call.control.operands
        moves: list[Move] = []
        ends = []
        for region in regions:
            for inner, block in zip(region.graph.inputs, given, strict=True):
                moves += self._show(inner, block, outer)
            for inner, result in zip(region.outputs, call.written(), strict=True):
                moves += self._show(inner, Block(result, 0), outer)
            self.add(region)
            ends.append(len(self.phases))
        if ends[-1] > start:
            row = self.rows.row(outer.home(predicate.value), start)
            self.choices.append(Choice(row, predicate.offset_bytes, start, ends[0], ends[1]))
            if moves:
                self.repeats.append(Repeat(start, ends[-1], 1, self._counter(), tuple(moves)))
            self._keep(around, start)

    def while_(self, call: WhileCall, outer: Planner, test: Planner, step: Planner) -> None:
        """The phases of the predicate and of a step, repeated, and those that copy the results."""
        start, n = len(self.phases), call.op.carries
        limit: int | None = call.op.attrs["limit"]
        around = self._around(call, outer)
        first: list[Move] = []
        then: list[Move] = []
        for i, block in enumerate(call.control.operands[:n]):
            before, buffers = test.graph.inputs[i], (call.op.results[i], call.others[i])
            swap = Swap(before, step.outputs[i], block, *buffers)
            starting, _, following = self._swap(swap, outer)
            first += starting
            then += following
            self.rows.number[step.graph.inputs[i]] = self.rows.number[before]
        shown, stepping = test.graph.inputs[:n], list[Move]()
        if limit is not None:
            # Where the limit ends the loop, nothing is moved after the last step: these show what it wrote.
            shown = [Value(v.type, outer.graph, 0, "shown") for v in shown]
            for v, before, after in zip(shown, test.graph.inputs, step.outputs, strict=False):
                first.append(Move(self.rows.moving(v), self.rows.number[before]))
                stepping.append(Move(self.rows.number[v], self.rows.number[after]))
        for region in (test, step):
            for inner, block in zip(region.graph.inputs[n:], call.control.operands[n:], strict=True):
                first += self._show(inner, block, outer)
        self.add(test)
        middle = len(self.phases)
        self.add(step)
        end = len(self.phases)
        if end > middle > start:
            row = self.rows.row(test.home(test.outputs[0]), middle - 1)
            self.choices.append(Choice(row, 0, middle, end, end, leaves=True))
            if stepping:
                self.repeats.append(Repeat(middle, end, 1, self._counter(), tuple(stepping)))
            self.repeats.append(Repeat(start, end, limit, self._counter(), tuple(first), tuple(then)))
        copies = [
            copy_call(value, result, 0, self.context)
            for value, result in zip(shown, call.op.results, strict=True)
            if result.type.count != 0
        ]
        self.phases.append(Phase(tuple(self.call(c, outer) for c in copies)))
        self._keep(around, start)

    def _show(self, inner: Value, block: Block, outer: Planner) -> list[Move]:
        """Binds a value of a region to a block: to its very row, or to a row that the moves set."""
        home = outer.home(block.value)
        row = self.rows.row(home, len(self.phases))
        if block.offset == 0 and _same_bytes(inner, home):
            self.rows.number[inner] = row
            return []
        return [Move(self.rows.moving(inner), row, block.offset_bytes)]

    def _moves(
        self, found: LoopRows, outer: Planner
    ) -> tuple[tuple[Move, ...], tuple[Move, ...], tuple[Move, ...]]:
        """The moves before the first step, before it where swaps are exchanged, and before any other step."""
        phase = len(self.phases)
        first, then = [], []
        for w in found.walks:
            row = self.rows.moving(w.inner)
            first.append(Move(row, self.rows.row(outer.home(w.outer), phase), w.start))
            if w.stride != 0:
                then.append(Move(row, row, w.stride))
        even = list(first)
        for s in found.swaps:
            starting, exchanged, following = self._swap(s, outer)
            first += starting
            even += exchanged
            then += following
        return tuple(first), tuple(even), tuple(then)

    def _swap(self, s: Swap, outer: Planner) -> tuple[list[Move], list[Move], list[Move]]:
        phase = len(self.phases)
        before, after = self.rows.moving(s.before), self.rows.moving(s.after)
        spare = self.rows.moving(Value(s.after.type, outer.graph, 0, "spare"))
        initial = self.rows.row(outer.home(s.initial.value), phase)
        buffers = [self.rows.row(outer.home(v), phase) for v in (s.first, s.second)]
        start = Move(before, initial, s.initial.offset_bytes)
        first, even = (
            [start, Move(after, a, s.start), Move(spare, b, s.start)] for a, b in (buffers, buffers[::-1])
        )
        # What the last step wrote is read; what it did not write is written.
        return first, even, [Move(before, after), Move(after, spare), Move(spare, before)]

    def _start(self, block: Block, walk: Walk, outer: Planner, count: Dim = 1) -> None:
        """A phase, run `count` times, that copies a history's first entry to its place."""
        if walk.inner.type.count == 0:
            return
        phase = len(self.phases)
        source, target = (Value(walk.inner.type, outer.graph, 0, "initial") for _ in range(2))
        moves = [
            Move(self.rows.moving(source), self.rows.row(outer.home(block.value), phase), block.offset_bytes),
            Move(self.rows.moving(target), self.rows.row(outer.home(walk.outer), phase), walk.start),
        ]
        copy = copy_call(source, target, 0, self.context)
        self.phases.append(Phase((self.call(copy, outer),)))
        self.repeats.append(Repeat(phase, phase + 1, count, self._counter(), tuple(moves)))

    def _counter(self) -> int:
        return self.rows.moving(Value(TensorType(uint8, (0,)), Graph(), 0, "counter"))


class _Rows:
    """The buffer table under construction, with the phases each row lives in."""

    def __init__(self, planner: Planner, kept: Sequence[KeptOperand]) -> None:
        self.buffers: list[Buffer] = []
        self.number: dict[Value, int] = {}
        self.lives: dict[int, list[int]] = {}
        self.scratch_of: dict[int, int] = {}
        self.joint_scratch: int | None = None
        """The first of phases that all use one piece of scratch memory: those of instances, run by one thread each."""
        inputs = [v for v in planner.graph.inputs if not v.is_state]
        self.states = [v for v in planner.graph.inputs if v.is_state]
        self.size_rows: dict[SizeArray, int] = {}
        self.constants: list[Value | SizeArray] = list(_all_constants(planner))
        self._add("input", inputs)
        self._add("state", [*self.states, *(v for k in kept for v in (k.head, k.packed))])
        self._add("output", planner.outputs)
        self._add("constant", [v for v in self.constants if isinstance(v, Value)])

    def kept(self, kept: Sequence[KeptOperand]) -> tuple[tuple[int, int, int], ...]:
        """`Program.kept`."""
        found = []
        for k in kept:
            packed = self.buffers[self.number[k.packed]]
            found.append((self.states.index(k.source), packed.index, k.columns))
        return tuple(found)

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
        """The row of scratch memory of a phase's calls, of at least `size` bytes."""
        key = phase if self.joint_scratch is None else self.joint_scratch
        row = self.scratch_of.setdefault(key, len(self.buffers))
        if row == len(self.buffers):
            self.buffers.append(Buffer("temporary", TensorType(uint8, (size,)), 0, 0, "scratch"))
            self.lives[row] = [phase, phase]
        elif self.buffers[row].type.nbytes < size:
            self.buffers[row] = replace(self.buffers[row], type=TensorType(uint8, (size,)))
        self.keep_row(row, phase, phase)
        return row

    def sizes(self, key: SizeArray) -> int:
        """The row of an array of symbolic sizes."""
        if key not in self.size_rows:
            self.size_rows[key] = len(self.buffers)
            self.buffers.append(
                Buffer("constant", TensorType(int64, (len(key.symbols),)), len(self.constants), 0, "sizes")
            )
            self.constants.append(key)
        return self.size_rows[key]

    def table(self) -> tuple[tuple[Buffer, ...], int]:
        """The finished table and the arena's size."""
        rows = list(self.lives)
        lifetimes = [Lifetime(self.buffers[r].type.typical_bytes, *self.lives[r]) for r in rows]
        offsets, total = assign_offsets(lifetimes)
        for r, offset in zip(rows, offsets, strict=True):
            b = self.buffers[r]
            self.buffers[r] = Buffer(b.kind, b.type, b.index, offset, b.name)
        return tuple(self.buffers), total


def _all_constants(planner: Planner) -> Iterator[Value]:
    """Constants of a graph and of the regions of its ops."""
    yield from planner.constants
    for regions in planner.steps.values():
        for region in regions:
            yield from _all_constants(region)


def _same_bytes(a: Value, b: Value) -> bool:
    return a.type.size_bytes == b.type.size_bytes


def _array(constant: Value | SizeArray) -> object:
    """An array; of symbolic sizes those themselves, in whose place `resolve` puts an array."""
    if isinstance(constant, SizeArray):
        return constant
    assert constant.op is not None
    return constant.op.attrs["value"].array
