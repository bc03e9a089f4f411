"""Graph text: what is printed is read back as an equal graph, and mistakes are named by line."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir import DTYPES, Builder, Graph, Location, TensorType, parse
from graphc.ir.attributes import Dense, attribute_text, parse_attribute
from graphc.ir.dims import Symbol
from graphc.ir.graph import ROLES
from graphc.ir.structure import attributes_key, structure
from graphc.ir.types import float32, int64


def check_round_trip(graph: Graph) -> None:
    """The text parses to an equal graph that prints alike, with names, marks, roles and locations."""
    text = str(graph)
    again = parse(text)
    again.verify()
    assert structure(again) == structure(graph)
    assert str(again) == text
    assert [op.loc for op in again.ops] == [op.loc for op in graph.ops]
    assert [op.mark for op in again.ops] == [op.mark for op in graph.ops]
    assert [(v.role, v.type) for v in again.inputs] == [(v.role, v.type) for v in graph.inputs]


def small(shape: tuple[Any, ...] = (2, 3)) -> tuple[Graph, Builder]:
    graph = Graph("g")
    graph.add_input(TensorType(float32, shape), "argument", "x")
    return graph, Builder(graph)


def test_roles_names_marks_and_locations() -> None:
    graph = Graph("net.forward")
    inputs = [graph.add_input(TensorType(float32, (2,)), role, f"{role}.value") for role in ROLES]
    b = Builder(graph, loc=Location('a "quoted", {odd} \\ file.py', 7))
    total = inputs[0]
    for v in inputs[1:]:
        total = b.add(total, v)
    assert total.op is not None
    total.op.mark = "recompute"
    total.name = "total"
    graph.outputs = [total, inputs[1], total]
    graph.aliases = {0: 1}
    check_round_trip(graph)
    assert "%total -> %parameter.value" in str(graph)


def test_names_that_collide() -> None:
    graph = Graph("g")
    x = graph.add_input(TensorType(float32, ()), "argument", "a")
    y = graph.add_input(TensorType(float32, ()), "argument", "a")
    z = Builder(graph).add(x, y)
    z.name = "a"
    graph.outputs = [z]
    text = str(graph)
    assert len(set(re.findall(r"%([\w.]+):", text))) == 3
    assert structure(parse(text)) == structure(graph)


def test_empty_graph() -> None:
    check_round_trip(Graph("nothing"))


def test_no_outputs() -> None:
    graph, b = small()
    b.neg(graph.inputs[0])
    check_round_trip(graph)


@pytest.mark.parametrize("bounds", [(0, None), (1, None), (2, 64), (0, 7)])
def test_symbols_keep_their_bounds(bounds: tuple[int, int | None]) -> None:
    n = Symbol("n", *bounds).expr
    graph, b = small((n, 4))
    graph.outputs = [b.expand(b.reshape(graph.inputs[0], shape=(n * 4,)), shape=(n // 2 + 1, n * 4))]
    check_round_trip(graph)
    (symbol,) = set(_symbols(parse(str(graph))))
    assert (symbol.lo, symbol.hi) == bounds


def _symbols(graph: Graph) -> list[Symbol]:
    return [s for d in graph.inputs[0].type.shape if not isinstance(d, int) for ((s, _),), _ in d.terms]


SYMBOL = Symbol("batch").expr
ATTRIBUTES = [
    None, True, False, 0, -3, 2**70, 1.0, -0.0, 0.1, 1e300, 5e-324, -1e-7, 1e22, math.inf, -math.inf,
    "", "plain", 'a "b" \\ {c}, [d] = e\n\t∞', "true", "none", "f32",
    *DTYPES.values(), TensorType(float32, ()), TensorType(int64, (3, SYMBOL * 2 + 1, 0)),
    SYMBOL, SYMBOL * 2 - 1, (SYMBOL + 3) // 4, SYMBOL % 8 * SYMBOL,
    (), (1,), (1, 2.0, True, None, "x", float32), ((), ((1,), (0,))), (SYMBOL, (SYMBOL // 2, 1)), (-1, -2.5),
]  # fmt: skip


@pytest.mark.parametrize("value", ATTRIBUTES, ids=repr)
def test_attribute_round_trips(value: Any) -> None:
    again = parse_attribute(attribute_text(value))
    assert attributes_key({"a": again}) == attributes_key({"a": value})


def test_nan_attribute() -> None:
    assert math.isnan(parse_attribute(attribute_text(math.nan)))


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0, 2), (2, 3)], ids=str)
def test_dense_attribute_keeps_its_bytes(name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    count, dtype = math.prod(shape), DTYPES[name]
    data = rng.integers(0, 2 if name == "bool" else 256, count * dtype.itemsize, dtype=np.uint8).tobytes()
    for raw in (data, data[: dtype.itemsize] * count):
        value = Dense(np.frombuffer(raw, dtype.numpy).reshape(shape))
        again = parse_attribute(attribute_text(value))
        assert again == value
        assert again.array.shape == shape


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.text(),
            st.floats(allow_nan=False),
            st.sampled_from(ATTRIBUTES),
        ),
        lambda x: st.lists(x, max_size=4).map(tuple),
        max_leaves=8,
    )
)
def test_any_attribute_round_trips(value: Any) -> None:
    again = parse_attribute(attribute_text(value))
    assert attributes_key({"a": again}) == attributes_key({"a": value})


GOOD = """graph @g(%x: f32[2, 3] argument) -> (f32[2, 3]) {
  %a: f32[2, 3] = neg %x
  return %a
}"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("graph @g", "grph @g", "line 1: expected graph @name"),
        ("argument", "argumnt", "line 1: expected a role among"),
        ("f32[2, 3] argument", "f33[2, 3] argument", "expected a tensor type"),
        ("= neg", "= negg", "line 2: expected an op"),
        ("neg %x", "neg %y", "line 2: %y is not defined before its use"),
        ("neg %x", "neg %x extra", "line 2: unexpected ' *extra'"),
        ("neg %x", "neg %x {a=1", "line 2: expected name=value or }"),
        ("neg %x", "neg %x {a=$}", "line 2: expected an attribute"),
        ("return %a", "return %b", "line 3: expected a defined value to return"),
        ("return %a", "return %a -> %a", "line 3: %a is no input of the graph"),
        ("return %a", "", "line 3: expected an op"),
        ("\n}", "", "expected return and a closing brace"),
        ("\n}", "\n}\nmore", "line 5: unexpected 'more' after the graph"),
        (") {", ") where n: 3 {", "line 1: expected bounds like batch: 2..64, got 'n: 3'"),
    ],
)
def test_mistakes_are_named(old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("{", r"\{")):
        parse(GOOD.replace(old, new))


@pytest.mark.parametrize("size", range(0, len(GOOD), 7))
def test_truncated_text_raises(size: int) -> None:
    with pytest.raises(ValueError):
        parse(GOOD[:size])
