"""Gradients against central difference quotients: `gradcheck` and `gradgradcheck`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.autograd.gradients import grad
from graphc.core import TensorBase, no_grad
from graphc.functions import creation

__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]


class GradcheckError(RuntimeError):
    """A gradient is not what difference quotients say."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """True where the gradients of every result by every input that requires grad agree with (f(x + eps) -
    f(x - eps)) / 2·eps within `atol` + `rtol`·|quotient|, element by element; all in float64, preferably.

    Otherwise raises GradcheckError that names result and input, or returns False without `raise_exception`.
    Raises ValueError where no input requires grad. Keywords from `nondet_tol` on are accepted for PyTorch's sake.
    """
    given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    chosen = [i for i, x in enumerate(given) if isinstance(x, TensorBase) and x.requires_grad]
    if not chosen:
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of the them have "
            "requires_grad=True."
        )
    try:
        _compare(func, given, chosen, eps, atol, rtol)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """`gradcheck` of the gradients: second derivatives by the inputs and by the results' gradients.

    `grad_outputs` are those; drawn from a fixed seed where they are not given.
    """
    given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    outputs = _floating(func(*given))
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        seeds = [
            creation.tensor(rng.standard_normal(tuple(o.shape)).astype(o.dtype.numpy)).requires_grad_(True)
            for o in outputs
        ]
    else:
        seeds = list(grad_outputs) if isinstance(grad_outputs, (tuple, list)) else [grad_outputs]
    count = len(given)

    def gradient(*arguments: Any) -> Any:
        found = _floating(func(*arguments[:count]))
        wanted = [x for x in arguments[:count] if isinstance(x, TensorBase) and x.requires_grad]
        active = [(o, s) for o, s in zip(found, arguments[count:], strict=True) if o.requires_grad]
        if not active or not wanted:
            return ()
        results = grad(
            [o for o, _ in active], wanted, [s for _, s in active], create_graph=True, allow_unused=True
        )
        return tuple([g for g in results if g is not None])

    return gradcheck(
        gradient, (*given, *seeds), eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception
    )


def _floating(outputs: Any) -> list[Any]:
    items = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return [o for o in items if isinstance(o, TensorBase) and o.dtype.is_floating_point]


def _compare(
    func: Callable[..., Any],
    given: tuple[Any, ...],
    chosen: Sequence[int],
    eps: float,
    atol: float,
    rtol: float,
) -> None:
    outputs = _floating(func(*given))
    wanted = [given[i] for i in chosen]
    analytic = [_jacobian(o, wanted) for o in outputs]
    for place, i in enumerate(chosen):
        numeric = _quotients(func, given, i, eps)
        for k, (a, n) in enumerate(zip((row[place] for row in analytic), numeric, strict=True)):
            if not np.allclose(a, n, rtol=rtol, atol=atol, equal_nan=True):
                raise GradcheckError(
                    f"Jacobian mismatch for output {k} with respect to input {place},\n"
                    f"numerical:{n}\nanalytical:{a}\n"
                )


def _jacobian(output: Any, wanted: Sequence[Any]) -> list[Any]:
    """∂output/∂x as an array [elements of x, elements of output] for each wanted tensor."""
    count = output.numel()
    found = [np.zeros((x.numel(), count)) for x in wanted]
    if not output.requires_grad:
        return found
    for j in range(count):
        unit = np.zeros(count, output.dtype.numpy)
        unit[j] = 1
        seed = creation.tensor(unit.reshape(tuple(output.shape)))
        for into, g in zip(
            found, grad(output, wanted, seed, retain_graph=True, allow_unused=True), strict=True
        ):
            if g is not None:
                into[:, j] = g.detach().numpy().reshape(-1)
    return found


def _quotients(func: Callable[..., Any], given: tuple[Any, ...], index: int, eps: float) -> list[Any]:
    """The same by difference quotients, for input `index`."""
    x = np.array(given[index].detach().numpy())
    columns = []
    for place in np.ndindex(x.shape):
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * eps
            with no_grad():
                tensor = creation.tensor(moved)
            arguments = [tensor.requires_grad_(True) if i == index else a for i, a in enumerate(given)]
            sides.append([np.array(o.detach().numpy(), np.float64) for o in _floating(func(*arguments))])
        columns.append([(a - b).reshape(-1) / (2 * eps) for a, b in zip(*sides, strict=True)])
    count = len(columns[0]) if columns else 0
    return [np.stack([column[k] for column in columns]) for k in range(count)]
