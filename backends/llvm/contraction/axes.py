"""Groups of axes seen as one flat index.

The engine walks rows, columns and k as flat integers. A `Group` maps such an integer back to
the axes it stands for; neighbouring axes that every access steps through as one are merged
first, so that a plain matrix product has one axis a group and costs no division.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from graphc.backends.llvm.text import Builder, Val
from graphc.ir.dims import Dim, Expr, Symbol, bounds, product, split_linear, substitute
from graphc.ir.kernel import new_axis, size_of, typical_size
from graphc.ir.records import dataclass

__all__ = [
    "Env",
    "Group",
    "chunks",
    "constant",
    "index_value",
    "merge_axes",
    "minimum",
    "runs",
    "size_value",
    "times",
]

Env = dict[Symbol, Val]
"""Axis symbol to its i64 value."""


def constant(value: int) -> Val:
    """An i64 constant."""
    return Val("i64", str(value))


def times(builder: Builder, x: Val, factor: int) -> Val:
    """`x · factor` of an i64, without an instruction where it is trivial."""
    return builder.binary("mul nsw", x, constant(factor))


def plus(builder: Builder, x: Val, y: Val) -> Val:
    """`x + y` of i64s, without an instruction where it is trivial."""
    return builder.binary("add nsw", x, y)


def minimum(builder: Builder, x: Val, y: Val) -> Val:
    """The smaller of two signed integers."""
    return builder.select(builder.icmp("slt", x, y), x, y)


@dataclass(frozen=True)
class Group:
    """Axes, outermost first, whose flat index is row-major.

    `total` is the number of points, at the sizes that choices are made for where it is symbolic; `size` is what it is.
    """

    axes: tuple[Symbol, ...]

    @property
    def total(self) -> int:
        total = 1
        for axis in self.axes:
            total *= typical_size(axis)
        return total

    @property
    def size(self) -> Dim:
        return product([size_of(axis) for axis in self.axes])

    @property
    def inner(self) -> Symbol | None:
        """The fastest axis; None of an empty group."""
        return self.axes[-1] if self.axes else None

    @property
    def run(self) -> int:
        """Extent of the fastest axis: points that one run steps through."""
        return typical_size(self.axes[-1]) if self.axes else 1

    def split(self, builder: Builder, flat: Val) -> Env:
        """Values of the axes at the flat index."""
        env: Env = {}
        rest = flat
        for axis in reversed(self.axes[1:]):
            size = size_value(builder, size_of(axis))
            env[axis] = builder.binary("urem", rest, size)
            rest = builder.binary("udiv", rest, size)
        if self.axes:
            env[self.axes[0]] = rest
        return env


def merge_axes(axes: Sequence[Symbol], expressions: Iterable[Dim]) -> tuple[Group, dict[Symbol, Dim]]:
    """Merges axes that every expression steps through as one.

    Returns the merged group and the substitution that rewrites the expressions onto its axes.
    Axes of extent 1 vanish. Order is kept, so the flat index means the same as before.
    """
    substitution: dict[Symbol, Dim] = {a: 0 for a in axes if size_of(a) == 1}
    left = [a for a in axes if size_of(a) != 1]
    current = [substitute(e, substitution) for e in expressions]
    merged: list[Symbol] = []
    for axis in left:
        if merged and all(_steps_as_one(e, merged[-1], axis) for e in current):
            outer = merged.pop()
            joint = new_axis(f"{outer.name}_{axis.name}", size_of(outer) * size_of(axis))
            replace: dict[Symbol, Dim] = {outer: 0, axis: joint.expr}
            current = [substitute(e, replace) for e in current]
            substitution = {s: substitute(e, replace) for s, e in substitution.items()} | replace
            axis = joint
        merged.append(axis)
    return Group(tuple(merged)), substitution


def _steps_as_one(expression: Dim, outer: Symbol, inner: Symbol) -> bool:
    if inner.size is not None and isinstance(expression, Expr):
        return expression == substitute(expression, {outer: 0, inner: outer.expr * inner.size + inner.expr})
    by_outer, by_inner = split_linear(expression, outer), split_linear(expression, inner)
    return by_outer is not None and by_inner is not None and by_outer[0] == by_inner[0] * size_of(inner)


def size_value(builder: Builder, size: Dim) -> Val:
    """The i64 value of a number of points."""
    return index_value(builder, size, {})


def index_value(builder: Builder, expression: Dim, env: Env) -> Val:
    """The i64 value of an index expression at the point `env`."""
    if isinstance(expression, int):
        return constant(expression)
    total = constant(0)
    for monomial, coefficient in expression.terms:
        term: Val | None = None
        for atom, power in monomial:
            if isinstance(atom, Symbol):
                value = builder.sizes[atom.name] if atom.name[0] == "$" else env[atom]
            else:
                value = _apply(builder, atom.function, atom.args, env)
            for _ in range(power):
                term = value if term is None else builder.mul(term, value)
        scaled = constant(coefficient) if term is None else times(builder, term, coefficient)
        total = plus(builder, total, scaled)
    return total


def _apply(builder: Builder, function: str, args: Sequence[Dim], env: Env) -> Val:
    a, b = (index_value(builder, x, env) for x in args)
    if function in ("min", "max"):
        less = builder.icmp("slt", a, b)
        return builder.select(less, a, b) if function == "min" else builder.select(less, b, a)
    lo = bounds(args[0])[0]
    opcode = "div" if function == "//" else "rem"
    if lo is not None and lo >= 0:
        return builder.binary(f"u{opcode}", a, b)
    # Rounds toward minus infinity, as the dims' // and % do; divisors are positive.
    remainder = builder.binary("srem", a, b)
    negative = builder.icmp("slt", remainder, constant(0))
    if function == "%":
        return builder.select(negative, builder.add(remainder, b), remainder)
    quotient = builder.binary("sdiv", a, b)
    return builder.select(negative, builder.sub(quotient, constant(1)), quotient)


def runs(
    builder: Builder, group: Group, lo: Val, hi: Val, body: Callable[[Val, Val, Env, Val], None]
) -> None:
    """Walks flat indices [lo, hi) in pieces in which only the fastest axis moves.

    `body(start, stop, env, origin)`: the piece is the flat indices [start, stop); `env` holds the
    slower axes, and the fastest axis's value is the flat index minus `origin`.
    """
    if len(group.axes) <= 1:
        body(lo, hi, {}, constant(0))
        return
    size = size_value(builder, size_of(group.axes[-1]))
    outer = Group(group.axes[:-1])
    first = builder.binary("udiv", lo, size)
    last = builder.binary("udiv", builder.add(hi, builder.sub(size, constant(1))), size)

    def row(r: Val, _: tuple[Val, ...]) -> list[Val]:
        origin = builder.binary("mul nsw", r, size)
        stop = minimum(builder, builder.add(origin, size), hi)
        start = builder.select(builder.icmp("sgt", origin, lo), origin, lo)
        body(start, stop, outer.split(builder, r), origin)
        return []

    builder.loop(first, last, 1, (), row, "run")


def chunks(
    builder: Builder, start: Val, stop: Val, width: int, body: Callable[[Val, Val | None], None]
) -> None:
    """Walks [start, stop) by `width`; `body(first, mask)` with a lane mask at a last partial chunk."""

    def full(i: Val, _: tuple[Val, ...]) -> tuple[Val, ...]:
        body(i, None)
        return ()

    if width == 1:
        builder.loop(start, stop, 1, (), full, "each")
        return
    whole = builder.add(start, builder.binary("and", builder.sub(stop, start), constant(-width)))
    builder.loop(start, whole, width, (), full, "chunk")
    with builder.if_(builder.icmp("slt", whole, stop)):
        body(whole, builder.lane_mask(builder.sub(stop, whole), width))


def is_affine(expression: Dim, axes: Iterable[Symbol]) -> bool:
    """True where the expression is linear in each of the axes."""
    return not isinstance(expression, Expr) or all(split_linear(expression, a) is not None for a in axes)
