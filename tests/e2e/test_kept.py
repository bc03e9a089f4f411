"""Packed weights that a compiled function keeps from call to call: each way of writing a weight is seen by the next call.

Every check compares with the same product recorded without `compile`, to the last bit, and the function is called often
enough before that for its calls to be native.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.backends.llvm.compile import host_target
from graphc.runtime import buffers

ROWS, STEPS = 16, 256
COLUMNS = host_target().l2_bytes // (4 * STEPS) + 5
"""More than L2 holds, and no multiple of a panel."""


class Case:
    """A linear layer, a compiled function that applies it, and rows."""

    def __init__(self, rows: int = ROWS) -> None:
        graphc.manual_seed(0)
        self.layer = nn.Linear(STEPS, COLUMNS)
        self.x = graphc.randn(rows, STEPS)

        @graphc.compile
        def apply(x: Any) -> Any:
            with graphc.no_grad():
                return self.layer(x)

        self.apply = apply
        for _ in range(3):
            apply(self.x)

    @property
    def kept(self) -> int:
        """How many values the last program that was made keeps."""
        (programs,) = self.apply._programs.values()
        return len(programs[-1].compiled.program.kept)

    def check(self) -> None:
        """The compiled function gives what the layer gives now."""
        with graphc.no_grad():
            expected = self.layer(self.x).numpy().copy()
        for _ in range(3):
            np.testing.assert_array_equal(self.apply(self.x).numpy(), expected)


def _compiled_step(case: Case) -> Callable[[], Any]:
    optimizer = optim.SGD(case.layer.parameters(), lr=0.1)

    @graphc.compile
    def step(x: Any) -> Any:
        loss = case.layer(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    for _ in range(3):
        step(case.x)
    return lambda: step(case.x)


def _recorded_step(case: Case) -> Callable[[], Any]:
    optimizer = optim.Adam(case.layer.parameters())

    def step() -> None:
        optimizer.zero_grad()
        case.layer(case.x).sum().backward()
        optimizer.step()

    return step


def _in_place(case: Case) -> Callable[[], Any]:
    def write() -> None:
        with graphc.no_grad():
            case.layer.weight.mul_(1.5)

    return write


def _part_in_place(case: Case) -> Callable[[], Any]:
    @graphc.compile
    def write() -> None:
        with graphc.no_grad():
            case.layer.weight[3:7].add_(1.0)

    return write


def _argument_in_place(case: Case) -> Callable[[], Any]:
    @graphc.compile
    def write(w: Any) -> None:
        with graphc.no_grad():
            w.add_(0.25)

    return lambda: write(case.layer.weight)


def _state_dict(case: Case) -> Callable[[], Any]:
    return lambda: case.layer.load_state_dict(nn.Linear(STEPS, COLUMNS).state_dict())


def _array(case: Case) -> Callable[[], Any]:
    def write() -> None:
        case.layer.weight.detach().numpy()[5] += 2.0

    return write


def _array_that_stays(case: Case) -> Callable[[], Any]:
    array = case.layer.weight.detach().numpy()

    def write() -> None:
        array[7] += 1.0

    return write


def _other_parameter(case: Case) -> Callable[[], Any]:
    def write() -> None:
        case.layer.weight = nn.Parameter(graphc.randn(COLUMNS, STEPS))

    return write


WRITES = [
    _compiled_step, _recorded_step, _in_place, _part_in_place, _argument_in_place, _state_dict, _array, _array_that_stays,
    _other_parameter,
]  # fmt: skip


@pytest.mark.parametrize("make", WRITES)
def test_the_next_call_sees_a_write(make: Callable[[Case], Callable[[], Any]]) -> None:
    case = Case()
    assert case.kept == 1
    write = make(case)
    case.check()
    for _ in range(3):
        before = case.layer.weight.detach().clone()
        write()
        assert not graphc.equal(before, case.layer.weight)
        case.check()


def test_an_array_written_while_it_lived_is_seen_when_it_is_gone() -> None:
    case = Case()
    array = case.layer.weight.detach().numpy()
    case.check()
    array[0] = 3.0
    del array
    gc.collect()
    case.check()


def test_calls_are_native_between_writes() -> None:
    case = Case()
    step = _compiled_step(case)
    case.check()
    before = case.apply.cache_info()
    (program,) = next(iter(case.apply._programs.values()))
    native = program.native_calls
    for _ in range(4):
        step()
        case.apply(case.x)
    assert case.apply.cache_info().misses == before.misses
    assert program.native_calls == native + 4


def test_a_weight_is_kept_once_for_several_programs() -> None:
    case = Case()
    case.apply(graphc.randn(2 * ROWS, STEPS))
    programs = [p for known in case.apply._programs.values() for p in known]
    assert [len(p.compiled.program.kept) for p in programs] == [1, 1]
    blocks = {block for p in programs for s in p._sized.values() for _, block in s.binding().kept}
    assert len(blocks) == 1
    case.check()


def test_models_of_equal_structure_keep_apart() -> None:
    cases = [Case(), Case()]
    with graphc.no_grad():
        cases[1].layer.weight.neg_()
    for case in (*cases, *cases):
        case.check()


def test_what_is_kept_goes_with_the_function() -> None:
    case = Case()
    before = buffers.live_blocks()
    del case.apply
    gc.collect()
    assert buffers.live_blocks() < before


def test_calls_from_several_threads() -> None:
    case = Case()
    step = _compiled_step(case)
    failed: list[BaseException] = []
    for _ in range(5):
        step()
        with graphc.no_grad():
            expected = case.layer(case.x).numpy().copy()

        def look(expected: Any = expected) -> None:
            try:
                for _ in range(5):
                    np.testing.assert_array_equal(case.apply(case.x).numpy(), expected)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=look) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not failed


def _keeps(rows: int, *, budget: int | None = None, train: bool = False) -> int:
    layer = nn.Linear(STEPS, COLUMNS)

    def apply(x: Any) -> Any:
        if train:
            loss = layer(x).sum()
            loss.backward()
            with graphc.no_grad():
                layer.bias.add_(1.0)
            return loss
        with graphc.no_grad():
            return layer(x)

    compiled = graphc.compile(apply, memory_budget=budget)
    compiled(graphc.randn(rows, STEPS))
    ((program,),) = compiled._programs.values()
    return len(program.compiled.program.kept)


@pytest.mark.parametrize(
    ("keeps", "options"),
    [
        (1, {"rows": ROWS}),
        (0, {"rows": 1}),
        (0, {"rows": 1024}),
        (0, {"rows": ROWS, "budget": 1 << 30}),
        (0, {"rows": ROWS, "train": True}),
    ],
)
def test_what_is_worth_keeping(keeps: int, options: dict[str, Any]) -> None:
    assert _keeps(**options) == keeps


@pytest.mark.parametrize("window", [3, 7])
def test_weights_of_windows_are_read_as_they_lie(window: int) -> None:
    layer = nn.Conv2d(16, 32, window, stride=window // 3, padding=window // 2, bias=False)

    @graphc.compile
    def apply(x: Any) -> Any:
        with graphc.no_grad():
            return layer(x)

    apply(graphc.randn(1, 16, 32, 32))
    ((program,),) = apply._programs.values()
    assert not program.compiled.program.kept
