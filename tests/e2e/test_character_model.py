"""The character-model example: one compiled step samples what the whole model says, and training learns."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc

pytest.importorskip("tqdm")

EXAMPLE = Path(__file__).parents[2] / "examples" / "character_model.py"
WORDS = "the quick brown fox jumps over the lazy dog. " * 60


def example() -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("character_model", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(kind: str, characters: int) -> Any:
    graphc.manual_seed(0)
    if kind == "gru":
        return example().CharacterGRU(characters, width=24)
    return example().CharacterGPT(characters, width=16, layers=2, heads=2, context=24)


@pytest.mark.parametrize("kind", ["gru", "gpt"])
def test_one_character_at_a_time(kind: str) -> None:
    """What the model remembers in its buffers stands for all earlier characters, and nothing is compiled again."""
    made = model(kind, 30)
    tokens = np.random.default_rng(1).integers(0, 30, 24)
    with graphc.no_grad():
        wanted = made(graphc.tensor(tokens[None])).numpy()[0]

        @graphc.compile
        def step(token: Any) -> Any:
            with graphc.no_grad():
                return made.following(token)

        for _ in range(2):
            made.reset()
            got = np.stack([step(graphc.tensor(t)).numpy() for t in tokens])
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert step.cache_info().misses == 1


@pytest.mark.parametrize("kind", ["gru", "gpt"])
def test_training_and_writing(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A text that repeats is learnt, and written over more characters than there are positions."""
    module = example()
    text = module.Text(WORDS)
    made = model(kind, len(text.characters))
    losses = module.train(made, text, 400, 0, batch=8, length=20)
    assert np.mean(losses[-5:]) < losses[0] * 0.6
    written = module.sample(made, text, "the ", 60)
    assert len(written) == 64 and set(written) <= set(text.characters)
    assert capsys.readouterr().out.count("compiled 1 time(s)") == 2
