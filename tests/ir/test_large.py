"""Ops on shapes of ordinary use, where tiles, tails and chunks of reductions all occur."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc import run_graph
from graphc.ir.builder import Builder
from graphc.ir.families import REGISTRY
from graphc.ir.graph import Graph
from graphc.ir.types import DTYPES, TensorType
from tests.closeness import assert_within
from tests.sampling import draw

SAME = {"padding": (1, 1)}

# op, operand types, attributes, distributions where not all are normal
ROWS: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    ("sum", "f32[1000, 1000]", {"axes": (0, 1)}, ()),
    ("sum", "f32[1000, 1000]", {"axes": (0,)}, ()),
    ("sum", "bf16[300, 1000]", {"axes": (1,)}, ()),
    ("mean", "f32[64, 100, 50]", {"axes": (0, 2)}, ()),
    ("prod", "f32[50, 200]", {"axes": (1,)}, ()),
    ("max", "f16[300, 100]", {"axes": (0,)}, ()),
    ("argmax", "f32[100, 1000]", {"axes": (1,)}, ()),
    ("argmin", "f32[300, 100]", {"axes": (0, 1)}, ()),
    ("softmax", "f32[100, 1000]", {"axis": 1}, ()),
    ("softmax", "f32[100, 1000]", {"axis": 0}, ()),
    ("var", "f32[200, 300]", {"axes": (0, 1), "correction": 1}, ()),
    ("layer_norm", "f32[64, 768] f32[768] f32[768]", {"rank": 1}, ()),
    ("batch_norm", "f32[32, 16, 14, 14] f32[16] f32[16]", {}, ()),
    ("cross_entropy", "f32[64, 1000] i64[64]", {}, ("normal", "index:1000")),
    ("conv2d", "f32[4, 32, 28, 28] f32[64, 32, 3, 3]", SAME, ()),
    ("conv2d_input_grad", "f32[4, 64, 28, 28] f32[64, 32, 3, 3]", {**SAME, "size": (28, 28)}, ()),
    ("conv2d_input_grad", "f32[4, 64, 14, 14] f32[64, 32, 3, 3]", {**SAME, "stride": (2, 2), "size": (28, 28)}, ()),
    ("conv2d_weight_grad", "f32[4, 32, 28, 28] f32[4, 64, 28, 28]", {**SAME, "size": (3, 3)}, ()),
    ("max_pool2d", "f32[8, 16, 32, 32]", {"kernel": (2, 2), "stride": (2, 2)}, ()),
    ("avg_pool2d", "f32[8, 16, 32, 32]", {"kernel": (3, 3), "stride": (2, 2), **SAME}, ()),
    ("take", "f32[1000, 64] i64[500]", {}, ("normal", "index:1000")),
    ("take_add", "f32[100, 64] i64[5000] f32[5000, 64]", {}, ("normal", "index:100")),
    ("concat", "f32[100, 33] f32[100, 67]", {"axis": 1}, ()),
    ("permute", "f32[30, 40, 50]", {"axes": (2, 0, 1)}, ()),
    ("random_normal", "i64[2]", {"shape": (100_000,), "dtype": DTYPES["f32"]}, ("index:1000",)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[f"{i}-{r[0]}" for i, r in enumerate(ROWS)])
def test_large(row: tuple[str, str, dict[str, Any], tuple[str, ...]]) -> None:
    """Compiled code is within the op's bound of the reference."""
    name, operands, attrs, draws = row
    types = [TensorType.parse(t) for t in operands.replace("] ", "]|").split("|")]
    rng = np.random.default_rng(3)
    arrays = [draw(t, draws[i] if i < len(draws) else "normal", rng) for i, t in enumerate(types)]
    graph = Graph()
    op = Builder(graph).create(REGISTRY[name], [graph.add_input(t) for t in types], **attrs)
    graph.outputs = list(op.results)
    cls = REGISTRY[name]
    expected = cls.reference(op.attrs, *arrays)
    magnitude = cls.magnitude(op.attrs, *arrays)
    expected = expected if isinstance(expected, tuple) else (expected,)
    magnitudes = magnitude if isinstance(magnitude, tuple) else (magnitude,) + (None,) * (len(expected) - 1)
    for got, right, size in zip(run_graph(graph, *arrays), expected, magnitudes, strict=True):
        assert_within(cls.ulp, got, np.asarray(right), size, name)
