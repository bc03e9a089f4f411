"""Contraction kernels for tests: matrix products and convolutions written as kernel IR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphc.ir.dims import Dim, Symbol
from graphc.ir.kernel import Combine, Instruction, Kernel, KernelBuffer, Stage
from graphc.ir.ops.window import scatter_position
from graphc.ir.scalar import Guard
from graphc.ir.types import DType, TensorType

Index = Sequence[Dim]


def axis(name: str, extent: int) -> Symbol:
    """An axis with `extent` points."""
    return Symbol(name, 0, extent - 1)


@dataclass
class Body:
    """Numbers instructions of one kernel."""

    body: list[Instruction] = field(default_factory=list)
    next: int = 0

    def add(self, opcode: str, dtype: DType, operands: Sequence[int] = (), **data: object) -> int:
        number = self.next
        self.next += 1
        self.body.append(Instruction(number, opcode, dtype, tuple(operands), **data))  # type: ignore[arg-type]
        return number

    def load(
        self, dtype: DType, buffer: int, index: Index, guards: Sequence[Guard] = (), fill: float = 0.0
    ) -> int:
        operands = [self.add("const", dtype, value=fill)] if guards else []
        return self.add("load", dtype, operands, buffer=buffer, index=tuple(index), guards=tuple(guards))

    def store(self, dtype: DType, buffer: int, index: Index, value: int) -> None:
        self.body.append(Instruction(-1, "store", dtype, (value,), None, buffer, tuple(index)))

    def take(self) -> tuple[Instruction, ...]:
        taken, self.body = tuple(self.body), []
        return taken


def contraction(
    axes: Sequence[Symbol],
    steps: Sequence[Symbol],
    buffers: Sequence[KernelBuffer],
    left: Callable[[Body], int],
    right: Callable[[Body], int],
    finish: Callable[[Body, int], None],
) -> Kernel:
    """sum over `steps` of left·right, then `finish`. Factors are cast to the accumulator's dtype."""
    b = Body()
    accumulator = buffers[0].type.dtype.accumulator
    factors = []
    for factor in (left, right):
        value = factor(b)
        if buffers[0].type.dtype is not accumulator:
            value = b.add("cast", accumulator, [value])
        factors.append(value)
    product = b.add("mul", accumulator, factors)
    body = (*b.take(), Instruction(-1, "yield", accumulator, (product,)))
    total, x, y, both = (b.next + i for i in range(4))
    b.next += 4
    combine = Combine((x,), (y,), (Instruction(both, "add", accumulator, (x, y)),), (both,))
    reduce = Stage("reduce", tuple(steps), body, ((accumulator, 0),), combine, (total,))
    finish(b, total)
    return Kernel(tuple(buffers), tuple(axes), (reduce, Stage("map", (), b.take())))


def buffer(dtype: DType, shape: Sequence[int], access: str = "in") -> KernelBuffer:
    return KernelBuffer(TensorType(dtype, tuple(shape)), access)  # type: ignore[arg-type]


def matmul(
    m: int,
    n: int,
    k: int,
    dtype: DType,
    *,
    batch: int = 0,
    a_transposed: bool = False,
    b_transposed: bool = False,
    out_transposed: bool = False,
    finish: Callable[[Body, int, Index], None] | None = None,
    extra: Sequence[KernelBuffer] = (),
    out_access: str = "out",
) -> Kernel:
    """out[b, i, j] = sum over p of x[b, i, p]·y[b, p, j]; buffers: x, y, out, extra.

    The transposed forms hold the last two axes swapped.
    """
    i, j, p = axis("i", m), axis("j", n), axis("p", k)
    z = [axis("z", batch)] if batch else []

    def place(first: Symbol, second: Symbol, swap: bool) -> list[Dim]:
        pair = [second.expr, first.expr] if swap else [first.expr, second.expr]
        return [s.expr for s in z] + pair

    def shape(first: int, second: int, swap: bool) -> list[int]:
        return ([batch] if batch else []) + ([second, first] if swap else [first, second])

    out = place(i, j, out_transposed)

    def plain(b: Body, total: int) -> None:
        value = total if dtype is dtype.accumulator else b.add("cast", dtype, [total])
        if finish is not None:
            finish(b, value, out)
        else:
            b.store(dtype, 2, out, value)

    return contraction(
        (*z, i, j),
        (p,),
        (
            buffer(dtype, shape(m, k, a_transposed)),
            buffer(dtype, shape(k, n, b_transposed)),
            buffer(dtype, shape(m, n, out_transposed), out_access),
            *extra,
        ),
        lambda b: b.load(dtype, 0, place(i, p, a_transposed)),
        lambda b: b.load(dtype, 1, place(p, j, b_transposed)),
        plain,
    )


