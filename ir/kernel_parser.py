"""Reads kernel text as `graphc.ir.kernel_printer` writes it. Nothing is evaluated.

A `to_index` symbol is bounded by its extent, an axis by its own; any other name in an index is
a symbol with bounds [0, ∞).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from graphc.ir.attributes import parse_attribute
from graphc.ir.dims import Dim, Symbol, parse_dim
from graphc.ir.kernel import (
    Combine,
    Instruction,
    Kernel,
    KernelBuffer,
    Link,
    Loop,
    Schedule,
    Stage,
    new_axis,
)
from graphc.ir.scalar import BINARY, COMPARE, TERNARY, UNARY, Guard
from graphc.ir.types import DTYPES, DType, TensorType

__all__ = ["parse_kernel"]

_HEAD = re.compile(r"kernel \((.*)\) axes \((.*?)\) checks (\d+)(?: sizes \((.*)\))? \{$")
_SIZE = re.compile(r"(\$\w+): (\d+)\.\.(\d*)$")
_BUFFER = re.compile(r"b(\d+): (.+) (in|out|inout|local)$")
_STAGE = re.compile(r"(map|reduce|scatter) \((.*?)\)(?: init \((.*)\))? \{$")
_LINK = re.compile(r"link \((.*)\)$")
_PARTIAL = re.compile(r"partial \((.*)\)$")
_COMBINE = re.compile(r"\} combine \((.*?)\) \((.*?)\) \{$")
_END = re.compile(r"\}(?: -> \((.*)\))?$")
_RESULT = re.compile(r"%(\d+): (\w+) = (\w+) ?(.*)$")
_LOAD = re.compile(r"b(\d+)\[(.*?)\](?: where \((.*)\) else %(\d+))?$")
_STORE = re.compile(r"store b(\d+)\[(.*?)\] (\+?=) %(\d+) as (\w+)(?: where \((.*)\))?$")
_TO_INDEX = re.compile(r"%(\d+) below (.+?)(?: check (\d+))?$")
_GUARD = re.compile(r"(.+) in (.+) \.\. (.+)$")
_AXIS = re.compile(r"(\w+) < (.+)$")
_LOOP = re.compile(r"(\w+) (parallel|vector|tile|unroll|sequential)(?: (\d+))?$")
_PLAIN = frozenset((*UNARY, *BINARY, *COMPARE, *TERNARY, "cast"))


def parse_kernel(text: str) -> Kernel:
    """The kernel that `kernel_text` spelt. Raises ValueError naming the line that is wrong."""
    parser = _Parser(text)
    kernel = parser.kernel()
    if parser.at < len(parser.lines):
        parser.fail("unexpected text after the kernel")
    return kernel


class _Parser:
    def __init__(self, text: str) -> None:
        numbered = enumerate((line.partition("#")[0].strip() for line in text.splitlines()), 1)
        self.lines = [(n, line) for n, line in numbered if line]
        self.at = 0
        self.known: dict[str, Symbol] = {}

    # -- lines ------------------------------------------------------------------------

    def peek(self) -> str:
        return self.lines[self.at][1] if self.at < len(self.lines) else ""

    def take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        match = pattern.match(self.peek())
        if match is None:
            self.fail(f"expected {what}")
        self.at += 1
        return match

    def fail(self, message: str) -> NoReturn:
        number, line = self.lines[self.at] if self.at < len(self.lines) else (0, "the end of the text")
        raise ValueError(f"kernel text, line {number}: {message}, got {line!r}")

    # -- structure --------------------------------------------------------------------

    def kernel(self) -> Kernel:
        head = self.take(_HEAD, "kernel (…) axes (…) checks n {")
        for text in _split(head.group(4) or ""):
            self.size(text)
        buffers = tuple(self.buffer(n, t) for n, t in enumerate(_split(head.group(1))))
        axes = self.axes(head.group(2))
        stages = []
        while _STAGE.match(self.peek()):
            stages.append(self.stage())
        partial: tuple[int, ...] = ()
        if match := _PARTIAL.match(self.peek()):
            self.at += 1
            partial = _buffers(match.group(1))
        links = []
        while match := _LINK.match(self.peek()):
            self.at += 1
            known, self.known = self.known, {}
            links.append(Link(self.kernel(), _buffers(match.group(1))))
            self.known = known
        schedule = self.schedule() if self.peek().startswith("schedule") else None
        self.take(re.compile(r"\}$"), "}")
        return Kernel(buffers, axes, tuple(stages), int(head.group(3)), schedule, tuple(links), partial)

    def buffer(self, number: int, text: str) -> KernelBuffer:
        match = _BUFFER.match(text)
        if match is None or int(match.group(1)) != number:
            raise ValueError(f"kernel text: expected b{number}: type access, got {text!r}")
        return KernelBuffer(TensorType.parse(match.group(2), self.known), match.group(3))  # type: ignore[arg-type]

    def size(self, text: str) -> None:
        match = _SIZE.match(text)
        if match is None:
            raise ValueError(f"kernel text: expected $name: low..high, got {text!r}")
        name, low, high = match.groups()
        self.known[name] = Symbol(name, int(low), int(high) if high else None)

    def axes(self, text: str) -> tuple[Symbol, ...]:
        found = []
        for part in _split(text):
            match = _AXIS.match(part)
            if match is None:
                raise ValueError(f"kernel text: expected axis < extent, got {part!r}")
            name, size = match.groups()
            found.append(Symbol(name) if size == "?" else new_axis(name, parse_dim(size, self.known)))
        self.known.update((a.name, a) for a in found)
        return tuple(found)

    def stage(self) -> Stage:
        head = self.take(_STAGE, "a stage")
        kind, axes, init_text = head.groups()
        symbols = self.axes(axes)
        init = tuple(self.initial(t) for t in _split(init_text or ""))
        body = self.body()
        combine = self.combine() if self.peek().startswith("} combine") else None
        results = self.take(_END, "} or } -> (…)").group(1)
        for a in symbols:
            del self.known[a.name]
        if init and body and body[-1].opcode == "yield":
            body = (*body[:-1], replace(body[-1], dtype=init[0][0]))
        return Stage(kind, symbols, body, init, combine, _numbers(results or ""))  # type: ignore[arg-type]

    def initial(self, text: str) -> tuple[DType, Any]:
        name, _, value = text.partition(" ")
        return self.dtype(name), parse_attribute(value)

    def body(self) -> tuple[Instruction, ...]:
        found = []
        while not self.peek().startswith("}"):
            found.append(self.instruction())
            self.at += 1
        return tuple(found)

    def combine(self) -> Combine:
        head = self.take(_COMBINE, "} combine (…) (…) {")
        body = self.body()
        if not body or body[-1].opcode != "yield":
            self.fail("expected a yield at the end of the combine body before this line")
        left, right = _numbers(head.group(1)), _numbers(head.group(2))
        return Combine(left, right, body[:-1], body[-1].operands)

    def schedule(self) -> Schedule:
        head = self.take(
            re.compile(
                r"schedule (loops|contraction|vector_contraction|tiled_windows|chain) parts (\d+)"
                r'(?: plan "([\w= ]+)")? \{$'
            ),
            'schedule loops|contraction|vector_contraction|tiled_windows|chain parts n [plan "name"] {',
        )
        engine: Any = head.group(1)
        parts = int(head.group(2))
        loops = self.loops(self.take(re.compile(r"loops ?(.*)$"), "loops …").group(1))
        stages = []
        while self.peek().startswith("stage"):
            stages.append(self.loops(self.take(re.compile(r"stage ?(.*)$"), "stage …").group(1)))
        self.take(re.compile(r"\}$"), "}")
        return Schedule(loops, tuple(stages), parts, engine, head.group(3) or "")

    def loops(self, text: str) -> tuple[Loop, ...]:
        found = []
        for part in _split(text):
            match = _LOOP.match(part)
            if match is None:
                raise ValueError(f"kernel text: expected axis role [size], got {part!r}")
            found.append(Loop(match.group(1), match.group(2), int(match.group(3) or 0)))  # type: ignore[arg-type]
        return tuple(found)

    # -- instructions -----------------------------------------------------------------

    def instruction(self) -> Instruction:
        line = self.peek()
        if line.startswith("yield"):
            return Instruction(-1, "yield", DTYPES["bool"], _numbers(line.removeprefix("yield")))
        if line.startswith("store"):
            return self.store(line)
        match = _RESULT.match(line)
        if match is None:
            self.fail("expected an instruction")
        number, dtype, opcode, rest = (
            int(match.group(1)),
            self.dtype(match.group(2)),
            match.group(3),
            match.group(4),
        )
        match opcode:
            case "const":
                return Instruction(number, opcode, dtype, value=parse_attribute(rest))
            case "index":
                return Instruction(number, opcode, dtype, index=(self.dim(rest),))
            case "load":
                return self.load(number, dtype, rest)
            case "to_index":
                return self.to_index(number, dtype, rest)
        if opcode not in _PLAIN:
            self.fail(f"unknown opcode {opcode!r}")
        return Instruction(number, opcode, dtype, _numbers(rest))

    def store(self, line: str) -> Instruction:
        match = _STORE.match(line)
        if match is None:
            self.fail("expected store b[…] = % as dtype")
        buffer, index, sign, value, dtype, guards = match.groups()
        return Instruction(
            -1,
            "store",
            self.dtype(dtype),
            (int(value),),
            "add" if sign == "+=" else None,
            int(buffer),
            self.dims(index),
            self.guards(guards),
        )

    def load(self, number: int, dtype: DType, rest: str) -> Instruction:
        match = _LOAD.match(rest)
        if match is None:
            self.fail("expected load b[…]")
        buffer, index, guards, fill = match.groups()
        operands = () if fill is None else (int(fill),)
        return Instruction(
            number, "load", dtype, operands, None, int(buffer), self.dims(index), self.guards(guards)
        )

    def to_index(self, number: int, dtype: DType, rest: str) -> Instruction:
        match = _TO_INDEX.match(rest)
        if match is None:
            self.fail("expected to_index % below extent")
        extent = self.dim(match.group(2))
        check = match.group(3)
        symbol = new_axis(f"%{number}", extent)
        self.known[symbol.name] = symbol
        value = None if check is None else int(check)
        return Instruction(number, "to_index", dtype, (int(match.group(1)),), value, index=(extent,))

    def dtype(self, name: str) -> DType:
        if name not in DTYPES:
            self.fail(f"unknown dtype {name!r}")
        return DTYPES[name]

    def dim(self, text: str) -> Dim:
        return parse_dim(text, self.known)

    def dims(self, text: str) -> tuple[Dim, ...]:
        return tuple(self.dim(t) for t in _split(text))

    def guards(self, text: str | None) -> tuple[Guard, ...]:
        found = []
        for part in text.split(";") if text else ():
            match = _GUARD.match(part.strip())
            if match is None:
                self.fail("expected x in low .. high")
            found.append((self.dim(match.group(1)), self.dim(match.group(2)), self.dim(match.group(3))))
        return tuple(found)


def _buffers(text: str) -> tuple[int, ...]:
    return tuple(int(t.strip().removeprefix("b")) for t in text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(t.strip().removeprefix("%")) for t in text.split(",") if t.strip())


def _split(text: str) -> Sequence[str]:
    """Splits at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts
