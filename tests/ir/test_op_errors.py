"""Wrong operands: each op raises PyTorch's kind of exception, saying what was expected and what came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc import run_graph
from graphc.ir.builder import Builder
from graphc.ir.families import REGISTRY
from graphc.ir.graph import Graph
from graphc.ir.types import DTYPES, TensorType

CONV = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
POOL = {"kernel": (2, 2), "stride": (2, 2)}

# op, operand types, attributes, exception, part of the message
ROWS: list[tuple[str, str, dict[str, Any], type[Exception], str]] = [
    ("add", "f32[3] f32[4]", {}, RuntimeError, "one shape, got f32[3], f32[4]"),
    ("add", "f32[3] f64[3]", {}, RuntimeError, "one dtype, got f32[3], f64[3]"),
    ("sub", "bool[3] bool[3]", {}, NotImplementedError, "sub"),
    ("exp", "i32[3]", {}, NotImplementedError, "exp"),
    ("div", "i64[3] i64[3]", {}, NotImplementedError, "div"),
    ("bitwise_and", "f32[3] f32[3]", {}, NotImplementedError, "bitwise_and"),
    ("where", "f32[3] f32[3] f32[3]", {}, RuntimeError, "condition to be a boolean"),
    ("sum", "f32[3]", {"axes": (1,)}, IndexError, "got 1"),
    ("mean", "i64[3]", {"axes": (0,)}, RuntimeError, "mean()"),
    ("max", "f32[0, 3]", {"axes": (0,)}, IndexError, "non-zero size"),
    ("argmax", "f32[0]", {"axes": (0,)}, IndexError, "non-zero size"),
    ("softmax", "i64[3]", {"axis": 0}, NotImplementedError, "softmax"),
    ("softmax", "f32[3]", {"axis": 1}, IndexError, "got 1"),
    ("dot", "f32[3, 4] f32[5, 4]", {"contract": ((1,), (0,))}, RuntimeError, "[3, 4] and [5, 4]"),
    ("dot", "f32[3, 4] f64[4, 5]", {"contract": ((1,), (0,))}, RuntimeError, "same dtype"),
    ("linear", "f32[3, 4] f32[5, 3]", {}, RuntimeError, "cannot be multiplied"),
    ("linear", "i64[3, 4] f32[5, 4]", {}, RuntimeError, "same dtype"),
    ("linear", "f32[3, 4] f32[5, 4] f32[4]", {}, RuntimeError, "bias of shape [5]"),
    ("conv2d", "f32[1, 3, 4, 4] f32[2, 4, 3, 3]", CONV, RuntimeError, "4 channels, but got 3 channels"),
    ("conv2d", "f32[1, 3, 4, 4] f32[2, 3, 5, 5]", CONV, RuntimeError, "greater than actual input size"),
    ("conv2d", "f32[3, 4, 4] f32[2, 3, 3, 3]", CONV, RuntimeError, "rank 4"),
    ("conv2d", "i64[1, 3, 4, 4] i64[2, 3, 3, 3]", CONV, NotImplementedError, "conv2d"),
    ("conv2d", "f32[1, 4, 4, 4] f32[3, 2, 3, 3]", {**CONV, "groups": 2}, RuntimeError, "divisible by 2"),
    ("max_pool2d", "f32[1, 3, 1, 1]", POOL, RuntimeError, "Output size is too small"),
    ("max_pool2d", "f32[1, 3, 4, 4]", {**POOL, "padding": (2, 2)}, RuntimeError, "at most half"),
    ("avg_pool2d", "f32[1, 3, 4, 4]", {**POOL, "divisor_override": 0}, RuntimeError, "divisor must be not zero"),
    ("cross_entropy", "f32[2, 3] i64[3]", {}, ValueError, "batch_size (2)"),
    ("cross_entropy", "f32[2, 3] f32[2]", {}, RuntimeError, "target dtype"),
    ("cross_entropy", "i64[2, 3] i64[2]", {}, NotImplementedError, "cross_entropy"),
    ("cross_entropy", "f32[2, 3] i64[2]", {"reduction": "average"}, ValueError, "average"),
    ("cross_entropy", "f32[2, 3] i64[2] f32[4]", {}, RuntimeError, "3 classes"),
    ("cross_entropy", "f32[2, 3] i64[2]", {"label_smoothing": 1.5}, RuntimeError, "between 0.0 and 1.0"),
    ("mse_loss", "i64[2] i64[2]", {}, NotImplementedError, "mse_loss"),
    ("mse_loss", "f32[2] f64[2]", {}, RuntimeError, "one dtype"),
    ("reshape", "f32[2, 3]", {"shape": (4,)}, RuntimeError, "invalid for input of size 6"),
    ("expand", "f32[2, 3]", {"shape": (2, 4)}, RuntimeError, "cannot be expanded"),
    ("permute", "f32[2, 3]", {"axes": (0, 0)}, RuntimeError, "[0, 0]"),
    ("slice", "f32[4]", {"starts": (1,), "stops": (5,), "strides": (1,)}, IndexError, "outside of an axis of size 4"),
    ("slice", "f32[4]", {"starts": (1,), "stops": (3,), "strides": (0,)}, ValueError, "positive"),
    ("flip", "f32[4]", {"axes": (1,)}, IndexError, "got 1"),
    ("concat", "f32[2, 3] f32[3, 2]", {"axis": 0}, RuntimeError, "Expected size 3 but got size 2"),
    ("concat", "", {"axis": 0}, RuntimeError, "non-empty"),
    ("pad", "f32[3]", {"low": (-2,), "high": (-2,)}, RuntimeError, "negative size"),
    ("gather", "f32[2, 3] f32[2, 1]", {"axis": 1}, RuntimeError, "int32/int64"),
    ("gather", "f32[2, 3] i64[3, 1]", {"axis": 1}, RuntimeError, "no larger than"),
    ("take", "f32[2, 3] f32[1]", {}, RuntimeError, "int32/int64"),
    ("embedding", "f32[3, 2] f32[4]", {}, RuntimeError, "Long, Int"),
    ("random_int", "i64[2]", {"shape": (3,), "dtype": DTYPES["i64"], "low": 3, "high": 3}, RuntimeError, "less than 'to'"),
    ("dropout", "f32[3] i64[2]", {"p": 1.5}, ValueError, "between 0 and 1"),
    ("layer_norm", "f32[3, 4] f32[3]", {"rank": 1}, RuntimeError, "weight f32[4]"),
    ("batch_norm", "f32[3]", {}, ValueError, "rank 2"),
    ("relu", "f32[3] f32[3]", {}, TypeError, "expected operands"),
    ("sum", "f32[3]", {"axis": 0}, TypeError, "unknown attributes ['axis'], missing ['axes']"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[f"{i}-{r[0]}" for i, r in enumerate(ROWS)])
def test_refused(row: tuple[str, str, dict[str, Any], type[Exception], str]) -> None:
    """Creating the op raises; the graph is left as it was."""
    op, operands, attrs, exception, message = row
    graph = Graph()
    types = [TensorType.parse(t) for t in operands.replace("] ", "]|").split("|") if t]
    values = [graph.add_input(t) for t in types]
    with pytest.raises(exception) as caught:
        Builder(graph).create(REGISTRY[op], values, **attrs)
    assert message in str(caught.value)
    assert len(graph) == 0 and not any(v.uses for v in graph.inputs)


# op, operands, attributes, exception, part of the message: found when the op runs
BAD_DATA: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("take", (np.zeros((3, 2)), np.array([3])), {}, IndexError, "index out of range in self"),
    ("take", (np.zeros((3, 2)), np.array([-1])), {}, IndexError, "index out of range in self"),
    ("take_add", (np.zeros((3, 2)), np.array([3]), np.zeros((1, 2))), {}, IndexError, "index out of range"),
    ("gather", (np.zeros(3), np.array([7])), {"axis": 0}, RuntimeError, "out of bounds"),
    ("scatter_add", (np.zeros(3), np.array([7]), np.zeros(1)), {"axis": 0}, RuntimeError, "out of bounds"),
    ("embedding", (np.zeros((3, 2)), np.array([[5]])), {}, IndexError, "index out of range in self"),
    ("cross_entropy", (np.zeros((2, 10)), np.array([3, 10])), {}, IndexError, "Target 10 is out of bounds."),
    ("nll_loss", (np.zeros((2, 10)), np.array([-1, 0])), {}, IndexError, "Target -1 is out of bounds."),
    ("floor_div", (np.array([1, 2]), np.array([1, 0])), {}, RuntimeError, "ZeroDivisionError"),
    ("remainder", (np.array([1, 2]), np.array([1, 0])), {}, RuntimeError, "ZeroDivisionError"),
    ("rem", (np.array([1, 2]), np.array([1, 0])), {}, RuntimeError, "ZeroDivisionError"),
    ("trunc_div", (np.array([1, 2]), np.array([1, 0])), {}, RuntimeError, "ZeroDivisionError"),
]


@pytest.mark.parametrize("backend", ["reference", "llvm"])
@pytest.mark.parametrize("row", BAD_DATA, ids=[f"{i}-{r[0]}" for i, r in enumerate(BAD_DATA)])
def test_bad_data(
    row: tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str], backend: str
) -> None:
    """Running the op raises the same in the interpreter and in compiled code."""
    op, arrays, attrs, exception, message = row
    graph = Graph()
    values = [
        graph.add_input(TensorType(DTYPES["i64" if a.dtype.kind == "i" else "f64"], a.shape)) for a in arrays
    ]
    graph.outputs = list(Builder(graph).create(REGISTRY[op], values, **attrs).results)
    with pytest.raises(exception) as caught:
        run_graph(graph, *arrays, backend=backend)
    assert message in str(caught.value)
