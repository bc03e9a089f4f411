"""Exported libraries: a C program and Python agree to the last bit; the files, symbols and errors.

Longer than most files: a C program stands in it for each interface.
"""

from __future__ import annotations

import ctypes
import json
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.backends.llvm import codegen
from tests.e2e.c_programs import build_c, run_c
from tests.e2e.models import BATCH, CNN, MLP, SEED, Training, batches, state_bits, tensors, training

CC = shutil.which("cc")
needs_cc = pytest.mark.skipif(CC is None, reason="exporting a library needs a C toolchain: no cc on PATH")
BATCHES = batches(10)
CASES = [("mlp", "sgd"), ("mlp", "adam"), ("cnn", "sgd"), ("cnn", "adam")]


def inference(kind: type[nn.Module]) -> Any:
    graphc.manual_seed(SEED)
    return kind().eval()


def exported_training(path: Path, model: str = "mlp", optimizer: str = "adam") -> tuple[Training, Any]:
    run = training(model, optimizer)
    return run, graphc.export_library(run.step, tensors(BATCHES[0]), path / "libdigits.so")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An exported MLP step with Adam, to be copied."""
    return exported_training(tmp_path_factory.mktemp("pristine"))[1]


@pytest.fixture
def exported(pristine: Any, tmp_path: Path) -> Any:
    """The files of an exported MLP step with Adam, for one test."""
    return type(pristine)(*(Path(shutil.copy(p, tmp_path)) for p in astuple(pristine)))


def bits(values: Any) -> bytes:
    return np.asarray(values, np.float32).tobytes()


# -- the C program ------------------------------------------------------------------------------------


@needs_cc
@pytest.mark.parametrize(("model", "optimizer"), CASES)
def test_c_program_trains_like_python(model: str, optimizer: str, tmp_path: Path) -> None:
    run, files = exported_training(tmp_path, model, optimizer)
    printed = run_c(build_c(files, tmp_path), BATCHES)
    losses = [run.step(*tensors(b)).item() for b in BATCHES]
    assert [row[0] for row in printed["output 0"]] == losses
    assert losses[-1] < losses[0]
    for name, tensor in run.model.named_parameters():
        assert bits(printed[f"state {name}"][0]) == bits(tensor.detach().numpy().reshape(-1)), name
    if model == "cnn":
        mean = run.model.layers[1].running_mean.numpy()
        assert bits(printed["state layers.1.running_mean"][0]) == bits(mean)
        assert printed["state layers.1.num_batches_tracked"] == [[10]]


@needs_cc
@pytest.mark.parametrize("kind", [MLP, CNN])
def test_c_program_predicts_like_python(kind: type[nn.Module], tmp_path: Path) -> None:
    model = inference(kind)
    files = graphc.export_library(model, tensors(BATCHES[0])[:1], tmp_path / "libdigits.so")
    printed = run_c(build_c(files, tmp_path), [b[:1] for b in BATCHES])
    for row, (x, _) in zip(printed["output 0"], BATCHES, strict=True):
        assert bits(row) == bits(graphc.compile(model)(graphc.tensor(x)).detach().numpy().reshape(-1))
    assert not any(label.startswith("state") for label in printed), "inference changes no state"


@needs_cc
def test_header_in_cpp(exported: Any, tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    source = tmp_path / "main.cpp"
    source.write_text(
        '#include "digits.h"\nint main() { return digits_abi_version() == DIGITS_ABI_VERSION ? 0 : 1; }\n'
    )
    program = tmp_path / "main"
    command = [
        compiler,
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        str(source),
        str(exported.library),
    ]
    subprocess.run([*command, f"-Wl,-rpath,{tmp_path}", "-o", str(program)], check=True)
    assert subprocess.run([str(program)], check=False).returncode == 0


@needs_cc
def test_names_of_modules_are_escaped_in_c(tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module('a"*/\\?', nn.Linear(3, 2))
    files = graphc.export_library(model, (graphc.zeros(1, 3),), tmp_path / "libodd.so")
    build_c(files, tmp_path)


@needs_cc
def test_generated_c_holds_no_arithmetic_of_the_model(exported: Any) -> None:
    body = re.sub(
        r"/\*.*?\*/", "", exported.example.read_text() + exported.header.read_text(), flags=re.DOTALL
    )
    assert not re.search(r"\b(expf?|sqrtf?|tanhf?|fmaf?|logf?|math\.h)\b", body)
    assert "digits_run" in body


# -- the files ----------------------------------------------------------------------------------------


@needs_cc
def test_needed_libraries_and_symbols(tmp_path: Path) -> None:
    for tool in ("readelf", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on PATH")
    _, files = exported_training(tmp_path, "cnn")
    dynamic = subprocess.run(
        ["readelf", "-d", str(files.library)], check=True, capture_output=True, text=True
    )
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic.stdout)) <= {"libc.so.6"}
    assert "TEXTREL" not in dynamic.stdout
    names = subprocess.run(
        ["nm", "-D", str(files.library)], check=True, capture_output=True, text=True
    ).stdout
    defined = set(re.findall(r"^[0-9a-f]+ \w (\S+)$", names, re.MULTILINE))
    functions = (
        "abi_version",
        "fingerprint",
        "state_size",
        "workspace_size",
        "init",
        "run",
        "set_lr",
        "error",
    )
    assert defined == {f"digits_{f}" for f in functions}
    undefined = {n.split("@")[0] for n in re.findall(r"^\s+U (\S+)$", names, re.MULTILINE)}
    assert undefined <= {"memset", "memcpy", "memmove"}


@needs_cc
def test_library_links_the_kernels_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting what ran here generates no kernel: the library holds the objects that the process runs."""
    run = training("mlp", "adam")
    run.step(*tensors(BATCHES[0]))
    made: list[str] = []
    compile_many = codegen.compile_many

    def recorded(texts: Sequence[str], target: Any) -> list[bytes]:
        made.extend(texts)
        return compile_many(texts, target)

    monkeypatch.setattr(codegen, "compile_many", recorded)
    graphc.export_library(run.step, tensors(BATCHES[0]), tmp_path / "libdigits.so")
    assert made == []


