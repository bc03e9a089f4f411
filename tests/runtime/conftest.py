"""Fixtures of the run-time tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from graphc.runtime import threads


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; the old one comes back after the test."""
    before = threads.get_num_threads()
    yield threads.set_num_threads
    threads.set_num_threads(before)
