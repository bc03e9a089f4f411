"""Deferred dataclasses: whatever is asked of one, in whatever order, is answered as by the standard library's."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import field
from typing import Any

import pytest

from graphc.ir import records


def plain(dataclass: Any) -> Any:
    @dataclass
    class Plain:
        """Mutable."""

        a: int
        b: list[int] = field(default_factory=list)
        c: str = "c"

    return Plain


def frozen(dataclass: Any) -> Any:
    @dataclass(frozen=True)
    class Frozen:
        """With fields that are not compared or not shown."""

        a: int
        b: float = field(default=2.0, compare=False)
        c: int = field(default=3, repr=False)

        def __post_init__(self) -> None:
            if self.a == 13:
                raise ValueError("13")

    return Frozen


def derived(dataclass: Any) -> Any:
    @dataclass(frozen=True)
    class Derived(frozen(dataclass)):  # type: ignore[misc]
        """Adds a field."""

        d: tuple[int, ...] = ()

    return Derived


def undecorated(dataclass: Any) -> Any:
    class Undecorated(derived(dataclass)):  # type: ignore[misc]
        """No dataclass itself."""

        def __init__(self, a: int) -> None:
            super().__init__(a, d=(a, a))
            self.extra = a

    return Undecorated


def by_identity(dataclass: Any) -> Any:
    @dataclass(eq=False, repr=False)
    class ByIdentity:
        """Neither compared nor shown."""

        a: int
        n: int = field(default=0, init=False)

        def __repr__(self) -> str:
            return f"identity {self.a}"

    return ByIdentity


def own_methods(dataclass: Any) -> Any:
    @dataclass(frozen=True)
    class Own:
        """Comparison of its own, hash of the fields."""

        a: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

    return Own


def empty(dataclass: Any) -> Any:
    @dataclass(frozen=True)
    class Empty:
        """No field."""

    return Empty


def _answer(ask: Callable[[Any], Any], cls: Any) -> Any:
    try:
        return ask(cls)
    except Exception as error:
        return type(error), str(error)


def _unmade(cls: Any) -> Any:
    """An instance that `__init__` has not seen, as `copy` and `pickle` make them."""
    made = object.__new__(cls)
    made.__dict__["a"] = 1
    return made


def _matched(cls: Any) -> Any:
    match cls(7):
        case cls(a):
            return a


def _inherited(cls: Any) -> Any:
    """An instance of a class that the standard library derives from `cls`."""
    body = {"__annotations__": {"e": "int"}, "e": 0, "__doc__": "Derived."}
    return dataclasses.dataclass(frozen=True)(type("Further", (cls,), body))(1)


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "repr": lambda c: repr(c(1)),
    "keywords": lambda c: repr(c(a=1)),
    "too few": lambda c: repr(c()),
    "too many": lambda c: type(_answer(lambda k: k(1, 2, 3, 4, 5, 6), c)[0]),
    "equal": lambda c: (c(1) == c(1), c(1) != c(2), c(1) == 1, c(1) == (1,)),
    "hash": lambda c: {c(1): 2}[c(1)] if c.__eq__ is not object.__eq__ else None,
    "hash value": lambda c: hash(c(1)) if c.__hash__ is not object.__hash__ else None,
    "assign": lambda c: setattr(c(1), "a", 2),
    "new name": lambda c: setattr(c(1), "z", 2),
    "delete": lambda c: delattr(c(1), "a"),
    "post": lambda c: repr(c(13)),
    "fields": lambda c: [(f.name, f.init, f.compare) for f in dataclasses.fields(c)],
    "is": lambda c: (dataclasses.is_dataclass(c), dataclasses.is_dataclass(c(1))),
    "replace": lambda c: repr(dataclasses.replace(c(1), a=5)),
    "asdict": lambda c: dataclasses.asdict(c(1)),
    "fresh defaults": lambda c: c(1).__dict__.get("b") is c(2).__dict__.get("b"),
    "copy": lambda c: repr(copy.deepcopy(c(1))),
    "unmade repr": lambda c: repr(_unmade(c)),
    "unmade equal": lambda c: _unmade(c) == _unmade(c),
    "unmade hash": lambda c: hash(_unmade(c)) if c.__eq__ is not object.__eq__ else None,
    "match": _matched,
    "inherited": lambda c: repr(_inherited(c)),
    "names": lambda c: (c.__name__, c.__match_args__),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("make", [plain, frozen, derived, undecorated, by_identity, own_methods, empty])
def test_answers_as_the_standard_library(make: Callable[[Any], Any], question: str) -> None:
    ask = QUESTIONS[question]
    assert _answer(ask, make(records.dataclass)) == _answer(ask, make(dataclasses.dataclass))


def test_methods_are_made_when_they_are_needed() -> None:
    made = frozen(records.dataclass)
    before = made.__init__
    assert made(1) == made(1)
    assert made.__init__ is not before
