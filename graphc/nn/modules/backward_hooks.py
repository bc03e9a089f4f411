"""Backward hooks of Modules: points before the arguments and behind the results of one call."""

from __future__ import annotations

from typing import Any

from graphc.core import TensorBase, hook_values, is_grad_enabled

__all__ = ["BackwardWatch"]


class BackwardWatch:
    """One call of a Module whose backward hooks are to be asked."""

    __slots__ = ("_count", "_grad_outputs", "_module", "_watched")

    def __init__(self, module: Any) -> None:
        self._module = module
        self._watched: list[int] = []
        """Positions of arguments whose gradients are seen."""
        self._count = 0
        self._grad_outputs: tuple[Any, ...] = ()

    def inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments behind a point."""
        self._count = len(args)
        if is_grad_enabled():
            self._watched = [i for i, a in enumerate(args) if isinstance(a, TensorBase) and a.requires_grad]
        if not self._watched:
            return args
        behind = iter(hook_values([args[i] for i in self._watched], self._at_inputs))
        return tuple([next(behind) if i in self._watched else a for i, a in enumerate(args)])

    def outputs(self, result: Any) -> Any:
        """The result, a tensor or a tuple or list of them, behind a point."""
        items = list(result) if isinstance(result, (tuple, list)) else [result]
        places = [i for i, v in enumerate(items) if isinstance(v, TensorBase) and v.requires_grad]
        if not places or not is_grad_enabled():
            return result
        size = len(items)

        def at_outputs(gradients: list[Any]) -> list[Any]:
            full: list[Any] = [None] * size
            for i, g in zip(places, gradients, strict=True):
                full[i] = g
            self._at_outputs(tuple(full))
            return [self._grad_outputs[i] for i in places]

        for i, v in zip(places, hook_values([items[i] for i in places], at_outputs), strict=True):
            items[i] = v
        if isinstance(result, tuple):
            return type(result)(*items) if hasattr(result, "_fields") else tuple(items)
        return items if isinstance(result, list) else items[0]

    def _at_outputs(self, gradients: tuple[Any, ...]) -> None:
        for hook in list(self._module._backward_pre_hooks.values()):
            gradients = _replaced(
                hook(self._module, gradients), gradients, "Backward pre hook", "grad_output"
            )
        self._grad_outputs = gradients
        if not self._watched:
            self._ask((None,) * self._count)

    def _at_inputs(self, gradients: list[Any]) -> list[Any]:
        full: list[Any] = [None] * self._count
        for i, g in zip(self._watched, gradients, strict=True):
            full[i] = g
        changed = self._ask(tuple(full))
        return [changed[i] for i in self._watched]

    def _ask(self, gradients: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in list(self._module._backward_hooks.values()):
            changed = hook(self._module, gradients, self._grad_outputs)
            gradients = _replaced(changed, gradients, "Backward hook", "grad_input")
        return gradients


def _replaced(changed: Any, gradients: tuple[Any, ...], what: str, of: str) -> tuple[Any, ...]:
    """What a hook made of gradients. Raises RuntimeError for another number of them."""
    if changed is None:
        return gradients
    found = changed if isinstance(changed, tuple) else (changed,)
    if len(found) != len(gradients):
        raise RuntimeError(
            f"{what} returned an invalid number of {of}, got {len(found)}, but expected {len(gradients)}"
        )
    return found
