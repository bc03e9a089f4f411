"""Memory blocks, grad modes and thread counts."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import graphc.backends.llvm.host
from graphc.runtime import buffers, layout, process, state, threads

assert graphc.backends.llvm.host

SIZES = [0, 1, 63, 64, 65, 128, 256, 257, 320, 321, 1000, 4096, 4097, 10**5, (1 << 20) - 1, 1 << 20, 5 << 20]


@pytest.fixture
def no_idle_blocks() -> Iterator[None]:
    """An empty pool, and the usual limit again afterwards."""
    gc.collect()
    buffers.trim()
    yield
    buffers.set_cache_limit(1 << 30)


@pytest.mark.parametrize("nbytes", SIZES)
def test_block(nbytes: int, no_idle_blocks: None) -> None:
    before = buffers.live_blocks()
    owners = [buffers.allocate(nbytes) for _ in range(20)]
    addresses = sorted(buffers.address(o) for o in owners)
    assert all(a % 64 == 0 for a in addresses)
    assert all(b - a >= nbytes for a, b in itertools.pairwise(addresses))
    for n, owner in enumerate(owners):
        buffers.array(owner, (nbytes,), np.uint8)[...] = n
    for n, owner in enumerate(owners):
        assert (buffers.array(owner, (nbytes,), np.uint8) == n).all()
    assert buffers.live_blocks() == before + 20
    owners.clear()
    del owner
    gc.collect()
    assert buffers.live_blocks() == before
    assert 20 * nbytes <= buffers.cached_bytes() <= max(20 * 64, 25 * nbytes + 20 * 64)
    buffers.trim()
    assert buffers.cached_bytes() == 0


def test_block_is_reused_and_array_keeps_it() -> None:
    owner = buffers.allocate(1000)
    address = buffers.address(owner)
    view = buffers.array(owner, (10, 25), np.float32)
    view[...] = 3
    del owner
    gc.collect()
    assert buffers.address(buffers.allocate(1000)) != address
    assert view.ctypes.data == address
    del view
    gc.collect()
    assert buffers.address(buffers.allocate(1000)) == address


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.float16, np.float64, ml_dtypes.bfloat16])
def test_array_shares_memory(dtype: type) -> None:
    owner = buffers.allocate(64)
    a, b = (buffers.array(owner, (2, 3), dtype) for _ in range(2))
    a[...] = 0
    a[1, 2] = 1
    assert b.dtype == np.dtype(dtype)
    assert b[1, 2] == 1
    with pytest.raises(ValueError, match="read-only"):
        buffers.array(owner, (2, 3), dtype, writable=False)[0, 0] = 1


def test_limit_of_idle_bytes(no_idle_blocks: None) -> None:
    buffers.set_cache_limit(3000)
    owners = [buffers.allocate(1024) for _ in range(5)]
    owners.clear()
    assert buffers.cached_bytes() == 2048


def test_idle_bytes_follow_what_was_live(no_idle_blocks: None) -> None:
    sizes = [8 << 20, 11 << 20, 15 << 20, 21 << 20]
    for nbytes in sizes:
        owner = buffers.allocate(nbytes)
        del owner
        assert buffers.cached_bytes() <= 1.25 * nbytes + (1 << 20)
    small = [buffers.allocate(1 << 20) for _ in range(10)]
    assert buffers.cached_bytes() <= 13 << 20
    del small


@pytest.mark.parametrize("nbytes", [1 << 45, 1 << 62])
def test_no_memory(nbytes: int) -> None:
    before = buffers.live_blocks()
    with pytest.raises(MemoryError):
        buffers.allocate(nbytes)
    assert buffers.live_blocks() == before


@pytest.mark.parametrize(("size", "error"), [(-1, ValueError), (1 << 70, OverflowError)])
def test_sizes_that_are_none(size: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        buffers.allocate(size)


def test_grad_mode_belongs_to_the_thread() -> None:
    assert state.grad_mode() == 1
    state.set_grad_mode(0)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(state.grad_mode).result() == 1
            pool.submit(state.set_grad_mode, 2).result()
            assert pool.submit(state.grad_mode).result() == 2
            assert state.grad_mode() == 0
        # The other thread ended in its mode; a new one starts in the default mode.
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(state.grad_mode).result() == 1
    finally:
        state.set_grad_mode(1)
    assert state.grad_mode() == 1


def test_epoch_rises() -> None:
    before = state.epoch()
    state.bump_pending()
    pending = state.epoch()
    assert pending > before
    assert state.same_guards(before, pending)
    state.bump_epoch()
    assert state.epoch() > pending
    assert not state.same_guards(pending, state.epoch())


@pytest.mark.parametrize(
    ("n", "error"),
    [(0, RuntimeError), (-1, RuntimeError), (1025, RuntimeError), (1.0, TypeError), (True, TypeError)],
)
def test_bad_thread_counts(n: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="set_num_threads expects"):
        threads.set_num_threads(n)  # type: ignore[arg-type]


def test_thread_count(set_threads: Callable[[int], None]) -> None:
    for n in (1, 3, 2):
        set_threads(n)
        assert threads.get_num_threads() == n


@pytest.mark.parametrize(
    ("setting", "expected", "warns"),
    [("3", "3", False), ("0", None, True), ("many", None, True), ("", None, True)],
)
def test_threads_from_the_environment(setting: str, expected: str | None, warns: bool) -> None:
    code = "from graphc.runtime import threads as t; print(t.get_num_threads(), t.usable_cores())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"GRAPHC_THREADS": setting},
        capture_output=True,
        text=True,
        check=True,
    )
    count, usable = done.stdout.split()
    assert count == (usable if expected is None else expected)
    assert ("GRAPHC_THREADS" in done.stderr) == warns


@pytest.mark.parametrize("words", [process.STATE_WORDS, process.BLOCK_WORDS, process.POOL_WORDS])
def test_words_of_the_process_outlive_the_interpreter(words: layout.Words) -> None:
    """Tensors that die last, after every module, still give their blocks back to the pool."""

    def references(of: layout.Words) -> int:
        return sys.getrefcount(of._keep[0])

    assert references(words) == references(layout.Words([0])) + 1  # that nobody gives back
