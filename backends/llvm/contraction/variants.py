"""Plans by name: what tuning tries, and what a schedule that was tuned asks for.

A name is the number of a plan among all plans of the kernel, cheapest estimate first, and what of its
tiling is otherwise: `0`, `2 kc=256`, `0 a=panels nc=512`. All plans of a kernel give the same bits,
and blocks keep whole folds, so a name decides speed only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from graphc.backends.llvm.contraction.by_text import by_text
from graphc.backends.llvm.contraction.plan import Plan, all_plans, estimate
from graphc.backends.llvm.contraction.problem import Operand, Problem
from graphc.backends.llvm.contraction.tiling import Source, Tiling, cached_steps, leads, round_up
from graphc.ir.errors import CompileError
from graphc.ir.kernel import Kernel
from graphc.ir.target import Target

__all__ = ["base_names", "merged", "plan_named", "variations"]

_MOST_BASES = 8
_DEPTHS = (256, 512, 1024)


@by_text
def _bases(kernel: Kernel, target: Target, vector: bool | None) -> tuple[Plan, ...]:
    return tuple(sorted(all_plans(kernel, target, vector), key=estimate))


def base_names(kernel: Kernel, target: Target, vector: bool | None) -> list[str]:
    """Names of the plans with the least estimated time, the least first."""
    return [str(n) for n in range(min(_MOST_BASES, len(_bases(kernel, target, vector))))]


def plan_named(name: str, kernel: Kernel, target: Target, vector: bool | None) -> Plan:
    """The plan of that name. Raises CompileError where the kernel has none."""
    number, changes = _parse(name)
    bases = _bases(kernel, target, vector)
    if number >= len(bases):
        raise CompileError(f"this kernel has no plan {name!r}: it has {len(bases)}, numbered from 0")
    base = bases[number]
    return _changed(base, changes) if changes else base


def variations(name: str, kernel: Kernel, target: Target, vector: bool | None) -> Iterator[list[str]]:
    """Names of plans that differ from the named one in one respect, a list for each respect."""
    number, changes = _parse(name)
    plan = plan_named(name, kernel, target, vector)
    for field, values in _choices(plan).items():
        own = getattr(plan.tiling, field)
        found = [_name(number, {**changes, field: value}) for value in values if value != own]
        if found:
            yield found


def merged(name: str, variation: str) -> str:
    """`name` with the changes that another name of the same plan has."""
    number, changes = _parse(name)
    return _name(number, {**changes, **_parse(variation)[1]})


def _choices(plan: Plan) -> dict[str, tuple[Any, ...]]:
    """Values that each freely chosen size or source of a blocked plan may have."""
    problem, tiling = plan.problem, plan.tiling
    if plan.field is not None or plan.crossing is not None or problem.is_vector or problem.symbols:
        return {}
    if problem.order is not None or tiling.near:
        return {}
    found: dict[str, tuple[Any, ...]] = {
        "b": _sources_of_b(problem, tiling),
        "a": _sources_of_a(problem, tiling),
    }
    if len(problem.step_axes) == 1:
        found["kc"] = tuple(dict.fromkeys(cached_steps(problem.k, tiling.fold, d) for d in _DEPTHS))
    found["nc"] = tuple(
        dict.fromkeys(
            min(round_up(n, tiling.columns), round_up(problem.n, tiling.columns))
            for n in (tiling.nc // 4, tiling.nc // 2, tiling.nc * 2, tiling.nc * 4)
            if n > 0
        )
    )
    found["mc"] = tuple(
        dict.fromkeys(
            min(round_up(m, tiling.rows), round_up(problem.m, tiling.rows))
            for m in (tiling.mc // 4, tiling.mc // 2, tiling.mc * 2)
            if m > 0
        )
    )
    return found


def _sources_of_a(problem: Problem, tiling: Tiling) -> tuple[Source, ...]:
    packed: Source = "runs" if _runs_along_steps(problem.a) else "panels"
    if tiling.a in ("columns", "transpose") or problem.a.direct is None:
        return (tiling.a,)
    return ("place", packed)


def _sources_of_b(problem: Problem, tiling: Tiling) -> tuple[Source, ...]:
    ragged = problem.n % tiling.width != 0
    direct = problem.b.direct
    if direct is None or direct.row != 1 or ragged or tiling.b not in ("place", "panels"):
        return (tiling.b,)
    return ("place", "panels")


def _runs_along_steps(operand: Operand) -> bool:
    return operand.direct is not None and operand.direct.step == 1


def _changed(base: Plan, changes: Mapping[str, Any]) -> Plan:
    tiling = dataclasses.replace(base.tiling, **changes)
    block = max(1, min(base.problem.m, max(tiling.mc, 1024)))
    tiling = leads(dataclasses.replace(tiling, mb=round_up(block, tiling.mc)), base.problem.dtype.itemsize)
    return dataclasses.replace(base, tiling=tiling)


def _name(number: int, changes: Mapping[str, Any]) -> str:
    return " ".join([str(number), *(f"{field}={changes[field]}" for field in sorted(changes))])


def _parse(name: str) -> tuple[int, dict[str, Any]]:
    """Number and changes. Raises CompileError where the text is no plan's name."""
    number, *changes = name.split(" ")
    found: dict[str, Any] = {}
    try:
        for change in changes:
            field, value = change.split("=")
            if field in ("kc", "mc", "nc"):
                found[field] = int(value)
            elif field in ("a", "b"):
                found[field] = value
            else:
                raise ValueError
        return int(number), found
    except ValueError:
        raise CompileError(
            f"{name!r} names no plan: expected a number and changes like kc=256 or a=panels"
        ) from None