@dataclass(frozen=True)
class Convolution:
    """Sizes of a 2-d convolution x[n, c, h, w] * w[o, c, r, s] -> y[n, o, oh, ow]."""

    n: int
    c: int
    h: int
    w: int
    o: int
    r: int
    s: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1

    @property
    def oh(self) -> int:
        return (self.h + 2 * self.pad - self.dilation * (self.r - 1) - 1) // self.stride + 1

    @property
    def ow(self) -> int:
        return (self.w + 2 * self.pad - self.dilation * (self.s - 1) - 1) // self.stride + 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of x, w and y."""
        return (
            (self.n, self.c, self.h, self.w),
            (self.o, self.c, self.r, self.s),
            (self.n, self.o, self.oh, self.ow),
        )

    def _axes(self) -> dict[str, Symbol]:
        sizes = {
            "n": self.n,
            "c": self.c,
            "o": self.o,
            "r": self.r,
            "s": self.s,
            "oh": self.oh,
            "ow": self.ow,
        }
        return {name: axis(name, size) for name, size in sizes.items()}

    def _source(self, e: dict[str, Dim]) -> tuple[list[Dim], list[Guard]]:
        """Index into x of what output (oh, ow) reads through tap (r, s)."""
        ih = e["oh"] * self.stride + e["r"] * self.dilation - self.pad
        iw = e["ow"] * self.stride + e["s"] * self.dilation - self.pad
        guards: list[Guard] = [(ih, 0, self.h), (iw, 0, self.w)] if self.pad else []
        return [e["n"], e["c"], ih, iw], guards

    def forward(self, dtype: DType) -> Kernel:
        """y from buffers x, w, y."""
        a = self._axes()
        e: dict[str, Dim] = {k: v.expr for k, v in a.items()}
        x, w, y = self.shapes
        index, guards = self._source(e)
        return contraction(
            (a["n"], a["o"], a["oh"], a["ow"]),
            (a["c"], a["r"], a["s"]),
            (buffer(dtype, x), buffer(dtype, w), buffer(dtype, y, "out")),
            lambda b: b.load(dtype, 0, index, guards),
            lambda b: b.load(dtype, 1, [e["o"], e["c"], e["r"], e["s"]]),
            lambda b, t: b.store(dtype, 2, [e["n"], e["o"], e["oh"], e["ow"]], t),
        )

    def weight_gradient(self, dtype: DType) -> Kernel:
        """dw from buffers x, dy, dw."""
        a = self._axes()
        e: dict[str, Dim] = {k: v.expr for k, v in a.items()}
        x, w, y = self.shapes
        index, guards = self._source(e)
        return contraction(
            (a["o"], a["c"], a["r"], a["s"]),
            (a["n"], a["oh"], a["ow"]),
            (buffer(dtype, x), buffer(dtype, y), buffer(dtype, w, "out")),
            lambda b: b.load(dtype, 0, index, guards),
            lambda b: b.load(dtype, 1, [e["n"], e["o"], e["oh"], e["ow"]]),
            lambda b, t: b.store(dtype, 2, [e["o"], e["c"], e["r"], e["s"]], t),
        )

    def input_gradient(self, dtype: DType) -> Kernel:
        """dx from buffers dy, w, dx."""
        a = self._axes()
        e: dict[str, Dim] = {k: v.expr for k, v in a.items()}
        h, v = axis("h", self.h), axis("w", self.w)
        x, w, y = self.shapes
        oh, rows = scatter_position(h.expr, e["r"], self.stride, self.pad, self.dilation, self.oh)
        ow, columns = scatter_position(v.expr, e["s"], self.stride, self.pad, self.dilation, self.ow)
        return contraction(
            (a["n"], a["c"], h, v),
            (a["o"], a["r"], a["s"]),
            (buffer(dtype, y), buffer(dtype, w), buffer(dtype, x, "out")),
            lambda b: b.load(dtype, 0, [e["n"], e["o"], oh, ow], [*rows, *columns]),
            lambda b: b.load(dtype, 1, [e["o"], e["c"], e["r"], e["s"]]),
            lambda b, t: b.store(dtype, 2, [e["n"], e["c"], h.expr, v.expr], t),
        )
