"""Symbols, expressions and their arithmetic: canonical sums, `//`, `%`, min and max, interval bounds and comparisons.

One module, longer than most: the operations on expressions simplify each other's results and cannot be taken apart
without importing in a circle. What only reads expressions is in `queries`, text in `parsing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import gcd

from graphc.ir.errors import TraceError
from graphc.ir.records import dataclass


class Symbol:
    """A named integer with inclusive bounds; `hi` None is unbounded. Immutable and hashable.

    `size` is set of an axis whose number of points is symbolic: its values are below that.
    """

    __slots__ = ("_hash", "expr", "hi", "lo", "name", "size")

    def __init__(self, name: str, lo: int = 0, hi: int | None = None, size: Dim | None = None) -> None:
        self.name = name
        self.lo = lo
        self.hi = hi
        self.size = size
        self._hash = hash((name, lo, hi))
        self.expr: Expr = Expr(((((self, 1),), 1),))
        """The symbol as an expression."""

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Symbol)
            and self._hash == other._hash
            and (self.name, self.lo, self.hi, self.size) == (other.name, other.lo, other.hi, other.size)
        )

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Symbol(name={self.name!r}, lo={self.lo!r}, hi={self.hi!r}, size={self.size!r})"


@dataclass(frozen=True)
class Apply:
    """A non-polynomial function of expressions: `//`, `%`, `min` or `max`."""

    function: str
    args: tuple[Dim, ...]

    def __str__(self) -> str:
        if self.function in ("//", "%"):
            return f"(({self.args[0]}){self.function}({self.args[1]}))"
        return f"{self.function}({', '.join(map(str, self.args))})"


KEPT = 1 << 16
"""How many results of each operation are kept: the same few index expressions come again in every kernel.
Kept by type, so that a user's size (`graphc.core.symint`) is never answered with for a plain expression."""

Atom = Symbol | Apply
Monomial = tuple[tuple[Atom, int], ...]


