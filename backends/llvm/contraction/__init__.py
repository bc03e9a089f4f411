"""The contraction engine: matrix products and convolutions, in any layout, as blocked loop nests.

A kernel whose first stage sums products over inner axes is recognised by its structure alone.
Its operands are read through their index maps while blocks of them are packed, and the stages
that follow run on the finished sums. The order in which an output element's products are added
depends on the shape and the target only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from math import prod

from graphc.backends.llvm.contraction import winograd
from graphc.backends.llvm.contraction.axes import constant
from graphc.backends.llvm.contraction.blocks import (
    Blocks,
    at_sizes,
    blocks_of,
    emit_blocks,
    emit_sum,
    parts_of_sum,
)
from graphc.backends.llvm.contraction.crossed import crossed_scratch, emit_crossed
from graphc.backends.llvm.contraction.fielded import emit_fielded, field_scratch
from graphc.backends.llvm.contraction.gathered import emit_gathered
from graphc.backends.llvm.contraction.kept import kept_operand
from graphc.backends.llvm.contraction.macro import emit_blocked, scratch_of
from graphc.backends.llvm.contraction.near import emit_near
from graphc.backends.llvm.contraction.phases import phases
from graphc.backends.llvm.contraction.plan import Plan, best_parts, describe, estimate, make_plan
from graphc.backends.llvm.contraction.problem import readings
from graphc.backends.llvm.contraction.tiling import step_numbers
from graphc.backends.llvm.contraction.variants import base_names, merged, plan_named, variations
from graphc.backends.llvm.contraction.vector import emit_vector, vector_cycles, vector_scratch
from graphc.backends.llvm.text import Builder, ModuleText
from graphc.ir.dims import Dim, Symbol, substitute
from graphc.ir.errors import CompileError
from graphc.ir.kernel import Kernel, Schedule, kernel_sizes, size_of
from graphc.ir.target import Target

__all__ = [
    "base_names",
    "can_be_tuned",
    "contraction_schedule",
    "cycles",
    "division",
    "emit_contraction",
    "is_contraction",
    "kept_operand",
    "merged",
    "named_schedule",
    "number_extents",
    "numbers_at",
    "partitions",
    "scratch_bytes",
    "variations",
]

_PARAMETERS = (("ptr", "buffers"), ("i64", "part"), ("i64", "parts"), ("ptr", "error"))

_MULTIPLY_ADDS_A_PART = 1 << 20
_VECTOR_MULTIPLY_ADDS_A_PART = 1 << 17
_MOST_PARTS = 16
_WORTH_TUNING = 1 << 16
"""Multiply-adds from which on plans differ by more than a microsecond."""


def is_contraction(kernel: Kernel) -> bool:
    """True where this engine can emit the kernel."""
    return bool(readings(kernel, None))


def partitions(kernel: Kernel, target: Target) -> int:
    """Into how many partitions the kernel is worth dividing; from its shape and target alone."""
    windows = _windows(kernel, target)
    if windows is not None:
        return windows.parts
    return _partitions(_plans(kernel, target), target)


def _partitions(plans: Sequence[Plan], target: Target, times: int = 1) -> int:
    problems = [p.problem for p in plans]
    work = times * sum(p.batch.total * p.m * p.n * p.k for p in problems)
    is_vector = any(p.is_vector for p in problems)
    least = _VECTOR_MULTIPLY_ADDS_A_PART if is_vector else _MULTIPLY_ADDS_A_PART
    count = max(1, min(best_parts(plans, target.cores), work // least, _MOST_PARTS))
    # A power of two divides evenly among the usual numbers of threads.
    return 1 << (count.bit_length() - 1)


def contraction_schedule(kernel: Kernel, target: Target, vector: bool | None = None) -> Schedule | None:
    """Tiles, vector axis and partitions of a contraction kernel; None where it is not one.

    `vector` says whether one side of the op has a single point; None goes by what the kernel reads.
    The emitter follows the same plan, which depends on the kernel and the target only; of the
    schedule it needs no more than the engine, which says the order of the sum.
    """
    if _in_blocks(kernel):
        found = blocks_of(kernel)
        largest = None if found is None else contraction_schedule(found.fixed(found.sizes[0]), target, vector)
        return None if largest is None else dataclasses.replace(largest, parts=_MOST_PARTS)
    in_parts = _in_parts(kernel, target)
    if in_parts is not None:
        return describe(in_parts[0].fixed(1), in_parts[1], _MOST_PARTS)
    windows = None if kernel_sizes(kernel) else winograd.make_plan(kernel, target, vector)
    if windows is not None:
        return winograd.describe(kernel, windows)
    plans = _made(kernel, target, vector)
    if not plans:
        return None
    main = max(plans, key=lambda p: p.problem.k)
    return describe(kernel, main, _partitions(plans, target))


def can_be_tuned(kernel: Kernel, schedule: Schedule) -> bool:
    """True where another plan may be asked for by name: the order of the sum is open to none but one engine."""
    if schedule.engine != "contraction" or kernel_sizes(kernel):
        return False
    bare = dataclasses.replace(kernel, schedule=None)
    if len(phases(bare)) != 1:
        return False
    problems = readings(bare, False)
    if any(p.a.panels or p.b.panels for p in problems):
        return False  # the packed operand says what the tiles are
    return bool(problems) and prod(problems[0].totals.values()) * problems[0].k >= _WORTH_TUNING


def named_schedule(name: str, kernel: Kernel, target: Target, vector: bool | None = None) -> Schedule:
    """The schedule of the plan of that name; see `variants`. Raises CompileError where there is none."""
    plan = plan_named(name, kernel, target, vector)
    return dataclasses.replace(describe(kernel, plan, _partitions([plan], target)), plan=name)


def cycles(kernel: Kernel, target: Target, vector: bool) -> float | None:
    """Estimated cycles of a kernel of fixed sizes on one core; None where it is no contraction."""
    windows = winograd.make_plan(kernel, target, vector)
    if windows is not None:
        return windows.cycles
    plan = make_plan(kernel, target, vector)
    if plan is None:
        return None
    return vector_cycles(plan.problem, target) if plan.problem.is_vector else estimate(plan)


def scratch_bytes(kernel: Kernel, target: Target) -> int:
    """Bytes of the extra buffer that a partition takes after the kernel's own ones; 0 where it takes none."""
    if _in_blocks(kernel):
        found, fixed = _blocks(kernel)
        alone = _alone(found, kernel, target)
        return max(
            scratch_bytes(k, target) for k in (*fixed.values(), *([alone] if alone is not None else []))
        )
    in_parts = _in_parts(kernel, target)
    if in_parts is not None:
        return _scratch(in_parts[1])
    windows = _windows(kernel, target)
    if windows is not None:
        return sum(windows.scratch)
    return max(map(_scratch, _plans(kernel, target)))


