"""Hand-written kernels and a stand-in for the API's Tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.backends.llvm import host as _host
from graphc.backends.llvm import jit
from graphc.backends.llvm.compile import host_target
from graphc.backends.llvm.text import Builder, ModuleText, Val
from graphc.ir.failure import error_word
from graphc.ir.program import Buffer, KernelCall, Phase, Program
from graphc.ir.types import TensorType, float32, int64
from graphc.runtime import buffers, entry
from graphc.runtime.executable import Executable

assert _host


@dataclass(frozen=True)
class Kernel:
    """Stands for a kernel of the code generator: its symbol and text."""

    symbol: str
    text: str


Body = Callable[[Builder, Val, Sequence[Val], dict[str, Val]], None]


def make_kernel(symbol: str, buffer_count: int, n: int, body: Body) -> Kernel:
    """A kernel whose partitions share the range 0 … n - 1; `body(builder, i, buffers, params)` is one index."""
    module = ModuleText(host_target())
    b = module.function(
        symbol, "void", [("ptr", "buffers"), ("i64", "part"), ("i64", "parts"), ("ptr", "error")]
    )
    table, part, parts, error = b.params
    buffers = [b.load("ptr", b.gep(table, i, "ptr"), 8) for i in range(buffer_count)]

    def bound(index: Val) -> Val:
        return b.binary("sdiv", b.mul(index, Val("i64", str(n))), parts)

    params = {"part": part, "parts": parts, "error": error}

    def one(i: Val, carried: tuple[Val, ...]) -> tuple[Val, ...]:
        body(b, i, buffers, params)
        return carried

    b.loop(bound(part), bound(b.add(part, Val("i64", "1"))), 1, (), one)
    b.ret()
    return Kernel(symbol, str(module))


def binary_kernel(symbol: str, opcode: str, n: int) -> Kernel:
    """buffers[2][i] = buffers[0][i] `opcode` buffers[1][i] in float32."""

    def body(b: Builder, i: Val, at: Sequence[Val], _: dict[str, Val]) -> None:
        x, y = (b.load("float", b.gep(p, i, "float"), 4) for p in at[:2])
        b.store(b.binary(opcode, x, y), b.gep(at[2], i, "float"), 4)

    return make_kernel(symbol, 3, n, body)


def checking_kernel(symbol: str, n: int) -> Kernel:
    """Copies; where buffers[0][i] is negative, check number 1 fails (number 0 where below -100)."""

    def body(b: Builder, i: Val, at: Sequence[Val], params: dict[str, Val]) -> None:
        x = b.load("float", b.gep(at[0], i, "float"), 4)
        b.store(x, b.gep(at[1], i, "float"), 4)
        for limit, number in ((0.0, 2), (-100.0, 1)):
            code = error_word(number, number)
            with b.if_(b.fcmp("olt", x, b.const("float", limit))):
                error = b.load("i64", params["error"], 8)
                better = b.icmp("ugt", b.sub(error, Val("i64", "1")), Val("i64", str(code - 1)))
                with b.if_(better):
                    b.store(Val("i64", str(code)), params["error"], 8)

    return make_kernel(symbol, 2, n, body)


def f32(*shape: int) -> TensorType:
    return TensorType(float32, shape)


def i64s(*shape: int) -> TensorType:
    return TensorType(int64, shape)


def executable(
    buffers: Sequence[Buffer],
    phases: Sequence[Sequence[tuple[Kernel, Sequence[int], int]]],
    *,
    arena_bytes: int = 0,
    constants: Sequence[Any] = (),
    writes: Sequence[int] = (),
    check_base: int = 0,
    **options: Any,
) -> Executable:
    """Compiles and links the kernels of (kernel, rows, parts) calls; `writes` numbers state-writing phases."""
    program = Program(
        "handmade",
        tuple(buffers),
        tuple(
            Phase(
                tuple(KernelCall(k, tuple(rows), parts, check_base=check_base) for k, rows, parts in calls),
                i in writes,
            )
            for i, calls in enumerate(phases)
        ),
        arena_bytes,
        constants=tuple(constants),
    )
    kernels = [k for calls in phases for k, _, _ in calls]
    objects = [jit.compile_text(k.text, host_target()) for k in dict.fromkeys(kernels)]
    return Executable(program, jit.link(objects), [k.symbol for k in kernels], **options)


class Tensor:
    """A stand-in for the API's Tensor."""

    __slots__ = ("__weakref__", "_dtype", "_grad", "_owner", "_record", "_shape")

    def __init__(self, values: Any) -> None:
        array = np.asarray(values, np.float32)
        self._owner = buffers.allocate(array.nbytes)
        buffers.array(self._owner, array.shape, array.dtype)[...] = array
        self._record: bytes | None = entry.record_bytes(
            buffers.address(self._owner), array.nbytes, float32.code, array.shape
        )
        self._shape = array.shape
        self._dtype = float32
        self._grad = None

    def numpy(self) -> np.ndarray:
        return buffers.array(self._owner, self._shape, np.float32)


class Parameter(Tensor):
    __slots__ = ()


LAYOUT = entry.TensorLayout(Tensor, also=Parameter, defaults={"_grad": None, "_dtype": float32})


def record(*shape: int) -> bytes:
    """The record of a float32 Tensor of this shape."""
    return entry.record_bytes(0, 4 * int(np.prod(shape)), float32.code, shape)
