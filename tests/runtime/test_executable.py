"""Programs of hand-written kernels: results, threads, failures, memory, re-entrancy."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from graphc.backends.llvm.text import Builder, Val
from graphc.ir.failure import failed_check
from graphc.ir.program import Buffer, KernelCall, Phase, Program
from graphc.runtime import buffers
from graphc.runtime.executable import Executable
from graphc.runtime.layout import POOL, program_tables
from graphc.runtime.process import POOL_WORDS
from tests.runtime.handmade import (
    Kernel,
    binary_kernel,
    checking_kernel,
    executable,
    f32,
    i64s,
    make_kernel,
)

N = 1000


def chain(parts: int = 1, **options: Any) -> Executable:
    """output = (a + b) · b · constant, through two temporaries."""
    add, mul = binary_kernel("k_add", "fadd", N), binary_kernel("k_mul", "fmul", N)
    table = [
        Buffer("input", f32(N), 0),
        Buffer("input", f32(N), 1),
        Buffer("output", f32(N), 0),
        Buffer("temporary", f32(N), 0, offset=0),
        Buffer("temporary", f32(N), 0, offset=4096),
        Buffer("constant", f32(N), 0),
    ]
    phases: list[Any] = [
        [(add, (0, 1, 3), parts)],
        [(mul, (3, 1, 4), parts)],
        [(mul, (4, 5, 2), parts)],
    ]
    constant = np.linspace(-3, 3, N, dtype=np.float32)
    return executable(table, phases, arena_bytes=8192, constants=[constant], **options)


def operands(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    a, b = (random.standard_normal(N).astype(np.float32) for _ in range(2))
    return a, b, (a + b) * b * np.linspace(-3, 3, N, dtype=np.float32)


def run(program: Executable, *inputs: np.ndarray) -> np.ndarray:
    out = np.full(N, np.nan, np.float32)
    assert program.run([x.ctypes.data for x in inputs], [out.ctypes.data]) == 0
    return out


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_bits_do_not_depend_on_threads_or_parts(
    parts: int, count: int, set_threads: Callable[[int], None]
) -> None:
    set_threads(count)
    a, b, expected = operands()
    program = chain(parts)
    for _ in range(50):
        np.testing.assert_array_equal(run(program, a, b), expected)


def marking_kernel(n: int) -> Kernel:
    """buffers[0][i] += 1, buffers[1][i] = address of the running thread's stack; each index takes a while."""

    def body(b: Builder, i: Val, at: Sequence[Val], _: dict[str, Val]) -> None:
        count = b.gep(at[0], i, "i64")
        b.store(b.add(b.load("i64", count, 8), Val("i64", "1")), count, 8)
        spot = b.alloca("i64", 1, 8)

        def turn(_: Val, carried: tuple[Val, ...]) -> tuple[Val, ...]:
            b.emit(f"store volatile {carried[0]}, {spot}, align 8")
            return (b.add(carried[0], Val("i64", "1")),)

        b.loop(0, 20000, 1, (Val("i64", "0"),), turn)
        b.store(b.op("i64", f"ptrtoint {spot} to i64"), b.gep(at[1], i, "i64"), 8)

    return make_kernel("k_mark", 2, n, body)


