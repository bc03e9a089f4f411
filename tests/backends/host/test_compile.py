"""Text to objects to code: what LLVM may not do with it, what is refused, targets."""

from __future__ import annotations

import ctypes
import gc

import pytest

from graphc.backends.llvm import jit
from graphc.backends.llvm.compile import assembly_text, compile_text, host_target, resolve_target
from graphc.backends.llvm.elf import read_symbols
from graphc.backends.llvm.text import ModuleText, Val, vector
from graphc.ir.errors import CompileError
from graphc.ir.target import TARGETS, Target


def multiply_add(target: Target, fused: bool) -> str:
    """a[i] = a[i] * a[i] + a[i] on one vector."""
    module = ModuleText(target)
    b = module.function("k", "void", [("ptr", "a")])
    type_ = vector("float", target.width(32))
    x = b.load(type_, b.params[0], 4)
    b.store(b.fma(x, x, x) if fused else b.fadd(b.fmul(x, x), x), b.params[0], 4)
    b.ret()
    return str(module)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_multiply_and_add_are_never_contracted(target: str) -> None:
    assembly = assembly_text(multiply_add(TARGETS[target], fused=False), TARGETS[target])
    assert "fmadd" not in assembly
    assert "fmla" not in assembly
    fused = assembly_text(multiply_add(TARGETS[target], fused=True), TARGETS[target])
    assert ("fmadd" in fused or "fmla" in fused) == TARGETS[target].has_fma
    assert read_symbols(compile_text(multiply_add(TARGETS[target], True), TARGETS[target])).undefined == set()


def test_equal_text_gives_equal_objects() -> None:
    text = multiply_add(host_target(), fused=True)
    assert compile_text(text, host_target()) == compile_text(text, host_target())


def returning(symbol: str, value: int) -> bytes:
    module = ModuleText(host_target())
    b = module.function(symbol, "i64", [])
    b.ret(Val("i64", str(value)))
    return compile_text(str(module), host_target())


def calling(symbol: str, callee: str) -> bytes:
    module = ModuleText(host_target())
    module.declare(callee, "i64", [])
    b = module.function(symbol, "i64", [])
    b.ret(b.call("i64", callee, []))
    return compile_text(str(module), host_target())


def value_of(code: jit.LinkedCode, symbol: str) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(code.address(symbol))())


def test_objects_call_each_other() -> None:
    code = jit.link([calling("a", "b"), returning("b", 41)])
    assert value_of(code, "a") == 41
    assert code.symbols == {"a", "b"}
    with pytest.raises(KeyError):
        code.address("c")


def test_links_are_separate_and_can_be_dropped() -> None:
    codes = [jit.link([returning("same", n)]) for n in range(20)]
    assert [value_of(c, "same") for c in codes] == list(range(20))
    del codes[::2]
    gc.collect()
    assert [value_of(c, "same") for c in codes] == list(range(1, 20, 2))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (lambda: [calling("a", "sinf")], "sinf"),
        (lambda: [calling("a", "malloc")], "malloc"),
        (lambda: [returning("a", 1), returning("a", 2)], "two objects: a"),
    ],
)
def test_what_may_not_be_linked(objects: object, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        jit.link(objects())  # type: ignore[operator]


@pytest.mark.parametrize("text", ["nonsense", "define void @f() { ret i32 1 }", "define i32 @f() { }"])
def test_bad_text(text: str) -> None:
    with pytest.raises(CompileError, match="LLVM rejects"):
        compile_text(text, host_target())


def test_host_is_a_target() -> None:
    host = host_target()
    assert host.name == "host"
    assert resolve_target("host") is host
    assert host.vector_bytes in (16, 32, 64)
    assert 0 < host.l1_bytes <= host.l2_bytes <= host.l3_bytes
    assert resolve_target("x86-64-v3") is TARGETS["x86-64-v3"]
    with pytest.raises(ValueError, match="x86-64-v3"):
        resolve_target("z80")
