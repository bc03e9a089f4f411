"""The compile cache and the environment as a user sees them: each case is a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

STEP = """
from tests.e2e.models import batches, tensors, training
run = training("mlp", "sgd")
losses = [run.step(*tensors(b)).item().hex() for b in batches(3)]
info = run.step.cache_info()
print(*losses)
print(info.misses, info.disk_hits, info.recompiles, info.size)
"""


def python(code: str, **environment: str) -> tuple[list[str], str]:
    """Lines of output and the text of warnings of a fresh process."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith("GRAPHC_")}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env={**settings, **environment}, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.fixture(scope="module")
def expected() -> str:
    """The losses without a cache."""
    (losses, counts), _ = python(STEP, GRAPHC_CACHE_DIR="")
    assert counts == "1 0 0 1"
    return losses


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.entry"))


def test_second_process_finds_all_kernels_on_disk(expected: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert python(STEP, GRAPHC_CACHE_DIR=str(folder))[0] == [expected, "1 0 0 1"]
    assert entries(folder)
    before = {p: p.read_bytes() for p in entries(folder)}
    assert python(STEP, GRAPHC_CACHE_DIR=str(folder))[0] == [expected, "1 1 0 1"]
    assert {p: p.read_bytes() for p in entries(folder)} == before


def test_programs_on_disk_need_no_pass_and_no_code_generator(expected: str, tmp_path: Path) -> None:
    settings = {"GRAPHC_CACHE_DIR": str(tmp_path / "cache")}
    python(STEP, **settings)
    code = f"""{STEP}
import sys
print(sorted(m for m in sys.modules if m.startswith(("graphc.passes.fuse", "graphc.backends.llvm.contraction"))))
*args, = tensors(batches(1)[0])
print(len(run.step.stages(*args)["emit"]) > 1000, "fma" in run.step.llvm_ir(*args))
"""
    assert python(code, **settings)[0] == [expected, "1 1 0 1", "[]", "True True"]


HEAVY = (
    "('graphc.passes', 'llvmlite', 'networkx', 'graphc.backends.llvm.codegen', 'graphc.backends.reference')"
)


def test_importing_loads_what_a_first_call_may_need() -> None:
    lines, _ = python(f"import sys, graphc; print([m for m in {HEAVY} if m in sys.modules])")
    assert lines == ["[]"]


LINES = """
import graphc
@graphc.compile
def f(x, i):{blank}
    return x[i] + 1
try:
    f(graphc.ones(3), graphc.tensor([{index}]))
except IndexError as error:
    print(error.lineno, f.cache_info().disk_hits)
"""


def test_programs_on_disk_name_the_lines_of_the_process_that_runs_them(tmp_path: Path) -> None:
    settings = {"GRAPHC_CACHE_DIR": str(tmp_path / "cache")}
    assert python(LINES.format(blank="", index=7), **settings)[0] == ["5 0"]
    assert python(LINES.format(blank="\n\n\n", index=7), **settings)[0] == ["8 1"]


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda c: c[: len(c) // 2],
    "empty": lambda c: b"",
    "one bit": flipped,
    "foreign": lambda c: b"\x7fELF" + os.urandom(500),
    "longer": lambda c: c + b"more",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_compiled_again(damage: str, expected: str, tmp_path: Path) -> None:
    python(STEP, GRAPHC_CACHE_DIR=str(tmp_path / "cache"))
    before = {p: p.read_bytes() for p in entries(tmp_path)}
    for path, content in before.items():
        path.write_bytes(DAMAGES[damage](content))
    lines, warnings = python(STEP, GRAPHC_CACHE_DIR=str(tmp_path / "cache"))
    assert lines == [expected, "1 0 0 1"]
    assert "cache" not in warnings
    assert python(STEP, GRAPHC_CACHE_DIR=str(tmp_path / "cache"))[0] == [expected, "1 1 0 1"], (
        "they were healed"
    )


def test_entries_under_each_others_names_are_compiled_again(expected: str, tmp_path: Path) -> None:
    python(STEP, GRAPHC_CACHE_DIR=str(tmp_path / "cache"))
    paths = entries(tmp_path)
    contents = [p.read_bytes() for p in paths]
    for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    assert python(STEP, GRAPHC_CACHE_DIR=str(tmp_path / "cache"))[0] == [expected, "1 0 0 1"]


def writable_by_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def a_link(folder: Path) -> None:
    (folder.parent / "real").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "real")


UNSAFE: dict[str, Callable[[Path], Any]] = {
    "writable by all": writable_by_all,
    "a link": a_link,
    "a file": lambda folder: folder.write_text("hello"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_unsafe_folder_is_off_with_a_warning(kind: str, expected: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    UNSAFE[kind](folder)
    lines, warnings = python(STEP, GRAPHC_CACHE_DIR=str(folder))
    assert lines == [expected, "1 0 0 1"]
    assert "RuntimeWarning: graphc's compile cache is off" in warnings
    assert str(folder) in warnings and "GRAPHC_CACHE_DIR" in warnings
    assert not entries(tmp_path)


THREADS = "import graphc; print(graphc.get_num_threads())"


@pytest.mark.parametrize("count", [1, 3, 64])
def test_threads_from_the_environment(count: int, expected: str) -> None:
    assert python(THREADS, GRAPHC_THREADS=str(count))[0] == [str(count)]
    assert python(STEP, GRAPHC_THREADS=str(count), GRAPHC_CACHE_DIR="")[0][0] == expected


@pytest.mark.parametrize("text", ["0", "-1", "many", "2.5", "99999", ""])
def test_bad_numbers_of_threads_warn(text: str) -> None:
    lines, warnings = python(THREADS, GRAPHC_THREADS=text)
    assert lines == python(THREADS)[0]
    assert f"GRAPHC_THREADS={text!r} is ignored" in warnings


def test_threads_of_compile_and_of_the_process() -> None:
    code = """
import graphc
graphc.compile(lambda x: x, threads=2)
print(graphc.get_num_threads())
graphc.set_num_threads(3)
print(graphc.get_num_threads())
for bad in (0, -1, 10**6):
    try:
        graphc.set_num_threads(bad)
    except RuntimeError as error:
        print(error)
"""
    lines, _ = python(code)
    assert lines[:2] == ["2", "3"]
    assert len(lines) == 5 and all("expects a number from 1 to" in line for line in lines[2:])
