"""Functions with a backward of the user's: `Function` and what its methods are given.

The results of `Function.apply` stand behind a point on the tape (`core/hooked.py`); a walk back stops
there and asks the user's backward. Invariant: what `forward` records is on no tape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from graphc.core import HookPoint, TensorBase, is_grad_enabled, no_grad, value_behind
from graphc.core.custom import record_custom
from graphc.core.location import annotate
from graphc.core.recording import current
from graphc.functions import creation
from graphc.functions.promotion import converted

__all__ = ["Function", "FunctionCtx", "once_differentiable"]

_MODIFIED = (
    "one of the variables needed for gradient computation has been modified by an inplace operation: a tensor "
    "that was given to save_for_backward; save a copy, or write to one"
)
_FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have "
    "already been freed). Specify retain_graph=True if you need to backward through the graph a second time "
    "or if you need to access saved tensors after calling backward."
)


class _Saved:
    """A tensor given to `save_for_backward`, and what tells whether it was written since."""

    __slots__ = ("node", "output", "tensor", "version")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.node = tensor._storage.node
        self.version = tensor._storage.version
        self.output: int | None = None
        """Which result of the forward it is, if any."""

    def unpack(self, point: HookPoint | None) -> Any:
        """The tensor, on the tape: a result stands behind the point. Raises RuntimeError where it was written."""
        storage = self.tensor._storage
        if storage.version != self.version or (
            storage.node is not self.node and storage.node.entry is not None
        ):
            raise RuntimeError(_MODIFIED)
        if self.output is None or point is None:
            return self.tensor
        return value_behind(self.tensor, point, self.output)


class FunctionCtx:
    """What forward leaves for backward. Any attribute may be set on it."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        """For each argument, whether it needs a gradient."""
        self.materialize_grads = True
        self._saved: list[_Saved | None] | None = []
        self._point: HookPoint | None = None
        self._not_differentiable: list[Any] = []
        self._dirty: list[Any] = []

    def save_for_backward(self, *tensors: Any) -> None:
        """Keeps tensors (or None) for `saved_tensors`. Raises TypeError for anything else."""
        for i, t in enumerate(tensors):
            if t is not None and not isinstance(t, TensorBase):
                raise TypeError(
                    f"save_for_backward can only save variables, but argument {i} is of type {type(t).__name__}"
                )
        self._saved = [None if t is None else _Saved(t) for t in tensors]

    def save_for_forward(self, *tensors: Any) -> None:
        """Accepted for PyTorch's sake: forward mode goes through backward."""

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors given to `save_for_backward`. Raises RuntimeError after a backward has freed them."""
        if self._saved is None:
            raise RuntimeError(_FREED)
        return tuple([None if s is None else s.unpack(self._point) for s in self._saved])

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Says that results get no gradient."""
        self._not_differentiable = list(tensors)

    def mark_dirty(self, *tensors: Any) -> None:
        """Says that arguments were written in place; each must be returned."""
        self._dirty = list(tensors)

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (the default) or None for a result without gradient."""
        self.materialize_grads = value

    def _release(self) -> None:
        self._saved = None


class Function:
    """An operation with forward and backward of its own, as static methods of a subclass.

    Either `forward(ctx, *args)`, or `forward(*args)` with `setup_context(ctx, inputs, output)`; and
    `backward(ctx, *grad_outputs)`, which returns one gradient (or None) for each argument. It is called
    with `apply`. Backward can be differentiated where it is made of differentiable operations.

    In the body of a loop or branch and under `vmap` both are recorded once, with tensors that have no values yet: a `vmap`
    method is not called and `generate_vmap_rule` not asked for, since what was recorded is batched.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The results from the arguments; records no tape."""
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Fills `ctx` where `forward` does not take it."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Gradients of the arguments from those of the results."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom autograd.Function to use it "
            "with backward mode AD."
        )

    vjp = backward

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward` and puts its results on the tape."""
        needs = tuple([isinstance(a, TensorBase) and a.requires_grad for a in args])
        ctx = FunctionCtx(needs)
        if current().region is not None and is_grad_enabled() and any(needs):
            return _in_region(cls, ctx, args, kwargs)
        separate = cls.setup_context is not Function.setup_context
        with no_grad():
            output = cls.forward(*args, **kwargs) if separate else cls.forward(ctx, *args, **kwargs)
            if separate:
                cls.setup_context(ctx, args, output)
        if not (is_grad_enabled() and any(needs)):
            return output
        return _on_tape(cls, ctx, args, output)


