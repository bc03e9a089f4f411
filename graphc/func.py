"""Function transforms: `grad`, `grad_and_value`, `vjp`, `jacrev`, `hessian`, `functional_call`.

Arguments may be tensors and nests (dict, list, tuple) of them; gradients have their structure.
A transform of a transformed function gives higher derivatives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphc import core
from graphc.functions import creation, pointwise, shape
from graphc.nn.modules.module import Module

__all__ = ["functional_call", "grad", "grad_and_value", "hessian", "jacrev", "vjp"]


def _leaves(x: Any) -> list[Any]:
    if isinstance(x, core.TensorBase):
        return [x]
    if isinstance(x, Mapping):
        return [t for v in x.values() for t in _leaves(v)]
    return [t for v in x for t in _leaves(v)] if isinstance(x, (list, tuple)) else []


def _mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """The nest with `function` of each tensor."""
    if isinstance(x, core.TensorBase):
        return function(x)
    if isinstance(x, Mapping):
        return {k: _mapped(function, v) for k, v in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_mapped(function, v) for v in x))
    return type(x)(_mapped(function, v) for v in x) if isinstance(x, (list, tuple)) else x


def _variable(x: Any) -> Any:
    """A value of its own to differentiate by; still on the tape of `x`, where it has one."""
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"grad: expected floating-point arguments, got {x.dtype}")
    if x.requires_grad:
        return pointwise.record_copy(x)
    with core.no_grad():
        copy: Any = pointwise.record_copy(x)
    return copy.requires_grad_(True)


def _gradients(outputs: list[Any], variables: list[Any], seeds: list[Any], create: bool) -> list[Any]:
    active = [(o, s) for o, s in zip(outputs, seeds, strict=True) if o.requires_grad]
    if not active:
        return [creation.zeros_like(v) for v in variables]
    found = core.gradients(
        [o for o, _ in active],
        variables,
        [s for _, s in active],
        retain_graph=True,
        create_graph=create,
        allow_unused=True,
    )
    return [creation.zeros_like(v) if g is None else g for v, g in zip(variables, found, strict=True)]


class _Call:
    """One call of `function` with the arguments at `argnums` made variables."""

    def __init__(
        self, function: Callable[..., Any], argnums: Any, args: tuple[Any, ...], kwargs: Any
    ) -> None:
        numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        if any(not -len(args) <= n < len(args) for n in numbers):
            raise RuntimeError(f"argnums {argnums} is out of range for {len(args)} positional arguments")
        given = list(args)
        self.create = any(t.requires_grad for n in numbers for t in _leaves(given[n]))
        with core.enable_grad():
            for n in numbers:
                given[n] = _mapped(_variable, given[n])
            self.output = function(*given, **kwargs)
        self.single = isinstance(argnums, int)
        self.chosen = [given[n] for n in numbers]
        self.variables = _leaves(self.chosen)

    def pack(self, gradients: list[Any]) -> Any:
        """Gradients in the structure of the chosen arguments."""
        rest = iter(gradients)
        packed = _mapped(lambda _: next(rest), self.chosen)
        return packed[0] if self.single else tuple(packed)

    def free(self, x: Any) -> Any:
        """Results off the tape, unless an outer transform differentiates them."""
        return x if self.create else _mapped(lambda t: t.detach(), x)


def grad_and_value(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that gives (gradient, value) of a scalar-valued `func`.

    With `has_aux`, `func` gives (value, aux) and the result is (gradient, (value, aux)).
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = _Call(func, argnums, args, kwargs)
        value, aux = call.output if has_aux else (call.output, None)
        if not isinstance(value, core.TensorBase):
            raise RuntimeError(f"grad: expected the function to return a tensor, got {type(value).__name__}")
        if value.tensor_type.shape:
            raise RuntimeError(
                f"grad: expected the function to return a scalar tensor, got shape {list(value.tensor_type.shape)}"
            )
        gradient = call.free(call.pack(_gradients([value], call.variables, [None], call.create)))
        result = call.free(value)
        return gradient, ((result, call.free(aux)) if has_aux else result)

    return wrapped


def grad(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that gives the gradient of a scalar-valued `func` (and aux, with `has_aux`)."""

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        gradient, value = grad_and_value(func, argnums, has_aux)(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapped


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(output, function from cotangents to a tuple of gradients of `primals`), and aux with `has_aux`."""
    call = _Call(func, tuple(range(len(primals))), primals, {})
    output, aux = call.output if has_aux else (call.output, None)
    outputs = _leaves(output)

    def pull(*cotangents: Any) -> Any:
        seeds = _leaves(cotangents)
        if len(seeds) != len(outputs):
            raise RuntimeError(f"vjp: expected {len(outputs)} cotangents, got {len(seeds)}")
        return call.pack(_gradients(outputs, call.variables, seeds, call.create))

    return (call.free(output), pull, call.free(aux)) if has_aux else (call.free(output), pull)


def jacrev(func: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The Jacobian of a tensor-valued `func` by one tensor argument: output's shape, then the argument's."""

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = _Call(func, argnums, args, kwargs)
        output, (variable,) = call.output, call.variables
        count = output.numel()
        rows = []
        for i in range(count):
            unit = np.zeros(count, output.dtype.numpy)
            unit[i] = 1
            seed = creation.tensor(unit.reshape(tuple(output.shape)))
            rows.extend(_gradients([output], [variable], [seed], call.create))
        full = (*output.tensor_type.shape, *variable.tensor_type.shape)
        return call.free(
            shape.stack(rows).reshape(full) if rows else creation.zeros(full, dtype=variable.dtype)
        )

    return wrapped


def hessian(func: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """Second derivatives of a scalar-valued `func` by one tensor argument."""
    return jacrev(jacrev(func, argnums), argnums)


def functional_call(
    module: Module, parameter_and_buffer_dicts: Any, args: Any = None, kwargs: dict[str, Any] | None = None
) -> Any:
    """Calls a Module with parameters and buffers replaced, by dotted name, for this call only."""
    given = parameter_and_buffer_dicts
    tables = [given] if isinstance(given, Mapping) else list(given)
    kept: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for path, value in (item for table in tables for item in table.items()):
            where, _, name = path.rpartition(".")
            owner = module.get_submodule(where)
            place = owner._parameters if name in owner._parameters else owner._buffers
            if name not in place:
                raise KeyError(
                    f"functional_call: {path!r} is no parameter or buffer of {type(module).__name__}"
                )
            kept.append((place, name, place[name]))
            place[name] = value
        positional = args if isinstance(args, tuple) else () if args is None else (args,)
        return module(*positional, **(kwargs or {}))
    finally:
        for place, name, before in reversed(kept):
            place[name] = before
