"""Reduce stages: accumulators as phis.

Without a vector loop of its own, a stage folds its points in row-major order, one accumulator
per lane of the outer vector axis. With one, point r of the innermost axis goes to partial
accumulator r mod P; the P partials are folded by halves at the end. P depends on the axis's
extent, the accumulator's dtype and the target's vector length alone, so a sum has the same bits
in every kernel that it is fused into.

A float sum of many points is made in levels, so that its error grows with the square root of the
number of points and not with the number: a run of points starts from zero and is then added to a
total. Where an axis is long, the run is about as long as there are runs. In partials the innermost
axis has runs; in order each axis has, runs of runs where it is very long, and what the axes inside
it sum to is one of its points.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.backends.llvm.kernel.body import combine
from graphc.backends.llvm.kernel.loops import Step, run_loops
from graphc.backends.llvm.kernel.scalar_ops import extremum_of_numbers
from graphc.backends.llvm.kernel.scope import Scope
from graphc.backends.llvm.kernel.values import constant
from graphc.backends.llvm.text import Val, lanes, vector
from graphc.ir.dims import Dim, product
from graphc.ir.errors import CompileError
from graphc.ir.kernel import FOLD_IN_LANES, Combine, Stage, size_of
from graphc.ir.target import Target
from graphc.ir.types import float32, float64

__all__ = ["level_length", "partial_count", "run_reduce"]

Accumulators = tuple[Val, ...]
Body = Callable[[Scope], Accumulators]
"""Emits the stage's body at a point and returns what it yields."""


def partial_count(extent: int, bits: int, target: Target) -> int:
    """P: four vectors of partial accumulators, fewer for a short axis."""
    lane_count = target.width(bits)
    vectors = extent // lane_count
    return lane_count * (4 if vectors >= 4 else 2 if vectors >= 2 else 1)


def run_reduce(
    stage: Stage,
    steps: tuple[Step, ...],
    scope: Scope,
    varies: bool,
    body: Body,
    entered: Callable[[Scope, int], None],
) -> None:
    """Emits a reduce stage and sets its results in `scope`.

    `varies` says whether the accumulators differ between the lanes of the outer vector axis.
    """
    assert stage.combine is not None
    inner = steps[-1] if steps and steps[-1].role == "vector" else None
    if any(s.role == "vector" for s in steps[:-1]):
        raise CompileError("the vector loop of a reduce stage must be its innermost")
    if inner is not None:
        results = _partials(stage, stage.combine, inner, steps, scope, body, entered)
    else:
        width = scope.width if varies else 1
        results = _in_order(stage, stage.combine, width, steps, scope, body, entered)
    for number, value in zip(stage.results, results, strict=True):
        scope.set(number, value)


def _initial(stage: Stage, scope: Scope, width: int) -> Accumulators:
    b = scope.builder
    return tuple(b.splat(constant(b, d, v), width) for d, v in stage.init)


def _wide(scope: Scope, values: Accumulators, width: int) -> Accumulators:
    return tuple(scope.builder.splat(v, width) for v in values)


def _in_order(
    stage: Stage,
    how: Combine,
    width: int,
    steps: tuple[Step, ...],
    scope: Scope,
    body: Body,
    entered: Callable[[Scope, int], None],
) -> Accumulators:
    def leaf(point: Scope, accumulators: Accumulators) -> Accumulators:
        return combine(point, how, accumulators, _wide(point, body(point), width))

    start = _initial(stage, scope, width)
    points = product([size_of(a) for a in stage.axes])
    if not _has_levels(stage, how) or (isinstance(points, int) and points < _LEAST_BLOCKS):
        return run_loops(steps, scope, {}, start, leaf, entered)
    axes = [(step, n + 1) for n, step in enumerate(steps) if step.last]

    def sum_of(number: int, owner: Scope) -> Accumulators:
        """The sum over the axes from the `number`-th on."""
        step, depth = axes[number]

        def point(i: Val, fresh: Accumulators) -> Accumulators:
            at = owner.bind({step.axis: i})
            if number + 1 == len(axes):
                return leaf(at, fresh)
            entered(at, depth)
            return combine(at, how, fresh, sum_of(number + 1, at))

        def over(first: Val, size: int) -> Accumulators:
            """The sum over `size` points of the axis."""
            run = level_length(size)
            whole = size // run * run
            end = b.add(first, Val("i64", str(whole)))
            if run == 1:
                return b.loop(first, end, 1, start, point, step.axis)
            totals = b.loop(
                first, end, run, start, lambda i, t: combine(owner, how, t, over(i, run)), step.axis
            )
            return totals if whole == size else combine(owner, how, totals, over(end, size - whole))

        if isinstance(step.extent, int):
            return over(Val("i64", "0"), step.extent)
        return _leveled(owner, how, start, owner.dim(step.extent), over, point, step.axis)

    b = scope.builder
    return sum_of(0, scope)


