"""The float remainder x - trunc(x/y)·y, exact, by shift and subtract.

A divisor t starts at |y|, is doubled up to |x| and halved back; every subtraction of t from
what is left is exact because t <= rest < 2t. The number of steps is the logarithm of |x/y|.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.backends.llvm.text import Builder, Val, lanes

__all__ = ["remainder"]


def remainder(b: Builder, x: Val, y: Val) -> Val:
    """C's fmod on float or double lanes: the sign of x, |result| < |y|; NaN for x infinite or y zero.

    Contains loops, so `b.current` is another block afterwards.
    """
    rest, divisor = (b.intrinsic("fabs", v.type, [v]) for v in (x, y))
    zero, one = b.const(x.type, 0.0), b.const(x.type, 1.0)
    proper = b.and_(b.fcmp("ogt", divisor, zero), b.fcmp("olt", rest, b.const(x.type, float("inf"))))
    rest, divisor = b.select(proper, rest, zero), b.select(proper, divisor, one)
    step = _grown(b, rest, divisor)
    rest = _reduced(b, rest, step, divisor)
    signed = b.intrinsic("copysign", x.type, [rest, x])
    return b.select(proper, signed, b.const(x.type, float("nan")))


def _grown(b: Builder, rest: Val, divisor: Val) -> Val:
    """The divisor times the least power of two for which that exceeds rest/2."""
    half = b.fmul(rest, b.const(rest.type, 0.5))
    state = b.alloca(rest.type)
    b.store(divisor, state)

    def step() -> Val:
        t = b.load(rest.type, state)
        small = b.fcmp("ole", t, half)
        b.store(b.select(small, b.fadd(t, t), t), state)
        return small

    _repeat(b, step)
    return b.load(rest.type, state)


def _reduced(b: Builder, rest: Val, start: Val, divisor: Val) -> Val:
    """Subtracts start, start/2, …, divisor from the rest wherever they fit."""
    left, at = b.alloca(rest.type), b.alloca(rest.type)
    b.store(rest, left)
    b.store(start, at)

    def step() -> Val:
        r, t = b.load(rest.type, left), b.load(rest.type, at)
        b.store(b.select(b.fcmp("oge", r, t), b.fsub(r, t), r), left)
        more = b.fcmp("ogt", t, divisor)
        b.store(b.select(more, b.fmul(t, b.const(t.type, 0.5)), t), at)
        return more

    # A lane at t = divisor may come again: its rest is below t by then.
    _repeat(b, step)
    return b.load(rest.type, left)


def _repeat(b: Builder, step: Callable[[], Val]) -> None:
    """Runs `step` until no lane of the condition it returns is set."""
    again, done = b.label("again"), b.label("done")
    b.branch(again)
    b.block(again)
    more = step()
    if lanes(more.type) > 1:
        more = b.intrinsic("vector.reduce.or", "i1", [more], overload=more.type)
    b.branch_if(more, again, done)
    b.block(done)
