"""LLVM IR as text: a module under construction and a builder of one function.

This is the only place that knows LLVM's textual syntax. Everything above it (vector
mathematics, kernel code generation, the contraction engine, the native run-time pieces)
speaks in typed `Val`s. No fast-math flag is ever written: an operation means exactly what
its name says, so a kernel's bits do not depend on how it was fused. Longer than most files: the builder has a method
for each instruction.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from graphc.backends.llvm.instructions import Instructions
from graphc.backends.llvm.linear import Linear, bytes_of, scale_of
from graphc.ir.target import Target

__all__ = ["Builder", "ModuleText", "Val", "element", "float_literal", "lanes", "vector"]


class Val(NamedTuple):
    """An LLVM value: its type text (`"<8 x float>"`) and its spelling (`"%12"`, `"7"`)."""

    type: str
    text: str

    def __str__(self) -> str:
        return f"{self.type} {self.text}"


@cache
def lanes(type_: str) -> int:
    """Number of lanes of an LLVM type; 1 for a scalar."""
    return int(type_[1 : type_.index(" ")]) if type_.startswith("<") else 1


@cache
def element(type_: str) -> str:
    """Element type of a vector type; the type itself for a scalar."""
    return type_[type_.index("x ") + 2 : -1] if type_.startswith("<") else type_


@cache
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
        if name not in self._declarations:
            signature = f"declare {result} @{name}({', '.join(parameters)}) {attributes}".rstrip()
            self._declarations[name] = signature

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
        hides_steps: bool = False,
    ) -> Builder:
        """Starts a function; `parameters` are (type with attributes, name) pairs.

        With `hides_steps` LLVM does not see how indices and addresses change from one iteration of a loop to the next:
        reducing the strength of multiplications takes a fifth of its time where a loop is long, and finds nothing in loops
        that step their own pointers. Others may need it.
        """
        builder = Builder(self, name, result, parameters, linkage, attributes)
        builder.hides_steps = hides_steps
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

    def finished(self) -> str:
        """The text of a module that is complete. Its functions are given up: they refer to the module, and what is left of
        them would wait for the cyclic collector."""
        text = str(self)
        self._functions.clear()
        return text


_FOLDED = ("i64", "i32")
_FOLDS: dict[str, Callable[[int, int], int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "udiv": lambda x, y: x // y,
    "urem": lambda x, y: x % y,
    "sdiv": lambda x, y: x // y,
    "srem": lambda x, y: x % y,
    "and": lambda x, y: x & y,
}
_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "udiv": 1, "sdiv": 1}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "slt": operator.lt,
    "sle": operator.le,
    "sgt": operator.gt,
    "sge": operator.ge,
}


_FLOAT_ARITHMETIC = frozenset(("fadd", "fsub", "fmul", "fdiv"))


def _number(value: Val) -> int | None:
    text = value.text
    return None if text[0] == "%" else _literal(text)


@cache
def _literal(text: str) -> int | None:
    return int(text) if text.removeprefix("-").isdigit() else None


def _fold(opcode: str, a: Val, b: Val) -> Val | None:
    """The value of an integer operation where it is a constant or one of its operands."""
    x, y = _number(a), _number(b)
    fold = _FOLDS.get(opcode)
    if x is not None and y is not None:
        divides = opcode[1:] in ("div", "rem")
        if fold is None or (divides and (x < 0 or y <= 0)):
            return None
        result = fold(x, y)
        bits = int(a.type[1:])
        return Val(a.type, str(result)) if -(1 << (bits - 1)) <= result < 1 << (bits - 1) else None
    if y is not None and y == _NEUTRAL.get(opcode):
        return a
    if x is not None and opcode in ("add", "mul") and x == _NEUTRAL[opcode]:
        return b
    if (opcode == "mul" and 0 in (x, y)) or (opcode in ("urem", "srem") and y == 1):
        return Val(a.type, "0")
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
        self._instructions = Instructions()
        self._linear: dict[str, Linear] = {}
        """Of integers that are sums: of what."""
        self._addresses: dict[str, tuple[Val, Linear]] = {}
        """Of addresses: from which other one, and how many bytes further."""
        self._entry_allocas: list[str] = []
        self._labels = 0
        self.hides_steps = False
        """See `ModuleText.function`."""
        self.sizes: dict[str, Val] = {}
        """Values of symbolic sizes, and of what follows from them, by name."""
        self.current = "entry"
        self.params = tuple(
            Val(t.split(" ")[0] if not t.startswith("<") else t, f"%{n}") for t, n in parameters
        )
        for parameter in self.params:
            self._instructions.known_from_start(parameter.text)

    # -- raw text ---------------------------------------------------------------------

    def emit(self, line: str) -> None:
        """Appends one instruction that makes no value."""
        self._instructions.add("  " + line)

    def op(self, type_: str, text: str) -> Val:
        """Adds `%n = text` and returns `%n` as a value of `type_`; a pure one that is known is not made again."""
        return Val(type_, self._instructions.define(type_, text))

    def _pure(self, type_: str, text: str, *operands: Val) -> Val:
        """As `op` for a pure instruction that is no division, with its operands."""
        names = [v.text for v in operands if v.text[0] == "%"]
        return Val(type_, self._instructions.pure(type_, text, names))

    def comment(self, text: str) -> None:
        """Appends a comment line."""
        self._instructions.add(f"  ; {text}")

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
            operation = opcode.partition(" ")[0]
            known = _fold(operation, a, b)
            if known is not None:
                return known
            if a.type == "i64" and operation in ("add", "sub", "mul"):
                made = self._pure("i64", f"{opcode} i64 {a.text}, {b.text}", a, b)
                if made.text not in self._linear:
                    self._linear[made.text] = self._sum(operation, a, b) or Linear(((made.text, 1),))
                return made
        text = f"{opcode} {a.type} {a.text}, {b.text}"
        if opcode in _FLOAT_ARITHMETIC:
            return self._pure(a.type, text, a, b)
        return self.op(a.type, text)

    def _sum(self, operation: str, a: Val, b: Val) -> Linear | None:
        x, y = self._linear_of(a), self._linear_of(b)
        if operation == "add":
            return x.plus(y)
        if operation == "sub":
            return x.plus(y, -1)
        if not x.terms:
            return y.times(x.constant)
        return None if y.terms else x.times(y.constant)

    def _linear_of(self, value: Val) -> Linear:
        number = _number(value)
        if number is not None:
            return Linear((), number)
        return self._linear.get(value.text) or Linear(((value.text, 1),))

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
        if a.type in _FOLDED and predicate in _COMPARISONS:
            x, y = _number(a), _number(b)
            if x is not None and y is not None:
                return Val("i1", "true" if _COMPARISONS[predicate](x, y) else "false")
        text = f"icmp {predicate} {a.type} {a.text}, {b.text}"
        return self._pure(vector("i1", lanes(a.type)), text, a, b)

    def fcmp(self, predicate: str, a: Val, b: Val) -> Val:
        """Float comparison; the result is i1 or a vector of i1."""
        text = f"fcmp {predicate} {a.type} {a.text}, {b.text}"
        return self._pure(vector("i1", lanes(a.type)), text, a, b)

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        if condition.text in ("true", "false"):
            return a if condition.text == "true" else b
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
            type_ = a.type
            name = f"llvm.fma.{mangle(type_)}"
            self.module.declare(name, type_, (type_, type_, type_))
            text = f"call {type_} @{name}({type_} {a.text}, {type_} {b.text}, {type_} {c.text})"
            return self._pure(type_, text, a, b, c)
        return self.fadd(self.fmul(a, b), c)

    # -- vectors ----------------------------------------------------------------------

    def splat(self, scalar: Val, width: int) -> Val:
        """Broadcasts a scalar over `width` lanes (the scalar itself for width 1)."""
        if width == 1 or lanes(scalar.type) > 1:
            return scalar
        type_ = vector(scalar.type, width)
        if not scalar.text.startswith("%"):
            return Val(type_, f"splat ({scalar})")
        one = self._pure(type_, f"insertelement {type_} poison, {scalar}, i64 0", scalar)
        return self._pure(type_, f"shufflevector {one}, {type_} poison, <{width} x i32> zeroinitializer", one)

    def load_splat(self, scalar: str, address: Val, width: int) -> Val:
        """Loads a `float` or `double` and broadcasts it over `width` lanes: one instruction of text less than `splat`."""
        align = 8 if scalar == "double" else 4
        if width == 1:
            return self.load(scalar, address, align)
        one = self.load(f"<1 x {scalar}>", address, align)
        text = f"shufflevector {one}, <1 x {scalar}> poison, <{width} x i32> zeroinitializer"
        return self._pure(vector(scalar, width), text, one)

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
        size = bytes_of(type_)
        further = Linear((), index) if isinstance(index, int) else self._linear_of(index)
        if size is None or not (isinstance(index, int) or index.type == "i64"):
            return self.op(
                "ptr", f"getelementptr {type_}, {base}, {index if isinstance(index, Val) else f'i64 {index}'}"
            )
        root, offset = self._addresses.get(base.text) or (base, Linear(()))
        return self._address(root, offset.plus(further, size))

    def _address(self, root: Val, offset: Linear) -> Val:
        """`root` plus a number of bytes; what is known in outer loops is added first."""
        if not offset.terms:
            at = root
        else:
            key = (root.text, offset.terms)
            found = self._instructions.recall(key)
            if found is not None:
                at = Val("ptr", found)
            else:
                at = self._further(root, offset)
                self._instructions.remember(key, at.text)
        if offset.constant:
            at = self._pure("ptr", f"getelementptr i8, ptr {at.text}, i64 {offset.constant}", at)
        if at is not root:
            self._addresses.setdefault(at.text, (root, offset))
        return at

    def _further(self, root: Val, offset: Linear) -> Val:
        """`root` plus the parts of an offset that are no constants."""
        levels: dict[int, list[tuple[str, int]]] = {}
        for term in offset.terms:
            levels.setdefault(self._instructions.level(term[0]), []).append(term)
        at = root
        for level in sorted(levels):
            terms = sorted(levels[level])
            scale = scale_of([factor for _, factor in terms])
            total = Val("i64", "0")
            for name, factor in terms:
                total = self._plus(total, Val("i64", name), factor // scale)
            at = self.op("ptr", f"getelementptr i{8 * scale}, {at}, {total}")
        return at

    def _plus(self, total: Val, value: Val, factor: int) -> Val:
        """total + factor·value."""
        if factor not in (1, -1):
            value = self.op("i64", f"mul {value}, {factor}")
        if factor == -1:
            return self.op("i64", f"sub {total}, {value.text}")
        return value if total.text == "0" else self.op("i64", f"add {total}, {value.text}")

    def load(self, type_: str, address: Val, align: int | None = None) -> Val:
        suffix = f", align {align}" if align else ""
        return self.op(type_, f"load {type_}, {address.type} {address.text}{suffix}")

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
        self._instructions.known_from_start(name)
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
        self._instructions.forget()
        self._start(name)

    def _start(self, name: str) -> None:
        self._instructions.add(f"{name}:")
        self.current = name

    def branch(self, target: str) -> None:
        self.emit(f"br label %{target}")

    def branch_if(self, condition: Val, then: str, otherwise: str) -> None:
        self.emit(f"br {condition}, label %{then}, label %{otherwise}")

    def ret(self, value: Val | None = None) -> None:
        self.emit("ret void" if value is None else f"ret {value}")

    @contextmanager
    def if_(self, condition: Val) -> Iterator[None]:
        """Code that runs where `condition` holds; makes no value."""
        if condition.text == "true":
            yield
            return
        if condition.text == "false":
            before = self.current
            with self._instructions.unreachable():
                yield
            self.current = before
            return
        then, done = self.label("then"), self.label("endif")
        self.branch_if(condition, then, done)
        self._start(then)
        with self._instructions.scope():
            yield
        self.branch(done)
        self._start(done)

    def rarely(
        self, condition: Val, usual: Sequence[Val], otherwise: Callable[[], Sequence[Val]], hint: str
    ) -> tuple[Val, ...]:
        """The values `usual`, or what `otherwise` makes in a branch out of the way where the i1 `condition` holds."""
        rare, done, before = self.label(hint), self.label(f"{hint}.end"), self.current
        weights = self.module.metadata('!{!"branch_weights", i32 1, i32 4095}')
        self.emit(f"br {condition}, label %{rare}, label %{done}, !prof {weights}")
        self._start(rare)
        with self._instructions.scope():
            values = otherwise()
        after = self.current
        self.branch(done)
        self._start(done)
        return tuple(
            self.op(u.type, f"phi {u.type} [ {u.text}, %{before} ], [ {v.text}, %{after} ]")
            for u, v in zip(usual, values, strict=True)
        )

    @contextmanager
    def hidden_steps(self) -> Iterator[None]:
        """Code whose loops hide their steps; see `ModuleText.function`."""
        before, self.hides_steps = self.hides_steps, True
        yield
        self.hides_steps = before

    def _hidden(self, x: Val) -> Val:
        """The number or address `x`, of which LLVM does not see how it changes from one iteration to the next."""
        name = _HIDING.get(x.type)
        if name is None or not self.hides_steps:
            return x
        self.module.declare(name, x.type, [x.type] * (2 if x.type == "i64" else 1))
        arguments = f"{x.type} {x.text}, i64 0" if x.type == "i64" else f"{x.type} {x.text}"
        return Val(x.type, self._instructions.optional(f"call {x.type} @{name}({arguments})", [x.text]))

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

        `body(i, carried) -> next carried` is called at most once to build the loop's code: not where the loop
        surely runs no iteration. One that surely runs once is no loop. Returns the carried values after
        the loop (the initial ones where it runs no iteration).
        """
        lo, hi, by = (x if isinstance(x, Val) else Val("i64", str(x)) for x in (lower, upper, step))
        first, last, stride = map(_number, (lo, hi, by))
        static = first is not None and last is not None
        if first is not None and last is not None:
            if first >= last:
                return tuple(carried)
            if stride is not None and first + stride >= last:
                return tuple(body(lo, tuple(carried)))
        lines = self._instructions
        inside, done = self.label(hint), self.label(f"{hint}.end")
        hoisted = lines.place()
        if static:
            self.branch(inside)
        else:
            self.branch_if(self.icmp("slt", lo, hi), inside, done)
        before = self.current
        self._start(inside)
        heads = lines.place()
        number = lines.number()
        index = Val("i64", f"%v{number}.i")
        phis = [Val(v.type, f"%v{number}.c{n}") for n, v in enumerate(carried)]
        with lines.scope(hoisted):
            for value in (index, *phis):
                lines.known_here(value.text)
            results = tuple(body(self._hidden(index), tuple(map(self._hidden, phis))))
            following = self.op("i64", f"add nsw {index}, {by.text}")
            more = self.icmp("slt", following, hi)
        assert [r.type for r in results] == [p.type for p in phis], "carried types change"
        end = self.current
        self.branch_if(more, inside, done)
        for phi, start, result in zip((index, *phis), (lo, *carried), (following, *results), strict=True):
            text = f"phi {phi.type} [ {start.text}, %{before} ], [ {result.text}, %{end} ]"
            lines.phi(heads, phi.text, text)
        self._start(done)
        if static:
            for result in results:
                lines.known_here(result.text)
            return results
        return tuple(
            self.op(v.type, f"phi {v.type} [ {v.text}, %{before} ], [ {r.text}, %{end} ]")
            for v, r in zip(carried, results, strict=True)
        )

    def __str__(self) -> str:
        parameters = ", ".join(f"{t} %{n}" for t, n in self._parameters)
        head = f"define {self._linkage + ' ' if self._linkage else ''}{self._result} @{self.name}({parameters}) {self._attributes} {{"
        return "\n".join([head, "entry:", *self._entry_allocas, *self._instructions.text(), "}"])


_HIDING = {"i64": "llvm.expect.i64", "ptr": "llvm.launder.invariant.group.p0"}
"""What gives a value of the type back unchanged, costs nothing in code, and is not looked through."""

_MANGLED = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}


@cache
def mangle(type_: str) -> str:
    """LLVM's suffix of an overloaded intrinsic for `type_` (`"v8f32"`)."""
    if not type_:
        return ""
    scalar = element(type_)
    name = _MANGLED.get(scalar, scalar)
    return name if lanes(type_) == 1 else f"v{lanes(type_)}{name}"