def _on_tape(cls: type[Function], ctx: FunctionCtx, args: tuple[Any, ...], output: Any) -> Any:
    items = list(output) if isinstance(output, (tuple, list)) else [output]
    tensors = [v for v in items if isinstance(v, TensorBase)]
    if not tensors:
        raise TypeError(
            f"{cls.__name__}.forward: expected a Tensor or tuple of Tensors, got {type(output).__name__}"
        )
    types = [t.tensor_type for t in tensors]
    wanted = [a for a, need in zip(args, ctx.needs_input_grad, strict=True) if need]

    def pull(gradients: list[Any]) -> list[Any]:
        given = [
            creation.zeros(t.shape, dtype=t.dtype) if g is None and ctx.materialize_grads else g
            for g, t in zip(gradients, types, strict=True)
        ]
        rule = cls.vjp if cls.backward is Function.backward else cls.backward
        return _checked(cls, args, ctx.needs_input_grad, rule(ctx, *given))

    point = HookPoint(wanted, pull, len(tensors), ctx._release)
    ctx._point = point
    plain = {id(t) for t in ctx._not_differentiable}
    position = 0
    for i, value in enumerate(items):
        if not isinstance(value, TensorBase):
            continue
        if id(value) not in plain and value.dtype.is_floating_point:
            for saved in ctx._saved or ():
                if saved is not None and saved.tensor is value and not any(value is a for a in args):
                    saved.output = position
            hooked = value_behind(value, point, position)
            if any(value is d for d in ctx._dirty):
                value._storage.node = hooked._storage.node
                current().track(value._storage)
            else:
                items[i] = hooked
        position += 1
    if isinstance(output, (tuple, list)):
        return tuple(items)
    return items[0]


class _Kept:
    """A tensor of the way back that stands for one that was given to `save_for_backward`."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def unpack(self, point: HookPoint | None) -> Any:
        return self.tensor


def _in_region(cls: type[Function], ctx: FunctionCtx, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call in the body of a loop or branch, or under `vmap`: both directions are recorded at once."""
    places = [i for i, a in enumerate(args) if isinstance(a, TensorBase)]
    structure: list[Any] = []
    stand: dict[int, tuple[str, int]] = {}
    """What stands for a tensor of the way forth, by its identity: an argument, a result or a kept value."""
    held: list[Any] = []

    def forward(given: list[Any]) -> tuple[list[Any], list[Any], list[int]]:
        full = list(args)
        for i, x in zip(places, given, strict=True):
            full[i] = x
        separate = cls.setup_context is not Function.setup_context
        output = cls.forward(*full, **kwargs) if separate else cls.forward(ctx, *full, **kwargs)
        if separate:
            cls.setup_context(ctx, tuple(full), output)
        structure.append(output)
        items = list(output) if isinstance(output, (tuple, list)) else [output]
        results = [v for v in items if isinstance(v, TensorBase)]
        plain = {id(t) for t in ctx._not_differentiable}
        roots = [i for i, v in enumerate(results) if id(v) not in plain and v.dtype.is_floating_point]
        kept: list[Any] = []
        for kind, tensors in (("result", results), ("argument", given)):
            stand.update((id(t), (kind, i)) for i, t in enumerate(tensors))
        for tensor in [s.tensor for s in ctx._saved or () if s is not None] + [
            v for _, v in _attributes(ctx)
        ]:
            entry = tensor._storage.node.entry
            if id(tensor) not in stand and entry is not None and entry.recording is current():
                stand[id(tensor)] = ("kept", len(kept))
                kept.append(tensor)
        held.extend([full, results, kept])
        return results, kept, roots

    def backward(given: list[Any], results: list[Any], kept: list[Any], cotangents: list[Any]) -> list[Any]:
        tables = {"argument": given, "result": results, "kept": kept}

        def here(tensor: Any) -> Any:
            kind, i = stand.get(id(tensor), ("", 0))
            return tables[kind][i] if kind else tensor

        ctx._saved = [None if s is None else _Kept(here(s.tensor)) for s in ctx._saved or ()]  # type: ignore[misc]
        for name, value in _attributes(ctx):
            setattr(ctx, name, here(value))
        plain = {id(t) for t in ctx._not_differentiable}
        arrived = iter(cotangents)
        gradients = []
        for old, new in zip(held[1], results, strict=True):
            if id(old) not in plain and old.dtype.is_floating_point:
                gradients.append(next(arrived))
            else:
                gradients.append(creation.zeros_like(new) if ctx.materialize_grads else None)
        rule = cls.vjp if cls.backward is Function.backward else cls.backward
        found = iter(_checked(cls, args, ctx.needs_input_grad, rule(ctx, *gradients)))
        return [next(found) if ctx.needs_input_grad[i] else None for i in places]

    made = iter(record_custom([args[i] for i in places], forward, backward))
    output = structure[0]
    if not isinstance(output, (tuple, list)):
        return next(made)
    return tuple([next(made) if isinstance(v, TensorBase) else v for v in output])