def _scratch(plan: Plan) -> int:
    """Bytes that one partition of a plan takes."""
    if plan.problem.is_vector:
        return vector_scratch(plan.problem)
    if plan.crossing is not None:
        return sum(crossed_scratch(plan.problem, plan.crossing))
    if plan.field is not None:
        return sum(field_scratch(plan.problem, plan.field, plan.tiling))
    found = scratch_of(plan.problem, plan.tiling).total
    return found if plan.gather is None else found + plan.gather.bytes(plan.problem)


def emit_contraction(kernel: Kernel, module: ModuleText, symbol: str, target: Target) -> None:
    """Emits `void @symbol(ptr buffers, i64 part, i64 parts, ptr error)`.

    `buffers` holds the kernel's buffers in order, then memory for this partition alone (64-byte aligned)
    where `scratch_bytes` is not 0. Raises `CompileError` for a kernel that is no contraction.
    """
    if _in_blocks(kernel):
        _emit_blocks(kernel, module, symbol, target)
        return
    in_parts = _in_parts(kernel, target)
    if in_parts is not None:
        found, plan = in_parts
        inner = module.function(f"{symbol}.part", "void", _PARAMETERS, linkage="internal")
        _emit(plan, inner, target)
        inner.ret()
        outer = module.function(symbol, "void", _PARAMETERS)
        emit_sum(found, outer, inner.name, _scratch(plan) > 0)
        outer.ret()
        return
    builder = module.function(symbol, "void", _PARAMETERS)
    if kernel.schedule is not None and kernel.schedule.parts == 1:
        _know_alone(builder)
    _emit_fixed(kernel, builder, target)


