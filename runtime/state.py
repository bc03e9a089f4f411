"""Process-wide words that the call entry compares: the mutation epoch and threads' grad modes.

The epoch is raised by whatever may change what a traced program would have seen, and by less where something is
recorded that a call has to evaluate first. A thread is
in the default grad mode (enabled) unless it stands in a small native table by the number of
its interpreter thread state, which is never used twice; so a call made while every thread is
in the default mode looks at one word only. Everything here runs under the interpreter lock.
"""

from __future__ import annotations

import ctypes

from graphc.runtime.layout import STATE, Words
from graphc.runtime.process import STATE_WORDS

__all__ = [
    "bump_epoch",
    "bump_pending",
    "bump_stamp",
    "epoch",
    "grad_mode",
    "same_guards",
    "set_grad_mode",
    "stamp",
]

_EPOCH = STATE.offset["epoch"]
_STAMP = STATE.offset["stamp"]
_COUNT = STATE.offset["grad_count"]
_TABLE = STATE.offset["grad_table"]
_GUARDED = 1 << 24
"""The epoch's lower bits count what only has to be evaluated before a call."""
_DEFAULT_MODE = 1
_CAPACITY = 4096

_table = Words([0] * (2 * _CAPACITY), permanent=True)
_words = STATE_WORDS
_cells = STATE_WORDS.cells
_words[_TABLE] = _table.address

_current = ctypes.pythonapi.PyThreadState_Get
_current.restype = ctypes.c_void_p
_identity = ctypes.pythonapi.PyThreadState_GetID
_identity.restype = ctypes.c_uint64
_identity.argtypes = [ctypes.c_void_p]


def epoch() -> int:
    """The mutation epoch."""
    return _words[_EPOCH]


def bump_epoch() -> None:
    """Makes every compiled call check its guards once more."""
    _cells[_EPOCH] += _GUARDED


def bump_pending() -> None:
    """Makes every compiled call evaluate what is recorded once more; its guards hold as they did."""
    _cells[_EPOCH] += 1


def stamp() -> int:
    """What a native record made now has as its stamp; records with another one are not looked at."""
    return _words[_STAMP]


def bump_stamp() -> None:
    """Has all native records made again, since tensors may have come to require grad in other ways than by name."""
    _cells[_STAMP] += 1


def same_guards(before: int, after: int) -> bool:
    """True where nothing between two epochs has changed what guards look at."""
    return before // _GUARDED == after // _GUARDED


def _position() -> tuple[int, int]:
    """This thread's number and its position in the table, or the table's length."""
    identity = _identity(_current())
    for position in range(_words[_COUNT]):
        if _table[2 * position] == identity:
            return identity, position
    return identity, _words[_COUNT]


def grad_mode() -> int:
    """The grad mode word of this thread; 1, the default, is enabled."""
    if _words[_COUNT] == 0:
        return _DEFAULT_MODE
    _, position = _position()
    return _table[2 * position + 1] if position < _words[_COUNT] else _DEFAULT_MODE


def set_grad_mode(mode: int) -> None:
    """Sets this thread's grad mode word: 1 enabled (the default), 0 disabled, others as the caller likes.

    Raises RuntimeError where more than 4096 threads are out of the default mode at once.
    """
    identity, position = _position()
    count = _words[_COUNT]
    if mode == _DEFAULT_MODE:
        if position < count:
            # The last entry takes the place of the one that leaves.
            _table[2 * position] = _table[2 * (count - 1)]
            _table[2 * position + 1] = _table[2 * (count - 1) + 1]
            _words[_COUNT] = count - 1
        return
    if position == _CAPACITY:
        raise RuntimeError(f"more than {_CAPACITY} threads have switched gradients off")
    _table[2 * position] = identity
    _table[2 * position + 1] = mode
    _words[_COUNT] = max(count, position + 1)
