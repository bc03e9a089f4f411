"""The benchmark's own rules: rows, floors, table, arena; and graphc's rounding errors against PyTorch's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphc
from graphc.backends.llvm.compile import host_target
from tests.benchmarks.accuracy import BOUND, compare
from tests.benchmarks.floor import Floor, lenet_floor, resnet18_floor
from tests.benchmarks.frameworks import PEERS, runs
from tests.benchmarks.measure import Measured, Pool, RowResult, measure
from tests.benchmarks.memory import budget_line, largest_live, row_program
from tests.benchmarks.micro import MICRO
from tests.benchmarks.peak import best_probes
from tests.benchmarks.roofline import Machine
from tests.benchmarks.table import as_json, from_json, markdown, summary, text_row
from tests.benchmarks.workloads import ROW_DATA, ROWS, chosen

_MACHINE = Machine(
    100.0, {m: [(4 << 20, 50.0), (256 << 20, 25.0)] for m in ("1:0", "0:1", "1:1", "2:1", "3:1")}
)


@pytest.fixture(autouse=True)
def grad_mode_of_others() -> Iterator[None]:
    """Rows of inference switch gradients off for their process, which here is that of other tests too."""
    with graphc.enable_grad():
        yield


def _result(**medians: float) -> RowResult:
    made = RowResult(ROWS[0], 1)
    for peer, seconds in medians.items():
        name = peer.replace("_", " ")
        made.measured[name] = Measured(name, seconds, seconds, seconds, 0.5, 1 << 20)
    return made


def test_names_are_unique_and_every_row_has_its_data() -> None:
    names = [w.name for w in (*ROWS, *MICRO)]
    assert len(set(names)) == len(names)
    assert [w.name for w in ROWS] == list(ROW_DATA)
    assert len(ROWS) == 12


def test_patterns_choose_rows() -> None:
    assert [w.name for w in chosen(ROWS, ["resnet*", "linear"])] == ["linear", "resnet18", "resnet18-infer"]
    with pytest.raises(ValueError, match="no row matches"):
        chosen(ROWS, ["nothing"])


def test_peers_of_a_row() -> None:
    train, infer = ROWS[0], ROWS[-1]
    assert [p for p in PEERS if not runs(p, train)] == ["onnxruntime", "openvino"]
    assert [p for p in PEERS if not runs(p, infer)] == ["graphc plain"]


def test_floors() -> None:
    """Known figures: ResNet-18 takes 1.81 billion multiply-adds at 224² and has 11.69 million parameters."""
    floor = resnet18_floor(1, 224)
    assert floor.flops / 2 == pytest.approx(1.814e9, rel=1e-3)
    assert floor.bytes / 4 == pytest.approx(11_689_512 + 3 * 224 * 224 + 1000, rel=1e-3)
    assert lenet_floor(1).flops / 2 == 28 * 28 * 6 * 75 + 10 * 10 * 16 * 150 + 48000 + 10080 + 840


@pytest.mark.parametrize(
    ("read", "written", "mix"),
    [(8, 0, (1, 0)), (8, 8, (1, 1)), (0, 8, (0, 1)), (16, 8, (2, 1)), (48, 8, (3, 1))],
)
def test_mix_of_streams(read: float, written: float, mix: tuple[int, int]) -> None:
    assert Floor(0, read + written, written).mix() == mix


def test_least_seconds_is_the_larger_bound() -> None:
    assert _MACHINE.least_seconds(Floor(1e9, 0), 1) == pytest.approx(0.01)
    assert _MACHINE.least_seconds(Floor(1e9, 1e9), 2) == pytest.approx(0.02)


def test_share_is_of_the_peak_between_the_runs() -> None:
    """A peak that halves while a row runs doubles its share; traffic keeps the rate measured at the start."""
    run = Measured("graphc", 0.04, 0.04, 0.04, 0.5, 1 << 20)
    slow = dataclasses.replace(run, peak=50.0, at_peak=2.0)
    shares = [_MACHINE.share(Floor(1e9, b), 1, m) for m in (run, slow) for b in (0.0, 1e9)]
    assert shares == pytest.approx([0.25, 1.0, 0.5, 1.0])


def test_table_has_bad_rows_and_says_what_is_missing() -> None:
    slow, alone = _result(graphc=2e-3, torch_eager=1e-3), _result(torch_eager=1e-3)
    alone.missing["graphc"] = "NotImplementedError: no such layer"
    assert "0.50×" in text_row(slow, ["graphc", "torch eager"], _MACHINE)
    assert "graphc: not there: NotImplementedError" in text_row(alone, ["graphc", "torch eager"], _MACHINE)
    assert summary([slow, alone]) == "geometric mean of the speedup over the best peer: 0.50× (1 of 2 rows)"
    text = markdown([slow, alone], ["graphc", "torch eager"], _MACHINE)
    assert "| 2,000 | 1,000 | 0.50× | 500 |" in text and "no such layer" in text


def test_figures_are_kept_and_merged(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    first = _result(graphc=2e-3, torch_eager=1e-3)
    first.missing["jax"] = "not installed"
    as_json([first], _MACHINE, path)
    as_json([_result(graphc=1e-3)], _MACHINE, path)
    (row,), machine = from_json(path, ROWS)
    assert {p: m.median for p, m in row.measured.items()} == {"graphc": 1e-3, "torch eager": 1e-3}
    assert row.missing == first.missing and row.workload is ROWS[0]
    assert machine.bandwidth(Floor(0, 1e9)) == 25.0


def test_a_plain_loop_is_no_peer() -> None:
    assert _result(graphc=1e-3, graphc_plain=1e-4, jax=2e-3).speedup() == 2.0


def test_one_row_is_measured() -> None:
    """A round of the smallest row; a peer that is not installed is missing, with its reason."""
    (row,) = chosen(ROWS, ["linear"])
    with Pool(probes=best_probes(host_target())) as pool:
        result = measure(pool, row, ["graphc", "graphc plain"], 1, 1, seconds=0.01)
    assert set(result.measured) == {"graphc", "graphc plain"} and not result.missing
    found = result.measured["graphc"]
    assert 0 < found.median < found.first and found.peak > 0 and found.at_peak > 0


_ARENA_BOUND = 1.05


@pytest.mark.parametrize("row", ["mlp-adam", "lenet", "lstm"])
def test_arena_of_small_rows(row: str) -> None:
    program = row_program(row)
    assert program.arena_bytes <= _ARENA_BOUND * largest_live(program)


@pytest.mark.slow
@pytest.mark.parametrize("row", [w.name for w in ROWS])
def test_arena_of_all_rows(row: str) -> None:
    program = row_program(row)
    assert program.arena_bytes <= _ARENA_BOUND * largest_live(program)


@pytest.mark.parametrize("row", ["linear", "mlp-infer", "lenet-infer"])
def test_accuracy_of_small_rows(row: str) -> None:
    pytest.importorskip("torch")
    assert [e for e in compare(row) if max(e.ratio, e.rounding) > BOUND] == []


@pytest.mark.slow
@pytest.mark.parametrize("row", [w.name for w in ROWS])
def test_accuracy_of_all_rows(row: str) -> None:
    pytest.importorskip("torch")
    assert [e for e in compare(row) if max(e.ratio, e.rounding) > BOUND] == []


def test_budget_line() -> None:
    arena, less, share, _, ratio = budget_line("lenet", 0.8, None, rounds=1).split()
    assert float(less) <= 0.8 * float(arena) + 0.01
    assert float(share.rstrip("%")) <= 80
    assert float(ratio) > 0