@needs_cc
def test_written_files_and_names(tmp_path: Path) -> None:
    run, files = exported_training(tmp_path / "made" / "here")
    folder = tmp_path / "made" / "here"
    assert sorted(p.name for p in folder.iterdir()) == [
        "digits.h",
        "digits.json",
        "digits_example.c",
        "libdigits.so",
    ]
    states = {row["name"]: row for row in json.loads(files.interface.read_text())["states"]}
    assert states["hidden.weight"]["role"] == "parameter" and states["hidden.weight"]["written"]
    assert states["hidden.weight.exp_avg"]["shape"] == [128, 64]
    assert states["lr"]["role"] == "scalar" and not states["lr"]["written"]
    library = graphc.load_library(files.library)
    assert [(i.name, i.shape) for i in library.inputs] == [("x", (BATCH, 64)), ("y", (BATCH,))]
    assert [o.shape for o in library.outputs] == [()]
    assert set(run.model.state_dict()) < set(library.state_dict())


@needs_cc
def test_exporting_changes_nothing(tmp_path: Path) -> None:
    run = training("cnn", "adam")
    run.step(*tensors(BATCHES[0]))
    before, info = state_bits(run.model), run.step.cache_info()
    graphc.export_library(run.step, tensors(BATCHES[0]), tmp_path / "libdigits.so")
    assert state_bits(run.model) == before
    assert run.step.cache_info() == info


# -- load_library -------------------------------------------------------------------------------------


@needs_cc
@pytest.mark.parametrize(("model", "optimizer"), CASES)
def test_library_trains_like_the_process(model: str, optimizer: str, tmp_path: Path) -> None:
    run = training(model, optimizer)
    run.step(*tensors(BATCHES[0]))
    files = graphc.export_library(run.step, tensors(BATCHES[0]), tmp_path / "libdigits.so")
    library = graphc.load_library(files.library)
    initial = {k: v.tobytes() for k, v in library.state_dict().items()}
    rates = [0.0625, 0.0625, 0.25, 0.25, 2.0**-10]
    for (x, y), rate in zip(BATCHES, rates, strict=False):
        run.optimizer.param_groups[0]["lr"] = rate
        library.set_lr(rate)
        assert library(x, y).tobytes() == run.step(*tensors((x, y))).numpy().tobytes()
    found = library.state_dict()
    for name, content in state_bits(run.model).items():
        assert found[name].tobytes() == content, name
    library.reset()
    assert {k: v.tobytes() for k, v in library.state_dict().items()} == initial


@needs_cc
def test_random_numbers_go_on_in_the_library(tmp_path: Path) -> None:
    graphc.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 4))
    compiled = graphc.compile(model)
    x = BATCHES[0][0]
    library = graphc.load_library(graphc.export_library(compiled, (x,), tmp_path / "libdrop.so").library)
    first, second = library(x), library(x)
    assert first.tobytes() != second.tobytes()
    assert first.tobytes() == compiled(graphc.tensor(x)).detach().numpy().tobytes()
    assert second.tobytes() == compiled(graphc.tensor(x)).detach().numpy().tobytes()
    library.reset()
    assert library(x).tobytes() == first.tobytes()


