"""Grad mode: whether recorded operations go on the tape. One flag a thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast

__all__ = [
    "enable_grad",
    "inference_mode",
    "is_grad_enabled",
    "no_grad",
    "on_grad_mode_change",
    "set_grad_enabled",
    "unrecorded",
]

F = TypeVar("F", bound=Callable[..., Any])


class _Mode(threading.local):
    enabled = True


_mode = _Mode()
_listeners: list[Callable[[bool], None]] = []


def on_grad_mode_change(listener: Callable[[bool], None]) -> None:
    """Calls `listener(enabled)` whenever a thread's grad mode changes, in that thread."""
    _listeners.append(listener)


def is_grad_enabled() -> bool:
    """True where operations on tensors that require grad are recorded for `backward`."""
    return _mode.enabled


def _set(enabled: bool) -> None:
    if _mode.enabled != enabled:
        _mode.enabled = enabled
        for listener in _listeners:
            listener(enabled)


class _GradMode:
    """A context manager and decorator that sets grad mode and puts the old one back."""

    mode = True

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self._before: list[bool] = []
        self._function = function
        if function is not None:
            functools.update_wrapper(self, function)

    def __enter__(self) -> None:
        self._before.append(_mode.enabled)
        _set(self.mode)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set(self._before.pop())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._function is not None:  # used as a bare decorator: @no_grad
            with type(self)():
                return self._function(*args, **kwargs)
        return self._decorate(args[0])

    def _decorate(self, function: F) -> F:
        kind = type(self)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with kind():
                return function(*args, **kwargs)

        return cast(F, wrapped)


class unrecorded:
    """As `no_grad` for our own recording, which calls no function of the user: compiled calls are not told."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = _mode.enabled
        _mode.enabled = False

    def __exit__(self, *error: object) -> None:
        _mode.enabled = self._before


class no_grad(_GradMode):
    """Operations inside are not recorded for `backward`."""

    mode = False


class enable_grad(_GradMode):
    """Operations inside are recorded for `backward`, also within `no_grad`."""

    mode = True


class inference_mode(_GradMode):
    """As `no_grad`; `mode=False` leaves recording on."""

    def __init__(self, mode: bool | Callable[..., Any] = True) -> None:
        super().__init__(mode if callable(mode) else None)
        self.mode = not mode if isinstance(mode, bool) else False


class set_grad_enabled(_GradMode):
    """Sets grad mode at once; as a context manager it puts the old mode back."""

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.mode = bool(mode)
        self._outer = _mode.enabled
        _set(self.mode)

    def __enter__(self) -> None:
        self._before.append(self._outer)
        _set(self.mode)
