"""A function of the native run time under construction: words of records, atomics, locks, imports.

Mutable locals are stack slots, which LLVM turns into registers. Code generation is the only other thing that LLVM is
asked for, so a function says itself whether it is to stand in its callers, or is called too rarely to be optimised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from graphc.backends.llvm.text import Builder, ModuleText, Val
from graphc.runtime.host import IMPORTS
from graphc.runtime.layout import Record

__all__ = ["INLINED", "NULL", "RARE", "Routine", "Variable", "i64"]

INLINED = "nounwind alwaysinline"
"""Attributes of a function on the way of each call that has one caller or is short."""
RARE = "nounwind noinline optnone"
"""Attributes of a function that few calls come to: its code costs a tenth of the time to generate."""


def i64(value: int) -> Val:
    """An integer constant."""
    return Val("i64", str(value))


NULL = Val("ptr", "null")


class Variable:
    """A mutable local."""

    def __init__(self, builder: Builder, initial: Val) -> None:
        self._builder = builder
        self._type = initial.type
        self.slot = builder.alloca(initial.type, 1, 8)
        """Its address, for a callee that writes it."""
        self.set(initial)

    def get(self) -> Val:
        return self._builder.load(self._type, self.slot)

    def set(self, value: Val) -> None:
        assert value.type == self._type, f"{value} into a variable of type {self._type}"
        self._builder.store(value, self.slot)

    def add(self, amount: int) -> None:
        self.set(self._builder.add(self.get(), Val(self._type, str(amount))))


class Routine(Builder):
    """A builder with the words of native records."""

    @classmethod
    def start(
        cls,
        module: ModuleText,
        name: str,
        result: str,
        parameters: Sequence[tuple[str, str]],
        *,
        linkage: str = "",
        attributes: str = "nounwind",
    ) -> Routine:
        """Adds the function `name` to `module`."""
        routine = cls(module, name, result, parameters, linkage, attributes)
        module.add_function(routine)
        return routine

    # -- records ----------------------------------------------------------------------

    def field(self, base: Val, record: Record, name: str) -> Val:
        """Address of a field."""
        return self.gep(base, record.offset[name], "i64")

    def read(self, base: Val, record: Record, name: str) -> Val:
        """An integer field."""
        return self.load("i64", self.field(base, record, name), 8)

    def read_ptr(self, base: Val, record: Record, name: str) -> Val:
        """A pointer field."""
        return self.load("ptr", self.field(base, record, name), 8)

    def write(self, value: Val, base: Val, record: Record, name: str) -> None:
        self.store(value, self.field(base, record, name), 8)

    def at_byte(self, base: Val, offset: int | Val) -> Val:
        """`base` plus a number of bytes."""
        return self.gep(base, offset, "i8")

    def load_ptr(self, base: Val, index: int | Val) -> Val:
        """Element `index` of an array of pointers."""
        return self.load("ptr", self.gep(base, index, "ptr"), 8)

    def record_at(self, base: Val, index: Val, record: Record) -> Val:
        """Record `index` of an array of records."""
        return self.gep(base, self.mul(index, i64(record.size)), "i64")

    # -- variables and control ----------------------------------------------------------

    def variable(self, initial: Val) -> Variable:
        return Variable(self, initial)

    @contextmanager
    def while_(self, condition: Callable[[], Val]) -> Iterator[str]:
        """Repeats the body while `condition()` holds; gives the label behind the loop."""
        head, inside, done = self.label("while"), self.label("do"), self.label("done")
        self.branch(head)
        self.block(head)
        self.branch_if(condition(), inside, done)
        self.block(inside)
        yield done
        self.branch(head)
        self.block(done)

    @contextmanager
    def forever(self) -> Iterator[None]:
        """Repeats the body; it leaves by `ret` or a branch of its own."""
        head = self.label("again")
        self.branch(head)
        self.block(head)
        yield
        self.branch(head)

    @contextmanager
    def each(self, count: Val) -> Iterator[Val]:
        """Runs the body for i = 0 … count - 1."""
        index = self.variable(i64(0))
        with self.while_(lambda: self.icmp("slt", index.get(), count)):
            yield index.get()
            index.add(1)

    def leave_if(self, condition: Val, target: str) -> None:
        """Branches to `target` where `condition` holds, goes on otherwise."""
        following = self.label("on")
        self.branch_if(condition, target, following)
        self.block(following)

    @contextmanager
    def exit_if(self, condition: Val) -> Iterator[None]:
        """Code that runs where `condition` holds and ends the block itself (`ret` or a branch)."""
        then, otherwise = self.label("exit"), self.label("on")
        self.branch_if(condition, then, otherwise)
        self.block(then)
        yield
        self.block(otherwise)

    def is_null(self, pointer: Val) -> Val:
        return self.icmp("eq", pointer, NULL)

    def not_null(self, pointer: Val) -> Val:
        return self.icmp("ne", pointer, NULL)

    def nonzero(self, value: Val) -> Val:
        return self.icmp("ne", value, Val(value.type, "0"))

    def zero(self, value: Val) -> Val:
        return self.icmp("eq", value, Val(value.type, "0"))

    def memset(self, address: Val, byte: int, count: Val) -> None:
        self.module.declare("llvm.memset.p0.i64", "void", ["ptr", "i8", "i64", "i1 immarg"])
        self.call_void("llvm.memset.p0.i64", [address, Val("i8", str(byte)), count, Val("i1", "false")])

    def memcpy(self, to: Val, source: Val, count: Val) -> None:
        self.module.declare("llvm.memcpy.p0.p0.i64", "void", ["ptr", "ptr", "i64", "i1 immarg"])
        self.call_void("llvm.memcpy.p0.p0.i64", [to, source, count, Val("i1", "false")])

    # -- atomics ------------------------------------------------------------------------

    def atomic_load(self, address: Val, order: str = "acquire", type_: str = "i64") -> Val:
        return self.op(type_, f"load atomic {type_}, {address} {order}, align 8")

    def atomic_store(self, value: Val, address: Val, order: str = "release") -> None:
        self.emit(f"store atomic {value}, {address} {order}, align 8")

    def atomic(self, operation: str, address: Val, value: Val, order: str = "seq_cst") -> Val:
        """`atomicrmw`; returns the old value."""
        return self.op(value.type, f"atomicrmw {operation} {address}, {value} {order}")

    def swap_if(self, address: Val, expected: Val, value: Val) -> Val:
        """Compare-and-exchange; returns whether it took place."""
        pair = f"{{ {value.type}, i1 }}"
        both = self.op(pair, f"cmpxchg {address}, {expected}, {value} acq_rel acquire")
        return self.op("i1", f"extractvalue {both}, 1")

    def lock(self, address: Val) -> None:
        """Takes a spin lock (a word that is 0 where free); yields the processor while it waits long."""
        got, spins = self.label("locked"), self.variable(i64(0))
        with self.forever():
            self.leave_if(self.swap_if(address, i64(0), i64(1)), got)
            self.pause()
            spins.add(1)
            with self.if_(self.zero(self.and_(spins.get(), i64(127)))):
                self.import_call("i32", "sched_yield", [])
        self.block(got)

    def unlock(self, address: Val) -> None:
        self.atomic_store(i64(0), address)

    def pause(self) -> None:
        """Tells the processor that this is a spin loop."""
        arch = self.target.triple.partition("-")[0]
        text = {"x86_64": "pause", "aarch64": "yield", "arm64": "yield"}.get(arch)
        if text:
            self.emit(f'call void asm sideeffect "{text}", "~{{memory}}"()')

    # -- calls by address ---------------------------------------------------------------

    def imported(self, name: str) -> Val:
        """Address of an imported function or object."""
        table = self.module.global_text("imports", f"global [{len(IMPORTS)} x ptr] zeroinitializer, align 64")
        return self.load_ptr(table, IMPORTS.index(name))

    def import_call(
        self, result: str, name: str, arguments: Sequence[Val], *, variadic: int | None = None
    ) -> Val:
        """Calls an imported function; `variadic` is the number of fixed parameters of a variadic one."""
        return self.call_address(result, self.imported(name), arguments, variadic=variadic)

    def call_address(
        self, result: str, function: Val, arguments: Sequence[Val], *, variadic: int | None = None
    ) -> Val:
        """Calls a function by address."""
        type_ = result
        if variadic is not None:
            fixed = ", ".join(a.type for a in arguments[:variadic])
            type_ = f"{result} ({fixed}, ...)"
        text = f"call {type_} {function.text}({', '.join(map(str, arguments))})"
        if result == "void":
            self.emit(text)
            return Val("void", "")
        return self.op(result, text)