class Expr:
    """A sum of integer multiples of monomials, in canonical order. Immutable and hashable."""

    __slots__ = ("_axes", "_hash", "_plain", "_symbols", "terms")

    terms: tuple[tuple[Monomial, int], ...]

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._symbols: frozenset[Symbol] | None = None
        self._axes: frozenset[Symbol] | None = None
        self._plain: Symbol | bool | None = False
        """What `plain_symbol` answers; False where it was not asked yet."""

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Expr) and self._hash == other._hash and self.terms == other.terms
        )

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim) -> Dim:
        return _sum(self, other, 1)

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return _sum(self, other, -1)

    def __rsub__(self, other: Dim) -> Dim:
        return _sum(_multiply(self, -1), other, 1)

    def __mul__(self, other: Dim) -> Dim:
        return _multiply(self, other)

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return _multiply(self, -1)

    def __floordiv__(self, other: Dim) -> Dim:
        return floor_div(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floor_div(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __lt__(self, other: Dim) -> bool:
        return not self._decided(less_equal(other, self), f"{self} < {other}")

    def __le__(self, other: Dim) -> bool:
        return self._decided(less_equal(self, other), f"{self} <= {other}")

    def __gt__(self, other: Dim) -> bool:
        return not self._decided(less_equal(self, other), f"{self} > {other}")

    def __ge__(self, other: Dim) -> bool:
        return self._decided(less_equal(other, self), f"{self} >= {other}")

    def _decided(self, answer: bool | None, question: str) -> bool:
        if answer is None:
            raise undecided(question, symbols(self))
        return answer

    def __index__(self) -> int:
        raise pinned(self)

    __int__ = __index__

    def __float__(self) -> float:
        raise pinned(self)

    def __str__(self) -> str:
        parts = []
        for monomial, k in self.terms:
            factors = [str(a) for a, p in monomial for _ in range(p)]
            if not factors:
                body = str(abs(k))
            else:
                body = "*".join(([str(abs(k))] if abs(k) != 1 else []) + factors)
            parts.append(("-" if k < 0 else "+") + body)
        text = "".join(parts)
        return text.removeprefix("+")

    def __repr__(self) -> str:
        return str(self)


Dim = int | Expr


def undecided(question: str, about: frozenset[Symbol]) -> TraceError:
    """The error of a comparison whose answer depends on the size that a call brings."""
    ranges = ", ".join(f"{s} is {s.lo} to {'any size' if s.hi is None else s.hi}" for s in _sorted(about))
    names = ", ".join(f'Dim("{s}", min=…, max=…)' for s in _sorted(about))
    return TraceError(
        f"whether {question} depends on the size that a call brings ({ranges}), and one program is made for all "
        f"of them: give bounds that decide it, {names}; say that it always holds, graphc._check({question}), which is "
        "then checked at every call; or leave the axis out of dynamic="
    )


def pinned(size: Expr) -> TraceError:
    """The error of asking for the number that a symbolic size stands for."""
    names = ", ".join(map(str, _sorted(symbols(size))))
    return TraceError(
        f"the size {size} is wanted as a Python number here, which would pin {names} to one size: int(), len(), "
        "range(), an index and math functions need numbers. Compute with x.shape and x.size() as they are (+, -, *, //, "
        "% and comparisons that bounds decide stay symbolic), loop with graphc.fori_loop, or leave "
        "the axis out of dynamic="
    )


def _sorted(about: frozenset[Symbol]) -> list[Symbol]:
    return sorted(about, key=str)


def terms_of(x: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(x, Expr):
        return x.terms
    return (((), x),) if x else ()


def _key(monomial: Monomial) -> tuple[int, str]:
    # Constants last, then by spelling: any fixed total order makes the form canonical.
    return (0 if monomial else 1, "*".join(str(a) for a, p in monomial for _ in range(p)))


def from_terms(terms: Mapping[Monomial, int]) -> Dim:
    for m in terms:
        if len(m) == 1 and isinstance(m[0][0], Apply) and m[0][0].function == "%":
            terms = _joined(terms)
            break
    kept = [(m, k) for m, k in terms.items() if k]
    if not kept:
        return 0
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    if len(kept) > 1:
        kept.sort(key=lambda t: _key(t[0]))
    return Expr(tuple(kept))


def _joined(terms: Mapping[Monomial, int]) -> Mapping[Monomial, int]:
    """`terms` with every `k*b*(x//b) + k*(x%b)` made `k*x`, so that undone reshapes leave no division."""
    for monomial, k in terms.items():
        atom = monomial[0][0] if len(monomial) == 1 and monomial[0][1] == 1 else None
        if not isinstance(atom, Apply) or atom.function != "%" or k == 0:
            continue
        x, b = atom.args
        whole = terms_of(b * floor_div(x, b))
        if isinstance(b, int) and len(whole) != 1:
            continue
        if all(terms.get(m) == k * c for m, c in whole):
            rest = {m: c for m, c in terms.items() if m != monomial}
            for m, _ in whole:
                del rest[m]
            for m, c in terms_of(x):
                rest[m] = rest.get(m, 0) + c * k
            return _joined(rest)
    return terms


@lru_cache(maxsize=KEPT, typed=True)
def _sum(a: Dim, b: Dim, sign: int) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + sign * b
    if b == 0:
        return a
    if a == 0 and sign == 1:
        return b
    terms = dict(terms_of(a))
    for monomial, k in terms_of(b):
        terms[monomial] = terms.get(monomial, 0) + sign * k
    return from_terms(terms)


@lru_cache(maxsize=KEPT, typed=True)
def _multiply(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if isinstance(a, int):
        a, b = b, a
    if isinstance(b, int):
        # Scaling keeps the canonical order.
        return 0 if b == 0 else a if b == 1 else Expr(tuple((m, k * b) for m, k in terms_of(a)))
    terms: dict[Monomial, int] = {}
    for m, k in terms_of(a):
        for n, j in terms_of(b):
            powers = dict(m)
            for atom, p in n:
                powers[atom] = powers.get(atom, 0) + p
            key = tuple(sorted(powers.items(), key=lambda t: str(t[0])))
            terms[key] = terms.get(key, 0) + k * j
    return from_terms(terms)


def product(dims: tuple[Dim, ...] | list[Dim]) -> Dim:
    """Product of dimensions; 1 of none."""
    result: Dim = 1
    for d in dims:
        result = result * d
    return result


def quotient(a: Dim, b: Dim) -> Dim | None:
    """The dim that times b is a, for every b but 0; None where there is none of this form."""
    if isinstance(b, int):
        return (
            None
            if b == 0 or any(k % b for _, k in terms_of(a))
            else from_terms({m: k // b for m, k in terms_of(a)})
        )
    if len(b.terms) != 1:
        return 1 if a == b else None
    ((monomial, factor),) = b.terms
    terms: dict[Monomial, int] = {}
    for m, k in terms_of(a):
        powers = dict(m)
        for atom, p in monomial:
            powers[atom] = powers.get(atom, 0) - p
        if k % factor or any(p < 0 for p in powers.values()):
            return None
        terms[tuple((atom, p) for atom, p in powers.items() if p)] = k // factor
    return from_terms(terms)


def _divisible_part(a: Dim, d: int) -> tuple[Dim, Dim]:
    """`a` as `d*q + r` where q takes every term whose coefficient d divides."""
    q: dict[Monomial, int] = {}
    r: dict[Monomial, int] = {}
    for m, k in terms_of(a):
        if k % d == 0:
            q[m] = k // d
        elif m == ():
            q[m], r[m] = k // d, k % d
        else:
            r[m] = k
    return from_terms(q), from_terms(r)


def _multiples(a: Dim, b: Expr) -> tuple[Dim, Dim]:
    """`a` as `b*q + r` where q takes every term that is a multiple of b."""
    q, r = dict[Monomial, int](), dict[Monomial, int]()
    for m, k in terms_of(a):
        part = quotient(from_terms({m: k}), b)
        if part is None:
            r[m] = k
        else:
            for n, c in terms_of(part):
                q[n] = q.get(n, 0) + c
    return from_terms(q), from_terms(r)


def _is_digit(r: Dim, b: Dim) -> bool:
    """True where 0 <= r < b for certain."""
    return bool(less_equal(0, r) and less_equal(r, b - 1))


def _common_factor(a: Dim, d: int) -> tuple[int, Dim, int]:
    """`a` as `g*whole + rest` with 0 <= rest < g, where g divides d and every coefficient of a symbol."""
    g = gcd(d, *(k for m, k in terms_of(a) if m))
    constant = next((k for m, k in terms_of(a) if not m), 0)
    whole = from_terms({m: (k if m else constant - constant % g) // g for m, k in terms_of(a)})
    return g, whole, constant % g


@lru_cache(maxsize=KEPT, typed=True)
def floor_div(a: Dim, b: Dim) -> Dim:
    """a // b, rounded toward minus infinity. Raises ZeroDivisionError for b = 0."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1:
        return a
    if isinstance(b, int) and b > 0:
        q, r = _divisible_part(a, b)
        lo, hi = bounds(r)
        if lo is not None and hi is not None and lo // b == hi // b:
            return q + lo // b
        g, whole, _ = _common_factor(r, b)
        if g > 1:
            return q + floor_div(whole, b // g)
        if isinstance(r, Expr) and len(r.terms) == 1 and q == 0:
            # (x // c) // b  ->  x // (c*b)
            ((monomial, k),) = r.terms
            if k == 1 and len(monomial) == 1 and monomial[0][1] == 1:
                atom = monomial[0][0]
                if isinstance(atom, Apply) and atom.function == "//" and isinstance(atom.args[1], int):
                    return floor_div(atom.args[0], atom.args[1] * b)
        return q + _apply("//", r, b)
    if a == b:
        return 1
    if b == 0:
        raise ZeroDivisionError(f"{a} // 0")
    if isinstance(b, Expr):
        q, r = _multiples(a, b)
        return q if _is_digit(r, b) else q + _apply("//", r, b)
    return _apply("//", a, b)


@lru_cache(maxsize=KEPT, typed=True)
def mod(a: Dim, b: Dim) -> Dim:
    """a % b with the sign of b. Raises ZeroDivisionError for b = 0."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if b == 1:
        return 0
    if isinstance(b, int) and b > 0:
        _, r = _divisible_part(a, b)
        lo, hi = bounds(r)
        if lo is not None and hi is not None and lo // b == hi // b:
            return r - (lo // b) * b
        g, whole, rest = _common_factor(r, b)
        if g > 1:
            return g * mod(whole, b // g) + rest
        return _apply("%", r, b)
    if a == b:
        return 0
    if b == 0:
        raise ZeroDivisionError(f"{a} % 0")
    if isinstance(b, Expr):
        r = _multiples(a, b)[1]
        return r if _is_digit(r, b) else _apply("%", r, b)
    return _apply("%", a, b)


def ceil_div(a: Dim, b: int) -> Dim:
    """a / b rounded up, b > 0."""
    return floor_div(a + (b - 1), b)


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of two dims, simplified where bounds decide."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    # Both ways: a <= b may be undecided where b <= a is not, when they can be equal.
    if less_equal(a, b):
        return a
    return b if less_equal(b, a) else _apply("min", *sorted((a, b), key=str))


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of two dims, simplified where bounds decide."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    if less_equal(a, b):
        return b
    return a if less_equal(b, a) else _apply("max", *sorted((a, b), key=str))


def _apply(function: str, *args: Dim) -> Dim:
    if all(isinstance(a, int) for a in args):
        return _FUNCTIONS[function](*args)
    return Expr((((((Apply(function, args)), 1),), 1),))


_FUNCTIONS: dict[str, Callable[..., int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}

Bound = int | None


@lru_cache(maxsize=KEPT, typed=True)
def bounds(x: Dim) -> tuple[Bound, Bound]:
    """Inclusive lower and upper bounds; None is unbounded."""
    if isinstance(x, int):
        return x, x
    lo: Bound = 0
    hi: Bound = 0
    for monomial, k in x.terms:
        mlo, mhi = _monomial_bounds(monomial)
        if k < 0:
            mlo, mhi = mhi, mlo
        lo = None if lo is None or mlo is None else lo + k * mlo
        hi = None if hi is None or mhi is None else hi + k * mhi
    return lo, hi


def _monomial_bounds(monomial: Monomial) -> tuple[Bound, Bound]:
    lo: Bound = 1
    hi: Bound = 1
    for atom, power in monomial:
        alo, ahi = _atom_bounds(atom)
        for _ in range(power):
            lo, hi = _interval_product((lo, hi), (alo, ahi))
    return lo, hi


def _interval_product(a: tuple[Bound, Bound], b: tuple[Bound, Bound]) -> tuple[Bound, Bound]:
    if None not in a and None not in b:
        corners = [x * y for x in a for y in b]  # type: ignore[operator]
        return min(corners), max(corners)
    if a[0] is not None and a[0] >= 0 and b[0] is not None and b[0] >= 0:
        return a[0] * b[0], None if a[1] is None or b[1] is None else a[1] * b[1]
    return None, None


def _atom_bounds(atom: Atom) -> tuple[Bound, Bound]:
    if isinstance(atom, Symbol):
        return atom.lo, atom.hi
    (alo, ahi), (blo, bhi) = bounds(atom.args[0]), bounds(atom.args[1])
    match atom.function:
        case "//" if blo is not None and blo > 0:
            if blo == bhi:
                return None if alo is None else alo // blo, None if ahi is None else ahi // blo
            return (0 if alo is not None and alo >= 0 else None), (
                None if ahi is None or ahi < 0 else ahi // blo
            )
        case "%" if blo is not None and blo > 0:
            top = None if bhi is None else bhi - 1
            if alo is not None and alo >= 0 and ahi is not None:
                top = ahi if top is None else min(top, ahi)
            return 0, top
        case "min":
            return (
                None if alo is None or blo is None else min(alo, blo),
                bhi if ahi is None else ahi if bhi is None else min(ahi, bhi),
            )
        case "max":
            return (
                blo if alo is None else alo if blo is None else max(alo, blo),
                None if ahi is None or bhi is None else max(ahi, bhi),
            )
    return None, None


def less_equal(a: Dim, b: Dim) -> bool | None:
    """a <= b: True, False, or None where the bounds do not decide."""
    difference = b - a
    lo, hi = bounds(difference)
    if lo is not None and lo >= 0:
        return True
    if hi is not None and hi < 0:
        return False
    if isinstance(difference, Expr) and any(s.size is not None for s in symbols(difference)):
        least, most = _extreme(difference, least=True), _extreme(difference, least=False)
        lo, hi = bounds(least)[0], bounds(most)[1]
        if lo is not None and lo >= 0:
            return True
        if hi is not None and hi < 0:
            return False
    return True if isinstance(difference, Expr) and _is_never_negative(difference) else None


def _is_never_negative(x: Expr) -> bool:
    """True where x >= 0 follows from d*(a//d) being in [a - d + 1, a], as that of n - n//2 and n - 2*(n//2) does."""
    for monomial, k in x.terms:
        atom = monomial[0][0] if len(monomial) == 1 and monomial[0][1] == 1 else None
        if isinstance(atom, Apply) and atom.function == "//" and isinstance(d := atom.args[1], int) and d > 0:
            least = atom.args[0] if k < 0 else atom.args[0] - (d - 1)
            rest = (x - from_terms({monomial: k})) * d + least * k
            low = bounds(rest)[0]
            return (low is not None and low >= 0) or (isinstance(rest, Expr) and _is_never_negative(rest))
    return False


def _extreme(x: Dim, *, least: bool) -> Dim:
    """`x` where axes of symbolic size stand at the end at which it is least, or most; as far as it is linear in them."""
    for s in symbols(x):
        split = _split_product(x, s) if s.size is not None else None
        if split is not None and s.size is not None:
            low, high = bounds(split[0])
            if (low is not None and low >= 0) or (high is not None and high <= 0):
                at: Dim = 0 if (high is None or high > 0) == least else s.size - 1
                x = split[0] * at + split[1]
    return x


def _split_product(x: Dim, symbol: Symbol) -> tuple[Dim, Dim] | None:
    """`x` as `c*symbol + rest`, both free of `symbol`, or None where it is not so."""
    factor: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, k in terms_of(x):
        others = tuple(t for t in monomial if t[0] != symbol)
        if any(symbol in symbols(atom_expr(atom)) for atom, _ in others):
            return None
        powers = [p for atom, p in monomial if atom == symbol]
        if powers in ([], [1]):
            (factor if powers else rest)[others] = k
        else:
            return None
    return from_terms(factor), from_terms(rest)


NO_SYMBOLS: frozenset[Symbol] = frozenset()


def symbols(x: Dim) -> frozenset[Symbol]:
    """All symbols that occur in `x`."""
    if isinstance(x, int):
        return NO_SYMBOLS
    if x._symbols is None:
        found: set[Symbol] = set()
        for monomial, _ in x.terms:
            for atom, _ in monomial:
                if isinstance(atom, Symbol):
                    found.add(atom)
                else:
                    found.update(*(symbols(a) for a in atom.args))
        x._symbols = frozenset(found)
    return x._symbols


def atom_expr(atom: Atom) -> Expr:
    return Expr(((((atom, 1),), 1),))
