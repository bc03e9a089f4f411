"""Stored programs: what comes back is what was put in, and nothing else is read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from graphc.ir.program import Buffer, Check, Choice, KernelCall, Move, Phase, Program, Repeat
from graphc.ir.types import TensorType, bfloat16, float32
from graphc.runtime.stored import program_from_bytes, program_to_bytes

F = TensorType(float32, (3, 4))
PROGRAM = Program(
    "p",
    (
        Buffer("input", F, 0),
        Buffer("constant", TensorType(bfloat16, (2,)), 0),
        Buffer("constant", TensorType(float32, (0, 2)), 1),
        Buffer("temporary", F, 0, 128),
        Buffer("state", TensorType(float32, ()), 0),
    ),
    (Phase((KernelCall(None, (0, 1, 3), 4, 1, 3), KernelCall(None, (3, 4)))), Phase((), True)),
    4096,
    (Check("too big", "IndexError", "a.py", 3), Check("other", "ValueError")),
    (np.array([1, 2], bfloat16.numpy), np.empty((0, 2), np.float32)),
    repeats=(Repeat(0, 1, 5, 4, (Move(3, 0, 48), Move(1, 0)), (Move(3, 3, 4),)), Repeat(1, 2, 3, 4)),
    together=(((0, 1), (1, 2)),),
    choices=(Choice(4, 1, 0, 1, 2), Choice(4, 0, 1, 2, 2, leaves=True)),
)
LINES = [("b.py", 1), ("a.py", 3)]


def stored() -> bytes:
    content = program_to_bytes(PROGRAM, ["k_1", "k_2"], LINES, release=True)
    assert content is not None
    return content


def test_round_trip() -> None:
    found = program_from_bytes(stored(), "p", LINES)
    assert (found.symbols, found.release) == (["k_1", "k_2"], True)
    program = found.program
    for field in dataclasses.fields(Program):
        if field.name != "constants":
            assert getattr(program, field.name) == getattr(PROGRAM, field.name), field.name
    for a, b in zip(program.constants, PROGRAM.constants, strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_lines_are_the_readers() -> None:
    program = program_from_bytes(stored(), "q", [("x.py", 7), ("y.py", 8)]).program
    assert [(c.filename, c.lineno) for c in program.checks] == [("y.py", 8), (None, None)]
    assert program.name == "q"


def test_a_line_that_nobody_knows_is_not_stored() -> None:
    assert program_to_bytes(PROGRAM, ["k_1", "k_2"], LINES[:1], release=True) is None


@pytest.mark.parametrize("content", [b"", b"\1\0\0\0\0\0\0\0[", stored()[:-1], stored()[:100], b"x" * 100])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        program_from_bytes(content, "p", LINES)
