"""ELF objects: what one defines and leaves to the linker, and objects that hold nothing but data.

Only 64-bit little-endian relocatable files, as `compile_text` makes for Linux targets. Data
goes straight into the file: weights of any size never pass through LLVM.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Symbols", "data_object", "read_symbols"]

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


_MACHINES = {"x86_64": 62, "aarch64": 183}
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_PROGBITS, _STRTAB = 1, 3
_ALLOCATED = 2
_GLOBAL_OBJECT = 1 << 4 | 1
_HIDDEN = 2


def _padded(content: bytes, align: int) -> bytes:
    return content + bytes(-len(content) % align)


def data_object(data: Mapping[str, bytes], arch: str, *, align: int = 64) -> bytes:
    """An object with one read-only section that defines a hidden symbol for each entry of `data`.

    `arch` is `x86_64` or `aarch64`; every entry starts at a multiple of `align` bytes.
    """
    contents: list[bytes] = []
    names = b"\0"
    symbols = [_SYMBOL.pack(0, 0, 0, 0, 0, 0)]
    offset = 0
    for symbol, value in data.items():
        symbols.append(_SYMBOL.pack(len(names), _GLOBAL_OBJECT, _HIDDEN, 1, offset, len(value)))
        names += symbol.encode() + b"\0"
        contents.append(_padded(value, align))
        offset += len(contents[-1])
    section_names = b"\0.rodata\0.symtab\0.strtab\0.shstrtab\0.note.GNU-stack\0"
    start = _padded(bytes(_HEADER.size), align)
    bodies = [b"".join(contents), b"".join(symbols), names, section_names]
    offsets = []
    position = len(start)
    for body in bodies:
        offsets.append(position)
        position += len(body) + -len(body) % 8
    kinds = (
        # name, type, flags, link, first global symbol, alignment, entry size
        (b".rodata", _PROGBITS, _ALLOCATED, 0, 0, align, 0),
        (b".symtab", _SYMBOL_TABLE, 0, 3, 1, 8, _SYMBOL.size),
        (b".strtab", _STRTAB, 0, 0, 0, 1, 0),
        (b".shstrtab", _STRTAB, 0, 0, 0, 1, 0),
    )
    headers = [bytes(_SECTION.size)]
    for (name, kind, flags, link, info, alignment, entry), at, body in zip(
        kinds, offsets, bodies, strict=True
    ):
        label = section_names.index(name + b"\0")
        headers.append(_SECTION.pack(label, kind, flags, 0, at, len(body), link, info, alignment, entry))
    stack = section_names.index(b".note.GNU-stack")
    headers.append(_SECTION.pack(stack, _PROGBITS, 0, 0, position, 0, 0, 0, 1, 0))
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = _HEADER.pack(
        ident, 1, _MACHINES[arch], 1, 0, 0, position, 0, _HEADER.size, 0, 0, _SECTION.size, len(headers), 4
    )
    return b"".join((_padded(head, align), *(_padded(b, 8) for b in bodies), *headers))
