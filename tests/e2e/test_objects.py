"""Objects of whole training steps for every target: few kernels, and nothing undefined but memory functions."""

from __future__ import annotations

from typing import Any

import pytest

from graphc.backends.llvm.codegen import kernel_objects
from graphc.backends.llvm.elf import read_symbols
from graphc.compiler.driver import lower_graph, make_context
from graphc.ir.program import Program
from graphc.ir.target import TARGETS
from tests.e2e.models import batches, tensors, training

ALLOWED = {"memset", "memcpy", "memmove"}
MACHINES = {"x86_64": 62, "aarch64": 183}
CASES = [("mlp", "sgd"), ("mlp", "adam"), ("cnn", "sgd"), ("cnn", "adam")]
BATCH = tensors(batches(1)[0])


def planned(model: str, optimizer: str, target: str) -> Program:
    graph = training(model, optimizer).step.trace(*BATCH)
    return lower_graph(graph, make_context(target)).program


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("model", "optimizer"), CASES, ids=map("-".join, CASES))
def test_undefined_symbols(model: str, optimizer: str, target: str) -> None:
    objects = kernel_objects(planned(model, optimizer, target), TARGETS[target])
    assert objects
    machine = MACHINES[TARGETS[target].triple.partition("-")[0]]
    undefined: set[str] = set()
    for symbol, code in objects.items():
        found = read_symbols(code)
        assert found.defined == {symbol}, "an object defines its kernel and nothing else"
        assert int.from_bytes(code[18:20], "little") == machine
        undefined |= found.undefined
    print(f"{model} with {optimizer} for {target}: {len(objects)} objects, undefined {sorted(undefined)}")
    assert undefined <= ALLOWED


@pytest.mark.parametrize("target", ["host", *TARGETS])
@pytest.mark.parametrize(("optimizer", "most"), [("sgd", 10), ("adam", 10)])
def test_kernels_of_the_digits_mlp_step(optimizer: str, most: int, target: str) -> None:
    program = planned("mlp", optimizer, target)
    calls = [call for phase in program.phases for call in phase.calls]
    print(
        f"digits MLP step with {optimizer} for {target}: {len(calls)} kernels in {len(program.phases)} phases"
    )
    print(program)
    assert len(calls) <= most


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_kernels_are_not_one_per_op(model: str) -> None:
    stages: dict[str, Any] = training(model, "adam").step.stages(*BATCH)
    kernels, ops = len(stages["schedule"]), sum(1 for _ in stages["optimise"].ops)
    print(f"{model} step with adam: {ops} ops in {kernels} kernels")
    assert kernels * 5 < ops


def test_no_input_is_unfolded_for_a_convolution() -> None:
    """An im2col matrix of the whole input would be nine times the input; the arena holds far less."""
    program = planned("cnn", "sgd", "host")
    pixels = 4 * 32 * 64
    activations = 4 * 32 * 8 * 64
    largest = max(b.type.nbytes for b in program.of_kind("temporary"))
    print(f"largest temporary {largest} bytes, activations {activations}, im2col {9 * pixels}")
    assert largest <= activations
