"""Bad input: an error at the user's own line that says what was expected, what came and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc
import graphc.nn.functional as F
from graphc import nn, optim
from graphc.ir.families import REGISTRY

X = graphc.ones(4, 3)
NARROW, WIDE = nn.Linear(3, 2), nn.Linear(4, 2)
CONVOLUTION = nn.Conv2d(3, 4, 3)


def _shapes() -> Any:
    return X @ graphc.ones(4, 3)


def _broadcast() -> Any:
    return X + graphc.ones(5)


def _linear_on_integers() -> Any:
    return NARROW(graphc.ones(4, 3, dtype=graphc.int64))


def _linear_width() -> Any:
    return WIDE(X)


def _non_scalar_backward() -> Any:
    w = graphc.ones(3, requires_grad=True)
    return (w * 2).backward()


def _integer_probabilities() -> Any:
    return F.cross_entropy(X, graphc.ones(4, 3, dtype=graphc.int64))


def _view() -> Any:
    return X.view(5, 2)


def _dimension() -> Any:
    return X.sum(dim=2)


def _concat() -> Any:
    return graphc.cat([X, graphc.ones(4, 2)])


def _convolution() -> Any:
    return CONVOLUTION(graphc.ones(1, 2, 8, 8))


def _integer_grad() -> Any:
    return graphc.ones(3, dtype=graphc.int64).requires_grad_()


# call, PyTorch's exception, words of the message
CASES: list[tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = [
    (_shapes, RuntimeError, ("4x3", "4x3")),
    (_broadcast, RuntimeError, ("3", "5")),
    (_linear_on_integers, RuntimeError, ("dtype", "i64", "f32")),
    (_linear_width, RuntimeError, ("3", "4")),
    (_non_scalar_backward, RuntimeError, ("scalar",)),
    (_integer_probabilities, RuntimeError, ("float",)),
    (_view, RuntimeError, ("5, 2", "12")),
    (_dimension, IndexError, ("2", "range")),
    (_concat, RuntimeError, ("3", "2")),
    (_convolution, RuntimeError, ("3", "2")),
    (_integer_grad, RuntimeError, ("floating point",)),
]


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__.strip("_"))
def test_error_at_the_users_line(
    case: tuple[Callable[[], Any], type[Exception], tuple[str, ...]], compiled: bool
) -> None:
    call, kind, words = case
    with pytest.raises(kind) as caught:
        graphc.compile(call)() if compiled else call()
    for word in words:
        assert word in str(caught.value)
    lines = [(f.path.name if hasattr(f.path, "name") else "", f.lineno) for f in caught.traceback]
    first = call.__code__.co_firstlineno
    assert any(name == Path(__file__).name and first < n + 1 <= first + 4 for name, n in lines), lines


def _reads_item(x: Any) -> Any:
    return x * x.sum().item()


def _branches(x: Any) -> Any:
    if x.sum() > 0:
        return x
    return -x


def _to_numpy(x: Any) -> Any:
    return x + graphc.from_numpy((x * 2).numpy())


def _reads_argument(x: Any) -> Any:
    return x * x.tolist()[0][0]


@pytest.mark.parametrize(
    "function", [_reads_item, _branches, _to_numpy, _reads_argument], ids=lambda f: f.__name__
)
def test_values_while_tracing(function: Callable[[Any], Any]) -> None:
    with pytest.raises(graphc.TraceError) as caught:
        graphc.compile(function)(X)
    error = caught.value
    assert isinstance(error, RuntimeError)
    assert error.filename == __file__
    assert function.__code__.co_firstlineno < error.lineno <= function.__code__.co_firstlineno + 3
    assert "where" in str(error) and "eturn" in str(error)


def test_wrong_argument_count() -> None:
    compiled = graphc.compile(lambda x: x)
    compiled(X)
    with pytest.raises(TypeError, match="argument"):
        compiled()
    with pytest.raises(TypeError, match="argument"):
        compiled(X, X)


def test_a_traced_value_kept_aside_is_an_error() -> None:
    kept = []

    @graphc.compile
    def function(x: Any) -> Any:
        kept.append(x * 2)
        return x

    function(X)
    with pytest.raises(graphc.TraceError, match="return it"):
        kept[0].tolist()


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
def test_an_op_without_code_is_an_error(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never interpreted in the place of native code."""

    def no_code(*_: Any) -> Any:
        raise NotImplementedError("erf has no body")

    def function(x: Any) -> Any:
        return graphc.erf(x) * 2

    monkeypatch.setattr(REGISTRY["erf"], "body", no_code, raising=False)
    x = graphc.ones(3, 5, 7)
    with pytest.raises(RuntimeError, match="erf"):
        (graphc.compile(function) if compiled else function)(x).tolist()


def test_target_out_of_range_changes_nothing() -> None:
    graphc.manual_seed(0)
    model = nn.Linear(6, 10)
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    @graphc.compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x = graphc.randn(4, 6)
    step(x, graphc.tensor([0, 1, 2, 9]))

    def state() -> list[bytes]:
        found = [p.detach().numpy().tobytes() for p in model.parameters()]
        for entry in optimizer.state_dict()["state"].values():
            found += [np.asarray(v).tobytes() for v in entry.values()]
        return found

    before = state()
    assert len(before) == 2 + 2 * 3
    with pytest.raises(IndexError, match=r"Target.*out of bounds") as caught:
        step(x, graphc.tensor([0, 1, 10, 9]))
    assert state() == before
    assert caught.value.filename == __file__  # type: ignore[attr-defined]
    assert caught.value.lineno == step._function.__code__.co_firstlineno + 3  # type: ignore[attr-defined]
    step(x, graphc.tensor([0, 1, 2, 9]))
    assert state() != before


