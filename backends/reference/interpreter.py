"""Runs a graph in NumPy, op by op, by each op class's `reference`: the oracle of all tests.

Independent of every pass and of generated code. Inputs are checked strictly (dtype and shape, no
conversion), and each result against its inferred type.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.ir.dims import Expr, Symbol, split_linear, substitute, symbols
from graphc.ir.errors import VerifyError
from graphc.ir.families import GraphOp
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.specialise import concrete
from graphc.ir.types import TensorType, dtype_of

__all__ = ["bind_dims", "run"]


def run(graph: Graph, *arrays: Any, dims: Mapping[Symbol, int] | None = None) -> list[Any]:
    """All outputs of `graph`, those that alias state included, as NumPy arrays.

    `arrays` has one array (or NumPy scalar) per input, state inputs too; none is written to. `dims` has the
    values of symbols where they are known; the others are read off the shapes of the arrays.
    Raises TypeError for a wrong number of inputs or a wrong dtype, ValueError for a wrong shape,
    VerifyError where an op's reference gives something else than its inferred type, and whatever
    the op's contract says for bad data.
    """
    if len(arrays) != len(graph.inputs):
        raise TypeError(f"graph @{graph.name} takes {len(graph.inputs)} inputs, got {len(arrays)}")
    inputs = [np.asarray(a) for a in arrays]
    for v, a in zip(graph.inputs, inputs, strict=True):
        _check_dtype(graph, v, a)
    dims = bind_dims([v.type for v in graph.inputs], [a.shape for a in inputs], dims)
    for v, a in zip(graph.inputs, inputs, strict=True):
        expected = concrete(v.type.shape, dims)
        if a.shape != expected:
            raise ValueError(
                f"{_name(graph, v)}: expected shape {list(expected)} for {v.type}, got {list(a.shape)}"
            )
    values: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
    remaining = {v: len(v.uses) for v in graph.inputs}
    kept = graph.output_uses()
    for op in graph.ops:
        results = run_op(op, [values[v] for v in op.operands], dims)
        for r, a in zip(op.results, results, strict=True):
            values[r] = a
            remaining[r] = len(r.uses)
        for v in op.operands:
            remaining[v] -= 1
        for v in (*op.operands, *op.results):
            if not remaining[v] and v not in kept:
                values.pop(v, None)
    return [values[v] for v in graph.outputs]


def run_op(op: Op, arrays: Sequence[Any], dims: Mapping[Symbol, int]) -> list[Any]:
    """The results of one op, checked against its result types."""
    assert isinstance(op, GraphOp)
    attrs = {k: concrete(v, dims) for k, v in op.attrs.items()} if dims else op.attrs
    if op.regions:
        attrs = {**attrs, "regions": [functools.partial(run, region, dims=dims) for region in op.regions]}
    with np.errstate(all="ignore"):
        found = type(op).reference(attrs, *arrays)
    results = [np.asarray(a) for a in (found if isinstance(found, tuple | list) else (found,))]
    types = [concrete(t, dims) for t in op.result_types]
    if [(a.dtype, a.shape) for a in results] != [(t.dtype.numpy, t.shape) for t in types]:
        raise VerifyError(
            f"{op.name}: its reference gave {', '.join(str(TensorType(dtype_of(a.dtype), a.shape)) for a in results)}, "
            f"expected {', '.join(map(str, types))}",
            filename=op.loc.filename if op.loc else None,
            lineno=op.loc.lineno if op.loc else None,
        )
    return results


def bind_dims(
    types: Sequence[TensorType],
    shapes: Sequence[tuple[int, ...]],
    known: Mapping[Symbol, int] | None = None,
) -> dict[Symbol, int]:
    """Values of the symbols in `types`, read off the shapes of actual arrays, and those that are `known`.

    A dimension linear in one unknown symbol binds it; the first that does decides. Raises
    ValueError for a wrong rank, a value outside of the symbol's bounds, or a symbol left unbound.
    """
    dims: dict[Symbol, int] = dict(known or {})
    everything: set[Symbol] = set()
    pairs: list[tuple[Expr, int]] = []
    for t, shape in zip(types, shapes, strict=True):
        if t.rank != len(shape):
            raise ValueError(f"expected {t.rank} dimensions for {t}, got shape {list(shape)}")
        pairs += [(d, n) for d, n in zip(t.shape, shape, strict=True) if isinstance(d, Expr)]
    # Plain symbols first, so that `2*n + m` finds the rest known.
    for d, n in sorted(pairs, key=lambda p: len(symbols(p[0]))):
        everything |= symbols(d)
        left = substitute(d, dims)
        unknown = symbols(left)
        if len(unknown) == 1:
            (symbol,) = unknown
            split = split_linear(left, symbol)
            if (
                split is not None
                and isinstance(split[1], int)
                and split[0]
                and (n - split[1]) % split[0] == 0
            ):
                dims[symbol] = (n - split[1]) // split[0]
    for symbol in everything:
        if symbol not in dims:
            raise ValueError(f"dimension {symbol} cannot be read off the input shapes")
        if dims[symbol] < symbol.lo or (symbol.hi is not None and dims[symbol] > symbol.hi):
            bound = "∞" if symbol.hi is None else symbol.hi
            raise ValueError(f"dimension {symbol} is {dims[symbol]}, expected {symbol.lo} to {bound}")
    return dims


def _check_dtype(graph: Graph, value: Value, array: Any) -> None:
    if array.dtype != value.type.dtype.numpy:
        raise TypeError(
            f"{_name(graph, value)}: expected dtype {value.type.dtype.numpy} for {value.type}, got {array.dtype}"
        )


def _name(graph: Graph, value: Value) -> str:
    return f"graph @{graph.name}, input {value.index}" + (f" (%{value.name})" if value.name else "")
