"""Exported libraries: the same kernel objects, the same bits, the C interface and its errors."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.backends.llvm import jit
from graphc.backends.llvm import link as link_module
from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.elf import data_object, read_symbols
from graphc.backends.llvm.host.export import (
    ERRORS,
    export_module,
    export_objects,
    state_bytes,
    workspace_bytes,
)
from graphc.backends.llvm.link import link_shared
from graphc.ir.errors import CompileError, MissingToolError
from graphc.ir.program import Buffer, Check, KernelCall, Phase, Program
from graphc.ir.target import TARGETS
from graphc.runtime.executable import Executable
from tests.runtime.handmade import binary_kernel, checking_kernel, f32

N = 100
CHECK, ADD, MUL = (
    checking_kernel("k_check", N),
    binary_kernel("k_add", "fadd", N),
    binary_kernel("k_mul", "fmul", N),
)

PROGRAM = Program(
    "step",
    (
        Buffer("input", f32(N), 0),
        Buffer("state", f32(N), 0, offset=64),
        Buffer("state", f32(), 1, offset=0, name="lr"),
        Buffer("temporary", f32(N), 0, offset=0),
        Buffer("output", f32(N), 0),
        Buffer("constant", f32(N), 0),
    ),
    (
        Phase((KernelCall(CHECK, (0, 3), 3),)),
        Phase((KernelCall(MUL, (3, 5, 4), 4),)),
        Phase((KernelCall(ADD, (1, 4, 1), 2),), writes_state=True),
    ),
    448,
    checks=(Check("below -100", "ValueError"), Check("negative", "IndexError")),
    constants=(np.linspace(0, 1, N, dtype=np.float32),),
)
SYMBOLS = ["k_check", "k_mul", "k_add"]
INITIAL = [np.full(N, 2, np.float32), np.float32(0.5)]


@pytest.fixture(scope="module")
def kernels() -> list[bytes]:
    return [compile_text(k.text, host_target()) for k in (CHECK, MUL, ADD)]


def build(path: Path, kernels: list[bytes], **options: Any) -> ctypes.CDLL:
    objects = export_objects(PROGRAM, SYMBOLS, host_target(), "step", learning_rates=[1], **options)
    link_shared([*objects, *kernels], path / "libstep.so", host_target(), exports=["step_*"])
    library = ctypes.CDLL(str(path / "libstep.so"))
    library.step_error.restype = ctypes.c_char_p
    for name in ("step_state_size", "step_workspace_size"):
        getattr(library, name).restype = ctypes.c_size_t
    return library


def aligned(nbytes: int) -> np.ndarray:
    memory = np.zeros(nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + nbytes]


class Buffers:
    """Everything that a call of the library needs."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.state = aligned(library.step_state_size())
        self.workspace = aligned(library.step_workspace_size(None))
        self.x, self.y = (aligned(4 * N).view(np.float32) for _ in range(2))
        self.x[...] = np.arange(N)

    def pointers(self) -> list[Any]:
        """The arguments of `step_run`."""
        one = ctypes.c_void_p * 1
        return [
            ctypes.c_void_p(self.state.ctypes.data),
            one(self.x.ctypes.data),
            one(self.y.ctypes.data),
            None,
            ctypes.c_void_p(self.workspace.ctypes.data),
        ]

    def init(self, weights: np.ndarray | None = None) -> int:
        pointer = None if weights is None else ctypes.c_void_p(weights.ctypes.data)
        return int(self.library.step_init(ctypes.c_void_p(self.state.ctypes.data), pointer))

    def run(self) -> int:
        return int(self.library.step_run(*self.pointers()))

    def weights(self) -> np.ndarray:
        return self.state[64 : 64 + 4 * N].view(np.float32)


def test_library_equals_process(tmp_path: Path, kernels: list[bytes]) -> None:
    buffers = Buffers(build(tmp_path, kernels, states=INITIAL))
    assert buffers.init() == 0
    executable = Executable(PROGRAM, jit.link(kernels), SYMBOLS)
    state, rate, out = INITIAL[0].copy(), np.array(0.5, np.float32), np.empty(N, np.float32)
    for seed in range(3):
        buffers.x[...] = np.random.default_rng(seed).random(N)
        assert buffers.run() == 0
        assert executable.run(
            [buffers.x.ctypes.data], [out.ctypes.data], [state.ctypes.data, rate.ctypes.data]
        ) == 0  # fmt: skip
        np.testing.assert_array_equal(buffers.y, out)
        np.testing.assert_array_equal(buffers.weights(), state)
    assert buffers.init() == 0
    np.testing.assert_array_equal(buffers.weights(), INITIAL[0])


def test_sizes_version_and_learning_rate(tmp_path: Path, kernels: list[bytes]) -> None:
    library = build(tmp_path, kernels, states=INITIAL)
    assert library.step_abi_version() == 1
    assert library.step_state_size() == state_bytes(PROGRAM) == 64 + 448
    assert library.step_workspace_size(None) == workspace_bytes(PROGRAM) == 448 + 64
    buffers = Buffers(library)
    buffers.init()
    assert buffers.state[:4].view(np.float32)[0] == np.float32(0.5)
    assert library.step_set_lr(ctypes.c_void_p(buffers.state.ctypes.data), ctypes.c_float(0.1)) == 0
    assert buffers.state[:4].view(np.float32)[0] == np.float32(0.1)


