"""The scalar language: what an op does to single elements.

Op classes write their bodies against `ScalarBuilder`; kernels hold the result as `Instruction`s.
The opcodes are a closed set that every backend implements, each for every dtype listed here, so
a new op needs no backend change. Arithmetic on float16 and bfloat16 means: convert the operands
to float32, compute, round once to the result's dtype.

Integer arithmetic wraps; `div` and `rem` of integers truncate toward zero (0 where the divisor
is 0). `min` and `max` of floats return NaN where either operand is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from graphc.ir.dims import Dim
from graphc.ir.types import DType

__all__ = ["BINARY", "COMPARE", "TERNARY", "UNARY", "Guard", "ScalarBuilder"]

UNARY = (
    "neg", "abs", "not", "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf",
    "sqrt", "rsqrt", "sin", "cos", "floor", "ceil", "trunc", "round", "is_nan",
)  # fmt: skip
BINARY = (
    "add", "sub", "mul", "div", "rem", "pow", "min", "max", "and", "or", "xor", "shl", "shr", "mulhi",
)  # fmt: skip
COMPARE = ("lt", "le", "gt", "ge", "eq", "ne")
TERNARY = ("fma", "select")

S = TypeVar("S")

Guard = tuple[Dim, Dim, Dim]
"""(expression, lower, upper): holds where lower <= expression < upper."""


class ScalarBuilder(Protocol[S]):
    """Makes scalar values of a kernel body. `S` is the builder's own handle type."""

    def const(self, dtype: DType, value: float | int | bool) -> S:
        """A constant, rounded once to `dtype`."""

    def apply(self, opcode: str, *operands: S) -> S:
        """`UNARY`, `BINARY`, `COMPARE` (result bool) or `TERNARY` opcode. Binary operands have one dtype.

        `select` takes (bool, a, b). `mulhi` is the high half of an unsigned product of int32 bits;
        `shr` is logical.
        """

    def cast(self, x: S, dtype: DType) -> S:
        """Conversion as PyTorch's `to`: float to integer truncates, anything to bool is `!= 0`."""

    def index(self, expression: Dim, dtype: DType) -> S:
        """The value of an index expression at this point."""

    def to_index(self, x: S, extent: Dim, check: str | None) -> Dim:
        """An integer scalar as a dim in [0, extent) for use in operand indices.

        Out of range reads index 0; where `check` is given, also fails the call with that message.
        """

    def guarded(self, guards: Sequence[Guard], then: Callable[[], S], otherwise: S) -> S:
        """`then()` where all guards hold (its loads are not executed elsewhere), else `otherwise`."""

    def dtype(self, x: S) -> DType:
        """The dtype of a scalar."""


def sugar(s: Any) -> _Sugar:
    """Operator spelling for bodies: `sugar(s)(x) * 2 + 1`. See `_Sugar`."""
    return _Sugar(s)


class _Sugar:
    """Wraps scalars of one builder so that bodies can be written with operators."""

    def __init__(self, s: Any) -> None:
        self.s = s

    def __call__(self, x: Any) -> Term:
        return Term(self.s, x)


class Term:
    """A scalar with operators; numbers are constants of its dtype. `.value` is the bare handle."""

    __slots__ = ("s", "value")

    def __init__(self, s: Any, value: Any) -> None:
        self.s = s
        self.value = value

    def _other(self, x: Any) -> Any:
        return x.value if isinstance(x, Term) else self.s.const(self.s.dtype(self.value), x)

    def _binary(self, opcode: str, other: Any, swap: bool = False) -> Term:
        a, b = self.value, self._other(other)
        return Term(self.s, self.s.apply(opcode, b, a) if swap else self.s.apply(opcode, a, b))

    def like(self, number: float | int | bool) -> Term:
        """A constant of this scalar's dtype."""
        return Term(self.s, self.s.const(self.s.dtype(self.value), number))

    def __add__(self, o: Any) -> Term:
        return self._binary("add", o)

    def __sub__(self, o: Any) -> Term:
        return self._binary("sub", o)

    def __rsub__(self, o: Any) -> Term:
        return self._binary("sub", o, True)

    def __mul__(self, o: Any) -> Term:
        return self._binary("mul", o)

    def __truediv__(self, o: Any) -> Term:
        return self._binary("div", o)

    def __rtruediv__(self, o: Any) -> Term:
        return self._binary("div", o, True)

    __radd__, __rmul__ = __add__, __mul__

    def __and__(self, o: Any) -> Term:
        return self._binary("and", o)

    def __or__(self, o: Any) -> Term:
        return self._binary("or", o)

    def __xor__(self, o: Any) -> Term:
        return self._binary("xor", o)

    def __lshift__(self, o: Any) -> Term:
        return self._binary("shl", o)

    def __rshift__(self, o: Any) -> Term:
        return self._binary("shr", o)

    def __neg__(self) -> Term:
        return Term(self.s, self.s.apply("neg", self.value))

    def __getattr__(self, opcode: str) -> Callable[..., Term]:
        # `x.exp()`, `x.lt(0)`: any opcode as a method.
        if opcode in UNARY:
            return lambda: Term(self.s, self.s.apply(opcode, self.value))
        if opcode in BINARY or opcode in COMPARE:
            return lambda other: self._binary(opcode, other)
        raise AttributeError(opcode)

    def select(self, a: Any, b: Any) -> Term:
        """This boolean's choice of `a` or `b`; at least one of them is a Term."""
        model = a if isinstance(a, Term) else b
        return Term(self.s, self.s.apply("select", self.value, model._other(a), model._other(b)))
