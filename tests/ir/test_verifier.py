"""Every invariant of a graph, broken once: the verifier says which and names the op."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphc.ir import Builder, Graph, Location, TensorType, VerifyError, parse
from graphc.ir.dims import Symbol
from graphc.ir.graph import Use, Value
from graphc.ir.types import float32, int64

TEXT = """graph @g(%x: f32[2, 3] argument, %w: f32[2, 3] parameter, %k: f32[2, 3] constant) -> (f32[2, 3], f32[2, 3]) {
  %a: f32[2, 3] = neg %x   loc("net.py":12)
  %b: f32[2, 3] = add %a, %w   loc("net.py":13)
  return %a, %b -> %w
}"""


def swap(graph: Graph) -> None:
    a, b = graph.ops
    a.results[0].uses.pop(Use(b, 0))
    graph._unlink(b)
    graph.insert(b, before=a)
    a.results[0].uses[Use(b, 0)] = None


def foreign_operand(graph: Graph) -> None:
    a, _ = graph.ops
    a.set_operand(0, Graph().add_input(TensorType(float32, (2, 3))))


def lost_use(graph: Graph) -> None:
    graph.inputs[0].uses.clear()


def stray_use(graph: Graph) -> None:
    _, b = graph.ops
    graph.inputs[0].uses[Use(b, 0)] = None


def wrong_result(graph: Graph) -> None:
    a, _ = graph.ops
    a.results[0].type = TensorType(float32, (3, 2))


def wrong_operand_type(graph: Graph) -> None:
    graph.inputs[1].type = TensorType(int64, (2, 3))


def unknown_attribute(graph: Graph) -> None:
    a, _ = graph.ops
    a.attrs["colour"] = 1


def missing_attribute(graph: Graph) -> None:
    s = Builder(graph).sum(graph.inputs[0], axes=(0,))
    del s.op.attrs["axes"]


def foreign_output(graph: Graph) -> None:
    graph.outputs[0] = Value(TensorType(float32, (2, 3)), graph, 0)


def renumbered_input(graph: Graph) -> None:
    graph.inputs.reverse()


def unknown_role(graph: Graph) -> None:
    graph.inputs[0].role = "nobody"  # type: ignore[assignment]


def alias_of_a_constant(graph: Graph) -> None:
    graph.aliases = {0: 2}


def alias_out_of_range(graph: Graph) -> None:
    graph.aliases = {0: 7}


def alias_twice(graph: Graph) -> None:
    graph.aliases = {0: 1, 1: 1}


def alias_of_other_type(graph: Graph) -> None:
    graph.outputs[1] = Builder(graph).reshape(graph.outputs[1], shape=(3, 2))


def wrong_count(graph: Graph) -> None:
    graph._count += 1


def two_bounds(graph: Graph) -> None:
    graph.add_input(TensorType(float32, (Symbol("n").expr,)))
    graph.add_input(TensorType(float32, (Symbol("n", 2).expr,)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap, "operand 0 is not defined before its use"),
        (foreign_operand, "operand 0 is not defined before its use"),
        (lost_use, "operand 0 does not list this use"),
        (stray_use, "names a use that is not there"),
        (wrong_result, r"result types should be f32\[2, 3\]"),
        (wrong_operand_type, "operands are not what the op takes: add"),
        (unknown_attribute, r"attributes missing \[\], unknown \['colour'\]"),
        (missing_attribute, r"attributes missing \['axes'\]"),
        (foreign_output, "output 0 is not defined in the graph"),
        (renumbered_input, "input 0 has the wrong owner, index or role"),
        (unknown_role, "input 0 has the wrong owner, index or role"),
        (alias_of_a_constant, "a constant input cannot be written"),
        (alias_out_of_range, "alias 0 -> 7 is out of range"),
        (alias_twice, "two outputs alias one input"),
        (alias_of_other_type, r"f32\[3, 2\] written to state of type f32\[2, 3\]"),
        (wrong_count, "has 2 ops in its list but counts 3"),
        (two_bounds, "symbol n has two bounds"),
    ],
    ids=lambda x: x.__name__ if callable(x) else "",
)
def test_damage_is_found(damage: Callable[[Graph], None], message: str) -> None:
    graph = parse(TEXT)
    graph.verify()
    damage(graph)
    with pytest.raises(VerifyError, match=message):
        graph.verify()


def test_the_user_line_is_named() -> None:
    graph = parse(TEXT)
    wrong_result(graph)
    with pytest.raises(VerifyError) as caught:
        graph.verify()
    assert (caught.value.filename, caught.value.lineno) == ("net.py", 12)
    assert "= neg %x" in str(caught.value)


def test_use_lists_follow_every_edit() -> None:
    graph = parse(TEXT)
    a, b = graph.ops
    b.set_operand(1, a.results[0])
    graph.verify()
    a.results[0].replace_by(graph.inputs[0])
    assert graph.outputs[0] is graph.inputs[0]
    assert not a.results[0].uses
    a.erase()
    graph.verify()
    assert list(graph.ops) == [b] and len(graph) == 1
    with pytest.raises(AssertionError, match="results are used"):
        c = Builder(graph).neg(b.results[0])
        assert c.op is not None
        b.erase()


def test_insertion_before_and_during_iteration() -> None:
    graph = parse(TEXT)
    seen = []
    for op in graph.ops:
        seen.append(op.name)
        Builder(graph, before=op, loc=Location("new.py", 1)).exp(graph.inputs[0])
    assert seen == ["neg", "add"]
    assert [op.name for op in graph.ops] == ["exp", "neg", "exp", "add"]
    graph.verify()


def test_copy_shares_nothing_mutable() -> None:
    graph = parse(TEXT)
    text = str(graph)
    copy = graph.copy()
    assert str(copy) == text
    copy.outputs[0].replace_by(copy.inputs[0])
    copy.aliases.clear()
    next(copy.ops).attrs["x"] = 1
    assert str(graph) == text
    graph.verify()
