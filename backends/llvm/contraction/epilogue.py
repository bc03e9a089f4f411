"""The stages after the sum, as code: what is the same for every element is computed once, as scalars.

An instruction is uniform where no axis and no sum reaches it: constants, loads at a fixed place of
a buffer that the kernel only reads, and what is made of them. A lane's value is the same either way.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from graphc.backends.llvm.contraction.axes import Env
from graphc.backends.llvm.contraction.body import Point, Scalars, emit_body, emit_body_at_all, lane_step
from graphc.backends.llvm.contraction.problem import Problem
from graphc.backends.llvm.kernel.lanes import LaneAxis
from graphc.backends.llvm.text import Builder, Val
from graphc.backends.llvm.text import lanes as lanes_of
from graphc.ir.chains import interleaved
from graphc.ir.dims import Symbol, symbols
from graphc.ir.kernel import Instruction

__all__ = [
    "emit_epilogue",
    "emit_epilogues",
    "emit_spread",
    "emit_uniform",
    "length",
    "side_by_side",
    "varying",
]


@functools.lru_cache(maxsize=64)
def _split(problem: Problem) -> tuple[tuple[Instruction, ...], tuple[Instruction, ...]]:
    """(uniform instructions, the others); constants are in both."""
    uniform: dict[int, Instruction] = {}
    others = []
    for i in problem.epilogue:
        if i.opcode == "const":
            uniform[i.id] = i
            others.append(i)
        elif _is_uniform(problem, i) and all(o in uniform for o in i.operands):
            uniform[i.id] = i
        else:
            others.append(i)
    return tuple(uniform.values()), tuple(others)


def _is_uniform(problem: Problem, i: Instruction) -> bool:
    if i.opcode == "load" and problem.buffers[i.buffer].access != "in":
        return False
    places = (*i.index, *(e for guard in i.guards for e in guard))
    return i.opcode != "store" and not i.guards and not any(symbols(e) for e in places)


def varying(problem: Problem) -> tuple[Instruction, ...]:
    """The instructions that are run for each vector."""
    return _split(problem)[1]


def length(body: Sequence[Instruction], lane: Symbol | None, width: int) -> int:
    """About how many instructions a body becomes for `width` lanes along `lane`: lanes that are not neighbours are
    read and written one by one."""
    lanes = None if lane is None else LaneAxis(lane.name, width, width)
    total = 0
    for i in body:
        apart = (
            i.opcode in ("load", "store") and lanes is not None and lane_step(lanes, i.index[0]) not in (0, 1)
        )
        total += 2 * width if apart else 1
    return total


def emit_uniform(builder: Builder, problem: Problem, pointers: Sequence[Val]) -> Scalars:
    """Emits the uniform instructions; their values are scalars."""
    scalars: Scalars = {}
    emit_body(builder, problem.buffers, _split(problem)[0], Point(pointers, {}, None, 1), scalars)
    return scalars


def emit_epilogue(
    builder: Builder,
    problem: Problem,
    pointers: Sequence[Val],
    uniform: Scalars,
    env: Env,
    value: Val,
    width: int,
    mask: Val | None,
) -> None:
    """Runs the stages after the sum on `width` sums along columns, the first of them at `env`."""
    scalars = {n: (dtype, builder.splat(x, width)) for n, (dtype, x) in uniform.items()}
    scalars[problem.sum] = (problem.dtype, value)
    point = Point(pointers, env, problem.columns.inner, width, mask, width)
    emit_body(builder, problem.buffers, varying(problem), point, scalars)


def side_by_side(problem: Problem) -> int:
    """How many vectors the epilogue takes at once, where nothing is masked: its chains of instructions overlap."""
    body = varying(problem)
    wanted = interleaved(body)
    return min(wanted, 2) if len(body) > _SHORT else wanted


_SHORT = 18
"""Instructions up to which values of four vectors stay in registers."""


def emit_epilogues(
    builder: Builder,
    problem: Problem,
    pointers: Sequence[Val],
    uniform: Scalars,
    envs: Sequence[Env],
    value: Val,
) -> None:
    """As `emit_epilogue` at several places, a power of two of them. `value` has the lanes of all."""
    lanes = lanes_of(value.type)
    scalars = {n: (dtype, builder.splat(x, lanes)) for n, (dtype, x) in uniform.items()}
    scalars[problem.sum] = (problem.dtype, value)
    width = lanes // len(envs)
    points = [Point(pointers, env, problem.columns.inner, width, None, width) for env in envs]
    emit_body_at_all(builder, problem.buffers, varying(problem), points, scalars)


def emit_spread(
    builder: Builder,
    problem: Problem,
    pointers: Sequence[Val],
    uniform: Scalars,
    env: Env,
    value: Val,
    width: int,
    mask: Val | None,
) -> None:
    """As `emit_epilogue`, with values of the merged column axes in `env` instead of their flat index."""
    scalars = {n: (dtype, builder.splat(x, width)) for n, (dtype, x) in uniform.items()}
    scalars[problem.sum] = (problem.dtype, value)
    kept = set(varying(problem))
    body = [s for s, i in zip(problem.spread, problem.epilogue, strict=True) if i in kept]
    emit_body(
        builder,
        problem.buffers,
        body,
        Point(pointers, env, problem.spread_columns.inner, width, mask),
        scalars,
    )