def test_index_out_of_range_in_recorded_mode() -> None:
    table = graphc.ones(5, 2)
    with pytest.raises(IndexError, match="out of range"):
        F.embedding(graphc.tensor([1, 7]), table).tolist()
    assert (table * 2).sum().item() == 20.0


FILES: dict[str, Callable[[Path], None]] = {
    "missing": lambda p: None,
    "empty": lambda p: p.write_bytes(b"") and None,
    "foreign": lambda p: p.write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR." * 3) and None,
    "text": lambda p: p.write_text("hello") and None,
}


@pytest.mark.parametrize("kind", FILES)
def test_load_of_bad_files(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pt"
    FILES[kind](path)
    with pytest.raises((graphc.LoadError, FileNotFoundError)):
        graphc.load(path)
    assert not (tmp_path / "pwned").exists()


def test_load_of_truncated_and_altered_files(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    graphc.save({"w": graphc.arange(100.0), "n": 3}, path)
    body = path.read_bytes()
    for size in range(0, len(body), max(1, len(body) // 40)):
        path.write_bytes(body[:size])
        with pytest.raises(graphc.LoadError):
            graphc.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil", b"x")
        archive.writestr("index.json", b'{"format": 1}')
    with pytest.raises(graphc.LoadError):
        graphc.load(path)


def test_save_of_a_module_names_state_dict(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="state_dict"):
        graphc.save(nn.Linear(2, 2), tmp_path / "m.pt")


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


PROGRAM = "import graphc; x = graphc.ones(3); print((x * 2 + 1).tolist())"


def test_unsafe_cache_folder_is_off_with_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    done = _run(PROGRAM, GRAPHC_CACHE_DIR=str(folder))
    assert done.stdout.strip() == "[3.0, 3.0, 3.0]", done.stderr
    assert "arning" in done.stderr and str(folder) in done.stderr
    assert not any(folder.iterdir())


def test_damaged_cache_entries_are_recompiled(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert _run(PROGRAM, GRAPHC_CACHE_DIR=str(folder)).stdout.strip() == "[3.0, 3.0, 3.0]"
    entries = [p for p in folder.rglob("*") if p.is_file()]
    assert entries
    for k, entry in enumerate(entries):
        body = bytearray(entry.read_bytes())
        body[len(body) // 2] ^= 0xFF
        entry.write_bytes(bytes(body) if k % 2 else b"garbage")
    done = _run(PROGRAM, GRAPHC_CACHE_DIR=str(folder))
    assert done.stdout.strip() == "[3.0, 3.0, 3.0]", done.stderr


def test_missing_dot_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graphc.compile(lambda x: x * 2).trace(X)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert graphc.visualize(graph, tmp_path / "g.dot").read_text().startswith("digraph")
    with pytest.raises(graphc.MissingToolError, match="graphviz"):
        graphc.visualize(graph, tmp_path / "g.svg")


def test_missing_linker_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(graphc.MissingToolError, match="install"):
        graphc.export_library(nn.Linear(3, 2), (X,), tmp_path / "libm.so")


# A function of the namespace; both packages must give equal shapes and values.
EDGES: dict[str, Callable[[Any], Any]] = {
    "empty batch": lambda p: p.nn.functional.relu(p.ones(0, 3) @ p.ones(3, 2)),
    "empty sum": lambda p: p.ones(0, 3).sum(),
    "empty sum by rows": lambda p: p.ones(0, 3).sum(dim=0),
    "empty mean": lambda p: p.ones(0).mean(),
    "empty inner product": lambda p: p.ones(2, 0) @ p.ones(0, 3),
    "empty cat": lambda p: p.cat([p.ones(0, 3), p.ones(2, 3)]),
    "nan relu": lambda p: p.nn.functional.relu(p.tensor([float("nan"), -1.0, float("inf")])),
    "nan max": lambda p: p.tensor([1.0, float("nan"), 2.0]).max(),
    "nan clamp": lambda p: p.tensor([1.0, float("nan"), 7.0]).clamp(0, 5),
    "inf softmax": lambda p: p.nn.functional.softmax(p.tensor([[1.0, float("-inf"), 2.0]]), dim=1),
    "inf exp": lambda p: p.tensor([float("inf"), float("-inf"), 1000.0]).exp(),
    "zero division": lambda p: p.tensor([1.0, -1.0, 0.0]) / p.tensor([0.0, 0.0, 0.0]),
    "zero-size softmax": lambda p: p.nn.functional.softmax(p.ones(0, 3), dim=1),
    "empty cross-entropy": lambda p: p.nn.functional.cross_entropy(p.ones(0, 3), p.ones(0, dtype=p.int64)),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges_as_in_pytorch(edge: str) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = EDGES[edge](graphc), EDGES[edge](torch)
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1.3e-6)