@needs_cc
def test_several_inputs_outputs_dtypes_and_no_state(tmp_path: Path) -> None:
    def f(a: Any, b: Any) -> Any:
        return {"sum": a + b.to(graphc.float64), "top": (b * 2, a > 0)}

    a, b = np.linspace(-1, 1, 6).reshape(2, 3), np.arange(6, dtype=np.int32).reshape(2, 3)
    files = graphc.export_library(f, (a, b), tmp_path / "libf.so", name="other")
    assert files.header.name == "other.h"
    library = graphc.load_library(files.library)
    total, doubled, positive = library(a, b)
    assert total.tobytes() == (a + b).tobytes()
    assert doubled.tolist() == (b * 2).tolist() and doubled.dtype == np.int32
    assert positive.tolist() == (a > 0).tolist()
    assert library.state_dict() == {}
    with pytest.raises(AttributeError, match="learning rate"):
        library.set_lr(0.1)
    printed = run_c(build_c(files, tmp_path), [(a, b)])
    assert printed["output 0"][0] == total.reshape(-1).tolist()
    assert printed["output 2"][0] == [int(v) for v in positive.reshape(-1)]


@needs_cc
def test_arrays_are_taken_in_any_layout(tmp_path: Path) -> None:
    model = inference(MLP)
    x = BATCHES[0][0]
    library = graphc.load_library(graphc.export_library(model, (x,), tmp_path / "libdigits.so").library)
    expected = library(x).tobytes()
    shifted = np.zeros(x.nbytes + 4, np.uint8)[4:].view(np.float32).reshape(x.shape)
    shifted[...] = x
    for given in (np.asfortranarray(x), x.repeat(2, 0)[::2], shifted, x.tolist()):
        if isinstance(given, list):
            with pytest.raises(TypeError, match="dtype float64"):
                library(given)
        else:
            assert library(given).tobytes() == expected


@needs_cc
def test_two_threads_with_their_own_states(exported: Any) -> None:
    alone = graphc.load_library(exported.library)
    expected = [alone(*b).tobytes() for b in BATCHES]
    found: dict[int, list[bytes]] = {}
    start = threading.Barrier(2)

    def work(number: int) -> None:
        library = graphc.load_library(exported.library)
        start.wait()
        found[number] = [library(*b).tobytes() for b in BATCHES]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {0: expected, 1: expected}


# -- errors -------------------------------------------------------------------------------------------


@needs_cc
def test_wrong_arguments(exported: Any) -> None:
    library = graphc.load_library(exported.library)
    (x, y), before = BATCHES[0], library.state_dict()
    for arguments, kind, text in (
        ((x,), TypeError, "takes 2 inputs, got 1"),
        ((x.astype(np.float64), y), TypeError, "input x is f32.*dtype float64"),
        ((x, y.astype(np.int32)), TypeError, "input y is i64.*dtype int32"),
        ((x[:3], y), ValueError, r"input x is f32\[32, 64\].*shape \[3, 64\]"),
        ((x, np.full_like(y, 10)), IndexError, "out of bounds"),
    ):
        with pytest.raises(kind, match=text):
            library(*arguments)
    after = library.state_dict()
    assert all(before[k].tobytes() == after[k].tobytes() for k in before), "a failed call changes no state"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Any] = {
    "no library": lambda f: f.library.unlink(),
    "no interface": lambda f: f.interface.unlink(),
    "truncated library": lambda f: f.library.write_bytes(f.library.read_bytes()[:100]),
    "foreign library": lambda f: f.library.write_text("hello"),
    "truncated interface": lambda f: f.interface.write_text(f.interface.read_text()[:50]),
    "foreign interface": lambda f: f.interface.write_text("[1, 2]"),
    "binary interface": lambda f: f.interface.write_bytes(b"\xff\x00"),
    "another name": lambda f: f.interface.write_text(f.interface.read_text().replace('"digits"', '"d1gits"')),
    "another size": lambda f: f.interface.write_text(
        re.sub(r'"state_bytes": \d+', '"state_bytes": 64', f.interface.read_text())
    ),
    "another format": lambda f: f.interface.write_text(
        f.interface.read_text().replace('"format": 1', '"format": 9')
    ),
    "a state outside of the block": lambda f: f.interface.write_text(
        re.sub(r'"offset": \d+', '"offset": 99999999', f.interface.read_text())
    ),
    "an unknown dtype": lambda f: f.interface.write_text(f.interface.read_text().replace('"f32"', '"f33"')),
    "a large shape": lambda f: f.interface.write_text(re.sub(r"\b128\b", "12800", f.interface.read_text())),
    "another machine": lambda f: flip(f.library, 18),
}


@needs_cc
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(damage: str, exported: Any, tmp_path: Path) -> None:
    DAMAGES[damage](exported)
    with pytest.raises(graphc.LoadError, match=re.escape(str(tmp_path))):
        graphc.load_library(exported.library)


def test_missing_linker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(graphc.MissingToolError, match=r"needs a linker.*install a C toolchain"):
        graphc.export_library(inference(MLP), (BATCHES[0][0],), tmp_path / "libdigits.so")
    assert not (tmp_path / "libdigits.so").exists()


