"""Forward derivatives in PyTorch's spelling: duals are made inside of a level, and their tangents read from results.

A dual is a value on the tape. The tangent of a result is the gradient by the cotangent of the results' gradients by
all duals, in which these are linear, so it is the product with the Jacobian, of all ops that have a gradient.
Invariant: duals are known as long as their level is open.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from graphc import core
from graphc.autograd.gradients import grad
from graphc.core.modes import enable_grad
from graphc.functions import creation

__all__ = [
    "UnpackedDualTensor",
    "dual_level",
    "enter_dual_level",
    "exit_dual_level",
    "make_dual",
    "unpack_dual",
]


class UnpackedDualTensor(NamedTuple):
    """A value and its tangent, None where there is none."""

    primal: Any
    tangent: Any


class _Level:
    """The duals of an open level with their tangents; `again` where these are to be differentiated themselves."""

    def __init__(self) -> None:
        self.duals: list[tuple[Any, Any]] = []
        self.again = False
        self.mode = enable_grad()


class _Open(threading.local):
    level: _Level | None = None


_open = _Open()


def _check_level(level: int | None) -> _Level | None:
    if level not in (None, 0):
        raise RuntimeError(f"there is one level of forward derivatives at most, so level={level} is none")
    return _open.level


def enter_dual_level() -> int:
    """Opens the level; results are its number, 0. Raises RuntimeError where one is open.

    Gradients are recorded in it: what is computed under `no_grad` inside has no tangent.
    """
    if _open.level is not None:
        raise RuntimeError("Nested forward mode AD is not supported at the moment")
    _open.level = _Level()
    _open.level.mode.__enter__()
    return 0


def exit_dual_level(*, level: int | None = None) -> None:
    """Closes the level: tangents of its duals are gone. Raises RuntimeError where none is open."""
    found = _check_level(level)
    if found is None:
        raise RuntimeError(
            "Trying to exit a forward AD level but no level exists, call enter_dual_level() first."
        )
    _open.level = None
    found.mode.__exit__(None, None, None)


class dual_level:
    """Context in which duals are made: `with forward_ad.dual_level(): ...`."""

    def __enter__(self) -> int:
        return enter_dual_level()

    def __exit__(self, *exception: object) -> None:
        exit_dual_level()


def make_dual(tensor: Any, tangent: Any, *, level: int | None = None) -> Any:
    """`tensor` with a tangent of its shape and dtype.

    Raises RuntimeError outside of a level and for tangents that are not alike, ValueError where either is not floating.
    """
    found = _check_level(level)
    if found is None:
        raise RuntimeError(
            "Trying to create a dual Tensor for forward AD but no level exists, make sure to enter_dual_level() first."
        )
    for name, x in (("primal", tensor), ("tangent", tangent)):
        if not isinstance(x, core.TensorBase):
            raise TypeError(f"make_dual(): {name} must be a Tensor, not {type(x).__name__}")
        if not x.dtype.is_floating_point:
            raise ValueError(
                f"Expected {name} to be floating point or complex, but got: {x.dtype.torch_name}"
            )
    if tensor.shape != tangent.shape or tensor.dtype is not tangent.dtype:
        raise RuntimeError(
            f"Expected tangent to have the same shape and dtype as the primal: {tensor.dtype.torch_name} of shape "
            f"{tuple(tensor.shape)}, but got {tangent.dtype.torch_name} of shape {tuple(tangent.shape)}"
        )
    found.again |= tensor.requires_grad or tangent.requires_grad
    dual = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_(True)
    found.duals.append((dual, tangent))
    return dual


def unpack_dual(tensor: Any, *, level: int | None = None) -> UnpackedDualTensor:
    """The value and the tangent of a result; (tensor, None) outside of a level and where it depends on no dual.

    The value is off the tape where no primal or tangent was on it.
    """
    found = _check_level(level)
    if found is None or not found.duals or not tensor.requires_grad:
        return UnpackedDualTensor(tensor, None)
    cotangent = creation.zeros_like(tensor).detach().requires_grad_(True)
    duals = [d for d, _ in found.duals]
    pulled = grad(tensor, duals, cotangent, create_graph=True, allow_unused=True)
    used = [(p, t) for p, (_, t) in zip(pulled, found.duals, strict=True) if p is not None]
    primal = tensor if found.again else tensor.detach()
    if not used:
        return UnpackedDualTensor(primal, None)
    (tangent,) = grad(
        [p for p, _ in used],
        [cotangent],
        [t for _, t in used],
        create_graph=found.again,
        retain_graph=True,
        allow_unused=True,
    )
    return UnpackedDualTensor(primal, creation.zeros_like(tensor).detach() if tangent is None else tangent)
