"""Strided transposes as dense contractions: one kernel for each residue of the output's position.

The gradient of a strided convolution in its input reads position (h + p - r·d) // s where s divides
the numerator. For one residue of h modulo s, the offsets r that divide are one residue class too,
so a phase is a sum over those alone, with plain affine indices. A sum's order is that of the steps
of its own phase. A phase without steps has an empty sum, and only the stages after it run.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from math import gcd, lcm, prod

from graphc.backends.llvm.contraction.by_text import by_text
from graphc.ir.dims import Apply, Dim, Expr, Symbol, less_equal, split_linear, substitute, symbols
from graphc.ir.kernel import Instruction, Kernel, Stage, extent
from graphc.ir.scalar import Guard

__all__ = ["phases"]

MOST_PHASES = 16
"""A kernel that would have more phases stays whole: each is code of its own."""


@by_text
def phases(kernel: Kernel) -> tuple[Kernel, ...]:
    """The phases of a contraction kernel, which write disjoint parts of its result; itself where it has none.

    The kernel's first stage is the sum. Phases have no schedule.
    """
    found = _moduli(kernel)
    if not found:
        return (kernel,)
    steps = set(kernel.stages[0].axes)
    sizes = _residues(found)
    outer = [a for a in kernel.axes if a in sizes]
    inner = [a for a in kernel.stages[0].axes if a in sizes]
    if prod(sizes[a] for a in outer) > MOST_PHASES:
        return (kernel,)
    made = []
    for residues in itertools.product(*(range(min(sizes[a], extent(a))) for a in outer)):
        at = dict(zip(outer, residues, strict=True))
        chosen = next(_dividing(found, at, inner, sizes), None)
        if chosen is None or any(r >= extent(a) for a, r in chosen.items()):
            made.append(_empty(_split(kernel, at, sizes), steps))
        else:
            made.append(_split(kernel, at | chosen, sizes))
    return tuple(made)


def _moduli(kernel: Kernel) -> list[tuple[Dim, int]]:
    """(numerator, divisor) of every guard that the divisor divides; empty where one is no such form."""
    if not kernel.stages or kernel.stages[0].kind != "reduce":
        return []
    steps = set(kernel.stages[0].axes)
    found = []
    for i in kernel.stages[0].body:
        for expression, lo, hi in i.guards:
            match expression:
                case Expr(terms=((((Apply(function="%", args=(numerator, int(divisor))), 1),), 1),)) if (
                    lo,
                    hi,
                ) == (0, 1):
                    mentioned = symbols(numerator)
                    if len(mentioned & steps) > 1 or any(
                        split_linear(numerator, s) is None for s in mentioned
                    ):
                        return []
                    found.append((numerator, divisor))
    return found


def _residues(found: list[tuple[Dim, int]]) -> dict[Symbol, int]:
    """Into how many residue classes each axis falls."""
    sizes: dict[Symbol, int] = {}
    for numerator, divisor in found:
        for s in symbols(numerator):
            split = split_linear(numerator, s)
            assert split is not None
            sizes[s] = lcm(sizes.get(s, 1), divisor // gcd(split[0], divisor))
    return sizes


def _dividing(
    found: list[tuple[Dim, int]], at: Mapping[Symbol, int], inner: list[Symbol], sizes: Mapping[Symbol, int]
) -> Iterator[dict[Symbol, int]]:
    """The residues of the inner axes for which every divisor divides: at most one combination."""
    for residues in itertools.product(*(range(sizes[a]) for a in inner)):
        chosen = dict(zip(inner, residues, strict=True))
        values: dict[Symbol, Dim] = {**at, **chosen}
        if all(substitute(numerator, values) % divisor == 0 for numerator, divisor in found):
            yield chosen


def _split(kernel: Kernel, at: Mapping[Symbol, int], sizes: Mapping[Symbol, int]) -> Kernel:
    """The kernel at the points whose axes have the residues `at`."""
    axes = {a: Symbol(a.name, 0, -(-(extent(a) - r) // sizes[a]) - 1) for a, r in at.items()}
    values: dict[Symbol, Dim] = {a: axes[a].expr * sizes[a] + r for a, r in at.items()}
    values |= {a: r for a, r in at.items() if extent(axes[a]) == 1}
    stages = tuple(_stage(s, axes, values) for s in kernel.stages)
    return dataclasses.replace(
        kernel, axes=tuple(axes.get(a, a) for a in kernel.axes), stages=stages, schedule=None
    )


def _stage(stage: Stage, axes: Mapping[Symbol, Symbol], values: Mapping[Symbol, Dim]) -> Stage:
    body = tuple(_at(i, values) for i in stage.body)
    return dataclasses.replace(stage, axes=tuple(axes.get(a, a) for a in stage.axes), body=body)


def _at(instruction: Instruction, values: Mapping[Symbol, Dim]) -> Instruction:
    """The instruction at the points of a phase, without guards that hold everywhere."""
    if not instruction.index and not instruction.guards:
        return instruction
    guards = tuple(g for e, lo, hi in instruction.guards if not _holds(g := (substitute(e, values), lo, hi)))
    operands = instruction.operands
    if instruction.opcode == "load" and not guards:
        operands = ()
    return dataclasses.replace(
        instruction,
        operands=operands,
        index=tuple(substitute(e, values) for e in instruction.index),
        guards=guards,
    )


def _holds(guard: Guard) -> bool:
    expression, lo, hi = guard
    return bool(less_equal(lo, expression) and less_equal(expression, hi - 1))


def _empty(kernel: Kernel, steps: set[Symbol]) -> Kernel:
    """The kernel with a sum of nothing."""
    stage = kernel.stages[0]
    nowhere: dict[Symbol, Dim] = dict.fromkeys(steps, 0)
    body = tuple(dataclasses.replace(_at(i, nowhere), guards=()) for i in stage.body)
    body = tuple(dataclasses.replace(i, operands=()) if i.opcode == "load" else i for i in body)
    none = Symbol("none", 0, -1)
    return dataclasses.replace(
        kernel, stages=(dataclasses.replace(stage, axes=(none,), body=body), *kernel.stages[1:])
    )
