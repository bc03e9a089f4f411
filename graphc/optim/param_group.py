"""`ParamGroup`: a dict of optimiser options whose numbers live in native slots.

Recorded and compiled optimiser steps read the numbers from the slots, so that writing one takes
effect at the next step without compiling. What changes the structure of a step (an option that is
no number, a new key, a number that becomes or stops being zero where a step leaves work out then)
raises the mutation epoch.
"""

from __future__ import annotations

from typing import Any

from graphc.core import NumberSlot, TensorBase, bump_epoch, number_slot

__all__ = ["ParamGroup"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class ParamGroup(dict[str, Any]):
    """One entry of `Optimizer.param_groups`."""

    __slots__ = ("_given", "_slots", "version")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.version = 0
        """Raised by every change of the structure of a step."""
        self._given: list[Any] | None = None
        self._slots: dict[tuple[str, int], NumberSlot] = {}

    def _values(self, key: str) -> tuple[Any, ...]:
        value = self[key]
        return value if isinstance(value, tuple) else (value,)

    def _parts(self, key: str) -> list[tuple[tuple[str, int], Any]]:
        return [((key, i), v) for i, v in enumerate(self._values(key))]

    def _changed(self) -> None:
        self.version += 1
        self._given = None
        bump_epoch()

    def number(self, key: str, index: int = 0) -> Any:
        """The number `key` (part `index` of a tuple) as a rank-0 float64 tensor."""
        value = self[key][index] if isinstance(self[key], tuple) else self[key]
        if isinstance(value, TensorBase):
            return value.detach() if not value.tensor_type.shape else value.detach().reshape(())
        slot = self._slots.get((key, index))
        if slot is None:
            slot = self._slots[key, index] = number_slot(
                float(value), f"{key}.{index}" if isinstance(self[key], tuple) else key
            )
        return slot.tensor()

    def tensors(self) -> list[Any]:
        """The tensors that a step may read numbers of: options that are tensors, then slots in use."""
        if self._given is None:
            self._given = [v.detach() for k in self for v in self._values(k) if isinstance(v, TensorBase)]
        return [*self._given, *[slot.tensor() for slot in self._slots.values()]]

    def snapshot(self) -> tuple[Any, ...]:
        """The structure of a step with this group: everything but the numbers' values."""
        parts: list[Any] = [("params", tuple(map(id, self["params"])))]
        for key, value in self.items():
            if key == "params":
                continue
            if _is_number(value):
                parts.append((key, "number", value != 0))
            elif isinstance(value, tuple) and all(map(_is_number, value)):
                parts.append((key, "numbers", tuple(v != 0 for v in value)))
            elif isinstance(value, TensorBase):
                parts.append((key, id(value)))
            else:
                parts.append((key, value if isinstance(value, (str, bool, type(None))) else id(value)))
        return tuple(parts)

    def __setitem__(self, key: str, value: Any) -> None:
        before = self.get(key, _ABSENT)
        super().__setitem__(key, value)
        new = self._parts(key)
        if not all(_is_number(v) for _, v in new):
            for name in [n for n in self._slots if n[0] == key]:
                del self._slots[name]
            self._changed()
            return
        for name, number in new:
            slot = self._slots.get(name)
            if slot is not None and slot.value != number:
                slot.value = float(number)
        if _structure(before) != _structure(value):
            self._changed()

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        for name in [n for n in self._slots if n[0] == key]:
            del self._slots[name]
        self._changed()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As `dict.update`, through the slots."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As `dict.setdefault`."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        """As `dict.pop`."""
        if key in self:
            value = self[key]
            del self[key]
            return value
        if default:
            return default[0]
        raise KeyError(key)

    def __ior__(self, other: Any) -> ParamGroup:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ParamGroup:
        result = ParamGroup(self)
        memo[id(self)] = result
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return (ParamGroup, (dict(self),))


_ABSENT = object()


def _structure(value: Any) -> Any:
    if _is_number(value):
        return value != 0
    if isinstance(value, tuple) and all(map(_is_number, value)):
        return tuple(v != 0 for v in value)
    return None if value is _ABSENT else (type(value), id(value))
