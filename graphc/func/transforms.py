"""Gradients, products with Jacobians, and what they are made of: one call of a function with variables.

Invariant: an argument is differentiated by through a copy of its own, so transforms inside of one another
do not mix up their variables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from graphc import core
from graphc.core.location import annotate
from graphc.functions import creation, pointwise

__all__ = [
    "Call",
    "Pull",
    "grad",
    "grad_and_value",
    "gradients_of",
    "jvp",
    "leaves",
    "linearize",
    "mapped",
    "vjp",
]


def leaves(x: Any) -> list[Any]:
    """The tensors of a nest, in order."""
    if isinstance(x, core.TensorBase):
        return [x]
    if isinstance(x, Mapping):
        return [t for v in x.values() for t in leaves(v)]
    return [t for v in x for t in leaves(v)] if isinstance(x, (list, tuple)) else []


def mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """The nest with `function` of each tensor."""
    if isinstance(x, core.TensorBase):
        return function(x)
    if isinstance(x, Mapping):
        return {k: mapped(function, v) for k, v in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(mapped(function, v) for v in x))
    return type(x)(mapped(function, v) for v in x) if isinstance(x, (list, tuple)) else x


def _variable(x: Any) -> Any:
    """A value of its own to differentiate by; still on the tape of `x`, where it has one."""
    if not x.dtype.is_floating_point:
        raise RuntimeError(f"grad: expected floating-point arguments, got {x.dtype}")
    if x.requires_grad:
        return pointwise.record_copy(x)
    with core.no_grad():
        copy: Any = pointwise.record_copy(x)
    return copy.requires_grad_(True)


def _check_tensors(x: Any) -> None:
    """Raises ValueError where an argument to differentiate by is no tensor or nest of tensors."""
    if isinstance(x, Mapping):
        x = tuple(x.values())
    if isinstance(x, (list, tuple)):
        for item in x:
            _check_tensors(item)
    elif not isinstance(x, core.TensorBase):
        error = ValueError(
            f"Thing passed to transform API must be Tensor, got {type(x)}; give graphc.tensor({x!r}), or leave the "
            "argument out of argnums"
        )
        annotate(error)
        raise error


def gradients_of(
    outputs: list[Any], variables: list[Any], seeds: list[Any], create: bool, instances: int | None = None
) -> list[Any]:
    """Gradients of outputs by variables, zeros where there is none; nothing is freed.

    With `instances`, seeds and gradients have a leading axis of so many.
    """
    lead = () if instances is None else (instances,)
    active = [(o, s) for o, s in zip(outputs, seeds, strict=True) if o.requires_grad]
    found: tuple[Any, ...] = (None,) * len(variables)
    if active:
        found = core.gradients(
            [o for o, _ in active],
            variables,
            [s for _, s in active],
            retain_graph=True,
            create_graph=create,
            allow_unused=True,
            instances=instances,
        )
    return [
        creation.zeros((*lead, *v.shape), dtype=v.dtype) if g is None else g
        for v, g in zip(variables, found, strict=True)
    ]


class Call:
    """One call of `function` with the arguments at `argnums` made variables."""

    def __init__(
        self, function: Callable[..., Any], argnums: Any, args: tuple[Any, ...], kwargs: Any
    ) -> None:
        if not isinstance(argnums, int) and not (
            isinstance(argnums, tuple) and all(isinstance(n, int) for n in argnums)
        ):
            error = RuntimeError(f"argnums must be int or Tuple[int, ...], got: {type(argnums)}")
            annotate(error)
            raise error
        numbers = (argnums,) if isinstance(argnums, int) else argnums
        if any(not -len(args) <= n < len(args) for n in numbers):
            raise RuntimeError(f"argnums {argnums} is out of range for {len(args)} positional arguments")
        given = list(args)
        self.create = any(t.requires_grad for n in numbers for t in leaves(given[n]))
        with core.enable_grad():
            for n in numbers:
                _check_tensors(given[n])
                given[n] = mapped(_variable, given[n])
            self.output = function(*given, **kwargs)
        self.single = isinstance(argnums, int)
        self.chosen = [given[n] for n in numbers]
        self.variables = leaves(self.chosen)

    def pack(self, gradients: list[Any]) -> Any:
        """Gradients in the structure of the chosen arguments."""
        rest = iter(gradients)
        packed = mapped(lambda _: next(rest), self.chosen)
        return packed[0] if self.single else tuple(packed)

    def free(self, x: Any) -> Any:
        """Results off the tape, unless an outer transform differentiates them."""
        return x if self.create else mapped(lambda t: t.detach(), x)


def grad_and_value(func: Callable[..., Any], argnums: Any = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that gives (gradient, value) of a scalar-valued `func`.

    With `has_aux`, `func` gives (value, aux) and the result is (gradient, (value, aux)).
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call(func, argnums, args, kwargs)
        value, aux = call.output if has_aux else (call.output, None)
        if not isinstance(value, core.TensorBase):
            raise RuntimeError(f"grad: expected the function to return a tensor, got {type(value).__name__}")
        if value.tensor_type.shape:
            raise RuntimeError(
                f"grad: expected the function to return a scalar tensor, got shape {list(value.tensor_type.shape)}"
            )
        gradient = call.free(call.pack(gradients_of([value], call.variables, [None], call.create)))
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


class Pull:
    """The function from cotangents of a call's outputs to gradients of its arguments.

    `vmap` of it takes cotangents of many instances at once.
    """

    def __init__(self, call: Call, output: Any) -> None:
        self._call = call
        self._output = output

    def __call__(self, *cotangents: Any, instances: int | None = None) -> Any:
        """Gradients in the structure of the arguments. Raises RuntimeError for cotangents that do not fit."""
        outputs, seeds = leaves(self._output), leaves(cotangents)
        if len(seeds) != len(outputs):
            error = RuntimeError(f"vjp: expected {len(outputs)} cotangents, got {len(seeds)}")
            annotate(error)
            raise error
        create = self._call.create or any(s.requires_grad for s in seeds)
        return self._call.pack(gradients_of(outputs, self._call.variables, seeds, create, instances))


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(output, function from cotangents to a tuple of gradients of `primals`), and aux with `has_aux`."""
    call = Call(func, tuple(range(len(primals))), primals, {})
    output, aux = call.output if has_aux else (call.output, None)
    pull = Pull(call, output)
    return (call.free(output), pull, call.free(aux)) if has_aux else (call.free(output), pull)


