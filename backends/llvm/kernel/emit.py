"""The code of one scheduled kernel: `void @symbol(ptr buffers, i64 part, i64 parts, ptr error)`.

The public function fetches the buffer pointers and calls an inner one whose pointer parameters
are marked as not overlapping. Partition `part` takes a contiguous share of the flattened
parallel loops; shares are made of whole granules, so every vector that one partition runs is
run alike by any other division of the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.backends.llvm.kernel.body import run, run_point
from graphc.backends.llvm.kernel.columns import emit_columns
from graphc.backends.llvm.kernel.loops import Range, Step, run_loops
from graphc.backends.llvm.kernel.memory import fetch
from graphc.backends.llvm.kernel.plan import (
    STACK_BYTES,
    LoopPlan,
    plan_of,
    plans_of,
)
from graphc.backends.llvm.kernel.reduction import run_reduce
from graphc.backends.llvm.kernel.scope import BodySpace, Scope, below_largest
from graphc.backends.llvm.kernel.values import constant
from graphc.backends.llvm.text import Builder, ModuleText, Val
from graphc.ir.dims import Dim, product
from graphc.ir.kernel import Kernel, Stage, kernel_sizes, size_of
from graphc.ir.target import Target

__all__ = ["emit_kernel", "emit_rows"]


def emit_kernel(kernel: Kernel, module: ModuleText, symbol: str, target: Target) -> None:
    """Adds the kernel's function to `module`. Raises CompileError for a schedule that cannot be run."""
    plans = plans_of(kernel, target)
    inlined = "nounwind alwaysinline"
    locals_ = plans[0].local_bytes()
    sizes = [s.name for s in kernel_sizes(kernel)]
    parameters = len(kernel.parameters) + bool(sizes) + (sum(locals_.values()) > STACK_BYTES)
    streamed = _streamed(kernel, target) if len(plans) > 1 or not _scatters(kernel) else frozenset()
    signature = _body_signature(parameters)
    _emit_body(
        plans,
        module.function(f"{symbol}.body", "void", signature, linkage="internal", attributes=inlined),
        locals_,
        sizes,
    )
    if streamed:
        inner = module.function(f"{symbol}.past", "void", signature, linkage="internal", attributes=inlined)
        _emit_body(plans, inner, locals_, sizes, streamed)
    numbers = [n for n, b in enumerate(kernel.buffers) if b.access != "local"]
    _emit_wrapper(module, symbol, parameters, [numbers.index(n) for n in sorted(streamed)])


def emit_rows(kernel: Kernel, module: ModuleText, symbol: str, target: Target, quantum: int) -> None:
    """Adds `void @symbol(ptr buffers, i64 before, i64 first, i64 end, ptr error)`: the points [first, end) of the flattened
    outer axes, which the schedule runs in order, one point after the other.

    Where `quantum` is not 0, what inner axes hold after point `row` - `before` of row `row` is known to change no
    reduction, and what maps make of it is not needed: inner axes, all of one length, end at the next multiple of `quantum`.
    """
    plan = plan_of(kernel, target)
    names = [("i64", "before"), ("i64", "first"), ("i64", "end"), ("ptr noalias", "error")]
    signature = [*(("ptr noalias", f"b{i}") for i in range(len(kernel.parameters))), *names]
    inner = module.function(
        f"{symbol}.body", "void", signature, linkage="internal", attributes="nounwind alwaysinline"
    )
    pointers = _buffer_pointers(inner, plan, plan.local_bytes(), False, False)
    before, first, end, error = inner.params[-4:]
    space = BodySpace(inner, kernel, pointers, error, plan.local_lanes)

    def row(at: Val, _: tuple[Val, ...]) -> tuple[Val, ...]:
        scope = space.scope()
        if plan.outer:
            run(scope, plan.placement.outer[0])
        for n, step in enumerate(plan.outer):
            rest = product([s.extent for s in plan.outer[n + 1 :]])
            scope = scope.bind({step.axis: _digit(scope, at, rest, step.extent if n else 0)})
            if n + 1 < len(plan.outer):
                run(scope, plan.placement.outer[n + 1])
        if quantum:
            after = inner.add(inner.sub(at, before), Val("i64", str(quantum)))
            length = max(size_of(a) for stage in kernel.stages for a in stage.axes)
            whole = inner.binary("and", after, Val("i64", str(-quantum)))
            space.row_end = inner.intrinsic("smin", "i64", [whole, scope.dim(length)])
        _emit_stages(plan, scope)
        return ()

    inner.loop(first, end, 1, (), row, "row")
    inner.ret()
    f = module.function(
        symbol, "void", [("ptr", "buffers"), *names[:3], ("ptr", "error")], linkage="internal"
    )
    table = f.params[0]
    given = [f.load("ptr", f.gep(table, i, "ptr"), 8) for i in range(len(kernel.parameters))]
    f.call_void(inner.name, [*given, *f.params[1:]])
    f.ret()