def _leveled(
    scope: Scope,
    how: Combine,
    start: Accumulators,
    size: Val,
    over: Callable[[Val, int], Accumulators],
    point: Callable[[Val, Accumulators], Accumulators],
    hint: str,
) -> Accumulators:
    """The sum over an axis of `size` points, known at run time, in the levels of an axis of as many points.

    Runs of the longest kind that the axis has two of come first, then shorter ones of what is left, then points.
    """
    b = scope.builder
    left, first = size, Val("i64", "0")
    taken: list[tuple[Val, Val, Accumulators]] = []
    for run in _RUNS:
        several = b.icmp("sge", left, Val("i64", str(2 * run)))
        whole = b.select(several, b.binary("and", left, Val("i64", str(-run))), Val("i64", "0"))
        end = b.add(first, whole)

        def one(i: Val, totals: Accumulators, run: int = run) -> Accumulators:
            return combine(scope, how, totals, over(i, run))

        totals = b.loop(first, end, run, start, one, hint)
        left, first = b.sub(left, whole), end
        taken.append((several, b.icmp("sgt", left, Val("i64", "0")), totals))
    found = b.loop(first, size, 1, start, point, hint)
    for several, more, totals in reversed(taken):
        with_rest = combine(scope, how, totals, found)
        chosen = [b.select(more, x, t) for x, t in zip(with_rest, totals, strict=True)]
        found = tuple(b.select(several, c, f) for c, f in zip(chosen, found, strict=True))
    return found


def _finds_nans(stage: Stage, how: Combine, copies: int, width: int, target: Target) -> bool:
    """True of a largest or least float whose NaNs are looked for in two vectors at once: one comparison for both,
    where masks are vectors themselves."""
    dtype = stage.init[0][0]
    return (
        how.opcode in ("max", "min")
        and dtype in (float32, float64)
        and copies % 2 == 0
        and width == target.width(dtype.bits)
        and not (target.has_masks and target.vector_bytes >= _MASK_BYTES)
    )


def _has_levels(stage: Stage, how: Combine) -> bool:
    """True of float sums."""
    return how.opcode == "add" and stage.init[0][0].is_floating_point


