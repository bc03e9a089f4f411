"""Donated inputs: temporaries live in their memory once nobody reads them any more."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import Builder, Graph
from graphc.ir.parser import parse
from graphc.ir.types import TensorType, float32
from tests.passes.programs import build, execute


def chain(role: str, length: int = 5) -> Graph:
    """((a·b)·b)·…, minus the sum of a second input that is read in the middle."""
    g = Graph("chain")
    square = TensorType(float32, (8, 8))
    a, c, b = g.add_input(square, role), g.add_input(square, role), g.add_input(square)  # type: ignore[arg-type]
    make = Builder(g)
    value = a
    for k in range(length):
        value = make.dot(value, b, contract=((1,), (0,)))
        if k == length // 2:
            value = make.sub(value, make.expand(make.sum(c, axes=(0, 1)), shape=(8, 8)))
    g.outputs.append(value)
    return g


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
def test_same_values_in_less_memory(length: int) -> None:
    rng = np.random.default_rng(length)
    arrays = [rng.standard_normal((8, 8)).astype(np.float32) for _ in range(3)]
    found = execute(chain("donated", length), arrays)
    np.testing.assert_array_equal(found[0], execute(chain("argument", length), arrays)[0])
    _, kept = build(chain("argument", length))
    _, given = build(chain("donated", length))
    assert given.arena_bytes <= kept.arena_bytes
    if length > 2:
        assert given.arena_bytes <= kept.arena_bytes - 8 * 8 * 4


def test_text() -> None:
    text = str(chain("donated"))
    assert " donated" in text and str(parse(text)) == text
