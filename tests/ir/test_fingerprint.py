"""Which graphs share a fingerprint, and so a compiled program."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import parse
from graphc.ir.builder import Builder
from graphc.ir.families import REGISTRY, Elementwise
from graphc.ir.fingerprint import fingerprint
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType, float32

TEXT = """graph @f(%x: f32[4, 3] argument, %w: f32[4, 3] parameter) -> (f32[4, 3], f32[4, 3]) {
  %0: f32[4, 3] = add %x, %w   loc("a.py":1)
  %1: f32[4, 3] = sub %0, %w   loc("a.py":2)
  return %1, %0
}"""


def digest(text: str) -> str:
    found = fingerprint(parse(text))
    assert found is not None
    return found.digest


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("@f", "@g", True),
        ("%x", "%data", True),
        ('"a.py":2', '"b.py":9', True),
        ('"a.py":2', '"a.py":1', False),
        ("f32[4, 3] = sub", "f32[4, 3] = mul", False),
        ("%1: f32[4, 3] = sub %0, %w", "%1: f32[4, 3] = sub %w, %0", False),
        ("return %1, %0", "return %0, %1", False),
        ("parameter", "argument", False),
        ("[4, 3]", "[3, 4]", False),
        ("f32[4, 3]", "f64[4, 3]", False),
    ],
)
def test_what_changes_it(old: str, new: str, same: bool) -> None:
    changed = TEXT.replace(old, new)
    assert changed != TEXT
    assert (digest(TEXT) == digest(changed)) == same


NUMBERS = (1, 1.0, -0.0, 0.0, True, float("nan"), float("-inf"), "1")


@pytest.mark.parametrize("number", NUMBERS)
def test_attributes_that_are_equal_but_not_the_same(number: object) -> None:
    def of(value: object) -> str:
        graph = Graph("f")
        kind = TensorType(float32, (2,))
        op = REGISTRY["constant"]([], {"value": value}, [kind])
        graph.outputs = [graph.insert(op).result]
        found = fingerprint(graph)
        assert found is not None
        return found.digest

    others = {of(x) for x in NUMBERS if repr(x) != repr(number)}
    assert len(others) == len(NUMBERS) - 1 and of(number) not in others


def test_arrays_count_by_content() -> None:
    def of(value: np.ndarray) -> str:
        graph = Graph("f")
        graph.outputs = [Builder(graph).constant(value)]
        found = fingerprint(graph)
        assert found is not None
        return found.digest

    ones = np.ones((50, 50), np.float32)
    other = ones.copy()
    other[20, 20] = 2
    assert of(ones) == of(ones.copy()) != of(other)
    assert of(ones) != of(ones.reshape(2500))


def test_an_op_from_elsewhere_has_none() -> None:
    class Mine(Elementwise):
        name = ""

    graph = Graph("f")
    x = graph.add_input(TensorType(float32, (2,)))
    graph.insert(Mine([x], {}, [x.type]))
    assert fingerprint(graph) is None


def test_locations_are_in_order_of_their_first_op() -> None:
    found = fingerprint(parse(TEXT))
    assert found is not None
    assert [str(x) for x in found.locations] == ["a.py:1", "a.py:2"]
