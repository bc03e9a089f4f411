"""Helpers on parameters: clipping gradients, parameters as one vector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphc.core import TensorBase, no_grad
from graphc.functions import creation, pointwise, reduction, shape
from graphc.nn.utils import rnn

__all__ = ["clip_grad_norm_", "clip_grad_value_", "parameters_to_vector", "rnn", "vector_to_parameters"]


def _gradients(parameters: Any) -> list[Any]:
    items = [parameters] if isinstance(parameters, TensorBase) else list(parameters)
    return [p.grad for p in items if p.grad is not None]


def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Any:
    """Scales gradients in place so that their joint norm is at most `max_norm`; returns the norm before."""
    gradients = _gradients(parameters)
    with no_grad():
        if not gradients:
            return creation.zeros(())
        norms = shape.stack([reduction.norm(g, norm_type) for g in gradients])
        total = reduction.norm(norms, norm_type)
        if error_if_nonfinite and not bool(pointwise.isfinite(total)):
            raise RuntimeError(
                f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be clipped."
            )
        factor = pointwise.clamp(pointwise.div(float(max_norm), pointwise.add(total, 1e-6)), max=1.0)
        for g in gradients:
            g.mul_(factor)
    return total


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Limits every gradient element to [-clip_value, clip_value] in place."""
    with no_grad():
        for g in _gradients(parameters):
            g.clamp_(-float(clip_value), float(clip_value))


def parameters_to_vector(parameters: Iterable[Any]) -> Any:
    """All parameters as one vector."""
    return shape.cat([shape.reshape(p, -1) for p in parameters])


def vector_to_parameters(vec: Any, parameters: Iterable[Any]) -> None:
    """Writes a vector back into the parameters."""
    at = 0
    with no_grad():
        for p in parameters:
            p.copy_(vec[at : at + p.numel()].view(p.shape))
            at += p.numel()
