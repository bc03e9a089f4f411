"""`SymInt`: the size of a dynamic dimension as user code sees it.

Arithmetic stays symbolic. A comparison that the bounds decide, or that the trace was told to assume,
gives its answer; another one gives a `SymBool`, whose truth cannot be asked for. Nothing ever turns
one into a number. Invariant: only user code and the functions that it calls see these; recorded
attributes and types hold plain expressions (`plain`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from graphc.core.location import user_location
from graphc.core.recording import current
from graphc.ir.dims import (
    Dim,
    Expr,
    bounds,
    equal,
    floor_div,
    less_equal,
    maximum,
    minimum,
    mod,
    symbols,
    undecided,
)
from graphc.ir.graph import Location
from graphc.ir.records import dataclass

__all__ = [
    "Assumption",
    "SymBool",
    "SymInt",
    "_check",
    "assume",
    "holds",
    "is_decided",
    "plain",
    "sym_max",
    "sym_min",
    "symbolic",
]

Relation = Literal[">=", "==", "!="]


@dataclass(frozen=True)
class Assumption:
    """What every call must bring: `difference` stands in `relation` to 0. `error` is raised where it does not."""

    difference: Expr
    relation: Relation
    error: type[Exception]
    message: str
    loc: Location | None

    def holds(self, value: int) -> bool:
        """True where `value`, the difference at a call's sizes, is as assumed."""
        return holds(self.relation, value)


def holds(relation: str, value: int) -> bool:
    """True where `value` stands in `relation` to 0."""
    match relation:
        case ">=":
            return value >= 0
        case "==":
            return value == 0
    return value != 0


def is_decided(difference: Dim, relation: str) -> bool:
    """True where the bounds of its symbols say that `difference` always stands in `relation` to 0."""
    if relation == ">=":
        return less_equal(0, difference) is True
    return equal(difference, 0) is (relation == "==")


def plain(x: Any) -> Any:
    """`x`, or what is in the tuple `x`, with sizes of user code as plain expressions."""
    if type(x) is SymInt:
        return Expr(x.terms)
    if type(x) is tuple:
        return tuple([plain(e) for e in x])
    return x


def symbolic(x: Any) -> Any:
    """A dimension as user code sees it."""
    return SymInt(x.terms) if type(x) is Expr else x


class SymBool:
    """A comparison of sizes whose answer depends on the call: `difference` stands in `relation` to 0."""

    __slots__ = ("difference", "question", "relation")

    def __init__(self, difference: Expr, relation: Relation, question: str) -> None:
        self.difference = difference
        self.relation = relation
        self.question = question

    def __bool__(self) -> bool:
        raise undecided(self.question, symbols(self.difference))

    def __repr__(self) -> str:
        return self.question


def known(difference: Dim, relation: Relation) -> bool | None:
    """Whether `difference` stands in `relation` to 0: by its bounds, or by what the trace assumes."""
    if relation == ">=":
        answer = less_equal(0, difference)
    else:
        answer = equal(difference, 0)
        if answer is not None and relation == "!=":
            answer = not answer
    if answer is not None or isinstance(difference, int):
        return answer
    return _follows(difference, relation)


def _follows(difference: Expr, relation: Relation) -> bool | None:
    """As `known`, by what the trace assumes alone."""
    for fact in current_assumptions():
        other = fact.difference
        if fact.relation == ">=":
            if relation == ">=":
                if _at_least(difference - other, 0):
                    return True
                if _at_least(-difference - 1 - other, 0):
                    return False
            elif _at_least(difference - other, 1) or _at_least(-difference - other, 1):
                return relation == "!="  # a difference that is at least 1
        elif relation != ">=" and other in (difference, -difference):
            return fact.relation == relation
    return None


def _at_least(x: Dim, least: int) -> bool:
    low = bounds(x)[0]
    return low is not None and low >= least


def current_assumptions() -> list[Assumption]:
    """What the trace that is being recorded assumes of sizes so far."""
    trace = current().trace
    return [] if trace is None else trace.assumptions


def _compare(a: Any, b: Any, relation: Relation, question: str, *, strict: bool = False) -> Any:
    """a - b in `relation` to 0 (or to 1, for `strict`)."""
    difference: Dim = plain(a) - plain(b) - int(strict)
    answer = known(difference, relation)
    if answer is None:
        assert isinstance(difference, Expr)
        return SymBool(difference, relation, question)
    return answer


def assume(a: Dim, relation: Literal[">=", "==", "!="], b: Dim, error: type[Exception], message: str) -> None:
    """Raises `error` where `a` does not stand in `relation` to `b`; where that depends on the sizes that calls
    bring, every call of the function being traced is checked for it."""
    difference = plain(a) - plain(b)
    answer = known(difference, relation)
    if answer is False:
        raise error(message)
    if answer is None:
        found = Assumption(difference, relation, error, message, user_location())
        current_assumptions().append(found)


