"""Executables: a planned program together with its linked kernels, ready to run on addresses.

Invariant: an executable is immutable and owns no arena. Each call leases a frame (context and
buffer table) and an arena of memory; calls from several threads and nested calls are fine.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from graphc.ir.program import Program
from graphc.runtime.binding import Binding
from graphc.runtime.code import Code
from graphc.runtime.host import host
from graphc.runtime.kept import KeptBlock, kept_block
from graphc.runtime.layout import EXECUTABLE, FRAME, PROGRAM, Words, program_tables, words

__all__ = ["Executable"]

_KEPT_BINDINGS = 32


def _aligned_copy(array: object) -> np.ndarray:
    """A contiguous copy whose data is aligned to 64 bytes."""
    source = np.ascontiguousarray(array)
    memory = np.empty(source.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + source.nbytes].view(source.dtype).reshape(source.shape)
    copy[...] = source
    return copy


class Executable:
    """A program that can be called with the addresses of its inputs, outputs and states.

    `kernel_symbols` names the kernel of each `KernelCall` in program order (phases, then the
    calls of a phase); `code` gives their addresses. `release` says whether a call gives up
    the interpreter lock while it runs.
    """

    def __init__(
        self,
        program: Program,
        code: Code,
        kernel_symbols: Sequence[str],
        *,
        release: bool = False,
        parallel: bool = True,
    ) -> None:
        self.program = program
        tables = program_tables(program, kernel_symbols)
        calls = words((code.address(symbol), *rest) for symbol, *rest in tables.calls)
        phases, items, rows = words(tables.phases), words(tables.items), Words(tables.rows)
        repeats, moves, choices = words(tables.repeats), words(tables.moves), words(tables.choices)
        plan = Words(
            PROGRAM.pack(
                phases=phases.address,
                phase_count=len(tables.phases),
                items=items.address,
                calls=calls.address,
                rows=rows.address,
                repeats=repeats.address,
                moves=moves.address,
                choices=choices.address,
                scratch_bytes=program.scratch_bytes,
            ),
            keep=(phases, items, calls, rows, repeats, moves, choices, code),
        )
        self._constants = [_aligned_copy(value) for value in program.constants]
        template = [0] * len(program.buffers)
        temporaries = []
        by_kind: dict[str, list[tuple[int, int]]] = {"input": [], "output": [], "state": []}
        for row, buffer in enumerate(program.buffers):
            if buffer.kind == "constant":
                template[row] = self._constants[buffer.index].ctypes.data
            elif buffer.kind == "temporary":
                temporaries.append((row, buffer.offset))
            elif buffer.kind != "moving":
                by_kind[buffer.kind].append((buffer.index, row))
        self.rows = {kind: _dense_rows(program.name, kind, pairs) for kind, pairs in by_kind.items()}
        """Buffer rows of inputs, outputs and states, by index."""
        kinds = {kind: Words(rows) for kind, rows in self.rows.items()}
        template_words, temporary_words = Words(template), words(temporaries)
        self._record = Words(
            EXECUTABLE.pack(
                program=plan.address,
                parallel=int(parallel and tables.parallel),
                release=int(release),
                arena_bytes=program.arena_bytes,
                scratch_bytes=program.scratch_bytes if parallel and tables.parallel else 0,
                frame_bytes=FRAME.nbytes + 8 * len(template) + 8 * max(1, len(by_kind["input"])),
                row_count=len(template),
                template=template_words.address,
                temporaries=temporary_words.address,
                temporary_count=len(temporaries),
                input_rows=kinds["input"].address,
                input_count=len(by_kind["input"]),
                output_rows=kinds["output"].address,
                output_count=len(by_kind["output"]),
                state_rows=kinds["state"].address,
                state_count=len(by_kind["state"]),
            ),
            keep=(plan, template_words, temporary_words, kinds, self._constants),
        )
        self.writes_state = any(phase.writes_state for phase in program.phases)
        self._bindings: dict[tuple[int, ...], Binding] = {}
        self._host = host()
        self._finalizer = weakref.finalize(self, _free_frames, self._record)
        self._finalizer.atexit = False

    @property
    def address(self) -> int:
        """Address of the native record."""
        return self._record.address

    def bind(self, states: Sequence[int], owners: object = None) -> Binding:
        """State addresses for calls of this executable, by index; `owners` keeps their memory alive.

        With owners, what is kept stays current as long as only programs write the states: other writes are to be
        told to the binding's blocks (`KeptBlock.renew`). Without, it is made again in each call.
        """
        kept = self.program.kept
        expected = len(self.rows["state"]) - 2 * len(kept)
        if len(states) != expected:
            raise ValueError(f"{self.program.name}: {len(states)} states given, {expected} expected")
        blocks = []
        for source, packed, layout in kept:
            nbytes = self.program.buffers[self.rows["state"][packed]].type.nbytes
            # Without owners other values may come to lie at the same address.
            block = KeptBlock(nbytes) if owners is None else kept_block(states[source], layout, nbytes)
            blocks.append((source, block))
        return Binding(states, owners, exclusive=self.writes_state, kept=blocks)

    def run(self, inputs: Sequence[int], outputs: Sequence[int], states: Sequence[int] | Binding = ()) -> int:
        """Runs on the addresses of all inputs, outputs and states, each by index.

        Memory is row-major, contiguous and aligned to 64 bytes; outputs are written. Returns
        0, or the error word of the failed check (see `graphc.ir.failure`). Raises MemoryError.
        """
        for kind, given in (("input", inputs), ("output", outputs)):
            if len(given) != len(self.rows[kind]):
                raise ValueError(
                    f"{self.program.name}: {len(given)} {kind}s given, {len(self.rows[kind])} expected"
                )
        binding = states if isinstance(states, Binding) else self._binding(tuple(states))
        if binding is not states:
            for _, block in binding.kept:
                block.renew(None)
        return self._host.run_addresses(
            self.address,
            binding.address,
            inputs if type(inputs) is list else tuple(inputs),
            outputs if type(outputs) is list else tuple(outputs),
        )

    def _binding(self, states: tuple[int, ...]) -> Binding:
        """A binding of these addresses, kept for the next call with the same ones."""
        found = self._bindings.get(states)
        if found is None:
            if len(self._bindings) >= _KEPT_BINDINGS:
                self._bindings.clear()
            found = self._bindings[states] = self.bind(states)
        return found


def _dense_rows(name: str, kind: str, pairs: list[tuple[int, int]]) -> list[int]:
    """Rows in the order of their index; indices are 0, 1, 2 …"""
    pairs.sort()
    if [index for index, _ in pairs] != list(range(len(pairs))):
        raise ValueError(f"{name}: {kind} buffers are not numbered 0 … {len(pairs) - 1}")
    return [row for _, row in pairs]


def _free_frames(record: Words) -> None:
    host().frames_free(record.address)
