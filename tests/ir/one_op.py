"""One op on one of its samples: as a graph, and by its reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from graphc.backends.reference import interpreter
from graphc.ir.builder import Builder
from graphc.ir.families import GraphOp, Sample
from graphc.ir.graph import Graph
from tests.sampling import regions_of

__all__ = ["full", "graph_of", "results_of"]


def results_of(cls: type[GraphOp], sample: Sample, arrays: Sequence[Any]) -> list[Any]:
    """The reference's results as arrays."""
    with np.errstate(all="ignore"):
        found = cls.reference(full(cls, sample), *arrays)
    return [np.asarray(a) for a in (found if isinstance(found, tuple | list) else (found,))]


def full(cls: type[GraphOp], sample: Sample) -> dict[str, Any]:
    """A sample's attributes with the op's defaults, and its regions as functions."""
    attrs = {**cls.attributes, **sample.attrs}
    if sample.regions:
        attrs["regions"] = [partial(interpreter.run, region) for region in sample.regions]
    return attrs


def graph_of(cls: type[GraphOp], sample: Sample) -> tuple[Graph, GraphOp]:
    """A graph of the one op on inputs of the sample's types."""
    graph = Graph()
    values = [graph.add_input(t, name=f"x{i}") for i, t in enumerate(sample.operands)]
    op = Builder(graph).create(cls, values, regions_of(sample), **sample.attrs)
    graph.outputs = list(op.results)
    return graph, op
