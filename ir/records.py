"""`dataclass` as in the standard library, but a class gets its methods when it is first used.

The standard library compiles six methods for each class while its module is imported, which was more than half of the
time of importing the passes; a process uses half of the classes. Here a class gets them at its first instance, and
comparison, hash and text are closures, which need no compiling. `dataclasses.fields`, `replace`, `asdict` and
`is_dataclass` work as ever. Invariant: whatever a class answers, it answers as the standard library's would; keyword-only
fields, `InitVar`, `order` and the like are refused.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

_lock = threading.RLock()


def _complete(cls: type[Any], standing_in: dict[str, Any], *, frozen: bool) -> None:
    """Puts what the decorator promised in the places of what stands in for it, once; `__init__` comes last."""
    with _lock:
        if not standing_in:
            return
        dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False, frozen=frozen)(cls)
        fields = dataclasses.fields(cls)
        compared = [f.name for f in fields if f.compare]
        made: dict[str, Callable[[], Any]] = {
            "__repr__": lambda: _printer([f.name for f in fields if f.repr]),
            "__eq__": lambda: _comparison(compared),
            "__hash__": lambda: _hasher(compared) if frozen else None,
            "__match_args__": lambda: tuple([f.name for f in fields if f.init]),
            "__init__": lambda: _initialiser(cls, fields, frozen=frozen),
        }
        for name, make in made.items():
            if name in standing_in:
                setattr(cls, name, make())
        standing_in.clear()


def _initialiser(cls: type[Any], fields: tuple[dataclasses.Field[Any], ...], *, frozen: bool) -> Any:
    """`__init__` with the fields as parameters."""
    known: dict[str, Any] = {"__set": object.__setattr__, "__absent": object()}
    parameters, body = ["self"], []
    for f in fields:
        value = f.name
        if f.default_factory is not dataclasses.MISSING:
            known[f"__make_{f.name}"] = f.default_factory
            if f.init:
                parameters.append(f"{f.name}=__absent")
                value = f"__make_{f.name}() if {f.name} is __absent else {f.name}"
            else:
                value = f"__make_{f.name}()"
        elif not f.init:
            continue
        elif f.default is not dataclasses.MISSING:
            known[f"__default_{f.name}"] = f.default
            parameters.append(f"{f.name}=__default_{f.name}")
        else:
            parameters.append(f.name)
        body.append(f"__set(self, {f.name!r}, {value})" if frozen else f"self.{f.name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n {'; '.join(body) or 'pass'}", known)
    made = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    return made


def _comparison(names: list[str]) -> Any:
    if len(names) == 1:
        value = attrgetter(*names)

        def equal(self: Any, other: object) -> Any:
            if other.__class__ is not self.__class__:
                return NotImplemented
            return (value(self),) == (value(other),)  # a nan equals itself, as in tuples

        return equal
    values = attrgetter(*names) if names else lambda self: ()

    def all_equal(self: Any, other: object) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return all_equal


def _hasher(names: list[str]) -> Any:
    if len(names) == 1:
        value = attrgetter(*names)
        return lambda self: hash((value(self),))
    values = attrgetter(*names) if names else lambda self: ()
    return lambda self: hash(values(self))


def _printer(names: list[str]) -> Any:
    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join([f'{n}={getattr(self, n)!r}' for n in names])})"

    return __repr__


class _Later:
    """Stands for an attribute of a class until it is looked at."""

    def __init__(self, cls: type[Any], name: str, complete: Callable[[], None]) -> None:
        self._cls = cls
        self._name = name
        self._complete = complete

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        self._complete()
        return getattr(self._cls, self._name)


def _defer(cls: Any, *, frozen: bool, eq: bool, repr_: bool) -> None:
    """Gives a class stand-ins for its methods, each of which completes it and calls what it stands for."""
    standing_in: dict[str, Any] = {}

    def complete() -> None:
        _complete(cls, standing_in, frozen=frozen)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        complete()
        cls.__init__(self, *args, **kwargs)

    # An instance may come to be without `__init__`: unpickled, copied.
    def __eq__(self: Any, other: object) -> Any:
        complete()
        return cls.__eq__(self, other)

    def __hash__(self: Any) -> int:
        complete()
        return hash(self)

    def __repr__(self: Any) -> str:
        complete()
        return str(cls.__repr__(self))

    own = cls.__dict__
    wanted: dict[str, Any] = {"__init__": __init__}
    for name in ("__dataclass_fields__", "__match_args__"):
        wanted[name] = _Later(cls, name, complete)
    if repr_:
        wanted["__repr__"] = __repr__
    if eq:
        wanted["__eq__"] = __eq__
        wanted["__hash__"] = __hash__
    for name, value in wanted.items():
        # A class with an `__eq__` of its own has None for `__hash__`, which it did not ask for.
        if name not in own or (name == "__hash__" and own[name] is None and "__eq__" in own):
            standing_in[name] = value
    for name, value in standing_in.items():
        setattr(cls, name, value)


if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(
        cls: type[Any] | None = None, /, *, frozen: bool = False, eq: bool = True, repr: bool = True
    ) -> Any:
        """See `dataclasses.dataclass`."""

        def wrap(cls: type[Any]) -> type[Any]:
            _defer(cls, frozen=frozen, eq=eq, repr_=repr)
            return cls

        return wrap if cls is None else wrap(cls)
