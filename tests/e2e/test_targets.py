"""Programs for other targets run: the baseline of x86-64 here, AVX-512 where the machine has it, aarch64 in an emulator."""

from __future__ import annotations

import functools
import platform
import shutil
from pathlib import Path

import pytest

from graphc.backends.llvm.compile import host_target
from tests.e2e.c_programs import run_c
from tests.e2e.targets import CASES, build, compare, expected

_X86 = platform.machine() in ("x86_64", "AMD64")
_CROSS = "aarch64-linux-gnu-gcc"
_EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def _missing(target: str) -> str | None:
    """Why programs for `target` cannot be run here, if they cannot."""
    if target == "aarch64":
        if shutil.which(_CROSS) is None or _EMULATOR is None:
            return f"needs {_CROSS} and qemu-aarch64 on PATH (Debian: gcc-aarch64-linux-gnu, qemu-user)"
        return None
    if shutil.which("cc") is None:
        return "exporting a library needs a C toolchain: no cc on PATH"
    if not _X86:
        return "this machine does not run x86-64 code"
    if target == "x86-64-v4" and host_target().vector_bytes < 64:
        return "this machine has no AVX-512"
    return None


@functools.lru_cache(maxsize=4)
def _expected(name: str) -> dict[str, list[list[float]]]:
    return expected(CASES[name])


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v4", "aarch64"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_program_of_target(name: str, target: str, tmp_path: Path) -> None:
    missing = _missing(target)
    if missing is not None:
        pytest.skip(missing)
    case = CASES[name]
    foreign = target == "aarch64"
    program = build(case, target, tmp_path, compiler=_CROSS if foreign else "cc")
    runner = [str(_EMULATOR), "-L", "/usr/aarch64-linux-gnu"] if foreign else []
    found = run_c(program, [case.make()[1]] * case.calls, runner)
    assert compare(case, found, _expected(name)) == []
