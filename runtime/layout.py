"""Layouts of the records that Python and native code share, and a program's tables.

Every field is one 8-byte word. This is the only place where a field has a position: the
writer of native text and the Python side both ask here. A program is data: kernels are
reached through `CallTable`, so that one native driver runs every program.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from graphc.ir.program import Choice, Program, Repeat
from graphc.ir.records import dataclass

__all__ = [
    "ARGUMENT",
    "ARGUMENT_KINDS",
    "BEGIN_REPEAT",
    "BINDING",
    "BLOCK",
    "BLOCKS",
    "CALL",
    "CHOICE",
    "CHOOSE",
    "CONTEXT",
    "DISPATCHER",
    "END_REPEAT",
    "EXECUTABLE",
    "FRAME",
    "GO_TO",
    "ITEM",
    "KEPT",
    "KEPT_HEAD",
    "LOCK",
    "MOVE",
    "OUTPUT",
    "PHASE",
    "POOL",
    "PROGRAM",
    "REPEAT",
    "RESULT_KINDS",
    "SLOT",
    "STATE",
    "TEMPORARY",
    "TREES",
    "VARIANT",
    "ProgramTables",
    "Record",
    "Words",
    "cells_at",
    "program_tables",
    "words",
]


class Record:
    """Names of the words of a native record, in order. `_` fields are padding."""

    def __init__(self, *fields: str) -> None:
        self.offset = {name: i for i, name in enumerate(fields) if not name.startswith("_")}
        self.size = len(fields)

    @property
    def nbytes(self) -> int:
        """Bytes of one record."""
        return self.size * 8

    def pack(self, **values: int) -> list[int]:
        """The words of one record; fields not given are 0."""
        result = [0] * self.size
        for name, value in values.items():
            result[self.offset[name]] = value
        return result


def _line(*fields: str) -> tuple[str, ...]:
    """Fields that share one 64-byte cache line with no others."""
    return (*fields, *("_pad" for _ in range(-len(fields) % 8)))


# -- a program ---------------------------------------------------------------------------

CONTEXT = Record("error", "table", "dims", "arena", "counters", "scratch")
"""What phases and kernels run on; the same in process and in an exported library. `scratch` is the address of the
workers' scratch memory, `PROGRAM.scratch_bytes` for each."""

PROGRAM = Record(
    "phases", "phase_count", "items", "calls", "rows", "repeats", "moves", "choices", "scratch_bytes"
)
"""Addresses of a program's tables, and the scratch memory of a thread."""

PHASE = Record("item_begin", "item_count")
"""A phase, or a mark where a repeat begins or ends: then the first word is the repeat's number, the
second `BEGIN_REPEAT` or `END_REPEAT`. Before ranges that run together stands a phase with one item for each,
then `GO_TO` the place behind them. `CHOOSE` goes on, or to another place, as the choice says whose number the
first word is; `GO_TO` stands between its two ranges too."""
BEGIN_REPEAT, END_REPEAT, GO_TO, CHOOSE = -1, -2, -3, -4
REPEAT = Record("begin", "end", "count", "counter", "first_begin", "first_count", "then_begin", "then_count")
"""`begin` and `end` are places of its marks among the phases; the others are of `Repeat`, ranges of moves."""
CHOICE = Record("row", "offset", "otherwise")
"""Where the byte at `offset` of `row` is 0, the phases go on at place `otherwise`."""
MOVE = Record("row", "source", "offset")
ITEM = Record("call", "part")
"""One part of a kernel call; or, where `call` is -1 - p, the phases from place p up to place `part`."""
CALL = Record("kernel", "parts", "row_begin", "row_count", "check_base", "scratch")
"""`scratch` is 1 where the last row is scratch memory, which a worker replaces by its own."""

# -- executables, frames, bindings ---------------------------------------------------------

EXECUTABLE = Record(
    "program",
    "parallel",  # 1 where some phase has more than one item
    "release",  # 1 where a call gives up the interpreter lock
    "arena_bytes",
    "scratch_bytes",  # a worker's; 0 where there are none
    "frame_bytes",
    "row_count",
    "template",  # row_count words: addresses of constants, 0 elsewhere
    "temporaries",
    "temporary_count",
    "input_rows",
    "input_count",
    "output_rows",
    "output_count",
    "state_rows",
    "state_count",
    "dims",
    "frames",  # head of the list of idle frames
)
TEMPORARY = Record("row", "offset")
FRAME = Record(*CONTEXT.offset, "next", "workers")
"""A context, the link of the idle list, how many workers there is scratch memory for, then the buffer table."""

