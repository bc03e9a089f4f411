"""Exported libraries with named sizes: the bits of the compiled function at every size, from Python and from C."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
import graphc.nn.functional as F
from graphc import nn
from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.contraction.tiling import step_numbers
from graphc.backends.llvm.host.folds import add_step_numbers
from graphc.backends.llvm.host.routine import Routine
from graphc.backends.llvm.link import link_shared
from graphc.backends.llvm.text import ModuleText

needs_cc = pytest.mark.skipif(
    shutil.which("cc") is None, reason="exporting a library needs a C toolchain: no cc on PATH"
)
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
_rng = np.random.default_rng(5)


def _floats(*shape: int) -> Any:
    return _rng.standard_normal(shape).astype(np.float32)


def _values(found: Any) -> list[Any]:
    """The arrays in a nest of tuples of Tensors and arrays."""
    if isinstance(found, tuple):
        return [v for part in found for v in _values(part)]
    return [found.detach().numpy() if isinstance(found, graphc.Tensor) else np.array(found)]


def _export(function: Any, example: Sequence[Any], path: Path, dynamic: Any) -> Any:
    args = [graphc.from_numpy(a) for a in example]
    return graphc.export_library(function, args, path / "libsized.so", dynamic=dynamic)


def _same(function: Any, dynamic: Any, calls: Sequence[Sequence[Any]], path: Path) -> Any:
    """Exports for the first call's arguments; compares all calls, and gives the loaded library."""
    library = graphc.load_library(_export(function, calls[0], path, dynamic).library)
    compiled = graphc.compile(function, dynamic=dynamic)
    for args in calls:
        for got, want in zip(_values(library(*args)), _values(compiled(*args)), strict=True):
            assert got.shape == want.shape and got.dtype == want.dtype
            assert got.tobytes() == want.tobytes(), [a.shape for a in args]
    return library


def _model(make: Callable[[], nn.Module]) -> nn.Module:
    graphc.manual_seed(3)
    return make()


