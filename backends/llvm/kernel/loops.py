"""Runs a list of loops over axes as LLVM loops, from the outermost in.

A `Step` is one loop of a schedule; `unroll` directly around a `vector` loop of the same axis is
one step. Ranges of tiled and partitioned axes start at multiples of the
inner steps, so the only partial vector is the last one of the axis; its number of lanes is a
constant where the extent is, else a mask. A constant number is run in shorter vectors, so that lanes that
are not there cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from graphc.backends.llvm.kernel.scope import Scope
from graphc.backends.llvm.text import Builder, Val
from graphc.ir.dims import Dim, Symbol
from graphc.ir.errors import CompileError
from graphc.ir.kernel import Loop, LoopRole, size_of
from graphc.ir.records import dataclass

__all__ = ["Range", "Step", "bound_after", "run_loops", "steps_of"]

Range = tuple[Val, Val]
"""First and end index of an axis, i64."""

Carried = tuple[Val, ...]
Leaf = Callable[[Scope, Carried], Carried]
Entered = Callable[[Scope, int], None]


@dataclass(frozen=True)
class Step:
    """One loop. `size` is the vector length, tile length or unroll factor; `unroll` copies vectors."""

    axis: str
    role: LoopRole
    extent: Dim
    size: int = 0
    unroll: int = 1
    last: bool = True
    """True where no further loop runs over the axis."""


def steps_of(loops: Sequence[Loop], axes: Sequence[Symbol]) -> tuple[Step, ...]:
    """The loops of a schedule as steps; axes without a loop run sequentially, innermost.

    Raises CompileError where a loop's size makes no sense.
    """
    sizes = {a.name: size_of(a) for a in axes}
    steps: list[Step] = []
    for loop in [*loops, *(Loop(a.name, "sequential") for a in axes if all(x.axis != a.name for x in loops))]:
        if loop.axis not in sizes:
            raise CompileError(f"schedule has a loop over {loop.axis}, which is no axis of the kernel")
        step = Step(loop.axis, loop.role, sizes[loop.axis], loop.size)
        if loop.role in ("vector", "tile", "unroll") and loop.size < 1:
            raise CompileError(f"{loop.role} loop over {loop.axis} needs a size")
        if loop.role == "vector" and loop.size & (loop.size - 1):
            raise CompileError(f"vector loop over {loop.axis}: size {loop.size} is no power of two")
        if loop.role == "vector" and steps and steps[-1].role == "unroll" and steps[-1].axis == loop.axis:
            step = replace(step, unroll=steps.pop().size)
        steps.append(
            Step(step.axis, "sequential", step.extent) if step.role == "vector" and step.size == 1 else step
        )
    final = {s.axis: n for n, s in enumerate(steps)}
    return tuple(replace(s, last=final[s.axis] == n) for n, s in enumerate(steps))


def bound_after(steps: Sequence[Step]) -> dict[str, int]:
    """For each axis, the number of steps after which it has a value."""
    return {s.axis: n + 1 for n, s in enumerate(steps)}


def _i64(value: int) -> Val:
    return Val("i64", str(value))


def _static(range_: Range) -> tuple[int, int] | None:
    lo, hi = (v.text for v in range_)
    return None if lo.startswith("%") or hi.startswith("%") else (int(lo), int(hi))


def run_loops(
    steps: Sequence[Step],
    scope: Scope,
    ranges: Mapping[str, Range],
    carried: Carried,
    leaf: Leaf,
    entered: Entered,
    depth: int = 0,
) -> Carried:
    """Emits the loops around `leaf(scope, carried) -> carried`.

    `entered(scope, d)` is called where d of the steps (counted from `depth`) are entered and
    before the next. `ranges` narrows axes; the others run over their whole extent.
    """
    if not steps:
        return leaf(scope, carried)
    step, b = steps[0], scope.builder
    range_ = ranges.get(step.axis) or (_i64(0), scope.dim(step.extent))

    def inside(inner: Scope, values: Carried, narrowed: Mapping[str, Range] = ranges) -> Carried:
        if len(steps) > 1:
            entered(inner, depth + 1)
        return run_loops(steps[1:], inner, narrowed, values, leaf, entered, depth + 1)

    if step.role == "vector":
        return _vector(step, scope, range_, carried, inside)
    if not step.last:
        return _blocks(
            step, b, range_, carried, lambda r, c: inside(scope.child(), c, {**ranges, step.axis: r})
        )
    if step.role == "unroll":
        return _unrolled(step, scope, range_, carried, inside)
    if step.role == "tile":
        raise CompileError(f"tile loop over {step.axis} has no loop inside it")
    return _counted(b, range_, 1, carried, lambda i, c: inside(scope.bind({step.axis: i}), c), step.axis)


def _counted(
    b: Builder, range_: Range, by: int, carried: Carried, body: Callable[[Val, Carried], Carried], hint: str
) -> Carried:
    """A loop; straight-line code where it surely runs once, nothing where it surely does not."""
    known = _static(range_)
    if known is not None:
        trips = max(0, -(-(known[1] - known[0]) // by))
        if trips == 0:
            return carried
        if trips == 1:
            return body(range_[0], carried)
    return b.loop(range_[0], range_[1], by, carried, body, hint)


def _blocks(
    step: Step, b: Builder, range_: Range, carried: Carried, body: Callable[[Range, Carried], Carried]
) -> Carried:
    """Blocks of `size` points, each handed on as the range of the axis's next loop."""

    def block(i: Val, values: Carried) -> Carried:
        end = b.add(i, _i64(step.size)) if i.text.startswith("%") else _i64(int(i.text) + step.size)
        if step.extent % step.size != 0 or range_[1].text != str(step.extent):
            known = _static((end, range_[1]))
            if known is not None:
                end = _i64(min(known))
            else:
                end = b.select(b.icmp("slt", end, range_[1]), end, range_[1])
        return body((i, end), values)

    if step.role == "sequential":
        raise CompileError(f"sequential loop over {step.axis} has another loop over it inside")
    return _counted(b, range_, step.size, carried, block, step.axis)


