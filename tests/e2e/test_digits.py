"""The examples on digits: accuracy on real data, over seeds."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str = "train_digits") -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least"), [("mlp", 0.96), ("cnn", 0.98)])
def test_median_accuracy_over_five_seeds(kind: str, least: float) -> None:
    scores = [example().train(kind, seed, 30, quiet=True)[1] for seed in range(5)]
    print(kind, [f"{s:.2%}" for s in scores])
    assert statistics.median(scores) >= least


def test_one_short_run_learns() -> None:
    run, score = example().train("mlp", 0, 8, quiet=True)
    assert score > 0.9
    assert run.losses[-1] < run.losses[0] / 4


@pytest.mark.slow
def test_median_accuracy_of_rows_read_by_an_lstm() -> None:
    scores = [example("train_digits_lstm").train(seed, 30, quiet=True)[0] for seed in range(5)]
    print("lstm", [f"{s:.2%}" for s in scores])
    assert statistics.median(scores) >= 0.95


def test_one_short_run_over_rows_learns() -> None:
    """The gradient's norm stays finite and the loss falls: two layers, two loops and their way back."""
    score, _, _ = example("train_digits_lstm").train(0, 6, quiet=True)
    assert score > 0.8