def _scatters(kernel: Kernel) -> bool:
    return any(s.kind == "scatter" for s in kernel.stages)


def _body_signature(parameters: int) -> list[tuple[str, str]]:
    names = [("ptr noalias", f"b{i}") for i in range(parameters)]
    return [*names, ("i64", "part"), ("i64", "parts"), ("ptr noalias", "error")]


def _emit_body(
    plans: Sequence[LoopPlan],
    inner: Builder,
    locals_: Mapping[int, int],
    sizes: Sequence[str],
    streamed: frozenset[int] = frozenset(),
) -> None:
    """The loops of a kernel's parts one after another; `sizes` names its symbolic sizes, `streamed` are the buffers
    that are stored past the caches."""
    pointers = _buffer_pointers(inner, plans[0], locals_, bool(sizes), sum(locals_.values()) > STACK_BYTES)
    array = Val("ptr", f"%b{len(plans[0].kernel.parameters)}")
    values = {name: inner.load("i64", inner.gep(array, n, "i64"), 8) for n, name in enumerate(sizes)}
    part, parts, error = (Val(t, f"%{n}") for t, n in (("i64", "part"), ("i64", "parts"), ("ptr", "error")))
    spaces = [BodySpace(inner, plan.kernel, pointers, error, plan.local_lanes) for plan in plans]
    for space in spaces:
        space.sizes = values
        space.streamed = streamed
        space.below = below_largest([plan.kernel for plan in plans])
    if plans[0].in_blocks:
        _emit_blocks(plans, [space.scope() for space in spaces], part, parts)
    else:
        for plan, space in zip(plans, spaces, strict=True):
            if all(size_of(a) != 0 for a in plan.kernel.axes):
                _emit_outer(plan, space, part, parts)
    if streamed:
        inner.fence_stores()
    inner.ret()


def _streamed(kernel: Kernel, target: Target) -> frozenset[int]:
    """Large results that the kernel does not read: fetching their lines before they are overwritten would cost
    as much as storing them, and they would push out what the caches hold."""
    moved = sum(b.type.typical_bytes for b in kernel.parameters)
    if moved < target.l3_bytes:
        return frozenset()
    read = {i.buffer for i in kernel.instructions() if i.opcode == "load"}
    return frozenset(
        n
        for n, b in enumerate(kernel.buffers)
        if b.access == "out" and n not in read and b.type.typical_bytes * 4 >= target.l3_bytes
    )


def _emit_wrapper(module: ModuleText, symbol: str, parameters: int, streamed: Sequence[int]) -> None:
    """The public function. Buffers can be stored past the caches where all of `streamed` are aligned."""
    f = module.function(
        symbol, "void", [("ptr", "buffers"), ("i64", "part"), ("i64", "parts"), ("ptr", "error")]
    )
    table = Val("ptr", "%buffers")
    pointers = [f.load("ptr", f.gep(table, i, "ptr"), 8) for i in range(parameters)]
    if streamed:
        bits = Val("i64", "0")
        for n in streamed:
            bits = f.or_(bits, f.cast("ptrtoint", pointers[n], "i64"))
        low = f.and_(bits, Val("i64", str(module.target.vector_bytes - 1)))
        aligned, other = f.label("aligned"), f.label("other")
        f.branch_if(f.icmp("eq", low, Val("i64", "0")), aligned, other)
        f.block(aligned)
        f.call_void(f"{symbol}.past", [*pointers, *f.params[1:]])
        f.ret()
        f.block(other)
    f.call_void(f"{symbol}.body", [*pointers, *f.params[1:]])
    f.ret()


def _buffer_pointers(
    b: Builder, plan: LoopPlan, locals_: Mapping[int, int], sized: bool, scratch: bool
) -> list[Val]:
    """Addresses of all buffers: parameters in order, locals on the stack or in scratch memory."""
    parameters = iter(range(len(plan.kernel.parameters)))
    base = Val("ptr", f"%b{len(plan.kernel.parameters) + sized}")
    pointers, at = [], 0
    for i, buffer in enumerate(plan.kernel.buffers):
        if buffer.access != "local":
            pointers.append(Val("ptr", f"%b{next(parameters)}"))
        elif scratch:
            pointers.append(b.gep(base, at, "i8"))
            at += locals_[i]
        else:
            pointers.append(b.alloca("i8", max(64, locals_[i])))
    return pointers