BINDING = Record("states", "lock_count", "locks", "exclusive", "kept", "kept_count")
"""State addresses of one use of an executable, the storage locks it takes, in address order, and what it keeps."""

LOCK = Record("holders", "writes")
"""A storage lock: readers, or -1 for a writer; how often a writer has given it back."""

KEPT = Record("head", "lock")
"""A block that is kept: addresses of its head and of the lock of the storage that it is made from."""

KEPT_HEAD = Record("fill", "stamp", "renewals")
"""The first byte says whether a call that has begun is to fill the block. `stamp` is what the lock's writes and the
renewals came to when the block was filled."""

# -- the call entry ----------------------------------------------------------------------

STATE = Record(*_line("epoch", "stamp"), *_line("grad_count", "grad_table", "grad_default"))
"""Words of the process that the entry compares: mutation epoch, stamp of records that hold, and threads out of the
default grad mode."""

DISPATCHER = Record("variants", "slow")
VARIANT = Record(
    "next",
    "epoch",
    "grad_mode",
    "argument_count",
    "keyword_count",
    "keywords",
    "arguments",
    "executable",
    "binding",
    "binding_object",
    "result_count",
    "results",
    "tree",
    "unflatten",
    "fail",
    "object",
    "calls",
    "written",  # begin and end of each span of memory that a call writes
    "written_count",
    "leaf_count",  # arguments and what lies in nests of them; 0 where no argument is a nest
)
ARGUMENT = Record(
    "kind",
    "expected",
    "alternative",
    "record_offset",
    "owner_offset",
    "signature",
    "signature_words",
    "mask",
    "row",
    "slot",
    "nbytes",  # of a tensor whose type is known
    "array",  # the dtype object of the arrays that are as good as the tensor; 0 where none are
    "twin",  # 1 + the position of the earlier argument that must be the same object; 0 where none must
)
OUTPUT = Record(
    "kind",
    "object",
    "row",
    "nbytes",
    "record",
    "record_bytes",
    "type",
    "record_offset",
    "owner_offset",
    "slots",
    "slot_count",
)
SLOT = Record("offset", "object")

ARGUMENT_KINDS = (
    "tensor",
    "any_tensor",
    "same",
    "equal",
    "float64",
    "float32",
    "int64",
    "tuple",
    "list",
    "dict",
)
RESULT_KINDS = ("tensor", "object", "shared")
TREES = ("none", "single", "tuple", "list", "unflatten", "finish")
"""Names of the numbers in `kind` and `tree` fields."""

# -- memory blocks and threads -----------------------------------------------------------

BLOCK_CLASSES = 176
"""Size classes of blocks: four to each doubling."""

BLOCK = Record(*_line("next", "size_class", "allocation"))
"""The 64 bytes before a block's data."""

BLOCKS = Record(
    *_line("lock", "cached_bytes", "limit", "live_blocks", "colour", "live_bytes", "most_live"),
    *(f"head{i}" for i in range(BLOCK_CLASSES)),
)

POOL = Record(
    *_line("claim"),
    *_line("done"),
    *_line("context", "program", "first_item"),
    *_line("sleepers", "wake"),
    *_line("owner", "wanted", "spin_ns", "quit", "started", "threads", "entered"),
)
"""The thread pool. `claim` = generation << 32 | next front item << 16 | end of the back items."""


