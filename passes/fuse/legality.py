"""When two groups may become one kernel.

Two conditions: their iteration spaces agree (`unify` solves for the substitution of symbols under
which every edge between them stays at one point), and no path leaves the producer's group and
comes back into the consumer's (`separated`, a bounded search pruned by op order, which may miss a path;
where the bound is hit the answer is no).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from graphc.ir.dims import Dim, Expr, Symbol, bounds, plain_symbol, product, substitute
from graphc.ir.kernel import extent, size_of
from graphc.ir.records import dataclass
from graphc.passes.fuse.groups import Edge, Group, Space, Substitution, at_symbols
from graphc.passes.fuse.sources import Index, linear, unlinear

__all__ = ["Merged", "between", "separated", "unify"]

SEARCH_BUDGET = 512
"""Most edges that one search for a path looks at."""


@dataclass(frozen=True)
class Merged:
    """The spaces that the union of two groups would have, and the substitution that gets there."""

    outer: Space | None
    spaces: set[Space]
    substitution: Substitution
    fixed: Space
    product: Space = frozenset()


def between(producer: Group, consumer: Group) -> list[Edge]:
    """Edges from one group to another."""
    if len(producer.outgoing) < len(consumer.incoming):
        return [e for e in producer.outgoing if e.consumer in consumer.members]
    return [e for e in consumer.incoming if e.producer in producer.members]


def unify(producer: Group, consumer: Group, edges: Iterable[Edge]) -> Merged | None:
    """The joint iteration space of two groups, or None where they have none."""
    solver = _Solver(producer, consumer)
    for edge in edges:
        if not edge.read.plain or not solver.add(edge):
            return None
    return solver.result()


class _Solver:
    def __init__(self, producer: Group, consumer: Group) -> None:
        self.producer, self.consumer = producer, consumer
        self.solution: Substitution = {}
        self.inside: Space = frozenset().union(*consumer.spaces)
        self.fixed = producer.fixed | consumer.fixed

    def value(self, x: Dim) -> Dim:
        return substitute(x, self.solution)

    def bind(self, symbol: Symbol, x: Dim) -> None:
        for s, value in self.solution.items():
            self.solution[s] = substitute(value, {symbol: x})
        self.solution[symbol] = x
        other = plain_symbol(x)
        if symbol in self.fixed and other is not None:
            self.fixed |= {other}

    def add(self, edge: Edge) -> bool:
        """Makes the edge's index on both sides equal; False where that cannot be."""
        p, c = self.producer.members[edge.producer], self.consumer.members[edge.consumer]
        if p.floating:
            return False
        left, right = p.at(edge.producer.index), c.at(edge.read.index)
        if c.floating and not at_symbols(right) <= self.inside:
            return False  # data decides where the reader is computed
        # Every pair is tried, since whatever can be bound has to be in any solution.
        equal = [self._equate(a, b) for a, b in zip(left, right, strict=True)]
        if all(equal):
            return True
        if self._from_digits(left, right) or self._from_digits(right, left):
            return True
        return edge.read.linear and self._through_views(edge, left, right, c.at(edge.read.at))

    def _equate(self, a: Dim, b: Dim) -> bool:
        a, b = self.value(a), self.value(b)
        if a == b:
            return True
        pair = _two_symbols(a, b)
        if pair is None or size_of(pair[0]) != size_of(pair[1]):
            return False
        self.bind(pair[0], pair[1].expr)
        return True

    def _from_digits(self, known: Index, sought: Index) -> bool:
        """Solves for symbols of which `sought` has the digits: x//4 = a and x%4 = b give x = 4a + b."""
        parts: dict[Symbol, list[tuple[int, int, Dim]]] = {}
        for a, b in zip(known, sought, strict=True):
            a, b = self.value(a), self.value(b)
            if a == b:
                continue
            found = digit(b)
            if found is None or found[0] in self.fixed:
                return False
            parts.setdefault(found[0], []).append((found[1], found[2], a))
        for symbol, digits in parts.items():
            total: Dim = 0
            size = 1
            for place, base, value in sorted(digits, key=lambda d: d[:2]):
                lo, hi = bounds(value)
                if place != size or lo is None or lo < 0 or hi is None or hi >= base:
                    return False
                total = total + value * place
                size *= base
            if size != size_of(symbol) or symbol in at_symbols([total]):
                return False
            self.bind(symbol, total)
        return True

    def _through_views(self, edge: Edge, left: Index, right: Index, at: Index) -> bool:
        """Row-major order is kept on the way: one side's symbols become parts of the other's position."""
        shape = edge.read.value.type.shape
        here, there = linear(left, shape), linear(right, shape)
        return (
            self._equate(here, there)
            or self._assign(at, edge.read.shape, here)
            or self._assign(left, shape, there)
        )

    def _assign(self, index: Index, shape: tuple[Dim, ...], position: Dim) -> bool:
        """Makes the symbols of `index` parts of a position; the axes of accumulations stay as they are."""
        position = self.value(position)
        found: list[tuple[Symbol, Dim]] = []
        for mine, value in zip(index, unlinear(position, shape), strict=True):
            now = self.value(mine)
            if now == value:
                continue
            symbol = plain_symbol(now)
            if symbol is None or symbol in self.fixed or symbol in at_symbols([position]):
                return False
            found.append((symbol, value))
        for symbol, value in found:
            self.bind(symbol, value)
        return True

    def result(self) -> Merged | None:
        put = self._space
        spaces: set[Space] = set()
        for group in (self.producer, self.consumer):
            if not self._injective(group):
                return None
            spaces |= {put(s) for s in group.spaces}
        outers = {put(g.outer) for g in (self.producer, self.consumer) if g.outer is not None}
        if len(outers) > 1 or (not outers and len(spaces) > 1):
            return None
        outer = next(iter(outers), None)
        contraction = self.producer.contraction or self.consumer.contraction
        if outer is not None and not all(s == outer if contraction else s >= outer for s in spaces):
            return None
        product = put(self.producer.product | self.consumer.product)
        return Merged(outer, spaces, self.solution, self.fixed, product)

    def _space(self, space: Space) -> Space:
        if space.isdisjoint(self.solution):
            return space
        return at_symbols(self.value(s.expr) for s in space)

    def _injective(self, group: Group) -> bool:
        """True where every space still has its points: no two symbols fell together, none became a part."""
        return all(self._distinct(s) for s in (*group.spaces, group.product, group.outer or frozenset()))

    def _distinct(self, space: Space) -> bool:
        if space.isdisjoint(self.solution):
            return True
        values = [self.solution.get(s, s.expr) for s in space]
        return len(set(values)) == len(values) and _points(at_symbols(values)) == _points(space)


