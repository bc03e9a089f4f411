"""LLVM IR as text: a module under construction and a builder of one function.

This is the only place that knows LLVM's textual syntax. Everything above it (vector
mathematics, kernel code generation, the contraction engine, the native run-time pieces)
speaks in typed `Val`s. No fast-math flag is ever written: an operation means exactly what
its name says, so a kernel's bits do not depend on how it was fused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from graphc.ir.target import Target

__all__ = ["Builder", "ModuleText", "Val", "element", "float_literal", "lanes", "vector"]


@dataclass(frozen=True, slots=True)
class Val:
    """An LLVM value: its type text (`"<8 x float>"`) and its spelling (`"%12"`, `"7"`)."""

    type: str
    text: str

    def __str__(self) -> str:
        return f"{self.type} {self.text}"


def lanes(type_: str) -> int:
    """Number of lanes of an LLVM type; 1 for a scalar."""
    return int(type_[1 : type_.index(" ")]) if type_.startswith("<") else 1


def element(type_: str) -> str:
    """Element type of a vector type; the type itself for a scalar."""
    return type_[type_.index("x ") + 2 : -1] if type_.startswith("<") else type_


def vector(type_: str, width: int) -> str:
    """The vector of `width` lanes of the scalar `type_`; the scalar itself for width 1."""
    return type_ if width == 1 else f"<{width} x {type_}>"


def float_literal(type_: str, value: float) -> str:
    """The exact LLVM literal of `value` rounded once to the scalar float type `type_`."""
    if type_ == "half":
        return "0xH" + struct.pack(">e", value).hex().upper()
    if type_ == "bfloat":
        bits = int.from_bytes(struct.pack(">f", value), "big")
        if value == value:
            bits += 0x7FFF + ((bits >> 16) & 1)
        return f"0xR{(bits >> 16) & 0xFFFF:04X}"
    if type_ == "float":
        value = _round_to_float32(value)
    return "0x" + struct.pack(">d", value).hex().upper()


def _round_to_float32(value: float) -> float:
    try:
        rounded: float = struct.unpack(">f", struct.pack(">f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return rounded


_INTEGER = (
    "add",
    "sub",
    "mul",
    "udiv",
    "sdiv",
    "urem",
    "srem",
    "and",
    "or",
    "xor",
    "shl",
    "lshr",
    "ashr",
    "icmp",
)
_FLOAT = ("fadd", "fsub", "fmul", "fdiv", "fneg", "fcmp")
_CAST = ("sext", "zext", "trunc", "fpext", "fptrunc", "bitcast", "sitofp", "uitofp", "fptosi", "fptoui")
_MOVE = ("select", "getelementptr", "extractelement", "insertelement", "shufflevector")
_PURE = frozenset((*_INTEGER, *_FLOAT, *_CAST, *_MOVE))
"""Instructions whose value depends on their operands alone: the same one again is the same value."""

_PURE_CALLS = (
    "@llvm.fma.",
    "@llvm.fabs.",
    "@llvm.sqrt.",
    "@llvm.floor.",
    "@llvm.ceil.",
    "@llvm.trunc.",
    "@llvm.rint.",
)


def _is_pure(text: str) -> bool:
    first, _, rest = text.partition(" ")
    return first in _PURE or (first == "call" and any(name in rest for name in _PURE_CALLS))


class ModuleText:
    """An LLVM module as text: declarations, constant tables and functions, each kept once."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._declarations: dict[str, str] = {}
        self._globals: dict[str, str] = {}
        self._types: dict[str, str] = {}
        self._functions: list[Builder] = []
        self._metadata: list[str] = []

    def metadata(self, node: str) -> str:
        """A metadata node, kept once; returns its name."""
        if node not in self._metadata:
            self._metadata.append(node)
        return f"!{self._metadata.index(node)}"

    def type(self, name: str, body: str) -> str:
        """Defines the named struct type `%name` once; returns its spelling."""
        self._types.setdefault(name, body)
        return f"%{name}"

    def declare(self, name: str, result: str, parameters: Sequence[str], attributes: str = "") -> None:
        """Declares an external function or intrinsic once."""
        signature = f"declare {result} @{name}({', '.join(parameters)}) {attributes}".rstrip()
        self._declarations.setdefault(name, signature)

    def global_text(self, name: str, definition: str) -> Val:
        """Adds `@name = definition` once and returns its address."""
        self._globals.setdefault(name, definition)
        return Val("ptr", f"@{name}")

    def table(self, element_type: str, literals: Sequence[str]) -> Val:
        """A private constant array; equal tables share one global. Returns its address."""
        body = ", ".join(f"{element_type} {x}" for x in literals)
        definition = f"private unnamed_addr constant [{len(literals)} x {element_type}] [{body}], align 64"
        for name, text in self._globals.items():
            if text == definition:
                return Val("ptr", f"@{name}")
        return self.global_text(f"table.{len(self._globals)}", definition)

    def function(
        self,
        name: str,
        result: str,
        parameters: Sequence[tuple[str, str]],
        *,
        linkage: str = "",
        attributes: str = "nounwind",
    ) -> Builder:
        """Starts a function; `parameters` are (type with attributes, name) pairs."""
        builder = Builder(self, name, result, parameters, linkage, attributes)
        self._functions.append(builder)
        return builder

    def add_function(self, builder: Builder) -> None:
        """Adds a function that a subclass of `Builder` builds."""
        self._functions.append(builder)

    def has_function(self, name: str) -> bool:
        """Whether a function of that name was started (for helpers that a module holds once)."""
        return any(f.name == name for f in self._functions)

    def __str__(self) -> str:
        parts = [f'target triple = "{self.target.triple}"']
        parts += [f"%{name} = type {body}" for name, body in self._types.items()]
        parts += [f"@{name} = {text}" for name, text in self._globals.items()]
        parts += self._declarations.values()
        parts += [str(f) for f in self._functions]
        parts += [f"!{n} = {node}" for n, node in enumerate(self._metadata)]
        return "\n".join(parts) + "\n"