class Words:
    """Native words that Python made, on a cache line of their own, and the objects they point at.

    `permanent` words outlive the interpreter's teardown: objects that die last still reach them by address.
    """

    __slots__ = ("_array", "_keep", "address")

    def __init__(self, values: Sequence[int], keep: Any = None, *, permanent: bool = False) -> None:
        count = max(1, len(values))
        memory = (ctypes.c_int64 * (count + 7))()
        if permanent:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
        self.address = -(-ctypes.addressof(memory) // 64) * 64
        self._array = (ctypes.c_int64 * count).from_address(self.address)
        self._array[: len(values)] = list(values)
        self._keep = (memory, keep)

    @property
    def cells(self) -> Any:
        """The words as an array of int64 with indexing as fast as there is."""
        return self._array

    def __getitem__(self, index: int) -> int:
        return self._array[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._array[index] = value

    def __len__(self) -> int:
        return len(self._array)


def cells_at(address: int, count: int) -> Any:
    """Native words at an address, as an array of int64."""
    return (ctypes.c_int64 * count).from_address(address)


def words(records: Iterable[Sequence[int]], keep: Any = None) -> Words:
    """Records laid one after the other."""
    return Words([word for record in records for word in record], keep)


@dataclass(frozen=True)
class ProgramTables:
    """A program as data. Table entries are indices; kernels are named by symbol."""

    phases: tuple[tuple[int, ...], ...]
    """`PHASE` records."""
    items: tuple[tuple[int, ...], ...]
    """`ITEM` records: the work of all phases, in order."""
    calls: tuple[tuple[str, int, int, int, int, int], ...]
    """`CALL` records with the kernel's symbol in place of its address."""
    rows: tuple[int, ...]
    """Buffer rows of all calls, in order."""
    repeats: tuple[tuple[int, ...], ...] = ()
    """`REPEAT` records."""
    moves: tuple[tuple[int, ...], ...] = ()
    """`MOVE` records of all repeats, in order."""
    choices: tuple[tuple[int, ...], ...] = ()
    """`CHOICE` records."""

    @property
    def parallel(self) -> bool:
        """True where some phase has work for more than one thread."""
        return any(count > 1 for _, count in self.phases)


def program_tables(program: Program, kernel_symbols: Sequence[str]) -> ProgramTables:
    """The tables of `program`; `kernel_symbols` names the kernel of each call in program order."""
    phases: list[tuple[int, ...]] = []
    items: list[tuple[int, ...]] = []
    calls: list[tuple[str, int, int, int, int, int]] = []
    rows: list[int] = []
    marks = _Marks(program)
    together = {ranges[0][0]: _Together(ranges) for ranges in program.together}
    for number, phase in enumerate(program.phases):
        beginning = together.get(number)
        for group in together.values():
            if group is not beginning:
                group.note(number, len(phases))
        if beginning is not None:
            # Ranges that end here end before the phase that begins these.
            beginning.reserve(phases, items)
            beginning.note(number, len(phases))
        marks.begin(number, phases)
        begin = len(items)
        items += _in_turn([call.parts for call in phase.calls], len(calls))
        for call in phase.calls:
            if len(calls) == len(kernel_symbols):
                raise ValueError(f"{program.name}: fewer kernel symbols than calls")
            passed = tuple(call.buffers)
            for row in (call.sizes, call.scratch):
                passed += (row,) if row >= 0 else ()
            symbol, scratch = kernel_symbols[len(calls)], int(call.scratch >= 0)
            calls.append((symbol, call.parts, len(rows), len(passed), call.check_base, scratch))
            rows += passed
        phases.append((begin, len(items) - begin))
        marks.end(number + 1, phases)
    for group in together.values():
        group.note(len(program.phases), len(phases))
        group.fill(phases, items)
    moves: list[tuple[int, ...]] = []
    records = [r.record(moves) for r in marks.repeats]
    if len(calls) != len(kernel_symbols):
        raise ValueError(f"{program.name}: {len(kernel_symbols)} kernel symbols for {len(calls)} calls")
    if rows and not 0 <= min(rows) <= max(rows) < len(program.buffers):
        raise ValueError(f"{program.name}: a call names a row outside the buffer table")
    return ProgramTables(
        tuple(phases), tuple(items), tuple(calls), tuple(rows), tuple(records), tuple(moves), marks.chosen()
    )


def _in_turn(parts: Sequence[int], first: int) -> list[tuple[int, int]]:
    """The items of a phase whose calls, from number `first` on, have so many parts.

    The calling thread claims from the front and workers from the back, so divided calls stand around those that are not:
    a thread always gets the same parts, and who is done first does what is small.
    """
    front: list[tuple[int, int]] = []
    back: list[tuple[int, int]] = []
    middle = [(first + n, 0) for n, count in enumerate(parts) if count == 1]
    for n, count in enumerate(parts):
        if count > 1:
            items = [(first + n, part) for part in range(count)]
            front += items[: (count + 1) // 2]
            back[:0] = items[(count + 1) // 2 :]
    return [*front, *middle, *back]


class _Together:
    """Ranges that run together while the tables are made: the places where they begin become known."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.ranges = ranges
        self.places: dict[int, int] = {}

    def reserve(self, phases: list[tuple[int, ...]], items: list[tuple[int, ...]]) -> None:
        """Puts the phase with one item for each range, and the mark that leads behind them."""
        self.first_item, self.mark = len(items), len(phases) + 1
        phases += ((len(items), len(self.ranges)), (0, GO_TO))
        items += ((0, 0) for _ in self.ranges)

    def note(self, number: int, place: int) -> None:
        """Phase `number` stands at `place`."""
        self.places.setdefault(number, place)

    def fill(self, phases: list[tuple[int, ...]], items: list[tuple[int, ...]]) -> None:
        """Writes the places."""
        for n, (begin, end) in enumerate(self.ranges):
            items[self.first_item + n] = (-1 - self.places[begin], self.places[end])
        phases[self.mark] = (self.places[self.ranges[-1][1]], GO_TO)


_UNLIMITED = (1 << 63) - 1
_Rank = tuple[int, int, int]
"""By what marks at one place are put in order: the other end of their range, kind, number."""


@dataclass
class _RepeatRows:
    """A repeat while the tables are made: the places of its marks become known."""

    repeat: Repeat
    begin: int = 0
    end: int = 0

    def record(self, moves: list[tuple[int, ...]]) -> tuple[int, ...]:
        """Its record; its moves are appended to those there."""
        r, ranges = self.repeat, []
        for part in (r.first, r.then):
            ranges += [len(moves), len(part)]
            moves += ((m.row, m.source, int(m.offset)) for m in part)
        return (self.begin, self.end, _UNLIMITED if r.count is None else int(r.count), r.counter, *ranges)


class _Marks:
    """The marks of repeats and choices, put among the phases as their places come."""

    def __init__(self, program: Program) -> None:
        self.repeats = [_RepeatRows(r) for r in program.repeats]
        self.choices = program.choices
        self.otherwise = [0] * len(program.choices)
        """Places to go on at where a choice's byte is 0."""
        self.jumps: dict[int, int] = {}
        """Places of the marks between the two ranges of choices."""
        self._beginning: dict[int, list[tuple[_Rank, int, int]]] = {}
        self._ending: dict[int, list[tuple[_Rank, int, Repeat | Choice]]] = {}
        for n, r in enumerate(program.repeats):
            self._beginning.setdefault(r.begin, []).append(((-r.end, 1, -n), n, BEGIN_REPEAT))
            self._ending.setdefault(r.end, []).append(((-r.begin, 1, n), n, r))
        for n, c in enumerate(program.choices):
            self._beginning.setdefault(c.begin, []).append(((-c.end, 0 if c.leaves else 2, -n), n, CHOOSE))
            self._ending.setdefault(c.end, []).append(((-c.begin, 2 if c.leaves else 0, n), n, c))
            if not c.leaves:
                self._ending.setdefault(c.middle, []).append(((-c.begin, 2, n), n, c))

    def chosen(self) -> tuple[tuple[int, ...], ...]:
        """The `CHOICE` records."""
        return tuple((c.row, int(c.offset), p) for c, p in zip(self.choices, self.otherwise, strict=True))

    def begin(self, number: int, phases: list[tuple[int, ...]]) -> None:
        """Puts the marks of what begins at phase `number`, the outermost first."""
        for _, n, kind in sorted(self._beginning.get(number, ())):
            if kind == BEGIN_REPEAT:
                self.repeats[n].begin = len(phases)
            phases.append((n, kind))

    def end(self, number: int, phases: list[tuple[int, ...]]) -> None:
        """Puts the marks of what ends before phase `number`, the innermost first."""
        found = sorted(self._ending.get(number, ()), key=lambda entry: entry[0])
        leaving: list[int] = []
        for _, n, what in found:
            if isinstance(what, Repeat):
                self.repeats[n].end = len(phases)
                phases.append((n, END_REPEAT))
                for m in leaving:
                    self.otherwise[m] = len(phases)
                leaving.clear()
            elif what.leaves:
                leaving.append(n)
            elif what.end == number:
                phases[self.jumps[n]] = (len(phases), GO_TO)
            else:
                self.jumps[n] = len(phases)
                phases.append((0, GO_TO))
                self.otherwise[n] = len(phases)
        assert not leaving, "a choice leaves no repeat"
