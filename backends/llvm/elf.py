"""What an ELF object defines and what it leaves to the linker.

Only 64-bit little-endian relocatable files, as `compile_text` makes for Linux targets.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["Symbols", "read_symbols"]

_SYMBOL_TABLE = 2
_LOCAL = 0
_NAMED_KINDS = (0, 1, 2)  # no type, object, function


class Symbols(NamedTuple):
    """Names of global symbols of one object."""

    defined: frozenset[str]
    undefined: frozenset[str]


def read_symbols(code: bytes) -> Symbols:
    """Global symbols of an object. Raises ValueError for anything but a 64-bit little-endian ELF file."""
    if code[:6] != b"\x7fELF\x02\x01":
        raise ValueError("expected a 64-bit little-endian ELF object")
    (table,) = struct.unpack_from("<Q", code, 40)
    entry_size, count = struct.unpack_from("<HH", code, 58)
    defined: set[str] = set()
    undefined: set[str] = set()
    for index in range(count):
        kind, offset, size, link = _section(code, table + index * entry_size)
        if kind != _SYMBOL_TABLE:
            continue
        strings = _section(code, table + link * entry_size)[1]
        for at in range(offset + 24, offset + size, 24):
            name, info, _, section = struct.unpack_from("<IBBH", code, at)
            if info >> 4 == _LOCAL or info & 15 not in _NAMED_KINDS or name == 0:
                continue
            start = strings + name
            text = code[start : code.index(b"\0", start)].decode()
            (undefined if section == 0 else defined).add(text)
    return Symbols(frozenset(defined), frozenset(undefined))


def _section(code: bytes, at: int) -> tuple[int, int, int, int]:
    """Type, file offset, size and link of the section header at `at`."""
    _, kind, _, _, offset, size, link = struct.unpack_from("<IIQQQQI", code, at)
    return kind, offset, size, link
