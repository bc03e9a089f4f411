"""Whole Jacobians: all rows, or all columns, as one batch of products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.func.transforms import Call, Push, gradients_of, leaves, mapped
from graphc.functions import creation, shape

__all__ = ["hessian", "jacfwd", "jacrev"]


def _units(x: Any, chunk: int | None) -> list[Any]:
    """The standard basis of a tensor's space along a leading axis, in chunks."""
    count = x.numel()
    rows = np.eye(count, dtype=x.dtype.numpy).reshape((count, *x.shape))
    size = count if chunk is None else chunk
    return [creation.tensor(rows[i : i + size]) for i in range(0, count, max(size, 1))]


def _check_chunk(chunk_size: int | None) -> None:
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError("jacrev: `chunk_size` should be greater than 0.")


def _joined(parts: list[list[Any]], place: int, full: tuple[Any, ...], dtype: Any) -> Any:
    """What the chunks give for one tensor, in one."""
    if not parts:
        return creation.zeros(full, dtype=dtype)
    return (parts[0][place] if len(parts) == 1 else shape.cat([p[place] for p in parts])).reshape(full)


def jacrev(
    func: Callable[..., Any], argnums: Any = 0, *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """The Jacobian of `func` by the arguments at `argnums`, row by row: each result's shape, then the argument's.

    Nested as the results, then as `argnums` and the arguments. All rows are computed at once, or `chunk_size` at a
    time. With `has_aux`, `func` gives (results, aux) and the function (Jacobian, aux).
    """
    _check_chunk(chunk_size)

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call(func, argnums, args, kwargs)
        output, aux = call.output if has_aux else (call.output, None)

        def rows(result: Any) -> Any:
            parts = [
                gradients_of([result], call.variables, [seeds], call.create, int(seeds.shape[0]))
                for seeds in _units(result, chunk_size)
            ]
            return call.pack(
                [_joined(parts, i, (*result.shape, *v.shape), v.dtype) for i, v in enumerate(call.variables)]
            )

        found = mapped(rows, output)
        return (found, call.free(aux)) if has_aux else found

    return wrapped


def jacfwd(
    func: Callable[..., Any],
    argnums: Any = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """As `jacrev`, column by column: for functions with more results than arguments. `func` is called once, so
    `randomness` makes no difference."""
    _check_chunk(chunk_size)

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call(func, argnums, args, kwargs)
        output, aux = call.output if has_aux else (call.output, None)
        push, results = Push(call, output), leaves(output)
        columns = []
        for i, v in enumerate(call.variables):
            parts = []
            for units in _units(v, chunk_size):
                count = int(units.shape[0])
                tangents = [
                    units if k == i else creation.zeros((count, *w.shape), dtype=w.dtype)
                    for k, w in enumerate(call.variables)
                ]
                parts.append(push.push(tangents, count))
            columns.append(
                [
                    shape.movedim(_joined(parts, k, (v.numel(), *r.shape), r.dtype), 0, -1).reshape(
                        (*r.shape, *v.shape)
                    )
                    for k, r in enumerate(results)
                ]
            )
        place = iter(range(len(results)))

        def of_result(_: Any) -> Any:
            k = next(place)
            return call.pack([column[k] for column in columns])

        found = mapped(of_result, output)
        return (found, call.free(aux)) if has_aux else found

    return wrapped


def hessian(func: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    """Second derivatives of a scalar-valued `func`: the forward Jacobian of the reverse one."""
    return jacfwd(jacrev(func, argnums), argnums)
