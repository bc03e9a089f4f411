"""Every stage of a training step: its text, what reads the text back, its cost and its picture."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import graphc
from graphc.ir.kernel_parser import parse_kernel
from graphc.ir.program import Program
from graphc.passes.plan import verify_program
from tests.e2e.models import batches, tensors, training

STAGES = ("trace", "differentiate", "optimise", "fuse", "schedule", "plan", "lower", "emit")
GRAPHS = ("trace", "differentiate", "optimise")
BATCH = tensors(batches(1)[0])
CASES = [("mlp", "sgd"), ("mlp", "adam"), ("cnn", "sgd"), ("cnn", "adam")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def stages(request: pytest.FixtureRequest) -> dict[str, Any]:
    made: dict[str, Any] = training(*request.param).step.stages(*BATCH)
    return made


def test_order_and_texts(stages: dict[str, Any]) -> None:
    assert tuple(stages) == STAGES
    for name, stage in stages.items():
        assert len(str(stage)) > 500, name
        assert len(repr(stage)) < 100 or isinstance(stage, str), name
    assert "gradient" in str(stages["trace"])
    assert " gradient " not in str(stages["differentiate"])
    assert "cross_entropy" not in str(stages["optimise"])
    assert "define " in stages["lower"] and ".text" in stages["emit"]


@pytest.mark.parametrize("stage", GRAPHS)
def test_graphs_are_read_back(stages: dict[str, Any], stage: str) -> None:
    graph = stages[stage]
    graph.verify()
    again = graphc.ir.parse(str(graph))
    again.verify()
    assert str(again) == str(graph)


def test_kernels_are_read_back(stages: dict[str, Any]) -> None:
    for kernel in stages["schedule"]:
        assert kernel.schedule is not None
        assert parse_kernel(str(kernel)) == kernel
    assert str(stages["schedule"]).count("\nkernel ") == len(stages["schedule"]) - 1


def test_fused_holds_every_op_once(stages: dict[str, Any]) -> None:
    fused = stages["fuse"]
    fused.verify()
    assert str(fused).count("\n  group ") == len(fused.groups)
    for group in fused.groups:
        assert group.ops


def test_program_text_names_every_buffer_and_call(stages: dict[str, Any]) -> None:
    program = stages["plan"]
    assert isinstance(program, Program)
    verify_program(program)
    text = str(program)
    assert len(set(program.row_names())) == len(program.buffers)
    for name in ("x", "y", *(b.name for b in program.of_kind("state"))):
        assert f"\n  {name} " in text
    assert text.count("\n  kernel ") == sum(len(p.calls) for p in program.phases)
    assert "IndexError: Target {index} is out of bounds." in text


# -- cost ---------------------------------------------------------------------------------------------


def test_cost_of_a_matrix_product() -> None:
    cost = graphc.compile(lambda a, b: a @ b).cost(graphc.ones(30, 20), graphc.ones(20, 10))
    assert (cost.kernels, cost.flops) == (1, 2 * 30 * 20 * 10)
    assert (cost.per_kernel[0].bytes_read, cost.per_kernel[0].bytes_written) == (4 * (600 + 200), 4 * 300)
    assert (cost.bytes, cost.weights_bytes) == (4 * 1100, 0)


def test_cost_of_elementwise_reduction_and_gather() -> None:
    n = 1000
    a = graphc.ones(n)
    for function, flops, read, written in (
        (lambda x: x.exp() * 2, 2 * n, 4 * n, 4 * n),
        (lambda x: x.sum(), n, 4 * n, 4),
        (lambda x: x > 0, 0, 4 * n, n),
        (lambda x: x[:10] + x[-10:], 10, 80, 40),
    ):
        cost = graphc.compile(function).cost(a)
        assert (cost.flops, cost.bytes) == (flops, read + written)
    table, rows = graphc.ones(1000, 16), graphc.tensor([3, 5])
    cost = graphc.compile(lambda t, i: t[i]).cost(table, rows)
    assert cost.per_kernel[0].bytes_read == 2 * 16 * 4 + 2 * 8


@pytest.mark.parametrize(("model", "optimizer"), CASES)
def test_cost_of_a_training_step(model: str, optimizer: str) -> None:
    run = training(model, optimizer)
    cost = run.step.cost(*BATCH)
    products = (
        2 * 32 * (64 * 128 * 2 + 128 * 10 * 3) if model == "mlp" else 2 * 32 * (8 * 9 * 64 * 2 + 128 * 10 * 3)
    )
    assert products < cost.flops < 4 * products
    assert cost.flops == sum(k.flops for k in cost.per_kernel)
    assert cost.bytes == sum(k.bytes for k in cost.per_kernel)
    assert cost.kernels == len(cost.per_kernel) == len(str(cost).splitlines()) - 2
    tensors_of_model = [*run.model.parameters(), *run.model.buffers()]
    assert cost.weights_bytes == sum(t.numel() * t.element_size() for t in tensors_of_model)
    assert cost.arena_bytes == run.step.stages(*BATCH)["plan"].arena_bytes


# -- pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_dot_of_every_stage(stages: dict[str, Any], stage: str, tmp_path: Path) -> None:
    path = graphc.visualize(stages[stage], tmp_path / "deeper" / f"{stage}.dot")
    assert path == tmp_path / "deeper" / f"{stage}.dot"
    text = path.read_text()
    assert text.startswith("digraph") and text.endswith("}\n")
    assert all(line.count('"') % 2 == 0 for line in text.replace('\\"', "").splitlines()), "every string ends"


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz's dot is not installed")
@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
@pytest.mark.parametrize("stage", STAGES)
def test_rendered_stages(stage: str, suffix: str, start: bytes, tmp_path: Path) -> None:
    pytest.importorskip("graphviz")
    content = graphc.visualize(
        training("mlp", "sgd").step.stages(*BATCH)[stage], tmp_path / f"picture{suffix}"
    ).read_bytes()
    assert content.startswith(start) and len(content) > 5000


def test_pictures_of_other_things(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got int"):
        graphc.visualize(3, tmp_path / "a.dot")
    with pytest.raises(ValueError, match=r"got 'a\.jpg'"):
        graphc.visualize(graphc.compile(lambda x: x + 1).trace(graphc.ones(2)), tmp_path / "a.jpg")


def test_missing_dot_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("graphviz")
    graph = graphc.compile(lambda x: x + 1).trace(graphc.ones(2))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(graphc.MissingToolError, match="apt-get install graphviz"):
        graphc.visualize(graph, tmp_path / "a.svg")
    assert not (tmp_path / "a.svg").exists()
    assert graphc.visualize(graph, tmp_path / "a.dot").exists()
