"""The planned program: what a backend turns into native drivers and a runtime calls.

A program is a table of buffers and an ordered sequence of phases. Kernels of one phase do
not depend on each other; a barrier stands between phases. Every kernel reads and writes only
buffers named by its call, so its code holds no address and equal kernels are one.

A range of phases may be run several times; a row of kind `moving` has no memory of its own but
is set, before each time, to a place in another row's. A byte in a row may decide which of two ranges is run,
or whether a range is run again: it is read between phases, by one thread for all.

Invariants: temporaries whose lifetimes meet do not overlap in the arena; every read of a
state's old value comes in an earlier phase than its first write (or element by element in
the same kernel call); a phase that writes state follows the last phase that can fail.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any, Literal

from graphc.ir.dims import Dim, Symbol, typical
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType

__all__ = [
    "Buffer",
    "BufferKind",
    "Check",
    "Choice",
    "KernelCall",
    "Move",
    "Phase",
    "Program",
    "Repeat",
    "SizeArray",
    "kernel_title",
]

BufferKind = Literal["input", "state", "output", "temporary", "constant", "moving"]


@dataclass(frozen=True)
class Buffer:
    """One row of the buffer table. Row-major and contiguous; base aligned to 64 bytes.

    `index` numbers buffers within their kind: the position among the program's inputs, states,
    outputs or constants. `offset` is the byte offset in the arena of a temporary, or in the
    state block for a state of an exported library.
    """

    kind: BufferKind
    type: TensorType
    index: int = 0
    offset: int = 0
    name: str = ""


@dataclass(frozen=True)
class KernelCall:
    """A call of `kernel` (a scheduled kernel, `graphc.ir.kernel.Kernel`) on rows of the buffer table."""

    kernel: Any
    buffers: tuple[int, ...]
    parts: int = 1
    """Number of partitions; from shape and target alone."""
    check_base: int = 0
    """Position in `Program.checks` of the kernel's check number 0."""
    scratch: int = -1
    """Row of the scratch buffer passed after the kernel's parameters; -1 for none. Calls of one phase share it:
    it is the calling thread's, and every other thread that helps passes memory of its own in its place."""
    sizes: int = -1
    """Row of the array of symbolic sizes passed after the kernel's parameters, before the scratch buffer; -1 for none."""


@dataclass(frozen=True)
class Phase:
    """Kernel calls with no barrier between them."""

    calls: tuple[KernelCall, ...]
    writes_state: bool = False

    @property
    def parts(self) -> int:
        """Work items of the phase: the sum of its calls' partitions."""
        return sum(call.parts for call in self.calls)


@dataclass(frozen=True)
class Move:
    """Sets the address of row `row` to that of row `source` plus `offset` bytes."""

    row: int
    source: int
    offset: Dim = 0