_FOLDED = ("i64", "i32")
_FOLDS: dict[str, Callable[[int, int], int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
}


def _number(value: Val) -> int | None:
    text = value.text
    return int(text) if text[0].isdigit() or (text[0] == "-" and text[1:].isdigit()) else None


def _fold(opcode: str, a: Val, b: Val) -> Val | None:
    """The value of an integer operation where it is a constant or one of its operands."""
    fold = _FOLDS.get(opcode)
    if fold is None:
        return None
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        result = fold(x, y)
        bits = int(a.type[1:])
        return Val(a.type, str(result)) if -(1 << (bits - 1)) <= result < 1 << (bits - 1) else None
    if y == (1 if opcode == "mul" else 0):
        return a
    if opcode != "sub" and x == (1 if opcode == "mul" else 0):
        return b
    return None


class Builder:
    """Builds one function, block by block. Every value-making method returns a `Val`."""

    def __init__(
        self,
        module: ModuleText,
        name: str,
        result: str,
        parameters: Sequence[tuple[str, str]],
        linkage: str,
        attributes: str,
    ) -> None:
        self.module = module
        self.target = module.target
        self.name = name
        self._result = result
        self._parameters = tuple(parameters)
        self._linkage = linkage
        self._attributes = attributes
        self._lines: list[str] = ["entry:"]
        self._entry_allocas: list[str] = []
        self._next = 0
        self._labels = 0
        self._known: list[dict[str, Val]] = [{}]
        """Values of pure instructions that dominate what is built next, by text; one dict for each nested
        loop or condition."""
        self.current = "entry"
        self.params = tuple(
            Val(t.split(" ")[0] if not t.startswith("<") else t, f"%{n}") for t, n in parameters
        )

    # -- raw text ---------------------------------------------------------------------

    def emit(self, line: str) -> None:
        """Appends one instruction that makes no value."""
        self._lines.append("  " + line)

    def op(self, type_: str, text: str) -> Val:
        """Appends `%n = text` and returns `%n` as a value of `type_`; a pure one that is known is not made again."""
        pure = _is_pure(text)
        if pure:
            for values in reversed(self._known):
                found = values.get(text)
                if found is not None:
                    return found
        made = Val(type_, f"%v{self._next}")
        self._next += 1
        self._lines.append(f"  {made.text} = {text}")
        if pure:
            self._known[-1][text] = made
        return made

    def comment(self, text: str) -> None:
        """Appends a comment line."""
        self._lines.append(f"  ; {text}")

    # -- constants --------------------------------------------------------------------

    def const(self, type_: str, value: float | int | bool) -> Val:
        """A constant of scalar or vector `type_`, splat over its lanes."""
        scalar = element(type_)
        if scalar in ("half", "bfloat", "float", "double"):
            literal = float_literal(scalar, float(value))
        elif scalar == "i1":
            literal = "true" if value else "false"
        else:
            literal = str(int(value))
        return self.splat_literal(type_, literal)

    def splat_literal(self, type_: str, literal: str) -> Val:
        """The literal text as a constant of `type_`, splat over its lanes."""
        if lanes(type_) == 1:
            return Val(type_, literal)
        return Val(type_, f"splat ({element(type_)} {literal})")

    def vector_literal(self, element_type: str, literals: Sequence[str]) -> Val:
        """A constant vector given lane by lane."""
        body = ", ".join(f"{element_type} {x}" for x in literals)
        return Val(vector(element_type, len(literals)), f"<{body}>")

    # -- arithmetic -------------------------------------------------------------------

    def binary(self, opcode: str, a: Val, b: Val) -> Val:
        """`opcode` of two values of one type (`fadd`, `add`, `shl`, `and`, …)."""
        assert a.type == b.type, f"{opcode} of {a} and {b}"
        if a.type in _FOLDED:
            known = _fold(opcode.partition(" ")[0], a, b)
            if known is not None:
                return known
        return self.op(a.type, f"{opcode} {a}, {b.text}")

    def fadd(self, a: Val, b: Val) -> Val:
        return self.binary("fadd", a, b)

    def fsub(self, a: Val, b: Val) -> Val:
        return self.binary("fsub", a, b)

    def fmul(self, a: Val, b: Val) -> Val:
        return self.binary("fmul", a, b)

    def fdiv(self, a: Val, b: Val) -> Val:
        return self.binary("fdiv", a, b)

    def add(self, a: Val, b: Val) -> Val:
        return self.binary("add", a, b)

    def sub(self, a: Val, b: Val) -> Val:
        return self.binary("sub", a, b)

    def mul(self, a: Val, b: Val) -> Val:
        return self.binary("mul", a, b)

    def and_(self, a: Val, b: Val) -> Val:
        return self.binary("and", a, b)

    def or_(self, a: Val, b: Val) -> Val:
        return self.binary("or", a, b)

    def xor(self, a: Val, b: Val) -> Val:
        return self.binary("xor", a, b)

    def fneg(self, a: Val) -> Val:
        return self.op(a.type, f"fneg {a}")

    def icmp(self, predicate: str, a: Val, b: Val) -> Val:
        """Integer comparison; the result is i1 or a vector of i1."""
        return self.op(vector("i1", lanes(a.type)), f"icmp {predicate} {a}, {b.text}")

    def fcmp(self, predicate: str, a: Val, b: Val) -> Val:
        """Float comparison; the result is i1 or a vector of i1."""
        return self.op(vector("i1", lanes(a.type)), f"fcmp {predicate} {a}, {b.text}")

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        return self.op(a.type, f"select {condition}, {a}, {b}")

    def cast(self, opcode: str, a: Val, to: str) -> Val:
        """`opcode` is LLVM's (`sext`, `fptrunc`, `bitcast`, …); same lane count or bitcast."""
        return a if a.type == to else self.op(to, f"{opcode} {a} to {to}")

    def call(self, result: str, name: str, arguments: Sequence[Val], attributes: str = "") -> Val:
        """Calls a declared or defined function that returns a value."""
        body = ", ".join(str(x) for x in arguments)
        return self.op(result, f"call {result} @{name}({body}) {attributes}".rstrip())

    def call_void(self, name: str, arguments: Sequence[Val]) -> None:
        """Calls a function that returns nothing."""
        self.emit(f"call void @{name}({', '.join(str(x) for x in arguments)})")

    def intrinsic(
        self, stem: str, result: str, arguments: Sequence[Val], *, overload: str | None = None
    ) -> Val:
        """Calls `@llvm.<stem>.<overload>`; the overload defaults to the result type's mangling."""
        suffix = mangle(result if overload is None else overload)
        name = f"llvm.{stem}.{suffix}" if suffix else f"llvm.{stem}"
        self.module.declare(name, result, [a.type for a in arguments])
        return self.call(result, name, arguments)

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        """a·b + c: one rounding where the target has FMA, multiply then add elsewhere.

        LLVM would call `fmaf` on a target without FMA, and no kernel may call a library.
        """
        if self.target.has_fma:
            return self.intrinsic("fma", a.type, [a, b, c])
        return self.fadd(self.fmul(a, b), c)

    # -- vectors ----------------------------------------------------------------------

    def splat(self, scalar: Val, width: int) -> Val:
        """Broadcasts a scalar over `width` lanes (the scalar itself for width 1)."""
        if width == 1 or lanes(scalar.type) > 1:
            return scalar
        type_ = vector(scalar.type, width)
        if not scalar.text.startswith("%"):
            return Val(type_, f"splat ({scalar})")
        one = self.op(type_, f"insertelement {type_} poison, {scalar}, i64 0")
        return self.op(type_, f"shufflevector {one}, {type_} poison, <{width} x i32> zeroinitializer")

    def shuffle(self, a: Val, b: Val | None, indices: Sequence[int]) -> Val:
        """`shufflevector`; an index of -1 is poison."""
        mask = ", ".join("i32 poison" if i < 0 else f"i32 {i}" for i in indices)
        second = Val(a.type, "poison") if b is None else b
        type_ = f"<{len(indices)} x {element(a.type)}>"
        return self.op(type_, f"shufflevector {a}, {second}, <{len(indices)} x i32> <{mask}>")

    def extract(self, a: Val, lane: int | Val) -> Val:
        """One lane of a vector (a scalar is its own lane 0)."""
        if lanes(a.type) == 1:
            return a
        index = f"i64 {lane}" if isinstance(lane, int) else str(lane)
        return self.op(element(a.type), f"extractelement {a}, {index}")

    def insert(self, a: Val, scalar: Val, lane: int) -> Val:
        return self.op(a.type, f"insertelement {a}, {scalar}, i64 {lane}")

    def lane_mask(self, count: Val, width: int) -> Val:
        """`<width x i1>` whose lane i is set where i < count (`count` an i64)."""
        ids = self.vector_literal("i32", [str(i) for i in range(width)])
        n = self.op("i32", f"trunc {count} to i32")
        return self.icmp("ult", ids, self.splat(n, width))

    # -- memory -----------------------------------------------------------------------

    def gep(self, base: Val, index: Val | int, type_: str) -> Val:
        """`base + index` elements of `type_`."""
        index_text = f"i64 {index}" if isinstance(index, int) else str(index)
        if index_text == "i64 0":
            return base
        return self.op("ptr", f"getelementptr {type_}, {base}, {index_text}")

    def load(self, type_: str, address: Val, align: int | None = None) -> Val:
        suffix = f", align {align}" if align else ""
        return self.op(type_, f"load {type_}, {address}{suffix}")

    def store_past_caches(self, value: Val, address: Val, align: int) -> None:
        """Stores lines that nobody reads soon; see `fence_stores`."""
        self.emit(f"store {value}, {address}, align {align}, !nontemporal {self.module.metadata('!{i32 1}')}")

    def fence_stores(self) -> None:
        """Makes earlier stores past the caches visible before all later stores."""
        if self.target.triple.startswith("x86_64"):
            self.call_void_intrinsic("x86.sse.sfence")

    def call_void_intrinsic(self, stem: str) -> None:
        """Calls `@llvm.<stem>()`, which returns nothing."""
        self.module.declare(f"llvm.{stem}", "void", [])
        self.call_void(f"llvm.{stem}", [])

    def store(self, value: Val, address: Val, align: int | None = None) -> None:
        suffix = f", align {align}" if align else ""
        self.emit(f"store {value}, {address}{suffix}")

    def masked_load(self, type_: str, address: Val, mask: Val, other: Val, align: int) -> Val:
        """Loads the lanes whose mask bit is set; the others are `other`."""
        self.module.declare(
            f"llvm.masked.load.{mangle(type_)}.p0", type_, ["ptr", "i32 immarg", mask.type, type_]
        )
        text = f"call {type_} @llvm.masked.load.{mangle(type_)}.p0({address}, i32 {align}, {mask}, {other})"
        return self.op(type_, text)

    def masked_store(self, value: Val, address: Val, mask: Val, align: int) -> None:
        """Stores the lanes whose mask bit is set."""
        name = f"llvm.masked.store.{mangle(value.type)}.p0"
        self.module.declare(name, "void", [value.type, "ptr", "i32 immarg", mask.type])
        self.emit(f"call void @{name}({value}, {address}, i32 {align}, {mask})")

    def prefetch(self, address: Val, *, write: bool = False, level: int = 1) -> None:
        """Asks for the cache line at `address` in the cache of `level`, to be written where `write`."""
        name = "llvm.prefetch.p0"
        self.module.declare(name, "void", ["ptr", "i32 immarg", "i32 immarg", "i32 immarg"])
        self.emit(f"call void @{name}({address}, i32 {int(write)}, i32 {4 - level}, i32 1)")

    def alloca(self, type_: str, count: int = 1, align: int = 64) -> Val:
        """Stack space of `count` × `type_`, placed in the entry block."""
        name = f"%stack{len(self._entry_allocas)}"
        self._entry_allocas.append(f"  {name} = alloca {type_}, i64 {count}, align {align}")
        return Val("ptr", name)

    # -- control ----------------------------------------------------------------------

    def label(self, hint: str) -> str:
        """A fresh block name. Blocks and values (`i5.12`, `v43`) share one space of names."""
        self._labels += 1
        return f"{hint}.b{self._labels}"

    def block(self, name: str) -> None:
        """Starts the block `name`; the block before must already have ended.

        What was computed since the loop or condition around it began may not have been on the way here.
        """
        self._known[-1].clear()
        self._start(name)

    def _start(self, name: str) -> None:
        self._lines.append(f"{name}:")
        self.current = name

    @contextmanager
    def _nested(self) -> Iterator[None]:
        """Code after which its values are unknown again and those before it are still known."""
        self._known.append({})
        yield
        self._known.pop()

    def branch(self, target: str) -> None:
        self.emit(f"br label %{target}")

    def branch_if(self, condition: Val, then: str, otherwise: str) -> None:
        self.emit(f"br {condition}, label %{then}, label %{otherwise}")

    def ret(self, value: Val | None = None) -> None:
        self.emit("ret void" if value is None else f"ret {value}")

    @contextmanager
    def if_(self, condition: Val) -> Iterator[None]:
        """Code that runs where `condition` holds; makes no value."""
        then, done = self.label("then"), self.label("endif")
        self.branch_if(condition, then, done)
        self._start(then)
        with self._nested():
            yield
        self.branch(done)
        self._start(done)

    def loop(
        self,
        lower: Val | int,
        upper: Val | int,
        step: int | Val,
        carried: Sequence[Val],
        body: Callable[[Val, tuple[Val, ...]], Sequence[Val]],
        hint: str = "loop",
    ) -> tuple[Val, ...]:
        """`for i in range(lower, upper, step)` with loop-carried values.

        `body(i, carried) -> next carried` is called once to build the loop's code. Returns
        the carried values after the loop (the initial ones where it runs no iteration).
        """
        lo, hi, by = (x if isinstance(x, Val) else Val("i64", str(x)) for x in (lower, upper, step))
        head, inside, done = self.label(hint), self.label(f"{hint}.body"), self.label(f"{hint}.end")
        before = self.current
        self.branch(head)
        self._start(head)
        position = len(self._lines)
        index = Val("i64", f"%i{self._labels}.{self._next}")
        self._next += 1
        phis = [Val(v.type, f"%c{self._labels}.{self._next}.{n}") for n, v in enumerate(carried)]
        self._next += 1
        more = self.op("i1", f"icmp slt {index}, {hi.text}")
        self.branch_if(more, inside, done)
        self._start(inside)
        with self._nested():
            results = tuple(body(index, tuple(phis)))
            following = self.op("i64", f"add nsw {index}, {by.text}")
        assert [r.type for r in results] == [p.type for p in phis], "carried types change"
        last = self.current
        self.branch(head)
        self._lines[position:position] = [
            f"  {index.text} = phi i64 [ {lo.text}, %{before} ], [ {following.text}, %{last} ]",
            *(
                f"  {p.text} = phi {p.type} [ {v.text}, %{before} ], [ {r.text}, %{last} ]"
                for p, v, r in zip(phis, carried, results, strict=True)
            ),
        ]
        self._start(done)
        return tuple(phis)

    def __str__(self) -> str:
        parameters = ", ".join(f"{t} %{n}" for t, n in self._parameters)
        head = f"define {self._linkage + ' ' if self._linkage else ''}{self._result} @{self.name}({parameters}) {self._attributes} {{"
        lines = [self._lines[0], *self._entry_allocas, *self._lines[1:]]
        return "\n".join([head, *lines, "}"])


_MANGLED = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}


def mangle(type_: str) -> str:
    """LLVM's suffix of an overloaded intrinsic for `type_` (`"v8f32"`)."""
    if not type_:
        return ""
    scalar = element(type_)
    name = _MANGLED.get(scalar, scalar)
    return name if lanes(type_) == 1 else f"v{lanes(type_)}{name}"
