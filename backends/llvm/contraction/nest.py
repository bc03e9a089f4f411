"""Steps of k as two nested loops, so that neither operand's address is computed for each step.

The inner `unroll` steps lie at the same distances from every outer one, in both operands: those
are constants of the code, and the outer steps' offsets are a table. Where A has no such form it
is packed, and then its steps are neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from graphc.backends.llvm.contraction.body import linear_offset
from graphc.backends.llvm.contraction.problem import Problem
from graphc.ir.dims import Dim, split_linear, symbols
from graphc.ir.kernel import KernelBuffer
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType

__all__ = ["Nest", "Rows", "make_nest", "rows_in_place"]

_MOST_UNROLLED = 9
"""A 3×3 window, and enough for the loop around it to cost nothing; more is longer code and no faster."""


@dataclass(frozen=True)
class Rows:
    """A read from its own buffer: element (row, step) is at offset + row·lead + Σ strides·step."""

    buffer: int
    offset: Dim
    lead: int
    strides: tuple[int, ...]

    def steps(self, extents: Sequence[int]) -> tuple[int, ...]:
        """The offset of each flat step."""
        totals = [0]
        for stride, span in zip(self.strides, extents, strict=True):
            totals = [t + stride * v for t in totals for v in range(span)]
        return tuple(totals)


@dataclass(frozen=True)
class Nest:
    """Step t·unroll + u lies at a_outer[t] + a_inner[u] of A's rows and b_outer[t] + b_inner[u] of B's columns."""

    unroll: int
    a_outer: tuple[int, ...]
    a_inner: tuple[int, ...]
    b_outer: tuple[int, ...]
    b_inner: tuple[int, ...]

    def table(self) -> list[str]:
        """The outer offsets, A's and B's in turn."""
        return [str(x) for pair in zip(self.a_outer, self.b_outer, strict=True) for x in pair]


def rows_in_place(problem: Problem) -> Rows | None:
    """How A is read without packing; None where its indices are not affine or its body does more than load."""
    a, body = problem.a, problem.a.source
    if len(body) != 1 or body[0].opcode != "load" or body[0].guards or body[0].dtype is not problem.dtype:
        return None
    if len(a.rows.axes) > 1:
        return None
    load = body[0]
    buffer = KernelBuffer(TensorType(load.dtype, problem.shapes[load.buffer]), "in")
    rest: Dim = linear_offset(buffer, load.index)
    strides = []
    for axis in problem.step_axes:
        split = split_linear(rest, axis)
        if split is None:
            return None
        strides.append(split[0])
        rest = split[1]
    lead = a.stride(a.rows.inner) if a.rows.inner is not None else 0
    if lead is None:
        return None
    for axis in problem.sides[1]:
        split = split_linear(rest, axis)
        if split is None:
            return None
        rest = split[1]
    if symbols(rest) - set(problem.sides[0]):
        return None
    return Rows(load.buffer, rest, lead, tuple(strides))


def make_nest(a: Sequence[int], b: Sequence[int], kc: int) -> Nest:
    """The longest inner run of steps, up to 9, that all outer steps share; it divides blocks of `kc` steps."""
    common = gcd(len(a), kc)
    for unroll in range(min(_MOST_UNROLLED, common), 0, -1):
        if common % unroll == 0 and _repeats(a, unroll) and _repeats(b, unroll):
            return Nest(
                unroll,
                tuple(a[::unroll]),
                tuple(x - a[0] for x in a[:unroll]),
                tuple(b[::unroll]),
                tuple(x - b[0] for x in b[:unroll]),
            )
    raise AssertionError("single steps always nest")


def _repeats(offsets: Sequence[int], unroll: int) -> bool:
    inner = [x - offsets[0] for x in offsets[:unroll]]
    return all(
        [x - offsets[t] for x in offsets[t : t + unroll]] == inner for t in range(0, len(offsets), unroll)
    )
