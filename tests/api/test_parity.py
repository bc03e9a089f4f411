"""Parity with PyTorch over the tables of `tests.api.rows`."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from tests.api.parity import check_function, check_module, check_optimiser
from tests.api.rows import FUNCTIONS, LOSSES, MODULES, OPTIMISERS


@pytest.mark.parametrize("r", FUNCTIONS, ids=str)
def test_function(r: Any) -> None:
    check_function(r)


@pytest.mark.parametrize("r", LOSSES, ids=str)
def test_loss(r: Any) -> None:
    check_function(r)


@pytest.mark.parametrize("r", MODULES, ids=str)
def test_module(r: Any) -> None:
    check_module(r)


@pytest.mark.parametrize("r", OPTIMISERS, ids=str)
def test_optimiser(r: Any) -> None:
    check_optimiser(r)
