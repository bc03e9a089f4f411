"""Training loops as people write them hold no more memory than PyTorch, and compute the same.

Each loop runs in a process of its own on each package. Whole megabytes decide, so other work on
the machine does not matter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.live_memory import LOOPS

pytest.importorskip("torch")

MEGABYTE = 1 << 20
STEPS = {"losses_in_a_list": 1000}
NOISE = MEGABYTE // 2
"""What resident sizes of one program differ by from run to run."""


def _start(package: str, loop: str) -> subprocess.Popen[str]:
    # Blocks from the system go back to it when they are freed, so resident is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.live_memory", package, loop, str(STEPS.get(loop, 150))],
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
@pytest.mark.parametrize("loop", LOOPS)
def test_no_more_than_pytorch(loop: str) -> None:
    ours, theirs = map(_result, [_start(package, loop) for package in ("graphc", "torch")])
    np.testing.assert_allclose(ours["numbers"], theirs["numbers"], rtol=2e-3, atol=1e-5)
    assert ours["held"] <= theirs["held"] + NOISE
    assert ours["growth"] <= max(theirs["growth"], 0) + NOISE
    assert ours["peak"] <= theirs["peak"] + NOISE
    # No program is compiled after the third step.
    assert set(ours["programs"]) == {ours["programs"][0]}