def _tangents(primals: Any, tangents: Any, name: str) -> list[Any]:
    """The tangents of all primals. Raises what PyTorch raises where they do not fit."""
    error: Exception | None = None
    given, along = leaves(primals), leaves(tangents)
    if not isinstance(primals, tuple):
        error = RuntimeError(f"{name}(f, primals, tangents): Expected primals to be a tuple.")
    elif not given:
        error = RuntimeError(
            f"{name}(f, primals, tangents): Expected primals to contain at least one Tensor."
        )
    elif len(given) != len(along):
        error = RuntimeError(
            f"{name}(f, primals, tangents): Expected primals and tangents to have the same python structure, got "
            f"{len(given)} and {len(along)} Tensors"
        )
    else:
        for p, t in zip(given, along, strict=True):
            if p.tensor_type != t.tensor_type:
                error = RuntimeError(
                    f"{name}(f, primals, tangents): Expected a tangent of {p.tensor_type} for a primal of that type, "
                    f"got {t.tensor_type}"
                )
    if error is not None:
        annotate(error)
        raise error
    return along


class Push:
    """The function from tangents of a call's arguments to those of its outputs: it is linear.

    Gradients by a cotangent are linear in it; the gradient of that by the cotangent is the product with
    the Jacobian. So every operation that has a gradient has this too.
    """

    def __init__(self, call: Call, output: Any) -> None:
        self._call = call
        self._output = output
        outputs = leaves(output)
        with core.enable_grad():
            self.dummies = [creation.zeros_like(o).detach().requires_grad_(True) for o in outputs]
            self.pulled = gradients_of(outputs, call.variables, self.dummies, create=True)

    def push(self, tangents: list[Any], instances: int | None = None) -> list[Any]:
        """Tangents of the outputs, with a leading axis where tangents have one."""
        create = self._call.create or any(t.requires_grad for t in tangents)
        return gradients_of(self.pulled, self.dummies, tangents, create, instances)

    def __call__(self, *tangents: Any) -> Any:
        """Tangents in the structure of the output."""
        rest = iter(self.push(leaves(tangents)))
        return mapped(lambda _: next(rest), self._output)


def jvp(
    func: Callable[..., Any], primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False
) -> Any:
    """(output, product of the Jacobian with `tangents`), and aux with `has_aux`.

    Raises RuntimeError where tangents are not like primals; with `strict`, where an output depends on none.
    """
    along = _tangents(primals, tangents, "jvp")
    call = Call(func, tuple(range(len(primals))), primals, {})
    output, aux = call.output if has_aux else (call.output, None)
    if strict and not all(o.requires_grad for o in leaves(output)):
        raise RuntimeError(
            "jvp(f, primals, tangents, strict=True): an output of f is independent of the primals"
        )
    rest = iter(Push(call, output).push(along))
    pushed = mapped(lambda _: next(rest), output)
    return (call.free(output), pushed, call.free(aux)) if has_aux else (call.free(output), pushed)


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """(output, the function from tangents of `primals` to the output's): `func` is called once."""
    call = Call(func, tuple(range(len(primals))), primals, {})
    push = Push(call, call.output)

    def linear(*tangents: Any) -> Any:
        _tangents(primals, tangents, "linearize")
        return push(*tangents)

    return call.free(call.output), linear
