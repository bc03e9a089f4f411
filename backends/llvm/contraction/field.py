"""Fields: the part of B's buffer that a block of columns reads, copied in the order that suits the vectors.

Where neighbouring columns and neighbouring k read overlapping parts of one buffer, packing would
copy every element many times. A field holds each such element once, the fill value where a guard
fails. Vectors lie along its innermost dimension: any buffer dimension that one column axis alone
walks (`minor`: images or channels), the dimension that a window slides along (`wide`), or both as
one run. So maps narrower than a vector cost nothing. A register tile reads vector j of step k at
vectors[j] + offsets[k]; both are constant tables, and no index is divided while it runs.

Along the wide dimension elements are stored by phases of the columns' stride (v mod stride, then
v // stride), so that neighbouring columns are neighbours in the field for any stride.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod

from graphc.ir.dims import Dim, Symbol
from graphc.ir.kernel import extent
from graphc.ir.records import dataclass

__all__ = ["Field", "Place", "Reach"]


@dataclass(frozen=True)
class Place:
    """One dimension of a field: indices base + 0 … size - 1 of dimension `position` of the buffer.

    `shrinks` is by how much the size falls for each missing value of the divided axis.
    """

    position: int
    symbol: Symbol
    base: Dim
    size: int
    stride: int
    shrinks: int


@dataclass(frozen=True)
class Reach:
    """Coefficients of column and k axes in one buffer dimension, and the rest of its index."""

    coefficients: Mapping[Symbol, int]
    rest: Dim


@dataclass(frozen=True)
class Field:
    """The field of one block of columns: `share` values of the slowest column axis (`divided`; None: all).

    `places` are the dimensions but the last ones; element v of the wide dimension is at
    ((v mod `phases`)·`pitch` + v // `phases`)·`minor_size` and element c of the minor one at c.
    `sliced` is the place that is exactly the slowest k axis, `slice_steps` steps each; unless `whole`,
    it covers one block of k. Where `overlaps`, the last vector of a run begins before the one before it ends, so that
    every vector has all its lanes: columns that two vectors have are computed, and written, twice.
    """

    reaches: tuple[Reach, ...]
    columns: tuple[Symbol, ...]
    steps: tuple[Symbol, ...]
    width: int
    places: tuple[Place, ...]
    wide: Place | None
    minor: Place | None
    wide_axis: Symbol | None
    minor_axis: Symbol | None
    phases: int
    pitch: int
    minor_size: int
    sliced: Place | None
    slice_steps: int
    whole: bool
    divided: Symbol | None
    share: int
    elements: int
    overlaps: bool = False

    def walks(self, place: Place) -> bool:
        """True where a copy goes through several indices of a place."""
        sliced = self.sliced is not None and place.position == self.sliced.position
        return place.size > 1 or place is self.minor or (sliced and extent(self.steps[0]) > 1)

    @property
    def values(self) -> int:
        """Values of the divided axis in all."""
        return extent(self.divided) if self.divided is not None else 1

    @property
    def rest(self) -> int:
        """Columns of one divided value."""
        return prod(extent(a) for a in self.columns if a is not self.divided)

    def count(self, axis: Symbol) -> int:
        """Points of a column axis in a block."""
        return min(self.share, extent(axis)) if axis is self.divided else extent(axis)

    def at_column(self, column: int) -> int:
        """Where the element is that a column of the block reads at step 0, by the column's flat index."""
        values, rest = {}, column
        for a in reversed(self.columns):
            rest, values[a] = divmod(rest, extent(a))
        return self._at(values)

    @property
    def lane_axes(self) -> tuple[Symbol, ...]:
        """The axes of a run of lanes, slower first."""
        return tuple(a for a in (self.wide_axis, self.minor_axis) if a is not None)

    @property
    def others(self) -> tuple[Symbol, ...]:
        """The other column axes."""
        return tuple(a for a in self.columns if a not in self.lane_axes)

    @property
    def run(self) -> int:
        """Columns of one run of lanes."""
        return prod(self.count(a) for a in self.lane_axes)

    @property
    def vector_count(self) -> int:
        """Vectors of a block: those of each run in turn, runs in the order of `others`."""
        return prod(self.count(a) for a in self.others) * -(-self.run // self.width)

    @property
    def vectors_each(self) -> int:
        """Vectors of one divided value; of the block where that axis lies along the lanes."""
        return self.vector_count // (self.count(self.divided) if self.divided in self.others else 1)

    def _at(self, values: Mapping[Symbol, int]) -> int:
        """Where the element is that the column axes' values reach, from where they are all 0."""
        total = 0
        for d, r in enumerate(self.reaches):
            v = sum(k * values[a] for a, k in r.coefficients.items() if a in values)
            total += v * self._stride(d) if not self._is_wide(d) else v // self.phases * self.minor_size
        return total

    def _is_wide(self, d: int) -> bool:
        return self.wide is not None and d == self.wide.position

    def _stride(self, d: int) -> int:
        if self.minor is not None and d == self.minor.position:
            return 1
        return next((p.stride for p in self.places if p.position == d), 0)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each flat step of k reads, from its column's place."""
        totals, wide = [0], [0]
        for axis in self.steps:
            span = extent(axis)
            ahead = behind = turn = back = 0
            for d, r in enumerate(self.reaches):
                k = r.coefficients.get(axis, 0)
                least = min(0, k * (span - 1))
                if self._is_wide(d):
                    turn, back = k, least
                else:
                    ahead += k * self._stride(d)
                    behind += least * self._stride(d)
            totals = [t + ahead * v - behind for t in totals for v in range(span)]
            wide = [w + turn * v - back for w in wide for v in range(span)]
        ph, size = self.phases, self.minor_size
        return tuple(t + (w % ph * self.pitch + w // ph) * size for t, w in zip(totals, wide, strict=True))

    @property
    def _starts(self) -> list[int]:
        """The first column of each vector of a run."""
        last = self.run - self.width if self.overlaps else self.run
        return [min(start, last) for start in range(0, self.run, self.width)]

    def _runs(self) -> Iterator[dict[Symbol, int]]:
        for values in itertools.product(*(range(self.count(a)) for a in self.others)):
            yield dict(zip(self.others, values, strict=True))

    @cached_property
    def vectors(self) -> tuple[int, ...]:
        """The offset of each vector of a block."""
        inner = self.count(self.minor_axis) if self.minor_axis is not None else 1
        starts = []
        for start in self._starts:
            here = {} if self.wide_axis is None else {self.wide_axis: start // inner}
            if self.minor_axis is not None:
                here[self.minor_axis] = start % inner
            starts.append(self._at(here))
        return tuple(self._at(env) + start for env in self._runs() for start in starts)

    def _weights(self) -> dict[Symbol, int]:
        """By how much a column's flat index in the block grows along each axis."""
        weights, weight = {}, 1
        for a in reversed(self.columns):
            weights[a] = weight
            weight *= extent(a)
        return weights

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First column and number of columns of each vector; only without a minor axis."""
        weights = self._weights()
        chunks = [(s, min(self.width, self.run - s)) for s in self._starts]
        return tuple(
            (sum(weights[a] * v for a, v in env.items()) + s, n) for env in self._runs() for s, n in chunks
        )

    @cached_property
    def lanes(self) -> tuple[int, ...]:
        """For each column of a block its place among the lanes of the vectors."""
        weights = self._weights()
        chunks = -(-self.run // self.width) * self.width
        inner = self.count(self.minor_axis) if self.minor_axis is not None else 1
        along = []
        for lane in range(self.run):
            column = lane % inner * (weights[self.minor_axis] if self.minor_axis is not None else 0)
            along.append(
                column + lane // inner * (weights[self.wide_axis] if self.wide_axis is not None else 0)
            )
        places = [0] * prod(self.count(a) for a in self.columns)
        for number, env in enumerate(self._runs()):
            base = sum(weights[a] * v for a, v in env.items())
            for lane, column in enumerate(along):
                places[base + column] = number * chunks + lane
        return tuple(places)
