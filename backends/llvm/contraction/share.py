"""Partitions: which batch entries, rows and columns of the result one partition computes.

A partition owns whole pieces of one side (or whole batch entries), so no output element has its
sum divided and the bits do not depend on the number of partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.backends.llvm.contraction.axes import constant, minimum, times
from graphc.backends.llvm.contraction.problem import Problem, Side
from graphc.backends.llvm.text import Builder, Val

__all__ = [
    "Totals",
    "Units",
    "each",
    "load_pointers",
    "place_scratch",
    "rows_across",
    "shares",
    "split_side",
]

Totals = Mapping[Side, int]
"""Batch entries, rows and columns of the result."""

Units = Mapping[Side, int]
"""Batch entries, rows and columns of a piece."""

_BATCH_PIECES = 8


def load_pointers(builder: Builder, problem: Problem, buffers: Val) -> list[Val]:
    """The addresses of the kernel's buffers. Values of symbolic sizes become known to the builder."""
    if problem.symbols:
        array = builder.load("ptr", builder.gep(buffers, len(problem.buffers), "ptr"), 8)
        for n, name in enumerate((*(s.name for s in problem.symbols), "fold", "kc")):
            builder.sizes[name] = builder.load("i64", builder.gep(array, n, "i64"), 8)
    if problem.resumed:
        place = builder.load("ptr", builder.gep(buffers, len(problem.buffers), "ptr"), 8)
        builder.sizes["resumes"] = builder.load("i64", place, 8)
        builder.sizes["completes"] = builder.load("i64", builder.gep(place, 1, "i64"), 8)
    return [builder.load("ptr", builder.gep(buffers, i, "ptr"), 8) for i in range(len(problem.buffers))]


def split_side(totals: Totals, units: Units) -> tuple[Side, int]:
    """What partitions divide, and into how many pieces at most."""
    pieces = {s: -(-totals[s] // units[s]) for s in totals}
    if pieces["batch"] >= _BATCH_PIECES:
        return "batch", pieces["batch"]
    side: Side = "rows" if totals["rows"] >= totals["columns"] else "columns"
    if pieces[side] < 2:
        side = max(pieces, key=lambda s: pieces[s])
    return side, pieces[side]


def shares(
    builder: Builder, totals: Totals, units: Units, side: Side | None = None
) -> dict[Side, tuple[Val, Val]]:
    """The batch entries, rows and columns [from, to) of this partition.

    The kernel function's parameters 1 and 2 are the partition and their number. `side` says what is
    divided; None for what `split_side` says.
    """
    if side is None:
        side, _ = split_side(totals, units)
    pieces = -(-totals[side] // units[side])
    bounds = {s: (constant(0), constant(total)) for s, total in totals.items()}
    part, parts = builder.params[1:3]
    edges = []
    for number in (part, builder.add(part, constant(1))):
        piece = builder.binary("udiv", times(builder, number, pieces), parts)
        edges.append(minimum(builder, times(builder, piece, units[side]), constant(totals[side])))
    bounds[side] = edges[0], edges[1]
    return bounds


def rows_across(
    builder: Builder, totals: Totals, units: Units
) -> tuple[tuple[Val, Val], Callable[[Val], tuple[Val, Val]]]:
    """The batch entries of this partition, and its rows of each: pieces of rows of all entries one after another are
    divided, so that a partition goes through few entries, for each of which it packs the other operand."""
    pieces = -(-totals["rows"] // units["rows"])
    part, parts = builder.params[1:3]
    begin, end = (
        builder.binary("udiv", times(builder, number, pieces * totals["batch"]), parts)
        for number in (part, builder.add(part, constant(1)))
    )
    over = builder.add(end, constant(pieces - 1))
    entries = (
        builder.binary("udiv", begin, constant(pieces)),
        builder.binary("udiv", over, constant(pieces)),
    )

    def rows(entry: Val) -> tuple[Val, Val]:
        before = times(builder, entry, pieces)
        first = builder.intrinsic("smax", "i64", [builder.sub(begin, before), constant(0)])
        last = minimum(builder, builder.sub(end, before), constant(pieces))
        stop = minimum(builder, times(builder, last, units["rows"]), constant(totals["rows"]))
        return times(builder, first, units["rows"]), stop

    return entries, rows


def each(builder: Builder, bounds: tuple[Val, Val], body: Callable[[Val], None], hint: str) -> None:
    """`body` for every index of the bounds; without a loop where they are (0, 1)."""
    if [b.text for b in bounds] == ["0", "1"]:
        body(constant(0))
        return

    def entry(index: Val, _: tuple[Val, ...]) -> list[Val]:
        body(index)
        return []

    builder.loop(*bounds, 1, (), entry, hint)


def place_scratch(builder: Builder, problem: Problem, sizes: Sequence[int]) -> list[Val]:
    """Addresses of pieces of `sizes` bytes in the scratch buffer, which no other partition uses meanwhile."""
    if not sum(sizes):
        return [Val("ptr", "null") for _ in sizes]
    number = len(problem.buffers) + bool(problem.symbols or problem.resumed)
    place = builder.load("ptr", builder.gep(builder.params[0], number, "ptr"), 8)
    places = []
    for size in sizes:
        places.append(place)
        place = builder.gep(place, size, "i8")
    return places
