"""Where the text builder puts instructions, and which it leaves out; checked on the text and by running it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable

import pytest

from graphc.backends.llvm.compile import compile_text, host_target
from graphc.backends.llvm.jit import link
from graphc.backends.llvm.text import Builder, ModuleText, Val

X, Y = Val("i64", "%x"), Val("i64", "%y")


def i64(value: int) -> Val:
    return Val("i64", str(value))


def function(body: Callable[[Builder], Val]) -> ModuleText:
    """A module with `i64 f(i64 x, i64 y)`."""
    module = ModuleText(host_target())
    builder = module.function("f", "i64", [("i64", "x"), ("i64", "y")])
    builder.ret(body(builder))
    return module


def blocks(module: ModuleText) -> dict[str, list[str]]:
    """The operations of each block, by the block's name without its number."""
    found: dict[str, list[str]] = {}
    for line in str(module).splitlines():
        if line.endswith(":"):
            found[re.sub(r"\.b?\d+:$|:$", "", line)] = here = []
        elif line.startswith("  "):
            here.append(line.partition(" = ")[2].split(" ")[0] or line.split()[0])
    return found


def invariant(b: Builder) -> Val:
    return b.loop(0, Y, 1, [i64(0)], lambda i, c: [b.add(c[0], b.mul(X, X))])[0]


def invariant_of_two(b: Builder) -> Val:
    def outer(i: Val, c: tuple[Val, ...]) -> list[Val]:
        return list(b.loop(0, Y, 1, c, lambda j, d: [b.add(d[0], b.mul(i, X))], "inner"))

    return b.loop(0, Y, 1, [i64(0)], outer)[0]


def twice(b: Builder) -> Val:
    first = b.loop(0, Y, 1, [i64(0)], lambda i, c: [b.add(c[0], b.mul(X, X))])[0]
    return b.loop(0, Y, 1, [first], lambda i, c: [b.add(c[0], b.mul(X, X))], "again")[0]


def division(b: Builder) -> Val:
    """x / y where y may be 0: the loop then runs no iteration."""
    return b.loop(0, Y, 1, [i64(0)], lambda i, c: [b.add(c[0], b.binary("sdiv", X, Y))])[0]


def division_by_number(b: Builder) -> Val:
    return b.loop(0, Y, 1, [i64(0)], lambda i, c: [b.add(c[0], b.binary("sdiv", X, i64(3)))])[0]


def conditional(b: Builder) -> Val:
    """A condition alone moves nothing."""
    slot = b.alloca("i64", 1, 8)
    b.store(X, slot, 8)
    with b.if_(b.icmp("slt", X, Y)):
        b.store(b.mul(X, Y), slot, 8)
    return b.load("i64", slot, 8)


def unused(b: Builder) -> Val:
    b.mul(X, Y)
    b.loop(0, Y, 1, [i64(0)], lambda i, c: [b.mul(b.add(c[0], i), Y)])
    return X


def once(b: Builder) -> Val:
    return b.loop(3, 4, 1, [X], lambda i, c: [b.add(c[0], i)])[0]


def never(b: Builder) -> Val:
    with b.if_(b.icmp("slt", i64(5), i64(4))):
        b.store(X, Val("ptr", "null"), 8)
    return b.loop(4, 4, 1, [X], lambda i, c: [b.mul(c[0], Y)])[0]


def counted(b: Builder) -> Val:
    """A known number of iterations needs no test before the loop; its last values are the loop's results."""
    a, _ = b.loop(0, 5, 2, [X, Y], lambda i, c: [c[1], b.add(c[0], i)])
    return a


def run(x: int, y: int, step: Callable[[int, int], int]) -> int:
    total = 0
    for i in range(y):
        total = step(total, i)
    return total


CASES: list[tuple[Callable[[Builder], Val], Callable[[int, int], int], dict[str, list[str]]]] = [
    (invariant, lambda x, y: run(x, y, lambda c, i: c + x * x), {"entry": ["mul", "icmp", "br"]}),
    (
        invariant_of_two,
        lambda x, y: run(x, y, lambda c, i: c + y * i * x),
        {"loop": ["phi", "phi", "mul", "br"], "entry": ["icmp", "br"]},
    ),
    (twice, lambda x, y: run(x, 2 * y, lambda c, i: c + x * x), {"again": ["phi", "phi", "add", "add", "icmp", "br"]}),
    (division, lambda x, y: run(x, y, lambda c, i: c + x // y), {"entry": ["icmp", "br"]}),
    (division_by_number, lambda x, y: run(x, y, lambda c, i: c + x // 3), {"entry": ["sdiv", "icmp", "br"]}),
    (conditional, lambda x, y: x * y if x < y else x, {"then": ["mul", "store", "br"]}),
    (unused, lambda x, y: x, {"entry": ["icmp", "br"]}),
    (once, lambda x, y: x + 3, {"entry": ["add", "ret"]}),
    (never, lambda x, y: x, {"entry": ["ret"]}),
    (counted, lambda x, y: y + 2, {"entry": ["br"]}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected", "placed"), CASES, ids=[c[0].__name__ for c in CASES])
def test_instructions(
    body: Callable[[Builder], Val], expected: Callable[[int, int], int], placed: dict[str, list[str]]
) -> None:
    module = function(body)
    found = blocks(module)
    assert {name: found[name] for name in placed} == placed
    code = link([compile_text(str(module), host_target())])
    f = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(code.address("f"))
    for x, y in ((7, 0), (7, 3), (11, 4)):
        assert f(x, y) == expected(x, y)