# -- outer loops ------------------------------------------------------------------------


def _granule(step: Step, inside: Sequence[Step]) -> int:
    """Points of a parallel axis that are never divided."""
    if step.size:
        return step.size
    return max(
        (s.size * (s.unroll if s.role == "vector" else 1) for s in inside if s.axis == step.axis), default=1
    )


def _emit_outer(plan: LoopPlan, space: BodySpace, part: Val, parts: Val) -> None:
    b = space.builder
    scope = space.scope()
    count = next((n for n, s in enumerate(plan.outer) if s.role != "parallel"), len(plan.outer))
    parallel, inside = plan.outer[:count], plan.outer[count:]
    if plan.outer:
        run(scope, plan.placement.outer[0])

    def point(at: Scope, _: tuple[Val, ...]) -> tuple[Val, ...]:
        _emit_stages(plan, at)
        return ()

    def entered(at: Scope, depth: int) -> None:
        run(at, plan.placement.outer[depth])

    if not parallel:
        with b.if_(b.icmp("eq", part, Val("i64", "0"))):
            if plan.along_rows:
                _emit_along_rows(plan, scope, (Val("i64", "0"), scope.dim(plan.outer[-1].extent)))
                return
            run_loops(plan.outer, scope, {}, (), point, entered)
        return
    granules = [_granule(s, inside) for s in parallel]
    counts = [-(-s.extent // g) for s, g in zip(parallel, granules, strict=True)]
    lo, hi = _share(b, part, parts, scope.dim(product(counts)))

    def blocks(outer: Val | None, first: Val, end: Val) -> None:
        inner = scope
        ranges: dict[str, Range] = {}
        for n, (step, granule) in enumerate(zip(parallel[:-1], granules, strict=False)):
            assert outer is not None
            at = _digit(scope, outer, product(counts[n + 1 : -1]), counts[n] if n else 0)
            inner, ranges = _enter_block(inner, step, granule, at, ranges)
            entered(inner, n + 1)
        last, granule = parallel[-1], granules[-1]
        ranges[last.axis] = _points(scope, first, end, granule, last.extent)
        if plan.along_rows:
            _emit_along_rows(plan, inner, ranges[last.axis])
            return
        rest = inside if not last.last else (Step(last.axis, "sequential", last.extent), *inside)
        depth = len(parallel) - (1 if last.last else 0)
        if not last.last and len(plan.outer) > len(parallel):
            entered(inner, depth)
        run_loops(rest, inner, ranges, (), point, entered, depth)

    if len(parallel) == 1:
        blocks(None, lo, hi)
        return
    width = scope.dim(counts[-1])
    if isinstance(counts[-1], int):
        first_row = b.binary("udiv", lo, width)
        end_row = b.binary("udiv", b.add(hi, Val("i64", str(counts[-1] - 1))), width)
    else:
        # Of nothing every partition has nothing.
        some = b.intrinsic("smax", "i64", [width, Val("i64", "1")])
        first_row = b.binary("udiv", lo, some)
        end_row = b.binary("udiv", b.add(hi, b.sub(some, Val("i64", "1"))), some)

    def row(outer: Val, _: tuple[Val, ...]) -> tuple[Val, ...]:
        start = b.mul(outer, width)
        first = b.intrinsic("smax", "i64", [b.sub(lo, start), Val("i64", "0")])
        end = b.intrinsic("smin", "i64", [b.sub(hi, start), width])
        blocks(outer, first, end)
        return ()

    b.loop(first_row, end_row, 1, (), row, "row")


def _emit_blocks(plans: Sequence[LoopPlan], scopes: Sequence[Scope], part: Val, parts: Val) -> None:
    """All parts of a kernel at one block of rows after the other."""
    b = scopes[0].builder
    blocks = plans[0].outer[0]
    for plan, scope in zip(plans, scopes, strict=True):
        run(scope, plan.placement.outer[0])

    def block(i: Val, _: tuple[Val, ...]) -> tuple[Val, ...]:
        for plan, scope in zip(plans, scopes, strict=True):
            _emit_block(plan, scope.bind({blocks.axis: i}))
        return ()

    if blocks.role == "parallel":
        b.loop(*_share(b, part, parts, scopes[0].dim(blocks.extent)), 1, (), block, blocks.axis)
        return
    with b.if_(b.icmp("eq", part, Val("i64", "0"))):
        b.loop(Val("i64", "0"), scopes[0].dim(blocks.extent), 1, (), block, blocks.axis)


def _emit_block(plan: LoopPlan, scope: Scope) -> None:
    """One part at the rows of one block."""

    def point(at: Scope, _: tuple[Val, ...]) -> tuple[Val, ...]:
        _emit_stages(plan, at)
        return ()

    def entered(at: Scope, depth: int) -> None:
        run(at, plan.placement.outer[depth])

    entered(scope, 1)
    run_loops(plan.outer[1:], scope, {}, (), point, entered, 1)


def _emit_along_rows(plan: LoopPlan, scope: Scope, columns: Range) -> None:
    """All stages at some columns."""

    def finish(at: Scope) -> None:
        for number, stage in enumerate(plan.kernel.stages[1:], 1):
            _emit_stage(plan, number, stage, at, at.lane.name if at.lane is not None else None)

    lists = plan.placement.stages[0]
    emit_columns(plan.kernel, plan.outer[-1], columns, scope, lists, finish)


def _share(b: Builder, part: Val, parts: Val, size: Val) -> Range:
    """This partition's granules: [part·size/parts, (part+1)·size/parts)."""
    lo = b.binary("udiv", b.mul(part, size), parts)
    hi = b.binary("udiv", b.mul(b.add(part, Val("i64", "1")), size), parts)
    return lo, hi


def _digit(scope: Scope, flat: Val, stride: Dim, count: Dim) -> Val:
    """One coordinate of a flattened row number; `count` is 0 for the first."""
    b = scope.builder
    at = b.binary("udiv", flat, scope.dim(stride)) if stride != 1 else flat
    return b.binary("urem", at, scope.dim(count)) if count != 0 else at


def _points(scope: Scope, first: Val, end: Val, granule: int, size: Dim) -> Range:
    """Granule numbers as points, the last granule cut at the axis's end."""
    if granule == 1:
        return first, end
    b = scope.builder
    g = Val("i64", str(granule))
    stop = b.mul(end, g)
    if size % granule != 0:
        stop = b.intrinsic("smin", "i64", [stop, scope.dim(size)])
    return b.mul(first, g), stop


def _enter_block(
    scope: Scope, step: Step, granule: int, at: Val, ranges: Mapping[str, Range]
) -> tuple[Scope, dict[str, Range]]:
    """Binds a parallel axis to one point, or narrows it to one granule for the loops inside."""
    if step.last:
        return scope.bind({step.axis: at}), dict(ranges)
    b = scope.builder
    following = b.add(at, Val("i64", "1"))
    return scope.child(), {**ranges, step.axis: _points(scope, at, following, granule, step.extent)}


# -- stages -----------------------------------------------------------------------------


def _emit_stages(plan: LoopPlan, scope: Scope) -> None:
    """All stages at one outer point."""
    lane = scope.lane.name if scope.lane is not None else None
    for number, stage in enumerate(plan.kernel.stages):
        if all(size_of(a) != 0 for a in stage.axes):
            _emit_stage(plan, number, stage, scope, lane)
        elif stage.kind == "reduce":
            _emit_empty(stage, scope)


def _emit_empty(stage: Stage, scope: Scope) -> None:
    """A reduction over nothing."""
    for result, (dtype, value) in zip(stage.results, stage.init, strict=True):
        scope.set(result, constant(scope.builder, dtype, value))


def _emit_stage(plan: LoopPlan, number: int, stage: Stage, scope: Scope, lane: str | None) -> None:
    steps, lists = plan.stages[number], plan.placement.stages[number]
    run(scope, lists[0])
    yielded = stage.body[-1].operands if stage.kind == "reduce" else ()
    depends: frozenset[str] = frozenset().union(*(plan.placement.depends[o] for o in yielded))

    def body(at: Scope) -> tuple[Val, ...]:
        if steps:
            varies = at.lane is not None and at.lane.name in depends
            run_point(at, lists[len(steps)], varies)
            for load, stride in plan.ahead.get(number, ()):
                fetch(at, load, stride)
        else:
            at.yields = scope.yields
        return at.yields

    def entered(at: Scope, depth: int) -> None:
        run(at, lists[depth])

    if stage.kind == "reduce":
        varies = lane is not None and any(lane in plan.placement.depends[r] for r in stage.results)
        run_reduce(stage, steps, scope, varies, body, entered)
        return

    def leaf(at: Scope, _: tuple[Val, ...]) -> tuple[Val, ...]:
        body(at)
        return ()

    if steps:
        end = scope.space.row_end
        ranges = {} if end is None else {steps[-1].axis: (Val("i64", "0"), end)}
        run_loops(steps, scope, ranges, (), leaf, entered)