def _check(cond: Any, message: Any = None) -> None:
    """Says that `cond` holds. A comparison of dynamic sizes is then taken as given while the function is traced,
    and checked when it is called. Raises RuntimeError where it does not hold; `message` is a function that gives
    the text."""
    if isinstance(cond, SymBool):
        text = f"Expected {cond.question}" if message is None else str(message())
        current_assumptions().append(
            Assumption(cond.difference, cond.relation, RuntimeError, text, user_location())
        )
    elif not cond:
        raise RuntimeError("Expected cond to be True, but got False." if message is None else str(message()))


def sym_max(a: Any, b: Any) -> Any:
    """The larger of two sizes, symbolic where it depends on the call."""
    return symbolic(maximum(plain(a), plain(b)))


def sym_min(a: Any, b: Any) -> Any:
    """The smaller of two sizes, symbolic where it depends on the call."""
    return symbolic(minimum(plain(a), plain(b)))


def register_division(function: Callable[[Any, Any], Any]) -> None:
    """Says what the quotient of sizes and numbers is, as a tensor; called once, by the module that knows."""
    _divide[:] = [function]


_divide: list[Callable[[Any, Any], Any]] = []


class SymInt(Expr):
    """A size that each call brings, or arithmetic on such sizes."""

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return symbolic(plain(self) + plain(other)) if _is_size(other) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return symbolic(plain(other) + plain(self)) if _is_size(other) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        return symbolic(plain(self) - plain(other)) if _is_size(other) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return symbolic(plain(other) - plain(self)) if _is_size(other) else NotImplemented

    def __mul__(self, other: Any) -> Any:
        return symbolic(plain(self) * plain(other)) if _is_size(other) else NotImplemented

    def __rmul__(self, other: Any) -> Any:
        return symbolic(plain(other) * plain(self)) if _is_size(other) else NotImplemented

    def __neg__(self) -> Any:
        return symbolic(-plain(self))

    def __pos__(self) -> Any:
        return self

    def __floordiv__(self, other: Any) -> Any:
        return symbolic(_divided(self, other)) if _is_size(other) else NotImplemented

    def __rfloordiv__(self, other: Any) -> Any:
        return symbolic(_divided(other, self)) if _is_size(other) else NotImplemented

    def __mod__(self, other: Any) -> Any:
        return symbolic(_rest(self, other)) if _is_size(other) else NotImplemented

    def __rmod__(self, other: Any) -> Any:
        return symbolic(_rest(other, self)) if _is_size(other) else NotImplemented

    def __truediv__(self, other: Any) -> Any:
        if not (_is_size(other) or isinstance(other, float)):
            return NotImplemented
        return _divide[0](self, _positive_divisor(other) if isinstance(other, Expr) else other)

    def __rtruediv__(self, other: Any) -> Any:
        if not (_is_size(other) or isinstance(other, float)):
            return NotImplemented
        return _divide[0](other, _positive_divisor(self))

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __pow__(self, power: Any) -> Any:
        if not isinstance(power, int) or power < 0:
            return NotImplemented
        result: Any = 1
        for _ in range(power):
            result = result * self
        return result

    def __lt__(self, other: Any) -> Any:
        if not _is_size(other):
            return NotImplemented
        return _compare(other, self, ">=", f"{self} < {other}", strict=True)

    def __le__(self, other: Any) -> Any:
        return _compare(other, self, ">=", f"{self} <= {other}") if _is_size(other) else NotImplemented

    def __gt__(self, other: Any) -> Any:
        if not _is_size(other):
            return NotImplemented
        return _compare(self, other, ">=", f"{self} > {other}", strict=True)

    def __ge__(self, other: Any) -> Any:
        return _compare(self, other, ">=", f"{self} >= {other}") if _is_size(other) else NotImplemented

    def __eq__(self, other: object) -> Any:
        return _compare(self, other, "==", f"{self} == {other}") if _is_size(other) else NotImplemented

    def __ne__(self, other: object) -> Any:
        return _compare(self, other, "!=", f"{self} != {other}") if _is_size(other) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        return bool(self != 0)


def _is_size(x: Any) -> bool:
    return isinstance(x, (int, Expr))


def _positive_divisor(b: Any) -> Dim:
    """A divisor, which is not 0 at any call."""
    assume(b, "!=", 0, ZeroDivisionError, f"division by {b}, which is 0")
    return plain(b)  # type: ignore[no-any-return]


def _divided(a: Any, b: Any) -> Dim:
    return floor_div(plain(a), _positive_divisor(b))


def _rest(a: Any, b: Any) -> Dim:
    return mod(plain(a), _positive_divisor(b))
