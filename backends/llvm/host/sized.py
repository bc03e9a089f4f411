"""What an exported library with named sizes works out at each run: offsets, counts and arrays of sizes.

The workspace of such a library begins with a fixed part: the buffer table, the arrays of sizes that kernels are called
with, and copies of those tables of the program that depend on sizes. The arena follows. Temporaries keep the
order in which they lie at typical sizes: each begins where all end that lie below it and live when it does.

Invariants: nothing is written before every requirement holds; a program is never run in more than one partition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from graphc.backends.llvm import contraction
from graphc.backends.llvm.host.folds import add_step_numbers
from graphc.backends.llvm.host.routine import Routine, i64
from graphc.backends.llvm.text import Val
from graphc.ir.dims import Dim, Symbol
from graphc.ir.program import Move, Program, SizeArray
from graphc.ir.records import dataclass
from graphc.runtime.layout import CHOICE, MOVE, PROGRAM, REPEAT

__all__ = ["Requirement", "Sized", "SizedRun", "Values", "fixed_program"]

ALIGNMENT = 64
_LEAST_BYTES = 64
"""Temporaries without elements have an address all the same: what a guard keeps out may be read there."""


@dataclass(frozen=True)
class Requirement:
    """What sizes have to be like: `difference` stands in `relation` (`>=`, `==` or `!=`) to 0."""

    difference: Dim
    relation: str
    exception: str
    """Name of the built-in exception class of a caller in Python."""
    message: str


@dataclass(frozen=True)
class Sized:
    """What a library with named sizes is made of besides its program.

    `symbols` are the sizes in the order in which callers pass them, `requirements` what is to hold of them, `below`
    maps each temporary's row, lowest first, to the rows of temporaries that it lies right above.
    """

    symbols: tuple[Symbol, ...]
    requirements: tuple[Requirement, ...]
    below: Mapping[int, Sequence[int]]


def fixed_program(program: Program) -> Program:
    """The program with zeros where sizes come, for tables that are patched at each run."""

    def moves(given: Sequence[Move]) -> tuple[Move, ...]:
        return tuple(m if isinstance(m.offset, int) else replace(m, offset=0) for m in given)

    return replace(
        program,
        phases=tuple(
            replace(p, calls=tuple(replace(c, parts=1) if c.sizes >= 0 else c for c in p.calls))
            for p in program.phases
        ),
        repeats=tuple(
            replace(
                r,
                count=r.count if r.count is None or isinstance(r.count, int) else 0,
                first=moves(r.first),
                then=moves(r.then),
                even=(),
            )
            for r in program.repeats
        ),
        choices=tuple(
            replace(c, offset=c.offset if isinstance(c.offset, int) else 0) for c in program.choices
        ),
    )


class SizedRun:
    """Where the pieces of the workspace are, and the code that fills them."""

    def __init__(self, program: Program, sized: Sized) -> None:
        self.program = program
        self.sized = sized
        at = _aligned(8 * len(program.buffers))
        self.arrays: dict[int, int] = {}
        """Places of the arrays of sizes, by the number of the constant."""
        for n, value in enumerate(program.constants):
            if isinstance(value, SizeArray):
                self.arrays[n] = at
                at += _aligned(8 * (len(value.symbols) + 2))
        self.tables: dict[str, int] = {}
        """Places of tables of the program that are copied."""
        moves = sum(len(r.first) + len(r.then) for r in program.repeats)
        for name, words in (
            ("plan", PROGRAM.size),
            ("repeats", REPEAT.size * len(program.repeats)),
            ("moves", MOVE.size * moves),
            ("choices", CHOICE.size * len(program.choices)),
        ):
            self.tables[name] = at
            at += _aligned(8 * words)
        self.words = {"plan": PROGRAM.size, "repeats": REPEAT.size * len(program.repeats)}
        self.words |= {"moves": MOVE.size * moves, "choices": CHOICE.size * len(program.choices)}
        self.arena = at
        """Where the arena begins."""

    def read(self, r: Routine, dims: Val) -> Values:
        """The sizes that a caller passed."""
        loaded = [r.load("i64", r.gep(dims, n, "i64"), 8) for n in range(len(self.sized.symbols))]
        names = [s.name for s in self.sized.symbols]
        spelt = [f"${n}" for n in names]  # as programs spell them
        return Values(r, dict(zip((*names, *spelt), (*loaded, *loaded), strict=True)))

    def check_ranges(self, r: Routine, values: Values, fail: Callable[[], None]) -> None:
        """Leaves with `fail` where a size is not in its declared range."""
        for symbol in self.sized.symbols:
            value = values.symbols[symbol.name]
            inside = r.icmp("sge", value, i64(symbol.lo))
            if symbol.hi is not None:
                inside = r.and_(inside, r.icmp("sle", value, i64(symbol.hi)))
            with r.exit_if(r.xor(inside, Val("i1", "true"))):
                fail()

    def check(self, r: Routine, values: Values, fail: Callable[[int], None]) -> None:
        """Leaves with `fail(number)` where a requirement does not hold."""
        predicates = {">=": "slt", "==": "ne", "!=": "eq"}
        for number, needed in enumerate(self.sized.requirements):
            value = values.of(needed.difference)
            with r.exit_if(r.icmp(predicates[needed.relation], value, i64(0))):
                fail(number)

    def offsets(self, r: Routine, values: Values) -> tuple[dict[int, Val], Val]:
        """Offsets in the arena of the temporaries, by row, and the arena's bytes."""
        offsets: dict[int, Val] = {}
        ends: dict[int, Val] = {}
        total = i64(0)
        for row, below in self.sized.below.items():
            type_ = self.program.buffers[row].type
            size = r.intrinsic("smax", "i64", [values.of(type_.size_bytes), i64(_LEAST_BYTES)])
            start = i64(0)
            for other in below:
                start = r.intrinsic("smax", "i64", [start, ends[other]])
            offsets[row] = start
            padded = r.and_(r.add(size, i64(ALIGNMENT - 1)), i64(-ALIGNMENT))
            ends[row] = r.add(start, padded)
            total = r.intrinsic("smax", "i64", [total, ends[row]])
        return offsets, total

    def fill(self, r: Routine, values: Values, workspace: Val, plan: Val) -> Val:
        """Writes the arrays of sizes and the tables; gives the program record to run."""
        for n, at in self.arrays.items():
            self._array(r, values, r.at_byte(workspace, at), n)
        copies = {}
        for name, at in self.tables.items():
            if self.words[name]:
                copies[name] = r.at_byte(workspace, at)
                source = plan if name == "plan" else r.read_ptr(plan, PROGRAM, name)
                r.memcpy(copies[name], source, i64(8 * self.words[name]))
                if name != "plan":
                    r.write(copies[name], copies["plan"], PROGRAM, name)
        self._repeats(r, values, copies)
        for n, choice in enumerate(self.program.choices):
            if not isinstance(choice.offset, int):
                record = r.gep(copies["choices"], n * CHOICE.size, "i64")
                r.write(values.of(choice.offset), record, CHOICE, "offset")
        return copies["plan"]

    def _array(self, r: Routine, values: Values, place: Val, number: int) -> None:
        array = self.program.constants[number]
        assert isinstance(array, SizeArray)
        for i, symbol in enumerate(array.symbols):
            r.store(values.symbols[symbol.name], r.gep(place, i, "i64"), 8)
        extents = () if array.kernel is None else contraction.number_extents(array.kernel)
        if extents:
            given = r.alloca("i64", len(extents), 8)
            for i, extent in enumerate(extents):
                r.store(values.of(extent), r.gep(given, i, "i64"), 8)
            add_step_numbers(r.module)
            r.call_void("step_numbers", [given, i64(len(extents)), r.gep(place, len(array.symbols), "i64")])

    def _repeats(self, r: Routine, values: Values, copies: Mapping[str, Val]) -> None:
        at = 0
        for n, repeat in enumerate(self.program.repeats):
            count: Val | None = None
            if repeat.count is not None and not isinstance(repeat.count, int):
                count = values.of(repeat.count)
                r.write(count, r.gep(copies["repeats"], n * REPEAT.size, "i64"), REPEAT, "count")
            odd = None if count is None else r.icmp("ne", r.and_(count, i64(1)), i64(0))
            for i, move in enumerate((*repeat.first, *repeat.then)):
                other = repeat.even[i] if i < len(repeat.first) and repeat.even else move
                record = r.gep(copies["moves"], (at + i) * MOVE.size, "i64")
                assert move.row == other.row
                for field, one, two in (
                    ("source", move.source, other.source),
                    ("offset", move.offset, other.offset),
                ):
                    if one == two and isinstance(one, int):
                        continue
                    value = values.of(one)
                    if one != two:
                        assert odd is not None
                        value = r.select(odd, value, values.of(two))
                    r.write(value, record, MOVE, field)
            at += len(repeat.first) + len(repeat.then)