def _gathered(x: Any, i: Any) -> Any:
    n = x.shape[0]
    padded = F.pad(graphc.cat([x, x[n // 2 :]]), (1, 0))
    ranks = graphc.arange(n).unsqueeze(1) * n
    return padded.cumsum(0), x[i] + 1, (ranks + x).amax(1), x.reshape(-1, 2).sum()


FUNCTIONS: dict[str, tuple[Callable[[], Any], Any, Callable[[int], tuple[Any, ...]]]] = {
    "mlp": (
        lambda: _model(
            lambda: nn.Sequential(nn.Linear(20, 33), nn.Tanh(), nn.Linear(33, 10), nn.Softmax(-1))
        ),
        {0: {0: "n"}},
        lambda n: (_floats(n, 20),),
    ),
    "cnn": (
        lambda: _model(
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5)
            )
        ),
        {0: {0: "n"}},
        lambda n: (_floats(n, 3, 8, 8),),
    ),
    "lstm": (
        lambda: _model(lambda: nn.LSTM(5, 7, bidirectional=True)),
        {0: {0: graphc.Dim("time", min=1), 1: "batch"}},
        lambda n: (_floats(n % 9 + 1, n, 5),),
    ),
    "loop": (
        lambda: lambda x: graphc.scan(lambda c, v: (c * 0.5 + v, c), graphc.zeros(4), x, reverse=True),
        {"x": {0: "n"}},
        lambda n: (_floats(n, 4),),
    ),
    "sizes": (
        lambda: _gathered,
        {"x": {0: "n"}, "i": {0: "m"}},
        lambda n: (_floats(n, 4), np.zeros(n // 2, np.int64)),
    ),
    "products": (
        lambda: lambda x, y: (x @ y, x.t() @ x, (x @ y).sum()),
        {"x": {0: "m", 1: "k"}, "y": {0: "k"}},
        lambda n: (_floats(n, 3 * n), _floats(3 * n, 6)),
    ),
}


@needs_cc
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_size_has_the_bits_of_the_process(name: str, tmp_path: Path) -> None:
    make, dynamic, args = FUNCTIONS[name]
    _same(make(), dynamic, [args(n) for n in (5, 0, 1, 2, 3, 7, 64, 200)], tmp_path)


@needs_cc
def test_training(tmp_path: Path) -> None:
    """Losses and parameters of a step with Adam, for batches of many sizes, and the last ones in a C program."""

    def training() -> tuple[Any, nn.Module]:
        model = _model(
            lambda: nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
            )
        )
        optimiser = graphc.optim.Adam(model.parameters(), lr=0.01)

        def step(x: Any, y: Any) -> Any:
            optimiser.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimiser.step()
            return loss

        return graphc.compile(step, dynamic={"x": {0: "batch"}, "y": {0: "batch"}}), model

    def batch(n: int) -> tuple[Any, Any]:
        return _floats(n, 1, 8, 8), _rng.integers(0, 10, n)

    step, model = training()
    files = graphc.export_library(step, tuple(map(graphc.from_numpy, batch(4))), tmp_path / "libsized.so")
    library = graphc.load_library(files.library)
    for n in (4, 1, 70, 3, 33):
        args = batch(n)
        assert library(*args).item() == step(*args).item(), n
    states = library.state_dict()
    for name, tensor in model.named_parameters():
        assert states[name].tobytes() == tensor.detach().numpy().tobytes(), name

    program, records = tmp_path / "example", [batch(33) for _ in range(3)]
    command = ["cc", *STRICT, str(files.example), str(files.library), f"-Wl,-rpath,{tmp_path}"]
    subprocess.run([*command, "-o", str(program)], check=True)
    (tmp_path / "inputs.bin").write_bytes(b"".join(a.tobytes() for r in records for a in r))
    done = subprocess.run(
        [str(program), str(tmp_path / "inputs.bin"), "33"], check=True, capture_output=True, text=True
    )
    library.reset()
    printed = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("output 0")]
    assert [float.fromhex(p) for p in printed] == [library(*r).item() for r in records]


@needs_cc
def test_the_c_interface(tmp_path: Path) -> None:
    dynamic = {"x": {0: graphc.Dim("n", min=2, max=9)}, "y": {0: "m"}}

    def function(x: Any, y: Any) -> Any:
        return graphc.cat([x, y]) * 2, x.reshape(x.shape[0] // 2, -1)

    files = _export(function, (_floats(4, 3), _floats(1, 3)), tmp_path, dynamic)
    library = ctypes.CDLL(str(files.library))
    library.sized_workspace_size.restype = ctypes.c_size_t
    library.sized_error.restype = ctypes.c_char_p
    shape = (ctypes.c_int64 * 2)()

    def dims(*sizes: int) -> Any:
        return (ctypes.c_int64 * 2)(*sizes)

    assert library.sized_workspace_size(dims(4, 1)) > 0
    assert library.sized_output_shape(0, dims(4, 5), shape) == 0 and list(shape) == [9, 3]
    assert library.sized_output_shape(1, dims(8, 5), shape) == 0 and list(shape) == [4, 6]
    assert library.sized_input_shape(1, dims(4, 0), shape) == 0 and list(shape) == [0, 3]
    assert library.sized_input_shape(2, dims(4, 0), shape) == -8
    refused = ((1, 1), (10, 1), (4, -1), (5, 1))
    assert [library.sized_output_shape(0, dims(*d), shape) for d in refused] == [-6, -6, -6, 1]
    assert [library.sized_workspace_size(dims(*d)) for d in refused] == [0] * 4
    assert library.sized_workspace_size(None) == 0
    assert library.sized_output_shape(0, None, shape) == -7
    assert b"shape '[n//2, -1]' is invalid" in library.sized_error(1).replace(b"((n)//(2))", b"n//2")


@needs_cc
def test_what_a_loaded_library_refuses(tmp_path: Path) -> None:
    dynamic = {"x": {0: graphc.Dim("n", min=1, max=9)}, "y": {0: "n"}}
    library = _same(lambda x, y: x + y, dynamic, [(_floats(4, 3), _floats(4, 3))], tmp_path)
    assert library.dims == ("n",)
    for args, expected in (
        ((_floats(4, 3), _floats(5, 3)), r"input y is f32\[n, 3\] with n=4, got shape \[5, 3\]"),
        ((_floats(0, 3), _floats(0, 3)), "n is 0, which is outside of its range of 1 to 9"),
        ((_floats(10, 3), _floats(10, 3)), "n is 10, which is outside of its range of 1 to 9"),
        ((_floats(4, 2), _floats(4, 3)), r"input x is f32\[4, 3\], got shape \[4, 2\]"),
        ((_floats(4), _floats(4, 3)), r"input x is f32\[n, 3\], got shape \[4\]"),
    ):
        with pytest.raises(ValueError, match=expected):
            library(*args)
    halves = _same(lambda x: x.reshape(2, -1), {"x": {0: "n"}}, [(_floats(4),)], tmp_path / "halves")
    with pytest.raises(RuntimeError, match=r"shape '\[2, -1\]' is invalid for input of size n"):
        halves(_floats(5))


def test_sizes_are_named_once() -> None:
    compiled = graphc.compile(lambda x: x * 2, dynamic={"x": {0: "n"}})
    with pytest.raises(ValueError, match="pass dynamic there, or the function itself here"):
        graphc.export_library(compiled, (graphc.ones(2),), "nowhere.so", dynamic={"x": {0: "n"}})


# -- folds of sums -------------------------------------------------------------------------------


@needs_cc
def test_numbers_of_steps(tmp_path: Path) -> None:
    """The native function gives what `step_numbers` gives."""
    target = host_target()
    module = ModuleText(target)
    add_step_numbers(module)
    r = Routine.start(module, "numbers", "void", [("ptr", "extents"), ("i64", "count"), ("ptr", "out")])
    r.call_void("step_numbers", r.params)
    r.ret()
    link_shared([compile_text(str(module), target)], tmp_path / "libn.so", target, exports=["numbers"])
    numbers = ctypes.CDLL(str(tmp_path / "libn.so")).numbers
    numbers.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    cases = [[n] for n in range(2000)] + [[n, 1] for n in (0, 1, 500)]
    cases += [_rng.integers(0, most, size).tolist() for most in (3, 9, 40, 700) for size in (2, 3, 4) * 100]
    out = (ctypes.c_int64 * 2)()
    for case in cases:
        numbers((ctypes.c_int64 * len(case))(*case), len(case), out)
        assert tuple(out) == step_numbers(case), case
