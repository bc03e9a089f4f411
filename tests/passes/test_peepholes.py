"""Every op next to constants and next to itself: simplifying and folding change no bit.

Random graphs meet a given pattern seldom; here each op of the registry gets each neutral or
absorbing constant at each operand, and its own result as operand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from graphc.backends.reference import run
from graphc.ir import REGISTRY, Builder, Graph
from graphc.ir.families import GraphOp, Sample
from graphc.passes import run_pipeline
from graphc.passes.instruments import same
from tests.sampling import draw, regions_of

NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5)
PIPELINES = ("canonicalise", "fold", "canonicalise,fold,cse,dce")
OPS = [cls for _, cls in sorted(REGISTRY.items()) if "structural" not in cls.traits and cls.operand_names]


def one_of_each_dtype(cls: type[GraphOp]) -> Iterator[Sample]:
    """The first sample with several elements for each tuple of operand dtypes."""
    seen = set()
    for sample in cls.samples():
        key = tuple(t.dtype.name for t in sample.operands)
        if key not in seen and all(t.numel > 1 for t in sample.operands):
            seen.add(key)
            yield sample


def check(graph: Graph, arrays: list[Any]) -> None:
    """Every pipeline keeps every bit; where the graph fails (an integer divided by zero) so does the result."""
    try:
        expected = run(graph, *arrays)
    except RuntimeError:
        expected = None
    for text in PIPELINES:
        simpler = graph.copy()
        run_pipeline(simpler, text)
        if expected is None:
            with pytest.raises(RuntimeError):
                run(simpler, *arrays)
            continue
        for a, b in zip(expected, run(simpler, *arrays), strict=True):
            assert same(a, b, exact=True), f"{text} changed {a} to {b}:\n{graph}\nto\n{simpler}"


def drawn(sample: Sample) -> list[Any]:
    """Special values at every operand but indices."""
    rng = np.random.default_rng(1)
    hows = [*sample.draw, *["normal"] * (len(sample.operands) - len(sample.draw))]
    return [
        draw(t, how if how.startswith("index:") else "special", rng)
        for t, how in zip(sample.operands, hows, strict=True)
    ]


def is_index(sample: Sample, i: int) -> bool:
    return i < len(sample.draw) and sample.draw[i].startswith("index:")


@pytest.mark.parametrize("cls", OPS, ids=lambda c: c.name)
def test_with_a_constant(cls: type[GraphOp]) -> None:
    for sample in one_of_each_dtype(cls):
        arrays = drawn(sample)
        for i, type_ in enumerate(sample.operands):
            if is_index(sample, i):
                continue
            # One graph for all numbers, but one each where a number may make the op fail.
            for numbers in [(n,) for n in NUMBERS] if type_.dtype.is_integral else [NUMBERS]:
                graph = Graph("constant")
                inputs = [graph.add_input(t) for t in sample.operands]
                b = Builder(graph)
                for number in numbers:
                    operands = list(inputs)
                    operands[i] = b.full(type_.shape, number, type_.dtype)
                    graph.outputs.extend(b.create(cls, operands, regions_of(sample), **sample.attrs).results)
                check(graph, arrays)


@pytest.mark.parametrize("cls", OPS, ids=lambda c: c.name)
def test_with_constants_only(cls: type[GraphOp]) -> None:
    for sample in one_of_each_dtype(cls):
        graph = Graph("constants")
        b = Builder(graph)
        operands = [b.constant(a) for a in drawn(sample)]
        graph.outputs = list(b.create(cls, operands, regions_of(sample), **sample.attrs).results)
        check(graph, [])


@pytest.mark.parametrize("cls", OPS, ids=lambda c: c.name)
def test_with_itself(cls: type[GraphOp]) -> None:
    for sample in one_of_each_dtype(cls):
        graph = Graph("itself")
        inputs = [graph.add_input(t) for t in sample.operands]
        b = Builder(graph)
        first = b.create(cls, inputs, regions_of(sample), **sample.attrs)
        graph.outputs = list(first.results)
        for i, type_ in enumerate(sample.operands):
            if first.results[0].type == type_ and not is_index(sample, i):
                operands = list(inputs)
                operands[i] = first.results[0]
                graph.outputs.extend(b.create(cls, operands, regions_of(sample), **sample.attrs).results)
        check(graph, drawn(sample))
