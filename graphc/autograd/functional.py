"""Derivatives of functions of tensors: `jacobian`, `hessian`, `vjp`, `jvp`, `vhp`, `hvp`.

A function takes one tensor or several and returns one or several. Results are nested like arguments
and results. With `create_graph` they can be differentiated, otherwise they are off the tape; with
`strict` an argument that a result does not depend on is a RuntimeError instead of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.autograd.gradients import grad
from graphc.core import TensorBase, enable_grad, is_grad_enabled
from graphc.functions import creation, pointwise, shape

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Function = Callable[..., Any]


def _tensors(x: Any, what: str, name: str) -> tuple[list[Any], bool]:
    """The tensors of one or several, and whether there were several. Raises TypeError for anything else."""
    several = isinstance(x, (tuple, list))
    items = list(x) if several else [x]
    for i, t in enumerate(items):
        if not isinstance(t, TensorBase):
            where = f"The {what}[{i}]" if several else f"The {what}"
            raise TypeError(
                f"{where} given to {name} must be either a Tensor or a tuple of Tensors but got {type(t).__name__}"
            )
    return items, several


class _Call:
    """One call of a function on variables of its own."""

    def __init__(self, func: Function, inputs: Any, name: str, create: bool) -> None:
        given, self.many_inputs = _tensors(inputs, "inputs", name)
        self.create, self.name = create, name
        self.inputs = [pointwise.record_copy(t) if create and t.requires_grad else _leaf(t) for t in given]
        outputs = func(*self.inputs)
        self.outputs, self.many_outputs = _tensors(outputs, "outputs of the user-provided function", name)

    def gradients(
        self, outputs: Sequence[Any], seeds: Sequence[Any], strict: bool, create: bool
    ) -> list[Any]:
        """Gradients by all inputs, zeros where there is none."""
        active = [(o, s) for o, s in zip(outputs, seeds, strict=True) if o.requires_grad]
        found: Sequence[Any] = [None] * len(self.inputs)
        if active:
            found = grad(
                [o for o, _ in active],
                self.inputs,
                [s for _, s in active],
                retain_graph=True,
                create_graph=create,
                allow_unused=True,
            )
        if strict and any(g is None for g in found):
            missing = next(i for i, g in enumerate(found) if g is None)
            raise RuntimeError(
                f"Output of the user-provided function is independent of input {missing}. This is not allowed in strict mode."
            )
        return [creation.zeros_like(x) if g is None else g for x, g in zip(self.inputs, found, strict=True)]

    def by_inputs(self, values: Sequence[Any]) -> Any:
        return self._given(values, self.many_inputs)

    def by_outputs(self, values: Sequence[Any]) -> Any:
        return self._given(values, self.many_outputs)

    def _given(self, values: Sequence[Any], many: bool) -> Any:
        free = [v if self.create or not isinstance(v, TensorBase) else v.detach() for v in values]
        return tuple(free) if many else free[0]

    def vectors(self, v: Any, like: Sequence[Any], what: str) -> list[Any]:
        """The given vectors, or ones for a single element. Raises RuntimeError where sizes differ."""
        if v is None:
            if len(like) != 1 or like[0].numel() != 1:
                raise RuntimeError(
                    f"The vector v can only be None if {what} is a single Tensor with a single element."
                )
            return [creation.ones_like(like[0]).detach()]
        given, _ = _tensors(v, "v", self.name)
        if len(given) != len(like):
            raise RuntimeError(f"v is a tuple of invalid length: should be {len(like)} but got {len(given)}.")
        for i, (a, b) in enumerate(zip(given, like, strict=True)):
            if a.tensor_type.shape != b.tensor_type.shape:
                raise RuntimeError(
                    f"Entry {i} of v has invalid size: should be {list(b.shape)} but got {list(a.shape)}."
                )
        return given


def _leaf(t: Any) -> Any:
    return t.detach().clone().requires_grad_(True)


def _scalar(call: _Call) -> Any:
    if len(call.outputs) != 1 or call.outputs[0].numel() != 1:
        raise RuntimeError(
            f"The Tensor returned by the function given to {call.name} should contain a single element"
        )
    return call.outputs[0].reshape(())


def vjp(func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(results, vᵀ·Jacobian); `v` has the results' shapes, or is None for a single number."""
    with enable_grad():
        call = _Call(func, inputs, "vjp", create_graph)
        seeds = call.vectors(v, call.outputs, "the user-provided function returns")
        found = call.gradients(call.outputs, seeds, strict, create_graph)
        return call.by_outputs(call.outputs), call.by_inputs(found)


