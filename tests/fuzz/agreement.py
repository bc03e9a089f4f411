"""Does compiled code mean what the graph says? Checks of one graph on given arrays, for fuzzing.

Each op alone, in a program of one kernel per op that returns every value, is held to its bound
against its reference *on the values that the compiled program itself computed*: bounds do not add
up along a graph. All other ways to compile and run the graph must give the very same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphc.backends import reference
from graphc.backends.reference.interpreter import run_op
from graphc.compiler.driver import CompiledGraph, lower_graph, make_context
from graphc.core.storage import allocate_memory, memory_of
from graphc.ir import Graph, parse, parse_kernel, verify_kernel
from graphc.ir.families import Accumulate, GraphOp, Scatter
from graphc.ir.graph import Op, Value
from graphc.ir.types import dtype_of
from graphc.passes import run_pipeline
from graphc.passes.context import CompileContext, Options
from graphc.passes.fuse.empty import replace_empty
from graphc.passes.instruments import same
from graphc.passes.pipeline import OPTIMISE
from graphc.runtime.threads import get_num_threads, set_num_threads
from tests.closeness import assert_within

__all__ = ["CheckFailed", "check_agreement", "execute"]


class CheckFailed(Exception):
    """A data-dependent check failed while a program ran."""


TOGETHER = make_context()
APART = replace(TOGETHER, options=Options(fuse=False))
IN_PARTS = replace(TOGETHER, options=Options(grain=8))
"""Kernels are cut in partitions however small they are."""


def execute(graph: Graph, arrays: Sequence[Any], context: CompileContext, threads: int = 1) -> list[Any]:
    """All outputs of an optimised graph, compiled. Every stage's text must read back the same.

    Raises CheckFailed; then, as ever, no input may have changed.
    """
    stages = lower_graph(graph.copy(), context, passes="")
    for kernel in stages.kernels:
        text = str(kernel)
        again = parse_kernel(text)
        verify_kernel(again)
        assert str(again) == text
    compiled = CompiledGraph(stages.optimised, stages)
    inputs = [memory_of(np.asarray(a), share=False) for a in arrays]
    outputs = [
        inputs[graph.aliases[i]] if i in graph.aliases else allocate_memory(v.type)
        for i, v in enumerate(graph.outputs)
    ]
    written = set(graph.aliases.values())
    before = get_num_threads()
    set_num_threads(threads)
    try:
        compiled.run(inputs, [m for i, m in enumerate(outputs) if i not in graph.aliases])
    except (IndexError, RuntimeError) as error:
        written = set()
        raise CheckFailed from error
    finally:
        set_num_threads(before)
        for i, (memory, array) in enumerate(zip(inputs, arrays, strict=True)):
            assert i in written or memory.array.tobytes() == np.asarray(array).tobytes(), (
                f"input {i} was changed"
            )
    return [m.array for m in outputs]


def check_agreement(graph: Graph, arrays: Sequence[Any]) -> None:
    """Every way to compile and run the graph agrees with the reference, and all ways with one another."""
    graph.verify()
    check_text(graph)
    exact = _exact(graph)
    optimised = graph.copy()
    run_pipeline(optimised, OPTIMISE, TOGETHER)
    replace_empty(optimised)  # what only values without elements are made of is not computed, nor checked
    check_text(optimised)
    try:
        values = every_value(optimised, arrays)
    except CheckFailed:
        check_failing(optimised, arrays, exact)
        return
    for op in optimised.ops:
        check_op(op, values)
    expected = [values[v] for v in optimised.outputs]
    if exact:
        check_equal(reference.run(optimised, *arrays), expected, "reference")
    check_equal(expected, execute(optimised, arrays, APART), "kernels of one op")
    check_equal(expected, execute(optimised, arrays, TOGETHER), "fused kernels")
    for threads in (1, 2, 4):
        check_equal(expected, execute(optimised, arrays, IN_PARTS, threads), f"parts on {threads} threads")


def check_text(graph: Graph) -> None:
    """The graph's text reads back as a good graph of the same text."""
    again = parse(str(graph))
    again.verify()
    assert str(again) == str(graph)


def check_failing(graph: Graph, arrays: Sequence[Any], exact: bool) -> None:
    """A check failed: so it does in the reference, where values are the same, and however it is run."""
    for context in (APART, TOGETHER, IN_PARTS):
        with pytest.raises(CheckFailed):
            execute(graph, arrays, context)
    if exact:
        with pytest.raises((IndexError, RuntimeError)):
            reference.run(graph, *arrays)


def every_value(graph: Graph, arrays: Sequence[Any]) -> dict[Value, Any]:
    """The value of every input and op result, by unfused kernels."""
    copy = graph.copy()
    pairs = [
        (a, b)
        for op, twin in zip(graph.ops, copy.ops, strict=True)
        for a, b in zip(op.results, twin.results, strict=True)
    ]
    count = len(copy.outputs)
    copy.outputs += [twin for _, twin in pairs]
    found = execute(copy, arrays, APART)
    values = dict(zip(graph.inputs, map(np.asarray, arrays), strict=True))
    values |= {v: a for (v, _), a in zip(pairs, found[count:], strict=True)}
    check_equal([values[v] for v in graph.outputs], found[:count], "the same value as another output")
    return values


def check_equal(expected: Sequence[Any], got: Sequence[Any], what: str) -> None:
    """The same bits, any NaN being as good as another."""
    for i, (a, b) in enumerate(zip(expected, got, strict=True)):
        assert same(a, b, exact=True), f"{what}: output {i} is {b!r} instead of {a!r}"


def check_op(op: Op, values: dict[Value, Any]) -> None:
    """An op's results are within its bound of its reference on the same operands."""
    assert isinstance(op, GraphOp)
    operands = [values[v] for v in op.operands]
    if isinstance(op, Accumulate | Scatter) and not all(map(_moderate, operands)):
        return
    with np.errstate(all="ignore"):
        magnitude = type(op).magnitude(op.attrs, *operands)
    for n, (r, expected) in enumerate(zip(op.results, run_op(op, operands, {}), strict=True)):
        assert_within(
            op.ulp,
            values[r],
            expected,
            magnitude if n == 0 else None,
            f"{op.name} {op.attrs} of {op.operand_types}",
        )


def _moderate(array: Any) -> bool:
    """False where sums or products of the elements may overflow or vanish in one order and not in another."""
    if not dtype_of(array.dtype).is_floating_point:
        return True
    with np.errstate(all="ignore"):
        size = np.abs(array.astype(np.float64))
        finite = size[np.isfinite(size) & (size > 0)]
        wide = np.abs(np.log2(finite))
    # 16-bit floats accumulate in float32 but end in their own range.
    return bool(
        wide.sum() < 14
        or (array.dtype.itemsize > 2 and wide.max() < 40 and wide.sum() < 100)
        or _summable(finite, array)
    )


def _summable(finite: Any, array: Any) -> bool:
    """True of numbers whose sum of squares stays well inside of the dtype's range."""
    limit = 2.0**13 if array.dtype == np.float16 else 2.0**100
    return bool(np.square(finite).sum() < limit)


def _exact(graph: Graph) -> bool:
    """True where no float occurs, so that the reference gives the very bits."""
    values = [*graph.inputs, *(r for op in graph.ops for r in op.results)]
    return not any(v.type.dtype.is_floating_point for v in values)