def test_failed_check_leaves_state_alone(tmp_path: Path, kernels: list[bytes]) -> None:
    buffers = Buffers(build(tmp_path, kernels, states=INITIAL))
    buffers.init()
    buffers.x[[5, 50]] = -1
    assert buffers.run() == 2
    assert buffers.library.step_error(2) == b"negative"
    buffers.x[99] = -200
    assert buffers.run() == 1
    assert buffers.library.step_error(1) == b"below -100"
    np.testing.assert_array_equal(buffers.weights(), INITIAL[0])


NULL_ARRAY = (ctypes.c_void_p * 1)(None)
ODD = ctypes.c_void_p(8)
ODD_ARRAY = (ctypes.c_void_p * 1)(8)


@pytest.mark.parametrize(
    ("position", "value", "code"),
    [
        (0, None, -1), (4, None, -2), (1, None, -3), (2, None, -3), (1, NULL_ARRAY, -3), (2, NULL_ARRAY, -3),
        (0, ODD, -4), (4, ODD, -4), (1, ODD_ARRAY, -4), (2, ODD_ARRAY, -4),
    ],
)  # fmt: skip
def test_bad_pointers(tmp_path: Path, kernels: list[bytes], position: int, value: Any, code: int) -> None:
    buffers = Buffers(build(tmp_path, kernels, states=INITIAL))
    buffers.init()
    arguments = buffers.pointers()
    arguments[position] = value
    assert buffers.library.step_run(*arguments) == code
    assert buffers.library.step_error(code).decode() == ERRORS[code]
    assert buffers.library.step_error(1000) == b"unknown error code"


def test_without_embedded_weights(tmp_path: Path, kernels: list[bytes]) -> None:
    buffers = Buffers(build(tmp_path, kernels))
    assert buffers.init() == -5
    image = aligned(state_bytes(PROGRAM))
    image[64 : 64 + 4 * N].view(np.float32)[...] = 7
    assert buffers.init(image) == 0
    np.testing.assert_array_equal(buffers.weights(), 7)


def test_only_the_interface_is_visible_and_only_libc_is_needed(tmp_path: Path, kernels: list[bytes]) -> None:
    build(tmp_path, kernels, states=INITIAL)
    names = subprocess.run(
        ["nm", "-D", "--defined-only", str(tmp_path / "libstep.so")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {line.split()[2] for line in names.stdout.splitlines()}
    suffixes = (
        "abi_version",
        "fingerprint",
        "state_size",
        "workspace_size",
        "init",
        "run",
        "set_lr",
        "error",
    )
    assert found == {f"step_{s}" for s in suffixes}
    needed = subprocess.run(
        ["readelf", "-d", str(tmp_path / "libstep.so")], capture_output=True, text=True, check=True
    )
    libraries = [line.split("[")[1] for line in needed.stdout.splitlines() if "NEEDED" in line]
    assert libraries in ([], ["libc.so.6]"])


def test_same_inputs_give_the_same_file(tmp_path: Path, kernels: list[bytes]) -> None:
    for name in ("a", "b"):
        build(tmp_path / name, kernels, states=INITIAL)
    first, second = ((tmp_path / name / "libstep.so").read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_objects_for_every_target(target: str) -> None:
    objects = export_objects(PROGRAM, SYMBOLS, TARGETS[target], "step", states=INITIAL)
    symbols = [read_symbols(code) for code in objects]
    undefined = symbols[0].undefined - symbols[1].defined
    assert undefined <= {*SYMBOLS, "memcpy"}
    assert symbols[1].defined == {"step.constant.0", "step.initial"}
    assert "step_set_lr" not in symbols[0].defined


def test_data_object_is_aligned(tmp_path: Path) -> None:
    data = {f"d{i}": bytes([i]) * (i * 37) for i in range(1, 6)}
    code = jit.link([data_object(data, host_target().triple.partition("-")[0])])
    for name, value in data.items():
        assert code.address(name) % 64 == 0
        assert ctypes.string_at(code.address(name), len(value)) == value


@pytest.mark.parametrize("states", [INITIAL[:1], [INITIAL[0], np.zeros(2, np.float32)]])
def test_wrong_initial_states(states: list[Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        export_objects(PROGRAM, SYMBOLS, host_target(), "step", states=states)


def test_missing_linker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module.shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match="install"):
        link_shared([], tmp_path / "lib.so", host_target(), exports=["x"])


def test_undefined_symbol_fails_and_leaves_no_file(tmp_path: Path) -> None:
    objects = export_objects(PROGRAM, SYMBOLS, host_target(), "step", states=INITIAL)
    with pytest.raises(CompileError, match="k_add"):
        link_shared(objects, tmp_path / "lib.so", host_target(), exports=["step_*"])
    assert list(tmp_path.iterdir()) == []


def test_module_is_text() -> None:
    text = str(export_module(PROGRAM, SYMBOLS, host_target(), "step"))
    assert "@step_run" in text
    assert shutil.which("cc") is not None