class Values:
    """Values of expressions in a routine, each computed once."""

    def __init__(self, r: Routine, symbols: dict[str, Val]) -> None:
        self._r = r
        self.symbols = symbols
        self._known: dict[Dim, Val] = {}

    def of(self, x: Dim) -> Val:
        """The i64 value of an expression in the sizes."""
        if isinstance(x, int):
            return i64(x)
        found = self._known.get(x)
        if found is None:
            found = i64(0)
            for monomial, factor in x.terms:
                term = i64(factor)
                for atom, power in monomial:
                    value = (
                        self.symbols[atom.name]
                        if isinstance(atom, Symbol)
                        else self._function(atom.function, *map(self.of, atom.args))
                    )
                    for _ in range(power):
                        term = self._r.mul(term, value)
                found = self._r.add(found, term)
            self._known[x] = found
        return found

    def _function(self, name: str, a: Val, b: Val) -> Val:
        r = self._r
        if name in ("min", "max"):
            return r.intrinsic(f"s{name}", "i64", [a, b])
        # Rounds toward minus infinity. Divisors are positive: a requirement says so, whose check may come later.
        b = r.intrinsic("smax", "i64", [b, i64(1)])
        rest = r.binary("srem", a, b)
        negative = r.icmp("slt", rest, i64(0))
        if name == "%":
            return r.select(negative, r.add(rest, b), rest)
        quotient = r.binary("sdiv", a, b)
        return r.select(negative, r.sub(quotient, i64(1)), quotient)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
