"""Every op of the registry does what its class says. Nothing here names an op.

An op that lacks a part fails by its name. LLVM runs all samples of an op and dtype as one program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphc.ir
from graphc import run_graph
from graphc.backends.reference import interpreter
from graphc.ir.builder import Builder
from graphc.ir.dims import Symbol, substitute
from graphc.ir.families import REGISTRY, Composite, GraphOp, Sample
from graphc.ir.graph import Graph
from graphc.ir.types import DTYPES, TensorType
from graphc.passes.decompose import build_decomposition
from tests.closeness import assert_within
from tests.ir.one_op import full, graph_of, results_of
from tests.sampling import draw_sample, regions_of

OPS = sorted(REGISTRY)
# Structural ops stand for a rewriting of the graph around them and are never run.
RUN = [name for name in OPS if "structural" not in REGISTRY[name].traits]
WITH_DTYPES = [(name, dtype) for name in RUN for dtype in REGISTRY[name].dtypes]
COMPOSITE = [name for name in RUN if issubclass(REGISTRY[name], Composite)]


def of_dtype(name: str, dtype: str) -> list[Sample]:
    """Samples about a dtype: the first operand's, or that of any operand, attribute or result."""
    cls = REGISTRY[name]

    def about(sample: Sample) -> bool:
        if (
            cls.operand_names
            and sample.operands
            and sample.operands[0].dtype.name in cls.dtypes
            and not _drawn(sample)
        ):
            return sample.operands[0].dtype.name == dtype
        results = cls.infer(sample.operands, full(cls, sample))
        return results[0].dtype.name == dtype

    return [s for s in cls.samples() if about(s)]


def _drawn(sample: Sample) -> bool:
    # The dtype of a creation or random op, and of a choice, is its result's.
    return ("dtype" in sample.attrs and "shape" in sample.attrs) or (
        bool(sample.draw) and sample.draw[0] == "bool"
    )


@pytest.mark.parametrize("name", OPS)
def test_documented(name: str) -> None:
    """The class has a docstring of its own, and its attributes and operands are spoken of somewhere in its bases."""
    cls = REGISTRY[name]
    own = cls.__dict__.get("__doc__") or ""
    assert len(own.split()) >= 1, f"{name} has no docstring"
    everything = " ".join([*(c.__doc__ or "" for c in cls.__mro__), *_module_docs(cls)])
    for attribute in cls.attributes:
        assert attribute in everything, f"{name}: attribute {attribute} is not documented"


def _module_docs(cls: type) -> list[str]:
    return [sys.modules[c.__module__].__doc__ or "" for c in cls.__mro__ if c.__module__.startswith("graphc")]


@pytest.mark.parametrize("name", RUN)
def test_samples_cover(name: str) -> None:
    """There are samples for every dtype, among them an empty and a one-element tensor."""
    cls = REGISTRY[name]
    for dtype in cls.dtypes:
        samples = of_dtype(name, dtype)
        assert samples, f"{name} has no sample for {dtype}"
        sizes = {t.numel for s in samples for t in (*s.operands, *cls.infer(s.operands, full(cls, s)))}
        assert 1 in sizes, f"{name} has no one-element sample for {dtype}"
        scalar_only = all(
            t.rank == 0 for s in samples for t in (*s.operands, *cls.infer(s.operands, full(cls, s)))
        )
        assert scalar_only or 0 in sizes, f"{name} has no empty sample for {dtype}"


@pytest.mark.parametrize("name", RUN)
def test_inference_and_text(name: str) -> None:
    """Inferred types are the reference's; the one-op graph verifies and reads back the same."""
    cls = REGISTRY[name]
    for number, sample in enumerate(cls.samples()):
        arrays = draw_sample(sample, number)
        inferred = cls.infer(sample.operands, full(cls, sample))
        found = results_of(cls, sample, arrays)
        assert [(t.dtype.numpy, t.shape) for t in inferred] == [(a.dtype, a.shape) for a in found], (
            name,
            sample,
        )
        graph, _ = graph_of(cls, sample)
        graph.verify()
        text = str(graph)
        again = graphc.ir.parse(text)
        again.verify()
        assert str(again) == text


@pytest.mark.parametrize("name", RUN)
def test_wrong_operands(name: str) -> None:
    """An operand too many is refused."""
    cls = REGISTRY[name]
    if cls.variadic:
        pytest.skip("takes any number of operands")
    sample = next(iter(cls.samples()))
    graph = Graph()
    extra = (*sample.operands, TensorType(DTYPES["f32"], ()))
    values = [graph.add_input(t) for t in extra]
    with pytest.raises(TypeError, match="expected operands"):
        Builder(graph).create(cls, values, regions_of(sample), **sample.attrs)


