"""Every op for many instances at once does what a loop over the instances does. Nothing here names an op."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from graphc.backends.reference import interpreter
from graphc.ir.batching import batch_graph
from graphc.ir.control import While
from graphc.ir.families import REGISTRY, GraphOp, Random, Sample
from tests.closeness import assert_within
from tests.ir.test_conformance import RUN, full, graph_of, operand_name, results_of
from tests.sampling import draw_sample

INSTANCES = 3
TAKEN = [name for name in RUN if REGISTRY[name].operand_names]


def samples_of(cls: type[GraphOp]) -> list[tuple[int, Sample]]:
    """The samples of one dtype: what a float64 is to an op, a batch of it is too."""
    numbered = list(enumerate(cls.samples()))
    wanted = "f64" if "f64" in cls.dtypes else cls.dtypes[0]
    found = [
        (i, s)
        for i, s in numbered
        if wanted in {t.dtype.name for t in (*s.operands, *cls.infer(s.operands, full(cls, s)))}
    ]
    return found[:: max(1, len(found) // 8)]


@pytest.mark.parametrize("name", TAKEN)
def test_against_a_loop(name: str) -> None:
    cls = REGISTRY[name]
    for number, sample in samples_of(cls):
        count = len(sample.operands)
        choices = [c for c in itertools.product((True, False), repeat=count) if any(c)] if count <= 3 else []
        for batched in choices or [
            (True,) * count,
            (True, *(False,) * (count - 1)),
            (*(False,) * (count - 1), True),
        ]:
            check(cls, sample, number, batched)


def check(cls: type[GraphOp], sample: Sample, number: int, batched: Sequence[bool]) -> None:
    """The batched graph verifies and each instance of its results is the reference's."""
    graph, _ = graph_of(cls, sample)
    if any(operand_name(cls, i) == "state" and on for i, on in enumerate(batched)) and len(batched) > 1:
        return
    drawn = [draw_sample(sample, number + k) for k in range(INSTANCES)]
    fixed = drawn[0]
    if sample.make is not None and not all(batched):
        return  # the operands depend on one another
    given = [np.stack([d[i] for d in drawn]) if on else fixed[i] for i, on in enumerate(batched)]
    whole, have = batch_graph(graph, batched, INSTANCES)
    whole.verify()
    assert all(have)
    got = interpreter.run(whole, *given)
    for k in range(INSTANCES):
        own = [drawn[k][i] if on else fixed[i] for i, on in enumerate(batched)]
        with np.errstate(all="ignore"):
            magnitude = cls.magnitude(full(cls, sample), *own)
        magnitudes = magnitude if isinstance(magnitude, tuple) else (magnitude,) + (None,) * (len(got) - 1)
        for a, expected, m in zip(got, results_of(cls, sample, own), magnitudes, strict=True):
            label = f"{cls.name} {sample.operands} {sample.attrs} {list(batched)}"
            assert a[k].dtype == expected.dtype and a[k].shape == expected.shape, label
            assert_within(cls.ulp, a[k], expected, m, label)


def test_what_is_one_for_all_is_computed_once() -> None:
    graph, _ = graph_of(REGISTRY["add"], next(iter(REGISTRY["add"].samples())))
    whole, have = batch_graph(graph, [False, False], INSTANCES, whole=False)
    assert have == [False] and str(whole) == str(graph)


def test_families_have_a_way_of_their_own() -> None:
    """Only draws from a state and loops without a known length are run instance by instance."""
    for name in TAKEN:
        cls = REGISTRY[name]
        assert (
            cls.batch is not GraphOp.batch or cls.leading is not None or issubclass(cls, (Random, While))
        ), name
