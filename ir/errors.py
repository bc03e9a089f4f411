"""Errors of graphc. Each knows the line of user code that it is about, where there is one."""

from __future__ import annotations

__all__ = [
    "CompileError",
    "Error",
    "LoadError",
    "MissingToolError",
    "TraceError",
    "VerifyError",
    "located",
]


class Error(RuntimeError):
    """Root of graphc's own errors.

    `filename` and `lineno` name the user's code, or are None where no line is at fault.
    """

    def __init__(self, message: str, *, filename: str | None = None, lineno: int | None = None) -> None:
        super().__init__(message if filename is None else f"{message}\n  at {filename}:{lineno}")
        self.filename = filename
        self.lineno = lineno


class TraceError(Error):
    """The program cannot be recorded as a graph (a value was asked for while tracing, …)."""


class CompileError(Error):
    """A graph cannot be compiled for the target."""


class VerifyError(Error):
    """An invariant of the intermediate representation does not hold: a defect in graphc."""


class LoadError(Error):
    """A file is damaged, truncated, foreign or malicious. Nothing in it was executed."""


class MissingToolError(Error):
    """A tool or optional package is absent; the message names what to install."""


def located(error: type[Exception], message: str, filename: str | None, lineno: int | None) -> Exception:
    """An exception of PyTorch's kind that carries the user's line like graphc's own errors do."""
    text = message if filename is None else f"{message}\n  at {filename}:{lineno}"
    result = error(text)
    result.filename = filename  # type: ignore[attr-defined]
    result.lineno = lineno  # type: ignore[attr-defined]
    return result
