"""The C example of an exported library: built as the comment in it says, fed with records, its output read."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["STRICT", "build_c", "printed", "run_c", "write_inputs"]

STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror"]


def build_c(files: Any, out: Path, *, compiler: str = "cc") -> Path:
    """Compiles the generated example `files.example` with the library, both in `out`; returns the program.

    The program looks for the library beside itself.
    """
    program = out / "example"
    subprocess.run(
        [compiler, *STRICT, str(files.example), str(files.library), "-Wl,-rpath,$ORIGIN", "-o", str(program)],
        check=True,
    )
    return program


def write_inputs(out: Path, records: Iterable[tuple[Any, ...]]) -> Path:
    """Writes the arrays of each call one after the other, as the example reads them."""
    data = out / "inputs.bin"
    data.write_bytes(b"".join(a.tobytes() for record in records for a in record))
    return data


def run_c(
    program: Path, records: Iterable[tuple[Any, ...]], runner: Sequence[str] = ()
) -> dict[str, list[Any]]:
    """Feeds records to an example program; every printed row by its label, outputs as lists of rows.

    `runner` is the command of an emulator, if one is needed.
    """
    data = write_inputs(program.parent, records)
    done = subprocess.run([*runner, str(program), str(data)], check=True, capture_output=True, text=True)
    return printed(done.stdout)


def printed(text: str) -> dict[str, list[Any]]:
    """What an example program printed, by label."""
    found: dict[str, list[Any]] = {}
    for line in text.splitlines():
        label, colon, values = line.partition(":")
        if colon:
            found.setdefault(label, []).append([_number(v) for v in values.split()])
    return found


def _number(text: str) -> float | int:
    return float.fromhex(text) if "0x" in text or "n" in text else int(text)
