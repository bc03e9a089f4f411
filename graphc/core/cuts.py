"""Cuts: places where recorded mode evaluates, so that every iteration of a loop is the same program."""

from __future__ import annotations

from graphc.core.evaluate import evaluate
from graphc.core.recording import Recording, current

__all__ = ["enter_outermost", "mark_cut"]

LEAST_ENTRIES = 64
"""Recordings shorter than this are not worth a cut."""


def enter_outermost(recording: Recording, module: object) -> None:
    """Called where a Module is entered that is inside of no other.

    Entering one that is in the recording already starts another iteration: evaluates the one before. A short one
    waits, unless a `backward` has ended it: the next would cut there anyway, but hold both iterations' data.
    """
    if recording.trace is not None:
        return
    if id(module) in recording.modules and (recording.cut or len(recording.entries) >= LEAST_ENTRIES):
        evaluate(recording)
    recording.modules.add(id(module))


def mark_cut() -> None:
    """The end of an optimiser step: evaluates what is recorded; nothing while tracing."""
    recording = current()
    if recording.trace is None:
        evaluate(recording)
