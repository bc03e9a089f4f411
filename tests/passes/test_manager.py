"""Pipelines, their text, instruments, and what a crash leaves behind."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import graphc
from graphc.backends.reference import run
from graphc.ir import Builder, CompileError, Graph, VerifyError, parse
from graphc.ir.graph import Value
from graphc.passes import CompileContext, Pass, PassManager, parse_pipeline, run_pipeline
from graphc.passes.instruments import Instrument, Print, Snapshot, Time, Validate, Verify
from graphc.passes.pipeline import OPTIMISE
from graphc.passes.replay import main

TEXT = """graph @f(%x: f32[3] argument) -> (f32[3]) {
  %a: f32[3] = neg %x
  %b: f32[3] = neg %a
  %c: f32[3] = exp %b
  %d: f32[3] = exp %b
  %e: f32[3] = add %c, %d
  return %e
}"""


@dataclass(frozen=True)
class Crash(Pass):
    """Fails."""

    name: ClassVar[str] = "test_crash"
    word: str = "boom"

    def run(self, graph: Graph, context: CompileContext) -> bool:
        graph.outputs.clear()
        raise ZeroDivisionError(self.word)


@dataclass(frozen=True)
class Corrupt(Pass):
    """Leaves an output that is not in the graph."""

    name: ClassVar[str] = "test_corrupt"

    def run(self, graph: Graph, context: CompileContext) -> bool:
        graph.outputs[0] = Value(graph.outputs[0].type, Graph(), 0)
        return True


@dataclass(frozen=True)
class Double(Pass):
    """Changes the meaning: the output is added to itself."""

    name: ClassVar[str] = "test_double"

    def run(self, graph: Graph, context: CompileContext) -> bool:
        v = graph.outputs[0]
        graph.outputs[0] = Builder(graph).add(v, v)
        return True


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dce",
        "canonicalise,fold{max_elements=64},cse,dce",
        'decompose{keep=["softmax", "gelu"]},dce',
        "differentiate{output=1, inputs=[0, 2]}",
        'test_crash{word="a,b}"},dce',
        OPTIMISE,
    ],
)
def test_text_round_trips(text: str) -> None:
    pipeline = parse_pipeline(text)
    assert str(pipeline) == text
    assert parse_pipeline(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope", "expected a pass at 'nope'"),
        ("cse dce", "expected a comma"),
        ("cse,", "expected a pass at ''"),
        (",cse", "expected a pass at ',cse'"),
        ("fold{limit=3}", "has no option limit; its options are max_elements"),
        ("cse{a=1}", "its options are none"),
        ("fold{max_elements=true}", "expected int like 1024"),
        ("fold{max_elements=3", "expected name=value"),
    ],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_pipeline(text)


def test_spaces_and_defaults_are_not_kept() -> None:
    assert str(parse_pipeline(" cse ,  fold{max_elements=1024}, dce ")) == "cse,fold,dce"


def reproducer(error: CompileError) -> tuple[Path, list[str]]:
    """The file and the command that a failure names."""
    path = re.search(r"graph before it is in (\S+)", str(error))
    command = re.search(r"to reproduce: (.*)", str(error))
    assert path is not None and command is not None
    return Path(path.group(1)), command.group(1).split()


def test_crash_leaves_the_graph_before_the_pass() -> None:
    graph = parse(TEXT)
    with pytest.raises(CompileError, match="pass test_crash failed: ZeroDivisionError: boom") as caught:
        run_pipeline(graph, "canonicalise,cse,test_crash,dce")
    path, command = reproducer(caught.value)
    expected = parse(TEXT)
    run_pipeline(expected, "canonicalise,cse")
    assert path.read_text() == f"{expected}\n"
    assert command[1:] == [
        "-m",
        "graphc.passes.replay",
        str(path),
        "--pipeline",
        "test_crash",
        "--target",
        "x86-64-v3",
    ]
    path.unlink()


def test_verifier_failure_names_the_pass() -> None:
    with pytest.raises(CompileError, match="pass test_corrupt failed: VerifyError") as caught:
        run_pipeline(parse(TEXT), "dce,test_corrupt")
    reproducer(caught.value)[0].unlink()
    run_pipeline(parse(TEXT), "test_corrupt", instruments=[])


def test_error_about_the_program_is_passed_on() -> None:
    with pytest.raises(CompileError, match=r"output 0 is f32\[3\], expected a floating scalar") as caught:
        run_pipeline(parse(TEXT), "differentiate")
    assert "reproduce" not in str(caught.value)


def test_validation_catches_a_changed_meaning() -> None:
    context = CompileContext(evaluate=run)
    with pytest.raises(CompileError, match="test_double changed the meaning of graph @f: output 0") as caught:
        run_pipeline(parse(TEXT), "canonicalise,test_double", context, [Verify(), Validate()])
    reproducer(caught.value)[0].unlink()
    run_pipeline(parse(TEXT), OPTIMISE, context, [Verify(), Validate()])


def test_validation_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_VALIDATE", "1")
    with pytest.raises(CompileError, match="changed the meaning") as caught:
        run_pipeline(parse(TEXT), "test_double", CompileContext(evaluate=run))
    reproducer(caught.value)[0].unlink()
    with pytest.raises(CompileError, match="needs an interpreter") as caught:
        run_pipeline(parse(TEXT), "dce")
    reproducer(caught.value)[0].unlink()


def test_validation_binds_symbolic_dims() -> None:
    graph = parse(TEXT.replace("[3]", "[n]"))
    with pytest.raises(CompileError, match="changed the meaning") as caught:
        run_pipeline(graph, "test_double", CompileContext(evaluate=run), [Validate()])
    reproducer(caught.value)[0].unlink()


def test_instruments_see_each_pass() -> None:
    graph = parse(TEXT)
    stream = io.StringIO()
    snapshot, timer = Snapshot(), Time()
    instruments: list[Instrument] = [snapshot, timer, Print(stream)]
    assert PassManager(parse_pipeline("cse,dce,canonicalise"), instruments).run(graph)
    assert [name for name, _ in snapshot.texts] == ["cse", "dce", "canonicalise"]
    assert snapshot.texts[-1][1] == str(graph)
    assert [name for name, _ in timer.rows] == ["cse", "dce", "canonicalise"]
    assert str(timer).splitlines()[-1].endswith("total")
    titles = [line for line in stream.getvalue().splitlines() if line.startswith("//")]
    # dce finds nothing after cse, so nothing is printed for it.
    assert titles == ["// start", "// after cse", "// after canonicalise"]


def test_nothing_to_do() -> None:
    graph = parse("graph @f(%x: f32[3] argument) -> (f32[3]) {\n  return %x\n}")
    assert not run_pipeline(graph, OPTIMISE)


def test_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.graph"
    path.write_text(TEXT)
    assert main([str(path), "--pipeline", "canonicalise,cse,dce", "--time"]) == 0
    expected = parse(TEXT)
    run_pipeline(expected, "canonicalise,cse,dce")
    printed = capsys.readouterr()
    assert printed.out == f"{expected}\n"
    assert "canonicalise" in printed.err
    corrupt = ["-m", "graphc.passes.replay", str(path), "--pipeline", "nope"]
    failed = subprocess.run([sys.executable, *corrupt], capture_output=True, text=True, check=False)
    assert failed.returncode != 0 and "expected a pass at 'nope'" in failed.stderr
    with pytest.raises(VerifyError):
        main([str(path), "--pipeline", "test_corrupt"])


@pytest.mark.parametrize("passes", ["", "cse", "fold,cse", "decompose", "dce"])
def test_values_that_nothing_reads(passes: str) -> None:
    """Whatever the pipeline leaves is compiled; dead ops are in no kernel."""

    def f(x: Any) -> Any:
        unused = (x * 2).sin()
        assert unused.shape == x.shape
        return x.exp() + 1

    x = graphc.tensor([1.0, -2.0])
    assert graphc.compile(f, passes=passes)(x).tolist() == f(x).tolist()