def digit(x: Dim) -> tuple[Symbol, int, int] | None:
    """(symbol, place, base) where `x` is the digit symbol//place % base of a symbol."""
    base = 0
    if (inner := _applied(x, "%")) is not None:
        x, base = inner
    place = 1
    if (inner := _applied(x, "//")) is not None:
        x, place = inner
    symbol = plain_symbol(x)
    if (
        symbol is None
        or (symbol.size is not None and not base)
        or (place > 1 and size_of(symbol) % place != 0)
    ):
        return None
    return symbol, place, base or extent(symbol) // place


def _applied(x: Dim, function: str) -> tuple[Dim, int] | None:
    """The operands where `x` is `y // n` or `y % n` with a fixed n."""
    if isinstance(x, int) or len(x.terms) != 1 or x.terms[0][1] != 1 or len(x.terms[0][0]) != 1:
        return None
    atom, power = x.terms[0][0][0]
    if (
        power != 1
        or isinstance(atom, Symbol)
        or atom.function != function
        or not isinstance(atom.args[1], int)
    ):
        return None
    return atom.args[0], atom.args[1]


def _two_symbols(a: Dim, b: Dim) -> tuple[Symbol, Symbol] | None:
    """The symbols where two unequal expressions are equal just if these are, by spelling."""
    left, right = plain_symbol(a), plain_symbol(b)
    if left is not None and right is not None:
        return (left, right) if left.name < right.name else (right, left)
    difference = a - b
    if isinstance(difference, int) or len(difference.terms) != 2:
        return None
    (first, k), (second, j) = difference.terms
    left, right = plain_symbol(Expr(((first, 1),))), plain_symbol(Expr(((second, 1),)))
    return (left, right) if k == -j and left is not None and right is not None else None


def _points(space: Space) -> Dim:
    return product([size_of(s) for s in space])


def separated(producer: Group, consumer: Group, *, exact: bool) -> bool:
    """True where no path leads from `producer` through a third group to `consumer`.

    Only groups with an op later than the producer's first are looked at, unless `exact`: a path may also
    go through a group that spans others into one that lies before the producer.
    """
    earliest: float = -math.inf if exact else producer.first
    budget: float = math.inf if exact else SEARCH_BUDGET
    seen: set[Group] = {consumer}
    waiting = [consumer]
    while waiting:
        group = waiting.pop()
        for edge in group.incoming:
            budget -= 1
            if budget < 0:
                return False
            before = edge.group_of_producer()
            if before is producer:
                if group is not consumer:
                    return False
            elif before not in seen and before.last > earliest:
                seen.add(before)
                waiting.append(before)
    return True