def _unrolled(
    step: Step, scope: Scope, range_: Range, carried: Carried, inside: Callable[[Scope, Carried], Carried]
) -> Carried:
    b = scope.builder

    def at(i: Val, values: Carried) -> Carried:
        return inside(scope.bind({step.axis: i}), values)

    def copies(i: Val, values: Carried) -> Carried:
        for k in range(step.size):
            values = at(_shifted(b, i, k), values)
        return values

    known = _static(range_)
    if known is None:
        return b.loop(range_[0], range_[1], 1, carried, at, step.axis)
    lo, hi = known
    main = lo + (hi - lo) // step.size * step.size
    carried = _counted(b, (_i64(lo), _i64(main)), step.size, carried, copies, step.axis)
    for k in range(main, hi):
        carried = at(_i64(k), carried)
    return carried


def _shifted(b: Builder, i: Val, by: int) -> Val:
    if by == 0:
        return i
    return b.add(i, _i64(by)) if i.text.startswith("%") else _i64(int(i.text) + by)


def _vector(
    step: Step, scope: Scope, range_: Range, carried: Carried, inside: Callable[[Scope, Carried], Carried]
) -> Carried:
    b, width = scope.builder, step.size
    block = width * step.unroll
    least = b.target.vector_bytes // 4

    def at(i: Val, values: Carried) -> Carried:
        return inside(scope.bind_vector(step.axis, i, width), values)

    def copies(i: Val, values: Carried) -> Carried:
        for k in range(step.unroll):
            values = at(_shifted(b, i, k * width), values)
        return values

    known = _static(range_)
    if known is not None:
        lo, hi = known
        main, full = lo + (hi - lo) // block * block, lo + (hi - lo) // width * width
        carried = _counted(b, (_i64(lo), _i64(main)), block, carried, copies, step.axis)
        carried = _counted(b, (_i64(main), _i64(full)), width, carried, at, step.axis)
        for place, lanes, active in _pieces(hi - full, least):
            carried = inside(scope.bind_vector(step.axis, _i64(full + place), lanes, active=active), carried)
        return carried
    assert not carried, "a partitioned or tiled vector axis carries nothing"
    lo_, hi_ = range_
    if not isinstance(step.extent, int):
        _masked_vector(step, scope, range_, copies, at, inside)
        return ()
    rest = step.extent % width
    whole = _i64(step.extent - rest)
    full_ = hi_ if rest == 0 else b.select(b.icmp("slt", hi_, whole), hi_, whole)
    start = lo_
    if step.unroll > 1:
        size = b.sub(full_, lo_)
        many = b.mul(b.binary("sdiv", size, _i64(block)), _i64(block))
        start = b.add(lo_, many)
        b.loop(lo_, start, block, (), copies, step.axis)
    b.loop(start, full_, width, (), at, step.axis)
    if rest:
        reaches = b.and_(b.icmp("eq", hi_, _i64(step.extent)), b.icmp("slt", lo_, hi_))
        with b.if_(reaches):
            for place, lanes, active in _pieces(rest, least):
                inside(scope.bind_vector(step.axis, _shifted(b, whole, place), lanes, active=active), ())
    return ()


def _masked_vector(
    step: Step,
    scope: Scope,
    range_: Range,
    copies: Callable[[Val, Carried], Carried],
    at: Callable[[Val, Carried], Carried],
    inside: Callable[[Scope, Carried], Carried],
) -> None:
    """Vectors along an axis whose number of points is known at run time: the last one has a mask."""
    b, width = scope.builder, step.size
    lo, hi = range_
    size = b.sub(hi, lo)
    start, full = lo, b.add(lo, b.binary("and", size, _i64(-width)))
    if step.unroll > 1:
        block = width * step.unroll
        start = b.add(lo, b.mul(b.binary("udiv", size, _i64(block)), _i64(block)))
        b.loop(lo, start, block, (), copies, step.axis)
    b.loop(start, full, width, (), at, step.axis)
    with b.if_(b.icmp("slt", full, hi)):
        mask = b.lane_mask(b.sub(hi, full), width)
        inside(scope.bind_vector(step.axis, full, width, mask=mask), ())


def _pieces(rest: int, least: int) -> Iterator[tuple[int, int, int]]:
    """The vectors of the last `rest` points: first point, lanes, real lanes. No more lanes than a power of two
    that holds them, in whole vectors as long as there are `least` lanes."""
    done = 0
    while done < rest:
        left = rest - done
        lanes = 1 << (left.bit_length() - 1)
        if lanes < least and lanes < left:
            lanes *= 2
        yield done, lanes, min(lanes, left)
        done += lanes