def jvp(func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(results, Jacobian·v); `v` has the inputs' shapes, or is None for a single number.

    The product is the gradient of the linear function w ↦ wᵀ·Jacobian.
    """
    with enable_grad():
        call = _Call(func, inputs, "jvp", create_graph)
        along = call.vectors(v, call.inputs, "the input to the user-provided function")
        dummies = [creation.zeros_like(o).requires_grad_(True) for o in call.outputs]
        pulled = call.gradients(call.outputs, dummies, strict, True)
        active = [(p, a) for p, a in zip(pulled, along, strict=True) if p.requires_grad]
        found: Sequence[Any] = [None] * len(dummies)
        if active:
            found = grad(
                [p for p, _ in active],
                dummies,
                [a for _, a in active],
                create_graph=create_graph,
                allow_unused=True,
            )
        pushed = [
            creation.zeros_like(d).detach() if g is None else g for d, g in zip(dummies, found, strict=True)
        ]
        return call.by_outputs(call.outputs), call.by_outputs(pushed)


def jacobian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """The Jacobian of each result by each input, shaped like the result, then the input.

    `vectorize` and `strategy` are accepted; the rows are one program anyway.
    """
    with enable_grad():
        call = _Call(func, inputs, "jacobian", create_graph)
        blocks = []
        for output in call.outputs:
            rows = [call.gradients([output], [seed], strict, create_graph) for seed in _units(output)]
            blocks.append(
                [
                    shape.stack([row[i] for row in rows]).reshape((*output.shape, *x.shape))
                    if rows
                    else creation.zeros((*output.shape, *x.shape), dtype=x.dtype)
                    for i, x in enumerate(call.inputs)
                ]
            )
        nested = [call.by_inputs(block) for block in blocks]
        return tuple(nested) if call.many_outputs else nested[0]


def _units(output: Any) -> list[Any]:
    """The standard basis of a tensor's space."""
    count = output.numel()
    rows = np.eye(count, dtype=output.dtype.numpy).reshape((count, *output.shape))
    return [creation.tensor(row) for row in rows]


def hessian(
    func: Function,
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """Second derivatives of a function with a single number as result, by each pair of inputs."""
    many = isinstance(inputs, (tuple, list))

    def gradient(*variables: Any) -> Any:
        output = func(*variables)
        outputs, _ = _tensors(output, "outputs of the user-provided function", "hessian")
        if len(outputs) != 1 or outputs[0].numel() != 1:
            raise RuntimeError(
                "The Tensor returned by the function given to hessian should contain a single element"
            )
        if not outputs[0].requires_grad:
            return tuple([creation.zeros_like(x) for x in variables])
        found = grad(outputs[0].reshape(()), variables, create_graph=True, allow_unused=True)
        return tuple(
            [creation.zeros_like(x) if g is None else g for x, g in zip(variables, found, strict=True)]
        )

    blocks = jacobian(gradient, tuple(inputs) if many else (inputs,), create_graph, strict)
    return blocks if many else blocks[0][0]


def vhp(func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(result, vᵀ·Hessian) of a function with a single number as result."""
    return _hessian_product(func, inputs, v, create_graph, strict, "vhp")


def hvp(func: Function, inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(result, Hessian·v) of a function with a single number as result; equal to `vhp`, as Hessians are symmetric."""
    return _hessian_product(func, inputs, v, create_graph, strict, "hvp")


def _hessian_product(func: Function, inputs: Any, v: Any, create: bool, strict: bool, name: str) -> Any:
    with enable_grad():
        call = _Call(func, inputs, name, create)
        along = call.vectors(v, call.inputs, "the input to the user-provided function")
        first = call.gradients([_scalar(call)], [None], strict, True)
        found = call.gradients(first, along, strict, create and is_grad_enabled())
        return call.by_outputs(call.outputs), call.by_inputs(found)