@pytest.mark.parametrize("name", ["1st", "a-b", "", "naïve"])
def test_names_that_c_cannot_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="C identifier"):
        graphc.export_library(inference(MLP), (BATCHES[0][0],), tmp_path / f"lib{name}.so", name=name or None)


class CApi:
    """The C functions of a library by suffix, with aligned buffers for one call."""

    def __init__(self, files: Any) -> None:
        self.library = ctypes.CDLL(str(files.library))
        self.library.digits_error.restype = ctypes.c_char_p
        info = json.loads(files.interface.read_text())
        self.state = self.aligned(info["state_bytes"])
        self.workspace = self.aligned(info["workspace_bytes"])
        x, y = BATCHES[0]
        self.inputs = [self.aligned(x.nbytes), self.aligned(y.nbytes)]
        self.inputs[0].view(np.float32)[...] = x.reshape(-1)
        self.inputs[1].view(np.int64)[...] = y
        self.outputs = [self.aligned(4)]

    @staticmethod
    def aligned(nbytes: int) -> Any:
        memory = np.zeros(nbytes + 64, np.uint8)
        return memory[-memory.ctypes.data % 64 :][:nbytes]

    def init(self, state: int | None = None) -> int:
        return int(
            self.library.digits_init(
                ctypes.c_void_p(self.state.ctypes.data if state is None else state), None
            )
        )

    def run(self, **moved: int) -> int:
        """Runs with some pointers moved by bytes, or null where moved by None."""

        def place(name: str, array: Any) -> int | None:
            return None if moved.get(name, 0) is None else array.ctypes.data + moved.get(name, 0)

        inputs = (ctypes.c_void_p * 2)(*[place(f"input{i}", a) for i, a in enumerate(self.inputs)])
        outputs = (ctypes.c_void_p * 1)(place("output0", self.outputs[0]))
        return int(
            self.library.digits_run(
                ctypes.c_void_p(place("state", self.state)),
                None if moved.get("inputs", 0) is None else inputs,
                None if moved.get("outputs", 0) is None else outputs,
                None,
                ctypes.c_void_p(place("workspace", self.workspace)),
            )
        )


@needs_cc
def test_bad_pointers_of_the_c_interface(exported: Any) -> None:
    api = CApi(exported)
    assert api.init() == 0
    before = api.state.tobytes()
    pointers = ("state", "workspace", "input0", "input1", "output0")
    cases: list[tuple[dict[str, Any], str]] = [({p: None}, "null") for p in (*pointers, "inputs", "outputs")]
    cases += [({p: shift}, "aligned") for p in pointers for shift in (1, 32)]
    for moved, text in cases:
        code = api.run(**moved)
        assert code < 0 and text in api.library.digits_error(code).decode(), moved
    assert api.state.tobytes() == before
    assert api.init(0) < 0 and api.init(api.state.ctypes.data + 4) < 0
    assert api.run() == 0
    assert api.state.tobytes() != before
    assert api.library.digits_error(0) == b"success"
    assert b"unknown" in api.library.digits_error(-99)


# -- other targets ------------------------------------------------------------------------------------


@needs_cc
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_baseline_target_runs_here_too(model: str, tmp_path: Path) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("this machine does not run x86-64 code")
    run = training(model, "sgd")
    example = tensors(BATCHES[0])
    files = graphc.export_library(run.step, example, tmp_path / "libdigits.so", target="x86-64")
    library = graphc.load_library(files.library)
    found = np.array([library(*b) for b in BATCHES])
    expected = np.array([run.step(*tensors(b)).item() for b in BATCHES])
    np.testing.assert_allclose(found, expected, rtol=1.3e-6, atol=1e-5)


@needs_cc
@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4", "aarch64"])
def test_other_targets_link_or_name_the_cross_linker(target: str, tmp_path: Path) -> None:
    run = training("mlp", "adam")
    try:
        files = graphc.export_library(run.step, tensors(BATCHES[0]), tmp_path / "libdigits.so", target=target)
    except graphc.MissingToolError as error:
        assert target == "aarch64"
        assert "gcc-aarch64-linux-gnu" in str(error)
        return
    machine = {"aarch64": 183}.get(target, 62)
    assert int.from_bytes(files.library.read_bytes()[18:20], "little") == machine
    assert json.loads(files.interface.read_text())["target"] == target


def test_unknown_target(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x86-64-v3"):
        graphc.export_library(inference(MLP), (BATCHES[0][0],), tmp_path / "libdigits.so", target="z80")


def test_written_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"writes its argument 'total' in place.*return the new value"):
        graphc.export_library(lambda total: total.add_(1), (graphc.ones(2),), tmp_path / "libf.so")
