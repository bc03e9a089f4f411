"""The instructions of one function while it is built: each pure one once, as far out as it may stand, none unused.

A function is a nest of scopes: loops and conditions. A pure instruction goes in front of the outermost
loop in which all its operands are known already, and one that is there is not made again. What nobody
uses is left out of the text. So LLVM's passes for invariants, common expressions and dead code have nothing
to do, and kernels are compiled without them. Invariant: an instruction stands behind its operands on every way.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import field

from graphc.ir.records import dataclass

__all__ = ["Instructions"]

_INTEGER = ("add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr", "icmp")
_DIVISION = ("udiv", "sdiv", "urem", "srem")
_FLOAT = ("fadd", "fsub", "fmul", "fdiv", "fneg", "fcmp")
_CAST = ("sext", "zext", "trunc", "fpext", "fptrunc", "bitcast", "sitofp", "uitofp", "fptosi", "fptoui")
_MOVE = ("select", "getelementptr", "extractelement", "insertelement", "shufflevector")
_PURE = frozenset((*_INTEGER, *_DIVISION, *_FLOAT, *_CAST, *_MOVE))
"""Instructions whose value depends on their operands alone: the same one again is the same value."""

_PURE_CALLS = ("fma", "fabs", "sqrt", "floor", "ceil", "trunc", "rint", "smin", "smax", "umin", "umax")
_PURE_CALL = re.compile(rf"call [^@]*@llvm\.(?:{'|'.join(_PURE_CALLS)})\.")
_NAME = re.compile(r"%[\w.]+")
_NONZERO = re.compile(r"[udsrem iv]+\d+ \S+, [1-9]\d*$")
"""A scalar division by a constant that is not 0, which may run where nobody asked for it."""

Line = str | tuple[str, str] | list["Line"]
"""Text as it is; name and text of an instruction that goes where nobody uses it; a place for more lines."""


@dataclass
class _Scope:
    """A loop's or condition's inside; the function itself is the outermost."""

    before: list[Line] | None = None
    """Where instructions go that a loop repeats in vain; None of a condition."""
    known: list[Hashable] = field(default_factory=list)
    """Texts of the instructions whose values are there from here to the scope's end."""