def symbolic(sample: Sample, size: int, symbol: Symbol, operands: bool) -> Sample:
    """The sample with its first dimension symbolic wherever shape attributes, and operands, start with it."""

    def swap(shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (symbol.expr, *shape[1:]) if shape and shape[0] == size else shape

    attrs = {k: swap(v) if k in ("shape", "stops") else v for k, v in sample.attrs.items()}
    types = [t.with_shape(swap(t.shape)) if operands else t for t in sample.operands]
    return Sample(tuple(types), attrs, sample.draw)


@pytest.mark.parametrize("name", RUN)
def test_symbolic_inference(name: str) -> None:
    """With the first dimension a symbol, inference gives what it gives for each value of the symbol."""
    cls = REGISTRY[name]
    symbol = Symbol("n")
    agreed = eligible = 0
    for sample in cls.samples():
        expected = cls.infer(sample.operands, full(cls, sample))
        # Of an op with a shape attribute alone, that is what is symbolic.
        shaped = "shape" in sample.attrs and (not sample.operands or "axis" not in cls.attributes)
        for size, operands in _leading(sample, shaped):
            eligible += 1
            general = symbolic(sample, size, symbol, operands)
            try:
                found = cls.infer(general.operands, full(cls, general))
            except (RuntimeError, IndexError):
                # A symbolic size where the sample needs a fixed one (indices of other sizes, added sizes).
                continue
            given = {symbol: size}
            assert [t.with_shape(tuple(substitute(d, given) for d in t.shape)) for t in found] == list(
                expected
            )
            agreed += 1
    assert agreed or not eligible, f"{name}: inference fails for every sample with a symbolic first dimension"


def _leading(sample: Sample, shaped: bool) -> list[tuple[int, bool]]:
    """Leading sizes to make symbolic, and whether in the operands too (else in attributes alone)."""
    found = []
    if sample.operands and sample.operands[0].rank:
        found.append((int(sample.operands[0].sizes[0]), True))
    if shaped and sample.attrs["shape"]:
        found.append((int(sample.attrs["shape"][0]), False))
    return [(size, operands) for size, operands in found if size > 1]


@pytest.mark.parametrize("name", COMPOSITE)
def test_decomposition(name: str) -> None:
    """The decomposition gives the reference's results within the op's bound."""
    cls = REGISTRY[name]
    for number, sample in enumerate(cls.samples()):
        arrays = draw_sample(sample, number)
        graph, op = graph_of(cls, sample)
        assert isinstance(op, Composite)
        graph.outputs = list(build_decomposition(op)[0])
        graph.verify()
        check_results(cls, sample, arrays, interpreter.run(graph, *arrays))


def check_results(cls: type[GraphOp], sample: Sample, arrays: Sequence[Any], got: Sequence[Any]) -> None:
    """Each result is within the stated bound of the reference's."""
    with np.errstate(all="ignore"):
        found = cls.magnitude(full(cls, sample), *arrays)
    magnitudes = found if isinstance(found, tuple) else (found,) + (None,) * (len(got) - 1)
    for a, expected, magnitude in zip(got, results_of(cls, sample, arrays), magnitudes, strict=True):
        label = f"{cls.name} {sample.operands} {sample.attrs}"
        assert_within(cls.ulp, np.asarray(a), expected, magnitude, label)


SPLATS = (0.0, -0.0, 1.0, -1.0, 2.0)


@pytest.mark.parametrize("name", [name for name in RUN if REGISTRY[name].simplify is not GraphOp.simplify])
def test_simplify(name: str) -> None:
    """What an op simplifies to has its bits, also where an operand is a constant."""
    cls = REGISTRY[name]
    for number, sample in enumerate(cls.samples()):
        # Infinities and NaN among the numbers; indices stay as they are.
        hows = [sample.draw[i] if i < len(sample.draw) else "normal" for i in range(len(sample.operands))]
        special = replace(
            sample, draw=tuple("special" if h in ("any", "special", "normal") else h for h in hows)
        )
        arrays = draw_sample(special, number)
        check_simplified(cls, sample, arrays, -1, None)
        for i in range(len(arrays)):
            for value in SPLATS:
                dtype = arrays[i].dtype
                if dtype.kind != "u" or value >= 0:
                    check_simplified(cls, sample, arrays, i, np.asarray(value).astype(dtype))


def check_simplified(
    cls: type[GraphOp], sample: Sample, arrays: Sequence[Any], splat: int, value: Any
) -> None:
    """Runs the op and what it simplifies to, with operand `splat` a constant `value` throughout."""
    graph = Graph()
    b = Builder(graph)
    values = [graph.add_input(t) for t in sample.operands]
    if splat >= 0:
        values[splat] = b.broadcast_to(b.constant(value), sample.operands[splat].shape)
    op = b.create(cls, values, regions_of(sample), **sample.attrs)
    found = op.simplify(Builder(graph, before=op))
    if found is None:
        return
    simple = list(found) if isinstance(found, list | tuple) else [found]
    graph.outputs = [*op.results, *simple]
    graph.verify()
    results = interpreter.run(graph, *arrays)
    for before, after in zip(results[: len(simple)], results[len(simple) :], strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        same = before.tobytes() == after.tobytes()
        both_nan = not same and before.dtype.kind not in "iub" and _same_but_nan(before, after)
        assert same or both_nan, (
            f"{cls.name} {sample} with operand {splat} = {value}: {before} became {after}"
        )


def _same_but_nan(a: Any, b: Any) -> bool:
    """Equal bits wherever not both are NaN (the bits of a NaN are not specified)."""
    nan = np.isnan(a) & np.isnan(b)
    return np.where(nan, a.dtype.type(0), a).tobytes() == np.where(nan, a.dtype.type(0), b).tobytes()


@pytest.mark.parametrize(("name", "dtype"), WITH_DTYPES)
def test_llvm(name: str, dtype: str) -> None:
    """Compiled code gives the reference's results within the op's bound, for every sample of the dtype."""
    cls = REGISTRY[name]
    graph = Graph(f"{name}_{dtype}")
    samples = of_dtype(name, dtype)
    drawn = [draw_sample(sample, number) for number, sample in enumerate(samples)]
    for number, sample in enumerate(samples):
        values = [graph.add_input(t, name=f"x{number}_{i}") for i, t in enumerate(sample.operands)]
        graph.outputs += Builder(graph).create(cls, values, regions_of(sample), **sample.attrs).results
    outputs = iter(run_graph(graph, *(a for arrays in drawn for a in arrays), backend="llvm"))
    for sample, arrays in zip(samples, drawn, strict=True):
        check_results(
            cls, sample, arrays, [next(outputs) for _ in cls.infer(sample.operands, full(cls, sample))]
        )