def _partials(
    stage: Stage,
    how: Combine,
    inner: Step,
    steps: tuple[Step, ...],
    scope: Scope,
    body: Body,
    entered: Callable[[Scope, int], None],
) -> Accumulators:
    b = scope.builder
    outer = steps[:-1]
    bits = max(d.bits for d, _ in stage.init)
    if not isinstance(inner.extent, int):
        return _partials_of_any(stage, how, inner, inner.extent, outer, scope, body, entered)
    partials = partial_count(inner.extent, bits, b.target)
    width = min(inner.size, partials)
    copies, count = partials // width, len(stage.init)
    size = inner.extent
    full = size // partials * partials
    levels = _has_levels(stage, how)
    run = _run_length(full // partials) * partials if levels else full
    row_end = scope.space.row_end
    assert row_end is None or (full == size and not outer), "only whole blocks of partials can be left out"

    def cut(end: Val | int) -> Val | int:
        """An end of blocks, or what comes before it to which nothing is added by the blocks behind."""
        if row_end is None:
            return end
        return b.intrinsic("smin", "i64", [end if isinstance(end, Val) else Val("i64", str(end)), row_end])

    def fold(base: Val, owner: Scope, old: Accumulators, active: int) -> Accumulators:
        point = owner.bind_vector(inner.axis, base, width, active=active)
        new = combine(point, how, old, _wide(point, body(point), width))
        if active == width:
            return new
        mask = b.vector_literal("i1", ["true" if i < active else "false" for i in range(width)])
        return tuple(b.select(mask, n, o) for n, o in zip(new, old, strict=True))

    def leaf(owner: Scope, carried: Accumulators) -> Accumulators:
        if outer:
            entered(owner, len(outer))

        def block(i: Val, values: Accumulators) -> Accumulators:
            result: list[Val] = []
            for k in range(copies):
                base = b.add(i, Val("i64", str(k * width))) if k else i
                result += fold(base, owner, values[k * count : (k + 1) * count], width)
            return tuple(result)

        def one_run(i: Val, totals: Accumulators) -> Accumulators:
            end = b.add(i, Val("i64", str(run)))
            fresh = b.loop(i, cut(end), partials, start, block, inner.axis)
            return tuple(b.fadd(t, f) for t, f in zip(totals, fresh, strict=True))

        def pairs(i: Val, values: Accumulators) -> Accumulators:
            """As `block` for a largest or least number; the last value has ones where there was a NaN."""
            seen, result = values[-1], []
            for k in range(0, copies, 2):
                new = []
                for n in (k, k + 1):
                    base = b.add(i, Val("i64", str(n * width))) if n else i
                    point = owner.bind_vector(inner.axis, base, width)
                    new.append(b.splat(body(point)[0], width))
                    result.append(extremum_of_numbers(b, how.opcode or "", values[n], new[-1]))
                seen = b.or_(seen, b.cast("sext", b.fcmp("uno", *new), seen.type))
            return (*result, seen)

        whole = full // run * run if levels and full > run else 0
        if whole:
            carried = b.loop(0, cut(whole), run, carried, one_run, inner.axis)
        totals, fresh = carried, start if levels and outer else carried
        several = full - whole > partials or (row_end is not None and full > whole)
        if several and count == 1 and _finds_nans(stage, how, copies, width, b.target):
            clear = b.const(vector(f"i{bits}", width), 0)
            *found, seen = b.loop(whole, cut(full), partials, (*fresh, clear), pairs, inner.axis)
            nan = b.splat(constant(b, stage.init[0][0], float("nan")), width)
            found[0] = b.select(b.icmp("ne", seen, clear), nan, found[0])
            fresh = tuple(found)
        elif several:
            fresh = b.loop(whole, cut(full), partials, fresh, block, inner.axis)
        elif full > whole:
            fresh = block(Val("i64", str(whole)), fresh)
        values = list(fresh)
        for k, base in enumerate(range(full, size, width)):
            active = min(width, size - base)
            own = slice(k * count, (k + 1) * count)
            values[own] = fold(Val("i64", str(base)), owner, tuple(values[own]), active)
        if levels and outer:
            values = [b.fadd(t, v) for t, v in zip(totals, values, strict=True)]
        return tuple(values)

    start = _initial(stage, scope, width) * copies
    vectors = run_loops(outer, scope, {}, start, leaf, entered)
    groups = [vectors[k * count : (k + 1) * count] for k in range(copies)]
    return _halves(scope, how, groups)


def _partials_of_any(
    stage: Stage,
    how: Combine,
    inner: Step,
    extent: Dim,
    outer: tuple[Step, ...],
    scope: Scope,
    body: Body,
    entered: Callable[[Scope, int], None],
) -> Accumulators:
    """`_partials` along an axis whose number of points is known at run time: in as many partials as a long axis has.

    What is left of whole blocks of partials is folded with masks: the same sums as with fewer partials. A short
    axis that is the only one is folded point by point, as where its length is known.
    """
    b = scope.builder
    lane_count = b.target.width(max(d.bits for d, _ in stage.init))
    partials = 4 * lane_count
    width = min(inner.size, partials)
    copies, count = partials // width, len(stage.init)
    levels = _has_levels(stage, how)
    start = _initial(stage, scope, width) * copies

    def number(value: int) -> Val:
        return Val("i64", str(value))

    points = size = scope.dim(extent)
    short = b.icmp("slt", size, number(FOLD_IN_LANES))
    if not outer:
        size = b.select(short, number(0), points)
    full = b.binary("and", size, number(-partials))
    run = (
        b.mul(_run_blocks(scope, b.binary("udiv", full, number(partials))), number(partials))
        if levels
        else full
    )

    def fold(base: Val, owner: Scope, old: Accumulators, mask: Val | None) -> Accumulators:
        point = owner.bind_vector(inner.axis, base, width, mask=mask)
        new = combine(point, how, old, _wide(point, body(point), width))
        return new if mask is None else tuple(b.select(mask, n, o) for n, o in zip(new, old, strict=True))

    def leaf(owner: Scope, carried: Accumulators) -> Accumulators:
        if outer:
            entered(owner, len(outer))

        def block(i: Val, values: Accumulators) -> Accumulators:
            result: list[Val] = []
            for k in range(copies):
                base = b.add(i, number(k * width)) if k else i
                result += fold(base, owner, values[k * count : (k + 1) * count], None)
            return tuple(result)

        def rest(values: Accumulators) -> Accumulators:
            """With what comes after the whole blocks."""
            found: list[Val] = []
            for k in range(copies):
                base = b.add(full, number(k * width))
                left = b.sub(size, base)
                some = b.select(b.icmp("sgt", left, number(0)), number(1), number(0))

                def one(_: Val, old: Accumulators, base: Val = base, left: Val = left) -> Accumulators:
                    here = b.intrinsic("smin", "i64", [left, number(width)])
                    return fold(base, owner, old, b.lane_mask(here, width))

                found += b.loop(number(0), some, 1, values[k * count : (k + 1) * count], one, inner.axis)
            return tuple(found)

        if not levels:
            return rest(b.loop(number(0), full, partials, carried, block, inner.axis))

        def one_run(i: Val, totals: Accumulators) -> Accumulators:
            end = b.add(i, run)
            fresh = b.loop(i, end, partials, start, block, inner.axis)
            return tuple(b.fadd(t, f) for t, f in zip(totals, fresh, strict=True))

        # With one run there are no totals of runs: it goes on from what there is.
        runs = b.select(
            b.icmp("sgt", full, run),
            b.binary("udiv", full, b.intrinsic("smax", "i64", [run, number(1)])),
            number(0),
        )
        whole = b.mul(runs, run)

        def nth(n: Val, totals: Accumulators) -> Accumulators:
            return one_run(b.mul(n, run), totals)

        totals = b.loop(number(0), runs, 1, carried, nth, inner.axis)
        fresh = start if outer else totals
        values = rest(b.loop(whole, full, partials, fresh, block, inner.axis))
        return tuple(b.fadd(t, v) for t, v in zip(totals, values, strict=True)) if outer else values

    vectors = run_loops(outer, scope, {}, start, leaf, entered)
    groups = [vectors[k * count : (k + 1) * count] for k in range(copies)]
    found = _halves(scope, how, groups)
    if outer:
        return found

    def point(i: Val, old: Accumulators) -> Accumulators:
        at = scope.bind({inner.axis: i})
        return combine(at, how, old, _wide(at, body(at), 1))

    few = b.select(short, points, number(0))
    in_order = b.loop(number(0), few, 1, _initial(stage, scope, 1), point, inner.axis)
    return tuple(b.select(short, x, y) for x, y in zip(in_order, found, strict=True))


def _run_blocks(scope: Scope, blocks: Val) -> Val:
    """`_run_length` of a number that is known at run time."""
    b = scope.builder
    zeros = b.op("i64", f"call i64 @llvm.ctlz.i64(i64 {blocks.text}, i1 false)")
    b.module.declare("llvm.ctlz.i64", "i64", ["i64", "i1"])
    half = b.binary("lshr", b.sub(Val("i64", "65"), zeros), Val("i64", "1"))
    long = b.binary("shl", Val("i64", "1"), half)
    short = b.intrinsic("smax", "i64", [blocks, Val("i64", "1")])
    return b.select(b.icmp("slt", blocks, Val("i64", str(_LEAST_BLOCKS))), short, long)


def level_length(size: int) -> int:
    """Points in one run of a sum in order: one of a short axis, else a power of `_LEVEL`, at least two runs."""
    run = 1
    while run * _LEVEL * 2 <= size:
        run *= _LEVEL
    return run


def _run_length(blocks: int) -> int:
    """Blocks of partials in one run of a two-level sum: all of a short axis, else about their square root."""
    if blocks < _LEAST_BLOCKS:
        return max(blocks, 1)
    return int(1 << ((blocks.bit_length() + 1) // 2))


_MASK_BYTES = 64
"""Vectors from this size on have masks of their own kind, in which nothing is gained."""

_LEVEL = 32
_RUNS = (_LEVEL**3, _LEVEL**2, _LEVEL)
"""Runs of an axis whose number of points is known at run time."""

_LEAST_BLOCKS = 64
"""Additions into one accumulator below which one level is exact enough."""


def _halves(scope: Scope, how: Combine, groups: list[Accumulators]) -> Accumulators:
    """Folds partial p with partial p + P/2, then with half as many, down to one."""
    while len(groups) > 1:
        half = len(groups) // 2
        groups = [combine(scope, how, groups[i], groups[i + half]) for i in range(half)]
    values = groups[0]
    while (width := lanes(values[0].type)) > 1:
        half = width // 2
        low = tuple(_lanes_of(scope, v, range(half)) for v in values)
        high = tuple(_lanes_of(scope, v, range(half, width)) for v in values)
        values = combine(scope, how, low, high)
    return values


def _lanes_of(scope: Scope, value: Val, chosen: range) -> Val:
    if len(chosen) == 1:
        return scope.builder.extract(value, chosen[0])
    return scope.builder.shuffle(value, None, chosen)