def _attributes(ctx: FunctionCtx) -> list[tuple[str, Any]]:
    """Tensors that a forward pass left as attributes of its context."""
    return [(k, v) for k, v in vars(ctx).items() if isinstance(v, TensorBase) and not k.startswith("_")]


def _checked(cls: type[Function], args: tuple[Any, ...], needs: tuple[bool, ...], found: Any) -> list[Any]:
    """The gradients that are needed, of their arguments' types. Raises RuntimeError for what does not fit."""
    name = f"{cls.__name__}Backward"
    gradients = list(found) if isinstance(found, (tuple, list)) else [found]
    while len(gradients) > len(args) and gradients[-1] is None:
        gradients.pop()
    error: RuntimeError | None = None
    if len(gradients) != len(args):
        error = RuntimeError(
            f"function {name} returned an incorrect number of gradients (expected {len(args)}, got {len(gradients)})"
        )
    else:
        for i, (a, g) in enumerate(zip(args, gradients, strict=True)):
            if g is not None and not isinstance(a, TensorBase):
                error = RuntimeError(
                    f"function {name} returned a gradient different from None at position {i + 1}, but the "
                    "corresponding forward input was not a Variable"
                )
    if error is not None:
        annotate(error)
        raise error
    return [
        None if g is None else _fitted(name, i, a, g)
        for i, (a, g, need) in enumerate(zip(args, gradients, needs, strict=True))
        if need
    ]


def _fitted(name: str, index: int, argument: Any, gradient: Any) -> Any:
    if not isinstance(gradient, TensorBase):
        raise TypeError(
            f"function {name}: expected a Tensor or None at index {index}, got {type(gradient).__name__}"
        )
    shape = argument.tensor_type.shape
    result: Any = gradient
    if result.tensor_type.shape != shape:
        lead = len(result.shape) - len(shape)
        tail = tuple(result.tensor_type.shape[lead:]) if lead >= 0 else ()
        if lead < 0 or any(d not in (1, n) for d, n in zip(shape, tail, strict=True)):
            error = RuntimeError(
                f"Function {name} returned an invalid gradient at index {index} - got {list(result.shape)} but "
                f"expected shape compatible with {list(shape)}"
            )
            annotate(error)
            raise error
        axes = (
            *range(lead),
            *(i + lead for i, (d, n) in enumerate(zip(shape, tail, strict=True)) if d == 1 != n),
        )
        result = result.sum(axes).reshape(shape) if axes else result.reshape(shape)
    return converted(result, argument.dtype)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Says that a backward cannot be differentiated itself: doing so raises RuntimeError."""

    @functools.wraps(backward)
    def wrapper(ctx: Any, *gradients: Any) -> Any:
        with no_grad():
            found = backward(ctx, *gradients)
        on_tape = [g for g in gradients if isinstance(g, TensorBase) and g.requires_grad]
        if not is_grad_enabled() or not on_tape:
            return found
        items: Sequence[Any] = found if isinstance(found, tuple) else (found,)
        point = HookPoint(on_tape, _twice, len(items))
        behind = [value_behind(g, point, i) if isinstance(g, TensorBase) else g for i, g in enumerate(items)]
        return tuple(behind) if isinstance(found, tuple) else behind[0]

    return wrapper


def _twice(gradients: list[Any]) -> list[Any]:
    raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")
