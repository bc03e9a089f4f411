"""Checkpoints: parts of a model whose values are computed again on the way back, so that they need not be kept.

The function runs once: what it records is marked, and the compiled way back holds clones of it. So results and
gradients have the bits that they have without a checkpoint, random numbers are the same ones whatever
`preserve_rng_state` says, and state that the function writes (running statistics) is written once.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from graphc.core import TensorBase, checkpointed, is_grad_enabled, no_grad
from graphc.nn import Sequential

__all__ = [
    "CheckpointError",
    "checkpoint",
    "checkpoint_sequential",
    "noop_context_fn",
    "set_checkpoint_debug_enabled",
    "set_checkpoint_early_stop",
]

_CHECKS = ("default", "none")


class CheckpointError(RuntimeError):
    """What PyTorch raises where a function computes something else when it is called again. Here it is called once, so
    nothing raises it."""


def noop_context_fn() -> tuple[
    contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]
]:
    """Two contexts that do nothing."""
    return contextlib.nullcontext(), contextlib.nullcontext()


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple[Any, Any]] = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """`function(*args, **kwargs)`, whose values `backward` computes again from `args` instead of keeping them.

    What leaves the function and what it reads from outside is kept. Checkpoints nest, and work in compiled functions, in
    loops and with all ways to differentiate. What a gradient with `create_graph` needs is computed again once, for the
    first and all further gradients. `preserve_rng_state`, `determinism_check`, `debug` and `early_stop` are there for
    PyTorch's sake and change nothing. Of the two contexts that `context_fn` gives the first is entered; the function is
    not called a second time. With `use_reentrant=True` a result requires grad only if one of `args` does, as in PyTorch;
    `autograd.grad` works nevertheless.

    Raises ValueError for keywords that do not go together, in PyTorch's words. Warns where `use_reentrant` is not given,
    which then is True.
    """
    if use_reentrant is None:
        warnings.warn(_unsaid("checkpoint"), stacklevel=2)
        use_reentrant = True
    kwargs.pop("preserve_rng_state", True)
    if use_reentrant:
        return _reentrant(function, args, kwargs, context_fn is not noop_context_fn or debug is not False)
    if debug and context_fn is not noop_context_fn:
        raise ValueError("debug=True is incompatible with non-default context_fn")
    if determinism_check not in _CHECKS:
        raise ValueError(f"determinism_check should be one of {list(_CHECKS)}, but got {determinism_check}")
    context, _ = context_fn()
    if not is_grad_enabled():
        return function(*args, **kwargs)
    with checkpointed(), context:
        return function(*args, **kwargs)


def _reentrant(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], special: bool
) -> Any:
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    if special:
        raise ValueError("Passing `context_fn` or `debug` is only supported when use_reentrant=False.")
    if not any(isinstance(a, TensorBase) and a.requires_grad for a in args):
        warnings.warn("None of the inputs have requires_grad=True. Gradients will be None", stacklevel=3)
        with no_grad():
            return function(*args)
    if not is_grad_enabled():
        return function(*args)
    with checkpointed():
        return function(*args)


def checkpoint_sequential(
    functions: Sequential | Sequence[Callable[..., Any]],
    segments: int,
    input: Any,
    use_reentrant: bool | None = None,
    **kwargs: Any,
) -> Any:
    """`input` through all `functions` one after the other, in `segments` checkpoints of equal length.

    The last one, with what is left over, is kept as PyTorch does. Raises ValueError for unknown keywords and for
    more segments than functions.
    """
    if use_reentrant is None:
        warnings.warn(_unsaid("checkpoint_sequential"), stacklevel=2)
        use_reentrant = True
    kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    steps: list[Callable[..., Any]] = list(functions)
    size = len(steps) // segments
    if size == 0:
        raise ValueError(
            f"checkpoint_sequential: {segments} segments of {len(steps)} functions; give at most {len(steps)} segments"
        )
    begin = 0
    for _ in range(segments - 1):
        input = checkpoint(_chain(steps[begin : begin + size]), input, use_reentrant=use_reentrant)
        begin += size
    return _chain(steps[begin:])(input)


def _chain(functions: Sequence[Callable[..., Any]]) -> Callable[[Any], Any]:
    def run(value: Any) -> Any:
        for function in functions:
            value = function(value)
        return value

    return run


def _unsaid(name: str) -> str:
    return (
        f"graphc.utils.checkpoint.{name}: the use_reentrant parameter should be passed explicitly; "
        "without it, it is True. use_reentrant=False is recommended"
    )


@contextlib.contextmanager
def set_checkpoint_early_stop(enable: bool) -> Iterator[None]:
    """There for PyTorch's sake: a way back computes exactly what it needs."""
    yield


@contextlib.contextmanager
def set_checkpoint_debug_enabled(enabled: bool | None) -> Iterator[None]:
    """There for PyTorch's sake: the function runs once, so there is nothing to compare."""
    yield
