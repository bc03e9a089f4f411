"""Failed checks: the error word that kernels report, and the messages that name the number at fault.

The word is `code << NUMBER_BITS | number + BIAS`: the code is the check's position + 1, the number is
clamped. So the smallest word is the first check that failed, and of its numbers the smallest: the same
whatever threads and lanes found it.
"""

from __future__ import annotations

import re
from typing import NoReturn

from graphc.ir.dims import Dim

__all__ = ["BIAS", "NUMBER_BITS", "check_text", "error_word", "failed_check", "failure_text", "raise_failure"]

NUMBER_BITS = 40
BIAS = 1 << (NUMBER_BITS - 1)
_PLACE = re.compile(r"\{(?:index|wrapped (\d+))\}")
_UNNAMED = re.compile(r"\{[^}]*\} ?")


def error_word(code: int, number: int) -> int:
    """The word of check `code` (from 1) that failed on `number`."""
    return (code << NUMBER_BITS) + max(-BIAS, min(BIAS - 1, number)) + BIAS


def failed_check(word: int) -> tuple[int, int]:
    """(code, number) of an error word that is not 0."""
    return word >> NUMBER_BITS, (word & ((1 << NUMBER_BITS) - 1)) - BIAS


def check_text(check: str | None, axis: int, size: Dim) -> str | None:
    """A check's text for an index into dimension `axis` of extent `size`.

    Texts may hold `{axis}`, `{size}`, `{index}` (the number that failed) and `{wrapped}` (the number
    before negative ones were counted from the end).
    """
    if check is None:
        return None
    filled = check.replace("{axis}", str(axis)).replace("{size}", str(size))
    return filled.replace("{wrapped}", f"{{wrapped {size}}}" if isinstance(size, int) else "{index}")


def failure_text(message: str, number: int | None) -> str:
    """The message with the number at fault in its place; without its place where `number` is None."""
    if number is None:
        return _UNNAMED.sub("", message)

    def spelt(found: re.Match[str]) -> str:
        size = found.group(1)
        return str(number - int(size) if size is not None and number < 0 else number)

    return _PLACE.sub(spelt, message)


def raise_failure(check: str, number: int) -> NoReturn:
    """Raises what a check ("ExceptionClass: message") says, for interpreters."""
    kind, _, message = check.partition(": ")
    raise {"IndexError": IndexError, "RuntimeError": RuntimeError}[kind](failure_text(message, number))