def test_items_are_shared_between_threads_and_each_runs_once(
    set_threads: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    items = 48
    program = executable(
        [Buffer("output", i64s(items), i) for i in range(2)],
        [[(marking_kernel(items), (0, 1), items)]],
    )
    set_threads(2)
    counts, stacks = np.zeros(items, np.int64), np.zeros(items, np.int64)
    calls = 0
    while calls == 0 or (len(set(stacks >> 22)) == 1 and calls < 1000):  # until the worker has come
        assert program.run([], [counts.ctypes.data, stacks.ctypes.data]) == 0
        calls += 1
        np.testing.assert_array_equal(counts, calls)
    threads_seen = sorted(set(stacks >> 22))
    with capsys.disabled():
        print(f"\npartitions of call {calls}, by thread:")
        for number, stack in enumerate(threads_seen):
            print(f"  thread {number}: {np.flatnonzero(stacks >> 22 == stack).tolist()}")
    assert len(threads_seen) == 2


def test_caller_does_not_wait_for_a_worker_that_never_comes(set_threads: Callable[[int], None]) -> None:
    set_threads(1)
    a, b, expected = operands()
    wanted, started = POOL.offset["wanted"], POOL.offset["started"]
    POOL_WORDS[wanted] = POOL_WORDS[started] = 1  # says that a worker runs, but there is none
    try:
        np.testing.assert_array_equal(run(chain(parts=8), a, b), expected)
    finally:
        POOL_WORDS[wanted] = POOL_WORDS[started] = 0


def test_phase_with_more_items_than_one_publication(set_threads: Callable[[int], None]) -> None:
    items = 70_000

    def body(b: Builder, i: Val, at: Sequence[Val], _: dict[str, Val]) -> None:
        count = b.gep(at[0], i, "i64")
        b.store(b.add(b.load("i64", count, 8), Val("i64", "1")), count, 8)

    kernel = make_kernel("k_count", 1, items, body)
    program = executable([Buffer("output", i64s(items), 0)], [[(kernel, (0,), items)]])
    for count in (1, 2):
        set_threads(count)
        out = np.zeros(items, np.int64)
        assert program.run([], [out.ctypes.data]) == 0
        np.testing.assert_array_equal(out, 1)


def checked(check_base: int = 0) -> Executable:
    """Checks the input, then adds it to the state."""
    table = [
        Buffer("input", f32(N), 0),
        Buffer("state", f32(N), 0),
        Buffer("temporary", f32(N), 0),
        Buffer("output", f32(N), 0),
    ]
    check, add = checking_kernel("k_check", N), binary_kernel("k_add", "fadd", N)
    copy = checking_kernel("k_copy", N)
    phases: list[Any] = [[(check, (0, 2), 8)], [(add, (2, 1, 1), 4)], [(copy, (1, 3), 1)]]
    return executable(table, phases, arena_bytes=4096, writes=[1], check_base=check_base)


def test_ranges_behind_one_another_end_before_the_next_begin() -> None:
    """Two groups of ranges that run together, with no phase between them."""
    phases = tuple(Phase(()) for _ in range(4))
    program = Program("p", (), phases, 0, together=(((0, 1), (1, 2)), ((2, 3), (3, 4))))
    tables = program_tables(program, [])
    # Places: the first group and the mark behind it, phases 0 and 1, then the same for the second.
    assert tables.items == ((-1 - 2, 3), (-1 - 3, 4), (-1 - 6, 7), (-1 - 7, 8))
    assert [tables.phases[place][0] for place in (1, 5)] == [4, 8]


@pytest.mark.parametrize(
    ("parts", "items"),
    [
        ([1, 1, 1], [(0, 0), (1, 0), (2, 0)]),
        ([2, 1, 1], [(0, 0), (1, 0), (2, 0), (0, 1)]),
        ([1, 3, 1, 2], [(1, 0), (1, 1), (3, 0), (0, 0), (2, 0), (3, 1), (1, 2)]),
    ],
)
def test_divided_calls_stand_around_the_others(parts: list[int], items: list[tuple[int, int]]) -> None:
    calls = tuple(KernelCall(None, (), count) for count in parts)
    tables = program_tables(Program("p", (), (Phase(calls),), 0), ["k"] * len(parts))
    assert list(tables.items) == items


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("bad", "base", "code"),
    [((), 0, 0), ((7,), 0, 2), ((7, 900), 0, 2), ((-900, 3), 0, 1), ((3, -900), 5, 6)],
)
def test_failed_check_leaves_state_alone(
    bad: tuple[int, ...], base: int, code: int, count: int, set_threads: Callable[[int], None]
) -> None:
    """`bad` are positions of a -1 in the input; a negative one means a -200."""
    set_threads(count)
    values, state = np.ones(N, np.float32), np.full(N, 5, np.float32)
    for position in bad:
        values[abs(position)] = -1 if position > 0 else -200
    out = np.zeros(N, np.float32)
    error = checked(base).run([values.ctypes.data], [out.ctypes.data], [state.ctypes.data])
    assert (failed_check(error)[0] if error else 0) == code
    np.testing.assert_array_equal(state, 6 if code == 0 else 5)


def test_frames_and_arenas_go_back() -> None:
    gc.collect()
    before = buffers.live_blocks()
    program = chain()
    a, b, _ = operands()
    for _ in range(3):
        run(program, a, b)
    assert buffers.live_blocks() == before + 1  # the idle frame
    del program
    gc.collect()
    assert buffers.live_blocks() == before


def test_concurrent_calls_have_their_own_frames(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    program = chain(parts=4, release=True)

    def work(seed: int) -> None:
        a, b, expected = operands(seed)
        for _ in range(200):
            np.testing.assert_array_equal(run(program, a, b), expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_calls_that_write_one_state_are_serialised(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    add = binary_kernel("k_add", "fadd", N)
    table = [Buffer("input", f32(N), 0), Buffer("state", f32(N), 0)]
    program = executable(table, [[(add, (0, 1, 1), 4)]], writes=[0], release=True)
    state, one = np.zeros(N, np.float32), np.ones(N, np.float32)
    binding = program.bind([state.ctypes.data], state)

    def work() -> None:
        for _ in range(500):
            assert program.run([one.ctypes.data], [], binding) == 0

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    np.testing.assert_array_equal(state, 2000)


@pytest.mark.parametrize(("inputs", "outputs", "states"), [(1, 1, 0), (3, 1, 0), (2, 0, 0), (2, 1, 1)])
def test_wrong_number_of_addresses(inputs: int, outputs: int, states: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        chain().run([0] * inputs, [0] * outputs, [0] * states)


@pytest.mark.parametrize(
    ("address", "error"), [(None, TypeError), ("0", TypeError), (1.5, TypeError), (1 << 70, OverflowError)]
)
def test_what_is_no_address(address: Any, error: type[Exception]) -> None:
    program = chain()
    a, b, expected = operands()
    run(program, a, b)
    before = buffers.live_blocks()
    with pytest.raises(error):
        program.run([a.ctypes.data, address], (b.ctypes.data,))
    assert buffers.live_blocks() == before
    np.testing.assert_array_equal(run(program, a, b), expected)


def test_forked_child_starts_its_own_workers(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    program = chain(parts=8)
    a, b, expected = operands()
    run(program, a, b)
    child = os.fork()
    if child == 0:
        try:
            good = POOL_WORDS[POOL.offset["started"]] == 0
            good = good and all(np.array_equal(run(program, a, b), expected) for _ in range(100))
            good = good and POOL_WORDS[POOL.offset["started"]] == 1
        except BaseException:
            good = False
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(run(program, a, b), expected)


EXIT_WITH_RUNNING_WORKERS = """
import numpy as np
from graphc.runtime import threads
threads.set_num_threads(3)
from tests.runtime.test_executable import chain, operands, run
from tests.runtime.handmade import Tensor
program, kept = chain(parts=8), Tensor([1.0])
a, b, expected = operands()
assert np.array_equal(run(program, a, b), expected)
"""


def test_interpreter_exits_with_workers_and_tensors_alive() -> None:
    done = subprocess.run([sys.executable, "-c", EXIT_WITH_RUNNING_WORKERS], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
