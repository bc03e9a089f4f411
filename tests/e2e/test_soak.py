"""Long runs leak nothing, and crowds of threads and processes neither hang, crash nor change a bit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.soak import SCENARIOS

_SECONDS = {"short": 120, "long": 3000}

_COUNTS = {
    "calls": (20_000, 1_000_000),
    "array_calls": (1_000, 300_000),
    "plain_steps": (1_000, 100_000),
    "many_threads": (10, 2_000),
    "busy_neighbour": (5, 500),
    "forks": (3, 200),
    "nested": (8, 2_000),
    "python_threads": (5, 500),
}


def check(scenario: str, count: int, length: str) -> None:
    """Runs a scenario in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.soak", scenario, str(count)],
        capture_output=True, text=True, timeout=_SECONDS[length],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_scenario_is_run() -> None:
    assert set(_COUNTS) == set(SCENARIOS)


@pytest.mark.parametrize("scenario", _COUNTS)
def test_short(scenario: str) -> None:
    check(scenario, _COUNTS[scenario][0], "short")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", _COUNTS)
def test_long(scenario: str) -> None:
    check(scenario, _COUNTS[scenario][1], "long")