@dataclass(frozen=True)
class Repeat:
    """Runs phases `begin` up to, not including, `end` `count` times; None: until a choice leaves.

    The moves in `first` are made in order before the first time (those in `even` in their place where a symbolic
    count turns out to be even and there are some), those in `then` before each further one. Ranges of two repeats are nested or apart; of equal ones the later in a program is the outer. Row `counter` counts the times.
    """

    begin: int
    end: int
    count: Dim | None
    counter: int
    first: tuple[Move, ...] = ()
    then: tuple[Move, ...] = ()
    even: tuple[Move, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Runs phases `begin` up to `middle` where the byte at `offset` of row `row` is not 0, else `middle` up to `end`.

    Where it `leaves`, `middle` is `end`, which is the end of a repeat that began before: a byte of 0 ends that
    repeat at once. Ranges are nested with those of repeats, of equal ones a choice that leaves is the outer, any
    other one the inner.
    """

    row: int
    offset: Dim
    begin: int
    middle: int
    end: int
    leaves: bool = False


@dataclass(frozen=True)
class Check:
    """A data-dependent check a kernel may fail; its code in the error word is its position + 1.

    `message` may name the number at fault; see `graphc.ir.failure`.
    """

    message: str
    exception: str
    """Name of the built-in exception class to raise (`"IndexError"`)."""
    filename: str | None = None
    lineno: int | None = None


@dataclass(frozen=True)
class SizeArray:
    """A constant in the making: the array of symbolic sizes that a kernel is called with, and what `kernel` (None: nothing
    more) is called with besides them."""

    symbols: tuple[Symbol, ...]
    kernel: Any = None


@dataclass(frozen=True, repr=False)
class Program:
    """A compiled program's plan: the buffer table, phases, arena size and failure table."""

    name: str
    buffers: tuple[Buffer, ...]
    phases: tuple[Phase, ...]
    arena_bytes: int
    checks: tuple[Check, ...] = ()
    constants: tuple[Any, ...] = field(default=(), repr=False)
    """NumPy arrays of the constant buffers, by `Buffer.index`."""
    repeats: tuple[Repeat, ...] = ()
    together: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Ranges of phases (begin, end), one behind the other, that depend on nothing in each other: each is run by
    one thread on its own, with no barrier inside. A range holds repeats as a whole or not at all."""

    choices: tuple[Choice, ...] = ()
    kept: tuple[tuple[int, int, int], ...] = ()
    """What is kept from call to call: (state it is made from, state behind the graph's own that holds it, its layout, a number).
    The state before that one is its head: the program begins with a choice for each, which fills it where the head's first byte
    is not 0."""
    lives: tuple[tuple[int, int, int], ...] = ()
    """Of a program with symbolic sizes: (row, first phase, last phase) of each temporary. Its types, numbers of
    partitions and offsets are given for each tuple of sizes by `passes/plan/resolve.py`."""

    @property
    def scratch_bytes(self) -> int:
        """Bytes that each further thread needs for itself, in whole cache lines."""
        rows = {c.scratch for p in self.phases for c in p.calls if c.scratch >= 0}
        return max((-(-self.buffers[r].type.typical_bytes // 64) * 64 for r in rows), default=0)

    def times(self, phase: int) -> int:
        """How often a phase is run in one call at most; repeats without a count are not counted, and symbolic counts
        are typical ones."""
        counts = [r.count for r in self.repeats if r.begin <= phase < r.end]
        return math.prod(1 if n is None else typical(n) for n in counts)

    def of_kind(self, kind: BufferKind) -> list[Buffer]:
        """Buffers of one kind in the order of their index."""
        return sorted((b for b in self.buffers if b.kind == kind), key=lambda b: b.index)

    def row_names(self) -> list[str]:
        """A name of its own for each buffer, by row: inputs and states keep theirs."""
        names: dict[str, None] = {}
        for row, b in enumerate(self.buffers):
            first = (
                f"t{row}" if b.kind == "temporary" and b.name != "scratch" else b.name or f"{b.kind}{b.index}"
            )
            name, number = first, 1
            while name in names:
                name, number = f"{first}.{number}", number + 1
            names[name] = None
        return list(names)

    def __repr__(self) -> str:
        return f"<Program @{self.name}: {len(self.phases)} phases>"

    def __str__(self) -> str:
        names = self.row_names()
        count = sum(len(p.calls) for p in self.phases)
        lines = [
            f"program @{self.name}: {count} kernel calls in {len(self.phases)} phases, arena {self.arena_bytes} bytes"
        ]
        for n, phase in enumerate(self.phases):
            can_fail = any(call.kernel.checks for call in phase.calls)
            notes = [
                t for t, holds in (("may fail", can_fail), ("writes state", phase.writes_state)) if holds
            ]
            lines += [f"together {_ranges_text(t)}" for t in self.together if t[0][0] == n]
            lines += [_choice_text(c, names) for c in self.choices if c.begin == n and c.leaves]
            lines += [_repeat_text(r, names) for r in reversed(self.repeats) if r.begin == n]
            lines += [_choice_text(c, names) for c in reversed(self.choices) if c.begin == n and not c.leaves]
            lines.append(f"phase {n}" + (f" ({', '.join(notes)})" if notes else ""))
            for call in phase.calls:
                lines += _call_lines(call, names)
        lines.append("buffers")
        width = max(map(len, names), default=0)
        lines += [f"  {name:{width}}  {_buffer_text(b)}" for name, b in zip(names, self.buffers, strict=True)]
        if self.checks:
            lines.append("checks")
            for n, check in enumerate(self.checks):
                place = f"   {check.filename}:{check.lineno}" if check.filename else ""
                lines.append(f"  {n}  {check.exception}: {check.message}{place}")
        return "\n".join(lines)


def kernel_title(kernel: Any) -> str:
    """What a kernel does in a few words: its outer extents and its stages with theirs."""

    def extents(axes: Any) -> str:
        return "×".join("?" if a.hi is None else str(a.hi + 1) for a in axes)

    if kernel.links:
        return "chain of " + "; ".join(kernel_title(link.kernel) for link in kernel.links)
    stages = [f"{s.kind} {extents(s.axes)}".strip() for s in kernel.stages]
    return f"[{extents(kernel.axes)}] {', '.join(stages)}" if kernel.axes else ", ".join(stages)


def _call_lines(call: KernelCall, names: list[str]) -> list[str]:
    lines = [f"  kernel {kernel_title(call.kernel)}; {call.parts} part{'s' if call.parts != 1 else ''}"]
    parameters = list(zip(call.buffers, call.kernel.parameters, strict=True))
    for access, label in (("in", "reads"), ("inout", "updates"), ("out", "writes")):
        rows = [names[row] for row, p in parameters if p.access == access]
        if rows:
            lines.append(f"    {label:7} {', '.join(rows)}")
    if call.scratch >= 0:
        lines.append(f"    {'scratch':7} {names[call.scratch]}")
    return lines


def _ranges_text(ranges: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{begin} .. {end - 1}" for begin, end in ranges)


def _repeat_text(repeat: Repeat, names: list[str]) -> str:
    def text(moves: tuple[Move, ...]) -> str:
        return ", ".join(
            f"{names[m.row]} at {names[m.source]}" + (f" + {m.offset}" if m.offset != 0 else "")
            for m in moves
        )

    count = "" if repeat.count is None else f" × {repeat.count}"
    return f"repeat {_phases_text(repeat.begin, repeat.end)}{count}: {text(repeat.first)}" + (
        f"; then {text(repeat.then)}" if repeat.then else ""
    )


def _choice_text(choice: Choice, names: list[str]) -> str:
    where = names[choice.row] + (f" + {choice.offset}" if choice.offset != 0 else "")
    first = _phases_text(choice.begin, choice.middle)
    other = "end" if choice.leaves else _phases_text(choice.middle, choice.end)
    return f"if {where}: {first}; else {other}"


def _phases_text(begin: int, end: int) -> str:
    return f"phase {begin}" if end == begin + 1 else f"phases {begin} .. {end - 1}"


def _buffer_text(buffer: Buffer) -> str:
    place = "moving" if buffer.kind == "moving" else f"{buffer.kind} {buffer.index}"
    if buffer.kind == "temporary":
        place = f"arena {buffer.offset} .. {buffer.offset + buffer.type.typical_bytes}"
    return f"{buffer.type}  {place}"