def division(kernel: Kernel, target: Target) -> Callable[[Mapping[Symbol, int]], int]:
    """A function that says into how many partitions a kernel with symbolic sizes is worth dividing at given ones."""
    in_parts = _in_parts(kernel, target)
    if in_parts is not None:
        part, plan = in_parts
        return lambda sizes: _partitions([plan], target, part.count_at(sizes))
    if not _in_blocks(kernel):
        own = kernel_sizes(kernel)

        @functools.cache
        def divided(*values: int) -> int:
            return _partitions(_plans(_at_work(kernel, dict(zip(own, values, strict=True))), target), target)

        return lambda sizes: divided(*(_near(sizes[s]) for s in own))
    found, fixed = _blocks(kernel)

    @functools.cache
    def of_block(length: int) -> int:
        return partitions(fixed[length], target)

    @functools.cache
    def of_one() -> int:
        alone = _alone(found, kernel, target)
        return of_block(1) if alone is None else partitions(alone, target)

    def divide(sizes: Mapping[Symbol, int]) -> int:
        size = found.count_at(sizes)
        count = size // found.sizes[0]
        if count >= _MOST_PARTS:
            return _MOST_PARTS
        parts = of_one() if size == 1 else of_block(next((s for s in found.sizes if s <= size), 1))
        return max(parts, 1 << (max(1, count).bit_length() - 1)) if count > 1 else parts

    return divide


def _near(size: int) -> int:
    """A number of steps that is worth as many partitions: planning for each size again would take longer than it saves."""
    return 1 << (max(1, size).bit_length() - 1)


def _at_work(kernel: Kernel, sizes: Mapping[Symbol, int]) -> Kernel:
    """The kernel at given sizes, of which each is at least 1: how it is divided says nothing of what it does."""
    fixed = at_sizes(kernel, {s: max(1, n) for s, n in sizes.items()})
    return dataclasses.replace(fixed, schedule=kernel.schedule)


def numbers_at(kernel: Kernel, sizes: Mapping[Symbol, int]) -> tuple[int, ...]:
    """What a kernel with symbolic sizes is called with besides these, at given ones."""
    extents = number_extents(kernel)
    return step_numbers([int(substitute(e, dict(sizes))) for e in extents]) if extents else ()


def number_extents(kernel: Kernel) -> tuple[Dim, ...]:
    """The extents from which those numbers follow; none where there are no numbers."""
    # A sum in parts does not look at them.
    return () if _in_blocks(kernel) else tuple(map(size_of, kernel.stages[0].axes))


def _in_parts(kernel: Kernel, target: Target) -> tuple[Blocks, Plan] | None:
    """A sum over a symbolic number of parts of fixed size, and the plan of a part; None of any other kernel."""
    if not kernel.stages or kernel.stages[0].kind != "reduce" or not kernel_sizes(kernel):
        return None
    found = parts_of_sum(kernel)
    plan = None if found is None else make_plan(found.fixed(1), target, False, found.fold)
    return None if found is None or plan is None else (found, plan)


def _in_blocks(kernel: Kernel) -> bool:
    """True of a kernel that has outer axes of symbolic size."""
    return any(a.size is not None for a in kernel.axes)


def _blocks(kernel: Kernel) -> tuple[Blocks, dict[int, Kernel]]:
    """A kernel with symbolic sizes as blocks, and the kernel of each size of block."""
    found = blocks_of(kernel)
    if found is None:
        raise CompileError("the contraction engine cannot be used with these symbolic sizes")
    return found, {n: dataclasses.replace(found.fixed(n), schedule=_plain(kernel)) for n in found.sizes}


def _alone(found: Blocks, kernel: Kernel, target: Target) -> Kernel | None:
    """The kernel of a single unit where a kernel of that fixed size is made by another engine; None where it is not."""
    single = found.fixed(1)
    chosen = contraction_schedule(single, target, None)
    if chosen is None or kernel.schedule is None or chosen.engine == kernel.schedule.engine:
        return None
    return dataclasses.replace(single, schedule=chosen)


