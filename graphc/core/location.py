"""The user's line: the nearest frame that is not graphc's own code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from types import CodeType

from graphc.ir.errors import Error
from graphc.ir.graph import Location

__all__ = ["annotate", "locate", "user_location", "warn_user"]

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
# The packages beside graphc/ are reached through links; frames name the path they were imported by.
_own: dict[str, bool] = {}
# By identity of code and by instruction: hashing code objects and decoding line tables is slow.
_locations: dict[tuple[int, int], tuple[CodeType, Location]] = {}


def user_location() -> Location | None:
    """File and line of the innermost caller outside graphc, or None where there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        own = _own.get(code.co_filename)
        if own is None:
            own = _own[code.co_filename] = os.path.abspath(code.co_filename).startswith(_ROOT)
        if not own:
            key = (id(code), frame.f_lasti)
            found = _locations.get(key)
            if found is None or found[0] is not code:
                if len(_locations) > 100_000:
                    _locations.clear()
                    _own.clear()
                found = _locations[key] = (code, Location(code.co_filename, frame.f_lineno))
            return found[1]
        frame = frame.f_back  # type: ignore[assignment]
    return None


def warn_user(message: str) -> None:
    """A UserWarning at the user's line, however many of our own frames are in between."""
    where = user_location()
    if where is None:
        warnings.warn(message, stacklevel=2)
    else:
        warnings.warn_explicit(message, UserWarning, where.filename, where.lineno)


def locate(error: Error) -> None:
    """Gives one of our own errors the user's line that its traceback names, and the function of ours called there."""
    if error.lineno is not None and "\n  at " in str(error):
        return
    found, called = None, ""
    for frame, lineno in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if not os.path.abspath(name).startswith(_ROOT):
            found, called = (name, lineno), ""
        elif not called:
            called = frame.f_code.co_name
    if found is not None:
        error.filename, error.lineno = found
        prefix = f"{called}: " if called and not called.startswith("_") else ""
        error.args = (f"{prefix}{error}\n  at {found[0]}:{found[1]}",)


def annotate(error: Exception) -> None:
    """Gives an exception `.filename`, `.lineno` of the user's code and a note that names them."""
    if getattr(error, "lineno", None) is None:
        location = user_location()
        if location is not None:
            error.filename = location.filename  # type: ignore[attr-defined]
            error.lineno = location.lineno  # type: ignore[attr-defined]
            error.add_note(f"at {location}")
