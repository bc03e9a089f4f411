"""Checks the invariants of a planned program; linear in its calls, up to sorting."""

from __future__ import annotations

import itertools

from graphc.ir.dims import typical
from graphc.ir.errors import VerifyError
from graphc.ir.program import KernelCall, Phase, Program

__all__ = ["verify_program"]


def verify_program(program: Program) -> None:
    """Raises VerifyError where an invariant of `graphc.ir.program` does not hold."""
    _Verifier(program).run()


class _Verifier:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.written_in: dict[int, int] = {}
        self.lives: dict[int, tuple[int, int]] = {}
        self.shown = _shown_rows(program)

    def run(self) -> None:
        last_failing = -1
        self.repeats()
        for n, phase in enumerate(self.program.phases):
            self.phase(n, phase)
            if any(c.kernel.checks for c in phase.calls):
                last_failing = n
        for n, phase in enumerate(self.program.phases):
            if phase.writes_state and n <= last_failing:
                raise VerifyError(f"phase {n} writes state, but phase {last_failing} may still fail")
        self.arena()

    def phase(self, n: int, phase: Phase) -> None:
        writers: dict[int, int] = {}
        readers: dict[int, set[int]] = {}
        for k, call in enumerate(phase.calls):
            self.call(n, k, call, writers, readers)
        for row, k in writers.items():
            if readers.get(row, set()) - {k}:
                raise VerifyError(f"phase {n}: buffer {row} is written and read by different calls")
        for row in writers:
            for shown in (row, *self.shown.get(row, ())):
                self.written_in.setdefault(shown, n)

    def repeats(self) -> None:
        """Ranges are nested or apart, and what moving rows show lives throughout them."""
        ranges = sorted(
            [(r.begin, -r.end) for r in self.program.repeats]
            + [(c.begin, -c.end) for c in self.program.choices]
        )
        open_ends: list[int] = []
        for begin, end in ranges:
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            if not begin < -end <= (open_ends[-1] if open_ends else len(self.program.phases)):
                raise VerifyError(f"the range of phases {begin} .. {-end - 1} is empty or overlaps another")
            open_ends.append(-end)
        for c in self.program.choices:
            buffer = self.program.buffers[c.row]
            whole = c.middle == c.end if c.leaves else c.begin < c.middle < c.end
            if not whole or not 0 <= typical(c.offset) < buffer.type.typical_bytes:
                raise VerifyError(
                    f"the choice at phase {c.begin} has an empty range or reads outside of its row"
                )
            for row in self.shown.get(c.row, {c.row}):
                self.live(row, max(0, c.begin - 1))  # read before anything of phase `begin` runs
        for instances in self.program.together:
            # These run at the same time, so what one of them uses is taken from the first phase to the last.
            first, last = instances[0][0], instances[-1][1] - 1
            for n in range(first, last + 1):
                for call in self.program.phases[n].calls:
                    for row in (*call.buffers, *((call.scratch,) if call.scratch >= 0 else ())):
                        self.live(row, first)
                        self.live(row, last)
        for r in self.program.repeats:
            for move in (*r.first, *r.then, *r.even):
                if self.program.buffers[move.row].kind != "moving":
                    raise VerifyError(f"buffer {move.row} is moved but has memory of its own")
                for row in self.shown[move.row]:
                    self.live(row, r.begin)
                    self.live(row, r.end - 1)

    def call(
        self, n: int, k: int, call: KernelCall, writers: dict[int, int], readers: dict[int, set[int]]
    ) -> None:
        parameters = call.kernel.parameters
        if len(parameters) != len(call.buffers):
            raise VerifyError(f"phase {n}: call {k} passes {len(call.buffers)} of {len(parameters)} buffers")
        for row, b in zip(call.buffers, parameters, strict=True):
            buffer = self.program.buffers[row]
            if buffer.type.typical_bytes != b.type.typical_bytes:
                raise VerifyError(f"phase {n}: buffer {row} is {buffer.type}, the kernel wants {b.type}")
            self.live(row, n)
            if b.access != "out":
                readers.setdefault(row, set()).add(k)
                made_here = buffer.kind in ("temporary", "output") and buffer.type.typical_bytes
                if made_here and self.written_in.get(row, n) >= n:
                    raise VerifyError(f"phase {n}: buffer {row} is read before it is written")
            if b.access != "in":
                if row in writers or buffer.kind == "constant":
                    raise VerifyError(f"phase {n}: buffer {row} is written twice or a constant")
                writers[row] = k
        if call.scratch >= 0:
            self.live(call.scratch, n)
            if self.program.buffers[call.scratch].kind != "temporary" or call.scratch in call.buffers:
                raise VerifyError(f"phase {n}: call {k} has a buffer of others for scratch memory")

    def live(self, row: int, n: int) -> None:
        first, last = self.lives.get(row, (n, n))
        self.lives[row] = (min(first, n), max(last, n))

    def arena(self) -> None:
        """No two temporaries with a phase in common share a byte: a sweep over phases, sorted by place."""
        ends: dict[int, list[tuple[int, int, int]]] = {}
        for row, (first, last) in self.lives.items():
            b = self.program.buffers[row]
            if b.kind != "temporary" or b.type.typical_bytes == 0:
                continue
            if b.offset % 64 or b.offset + b.type.typical_bytes > self.program.arena_bytes:
                raise VerifyError(f"temporary {row} lies outside of the arena or is not aligned")
            for phase in {first, last}:
                ends.setdefault(phase, []).append((b.offset, b.offset + b.type.typical_bytes, row))
        # Lifetimes that meet have the start of the later one in common, so starts are enough.
        active: dict[int, tuple[int, int, int]] = {}
        for phase in sorted(ends):
            for piece in ends[phase]:
                active[piece[2]] = piece
            pieces = sorted(active.values())
            for below, above in itertools.pairwise(pieces):
                if below[1] > above[0]:
                    raise VerifyError(f"temporaries {below[2]} and {above[2]} overlap in phase {phase}")
            active = {r: p for r, p in active.items() if self.lives[r][1] > phase}


def _shown_rows(program: Program) -> dict[int, set[int]]:
    """The rows with memory that each moving row may show."""
    shown: dict[int, set[int]] = {}
    moves = [m for r in program.repeats for m in (*r.first, *r.then, *r.even)]
    changed = True
    while changed:
        changed = False
        for m in moves:
            found = shown.setdefault(m.row, set())
            before = len(found)
            moving = program.buffers[m.source].kind == "moving"
            found |= shown.get(m.source, set()) if moving else {m.source}
            changed = changed or len(found) != before
    return shown