class Instructions:
    """Lines in the order of the text."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._scopes = [_Scope()]
        self._known: dict[Hashable, str] = {}
        """Names of the values that are there now, by text."""
        self._levels: dict[str, int] = {}
        """How many scopes stand around the place from which a value is known."""
        self._operands: dict[str, list[str]] = {}
        """Of instructions that may be left out."""
        self._next = 0

    def number(self) -> int:
        """A number that no name holds yet."""
        self._next += 1
        return self._next - 1

    def add(self, line: str) -> None:
        """Appends text that stays: a label, a store, a branch."""
        self._lines.append(line)

    def place(self) -> list[Line]:
        """A place here for lines that come later."""
        made: list[Line] = []
        self._lines.append(made)
        return made

    def define(self, type_: str, text: str) -> str:
        """Adds an instruction that makes a value of `type_`, unless the value is known; returns its name."""
        found = self._known.get(text)
        if found is not None:
            return found
        operation, _, rest = text.partition(" ")
        if operation in _DIVISION and not _NONZERO.match(text):
            return self._placed(text, _NAME.findall(rest), len(self._scopes) - 1, self._lines)
        if operation in _PURE or (operation == "call" and _PURE_CALL.match(text)):
            operands = _NAME.findall(rest)
            return self._placed(text, operands, *self._outermost(type_, operands))
        if operation == "phi" or (operation == "load" and not rest.startswith(("atomic", "volatile"))):
            return self.optional(text, _NAME.findall(rest))
        name = f"%v{self._next}"
        self._next += 1
        self._lines.append(f"  {name} = {text}")
        self._levels[name] = len(self._scopes) - 1
        return name

    def optional(self, text: str, operands: list[str]) -> str:
        """Adds an instruction here that is left out where nobody uses its value."""
        name = f"%v{self._next}"
        self._next += 1
        self._lines.append((name, text))
        self._operands[name] = operands
        self._levels[name] = len(self._scopes) - 1
        return name

    def pure(self, type_: str, text: str, operands: list[str]) -> str:
        """As `define` for a pure instruction that is no division; `operands` are the names that it uses."""
        found = self._known.get(text)
        if found is not None:
            return found
        return self._placed(text, operands, *self._outermost(type_, operands))

    def _placed(self, text: str, operands: list[str], level: int, lines: list[Line]) -> str:
        """Adds a pure instruction at a place; its name."""
        name = f"%v{self._next}"
        self._next += 1
        self._known[text] = name
        self._scopes[level].known.append(text)
        self._levels[name] = level
        lines.append((name, text))
        self._operands[name] = operands
        return name

    def _outermost(self, type_: str, operands: list[str]) -> tuple[int, list[Line]]:
        """Where a pure instruction goes: in front of the outermost loop that its operands do not change in."""
        scopes = self._scopes
        here = len(scopes) - 1
        if not operands or type_.endswith("x i1>"):
            # Between blocks, vectors of bits are kept in a wider form, and it takes longer to make that than to
            # make most of them again; what is made of constants is folded only where it is used.
            return here, self._lines
        level, levels = 0, self._levels
        for operand in operands:
            at = levels.get(operand, here)
            if at > level:
                level = at
        while level < here:
            level += 1
            before = scopes[level].before
            if before is not None:
                return level - 1, before
        return here, self._lines

    def recall(self, key: Hashable) -> str | None:
        """What was remembered under a key on every way to here."""
        return self._known.get(key)

    def remember(self, key: Hashable, name: str) -> None:
        """Keeps a name under a key, which is no instruction's text, to the end of this scope or block."""
        self._known[key] = name
        self._scopes[-1].known.append(key)

    def level(self, name: str) -> int:
        """How deep in loops and conditions a value is that is known here."""
        return self._levels.get(name, len(self._scopes) - 1)

    def known_from_start(self, name: str) -> None:
        """Says that a value is there throughout the function: a parameter, a stack slot."""
        self._levels[name] = 0

    def known_here(self, name: str) -> None:
        """Says that a value of an inner scope is known from here on."""
        self._levels[name] = len(self._scopes) - 1

    def phi(self, lines: list[Line], name: str, text: str) -> None:
        """Adds a phi of a given name to a place at the head of a block."""
        lines.append((name, text))
        self._operands[name] = _NAME.findall(text)

    def forget(self) -> None:
        """A block begins on whose way not all of this scope's instructions need to lie."""
        known = self._scopes[-1].known
        for text in known:
            self._known.pop(text, None)
        known.clear()

    @contextmanager
    def scope(self, before: list[Line] | None = None) -> Iterator[None]:
        """A loop's inside, with the place in front of it, or a condition's."""
        self._scopes.append(_Scope(before))
        yield
        self.forget()
        self._scopes.pop()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Code that is not wanted: what stays in it is dropped."""
        kept, self._lines = self._lines, []
        with self.scope():
            yield
        self._lines = kept

    def text(self) -> list[str]:
        """The lines whose values are used, and those that stay."""
        flat: list[str | tuple[str, str]] = []
        _flatten(self._lines, flat)
        wanted = _NAME.findall("\n".join([line for line in flat if line.__class__ is str]))
        used: set[str] = set()
        operands = self._operands
        while wanted:
            name = wanted.pop()
            if name not in used:
                used.add(name)
                wanted += operands.get(name, ())
        found = []
        for line in flat:
            if isinstance(line, str):
                found.append(line)
            elif line[0] in used:
                found.append(f"  {line[0]} = {line[1]}")
        return found


def _flatten(lines: list[Line], flat: list[str | tuple[str, str]]) -> None:
    for line in lines:
        if isinstance(line, list):
            _flatten(line, flat)
        else:
            flat.append(line)
