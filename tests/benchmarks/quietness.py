"""Timing on a machine where other work runs: one timed part at a time, at real-time priority."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

__all__ = ["locked", "raised_priority", "undisturbed"]


@contextlib.contextmanager
def locked(path: str | None) -> Iterator[None]:
    """Holds an exclusive lock on the file, which is made where it is missing; nothing for None."""
    if path is None:
        yield
        return
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def raised_priority(wanted: bool = True) -> Iterator[None]:
    """Raises all threads that the process has now to real-time priority, where the system allows that."""
    if not wanted:
        yield
        return
    _set_priority(os.SCHED_FIFO, 10)
    try:
        yield
    finally:
        _set_priority(os.SCHED_OTHER, 0)


@contextlib.contextmanager
def undisturbed(path: str | None) -> Iterator[None]:
    """Both, or nothing for None."""
    with locked(path), raised_priority(path is not None):
        yield


def _set_priority(policy: int, level: int) -> None:
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(int(task), policy, os.sched_param(level))
