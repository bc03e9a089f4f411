"""Planned programs as bytes, for the cache on disk: everything that running one needs, and no kernel.

A stored program names its kernels by symbol. Lines of the user's code are numbers into a list
that whoever reads it supplies, so that one entry serves equal programs written in different places.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from graphc.ir.program import Buffer, Check, Choice, KernelCall, Move, Phase, Program, Repeat
from graphc.ir.types import DTYPES, TensorType

__all__ = ["Lines", "StoredProgram", "program_from_bytes", "program_to_bytes"]

Lines = Sequence[tuple[str, int]]
"""File and line by number."""

_LENGTH = struct.Struct("<Q")

_MOVES = ("first", "then", "even")
"""The moves of a repeat."""


class StoredProgram(NamedTuple):
    """A program whose calls hold no kernel, the symbol of each call, and whether it runs long."""

    program: Program
    symbols: list[str]
    release: bool


def program_to_bytes(
    program: Program, symbols: Sequence[str], lines: Lines, *, release: bool
) -> bytes | None:
    """The bytes of a program; None where a check names a line that is not among `lines`."""
    numbers = {line: i for i, line in enumerate(lines)}
    checks: list[tuple[str, str, int | None]] = []
    for check in program.checks:
        number = None
        if check.filename is not None:
            number = numbers.get((check.filename, check.lineno or 0))
            if number is None:
                return None
        checks.append((check.message, check.exception, number))
    types: dict[TensorType, int] = {}
    constants = [np.ascontiguousarray(x) for x in program.constants]
    head = {f.name: getattr(program, f.name) for f in fields(Program) if f.name != "name"}
    head |= {
        "buffers": [_values(b, type=types.setdefault(b.type, len(types))) for b in program.buffers],
        "checks": checks,
        "constants": [(_dtype_name(x), x.shape) for x in constants],
        "phases": [_values(p, calls=[_values(c, kernel=None) for c in p.calls]) for p in program.phases],
        "repeats": [
            _values(r, **{name: [_values(m) for m in getattr(r, name)] for name in _MOVES})
            for r in program.repeats
        ],
        "choices": [_values(c) for c in program.choices],
    }
    body = {
        "program": head,
        "release": release,
        "symbols": list(symbols),
        "types": [(t.dtype.name, t.sizes) for t in types],
    }
    text = json.dumps(body, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(text)), text, *(x.tobytes() for x in constants)))


def program_from_bytes(content: bytes, name: str, lines: Lines) -> StoredProgram:
    """What `program_to_bytes` wrote, as the program `name`. Raises ValueError for anything else."""
    try:
        (length,) = _LENGTH.unpack_from(content)
        at = _LENGTH.size + length
        body: dict[str, Any] = json.loads(content[_LENGTH.size : at])
        types = [_type(dtype, shape) for dtype, shape in body["types"]]
        head = body["program"]
        for field in head.keys() - _REBUILT:
            head[field] = _tuples(head[field])
        constants = []
        for dtype, shape in head["constants"]:
            kind = _type(dtype, shape)
            constants.append(_array(content, kind, at))
            at += kind.nbytes
        head |= {
            "buffers": _made(Buffer, head["buffers"], type=types.__getitem__),
            "checks": tuple(
                [
                    Check(message, exception, *(lines[n] if n is not None else (None, None)))
                    for message, exception, n in head["checks"]
                ]
            ),
            "constants": tuple(constants),
            "phases": _made(Phase, head["phases"], calls=partial(_made, KernelCall, buffers=tuple)),
            "repeats": _made(Repeat, head["repeats"], **dict.fromkeys(_MOVES, partial(_made, Move))),
            "choices": _made(Choice, head["choices"]),
        }
        return StoredProgram(Program(name, **head), body["symbols"], body["release"])
    except (struct.error, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"not a stored program: {error!r}") from None


def _values(record: Any, **instead: Any) -> list[Any]:
    """The fields of a dataclass in order, some of them replaced."""
    names = _names(type(record))
    return [instead[n] if n in instead else getattr(record, n) for n in names]


def _made(cls: type[Any], rows: list[list[Any]], **read: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Objects of a dataclass from rows of its fields, some of which `read` turns into what they were."""
    places = [(_names(cls).index(n), f) for n, f in read.items()]
    for row in rows:
        for i, f in places:
            row[i] = f(row[i])
    return tuple([cls(*row) for row in rows])


def _names(cls: Any) -> tuple[str, ...]:
    """Names of a dataclass's fields in order."""
    names: tuple[str, ...] = cls.__match_args__
    return names


_REBUILT = {"buffers", "checks", "constants", "phases", "repeats", "choices"}


def _tuples(value: Any) -> Any:
    """Lists, as JSON gives them, as the tuples they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _array(content: bytes, kind: TensorType, at: int) -> np.ndarray:
    if not kind.numel:
        return np.empty(kind.sizes, kind.dtype.numpy)
    return np.frombuffer(content, kind.dtype.numpy, kind.numel, at).reshape(kind.sizes)


def _dtype_name(array: np.ndarray) -> str:
    return next(d.name for d in DTYPES.values() if d.numpy == array.dtype)


def _type(dtype: str, shape: Sequence[int]) -> TensorType:
    return TensorType(DTYPES[dtype], tuple(shape))
