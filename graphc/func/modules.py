"""Modules as functions of their parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc.functions import shape
from graphc.nn.modules.module import Module

__all__ = ["functional_call", "stack_module_state"]


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Calls a Module with parameters and buffers replaced, by dotted name, for this call only.

    Names that the Module does not have are ignored, like those that are missing, unless `strict`. A tensor that stands
    at several places is replaced at all of them, unless `tie_weights` is False. Raises RuntimeError with `strict`
    for missing and unexpected names, ValueError for a name in more than one dict.
    """
    given = parameter_and_buffer_dicts
    values = _merged([given] if isinstance(given, Mapping) else list(given))
    known = {**dict(module.named_parameters(remove_duplicate=False))}
    known |= dict(module.named_buffers(remove_duplicate=False))
    if strict:
        _check_names(module, set(known), set(values))
    values = {name: value for name, value in values.items() if name in known}
    if tie_weights:
        for name, tensor in list(known.items()):
            same = [n for n in values if known[n] is tensor]
            if same and name not in values:
                values[name] = values[same[0]]
    kept: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for path, value in values.items():
            where, _, name = path.rpartition(".")
            owner = module.get_submodule(where)
            place = owner._parameters if name in owner._parameters else owner._buffers
            kept.append((place, name, place[name]))
            place[name] = value
        positional = args if isinstance(args, tuple) else () if args is None else (args,)
        return module(*positional, **(kwargs or {}))
    finally:
        for place, name, before in reversed(kept):
            place[name] = before


def _merged(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One dict of several. Raises ValueError for a name that is in more than one."""
    found: dict[str, Any] = {}
    for table in tables:
        twice = [name for name in table if name in found]
        if twice:
            raise ValueError(
                f"{twice[0]} appears in multiple dictionaries; behavior of functional call is ambiguous"
            )
        found |= table
    return found


def _check_names(module: Module, known: set[str], given: set[str]) -> None:
    lines = [
        f"\n\t{what} key(s): " + ", ".join(f"'{name}'" for name in sorted(names)) + "."
        for what, names in (("Unexpected", given - known), ("Missing", known - given))
        if names
    ]
    if lines:
        raise RuntimeError(f"Error(s) in reparametrizing for {type(module).__name__}:" + "".join(lines))


def stack_module_state(models: Sequence[Module]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and buffers of modules of one kind, each stacked along a new first axis, by dotted name.

    Parameters require grad where they did. For `vmap` over models with `functional_call`. Raises RuntimeError
    for no models, for modules of different classes and for some in training and some not.
    """
    if not models:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    if not (all(m.training for m in models) or all(not m.training for m in models)):
        raise RuntimeError("stack_module_state: Expected all models to have the same training/eval mode.")
    if any(type(m) is not type(models[0]) for m in models):
        raise RuntimeError("stack_module_state: Expected all models to be of the same class.")
    tables = [dict(m.named_parameters()) for m in models], [dict(m.named_buffers()) for m in models]
    parameters, buffers = ({k: _stacked([t[k] for t in table]) for k in table[0]} for table in tables)
    return parameters, buffers


def _stacked(tensors: list[Any]) -> Any:
    stacked: Any = shape.stack([t.detach() for t in tensors])
    return stacked.requires_grad_(True) if any(t.requires_grad for t in tensors) else stacked