def _plain(kernel: Kernel) -> Schedule | None:
    """What of the schedule blocks of other sizes share: the engine, which says the order of the sum."""
    return kernel.schedule


def _emit_blocks(kernel: Kernel, module: ModuleText, symbol: str, target: Target) -> None:
    found, fixed = _blocks(kernel)
    functions = {}
    for size, block in fixed.items():
        inner = module.function(f"{symbol}.block{size}", "void", _PARAMETERS, linkage="internal")
        _emit_fixed(block, inner, target)
        functions[size] = inner.name
    builder = module.function(symbol, "void", _PARAMETERS)
    alone = _alone(found, kernel, target)
    name = None
    if alone is not None:
        inner = module.function(f"{symbol}.alone", "void", _PARAMETERS, linkage="internal")
        _emit_fixed(alone, inner, target)
        name = inner.name
    emit_blocks(found, builder, functions, name, scratch_bytes(kernel, target) > 0)
    builder.ret()


def _emit_fixed(kernel: Kernel, builder: Builder, target: Target) -> None:
    """The body and the end of a kernel function for fixed sizes."""
    module, symbol = builder.module, builder.name
    windows = _windows(kernel, target)
    if windows is not None:
        winograd.emit_windows(windows, builder)
        builder.ret()
        return
    plans = _plans(kernel, target)
    if len(plans) == 1:
        _emit(plans[0], builder, target)
    else:
        for number, plan in enumerate(plans):
            phase = module.function(f"{symbol}.phase{number}", "void", _PARAMETERS, linkage="internal")
            if builder.params[2].text == "1":
                _know_alone(phase)
            _emit(plan, phase, target)
            phase.ret()
            builder.call_void(phase.name, builder.params)
    builder.ret()


def _know_alone(builder: Builder) -> None:
    """Tells the code of a kernel function that there is one partition."""
    buffers, _, _, error = builder.params
    builder.params = (buffers, constant(0), constant(1), error)


def _emit(plan: Plan, builder: Builder, target: Target) -> None:
    problem = plan.problem
    if problem.batch.total * problem.m * problem.n == 0:
        return
    if problem.is_vector:
        emit_vector(problem, target, builder)
    elif plan.crossing is not None:
        emit_crossed(problem, plan.crossing, builder)
    elif plan.field is not None:
        emit_fielded(problem, plan.field, plan.tiling, plan.side, builder)
    elif plan.gather is not None:
        emit_gathered(problem, plan.gather, plan.tiling, plan.side, builder)
    elif plan.tiling.near:
        emit_near(problem, plan.tiling, plan.side, builder)
    else:
        emit_blocked(problem, plan.tiling, plan.side, builder)


def _windows(kernel: Kernel, target: Target) -> winograd.Plan | None:
    """The plan of a kernel that is computed through transformed tiles; None of any other."""
    schedule = kernel.schedule
    if kernel_sizes(kernel) or (schedule is not None and schedule.engine != "tiled_windows"):
        return None
    if schedule is None:
        return winograd.make_plan(kernel, target, None)
    return winograd.make_plan(kernel, target, False, True)


def _plans(kernel: Kernel, target: Target) -> list[Plan]:
    """A plan for each phase of the kernel."""
    schedule = kernel.schedule
    vector = (
        None if schedule is None or schedule.engine == "loops" else schedule.engine == "vector_contraction"
    )
    if schedule is not None and schedule.plan:
        return [plan_named(schedule.plan, dataclasses.replace(kernel, schedule=None), target, vector)]
    plans = _made(kernel, target, vector)
    if not plans:
        raise CompileError("the kernel is not a contraction: expected a sum of products, then map stages")
    return plans


def _made(kernel: Kernel, target: Target, vector: bool | None) -> list[Plan]:
    bare = dataclasses.replace(kernel, schedule=None)
    plans = [make_plan(phase, target, vector) for phase in phases(bare)]
    return [p for p in plans if p is not None]
