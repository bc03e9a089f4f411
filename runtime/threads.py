"""How many threads programs run on, and the life of the native worker pool.

The default is the number of physical cores that this process may use (affinity mask and
control-group quota), or `GRAPHC_THREADS`. Results never depend on it. Workers start when a
program first has work for them; a forked child starts its own. Invariant: `POOL_WORDS` says
how many workers run (`started`), and only a caller that owns the pool changes that.
"""

from __future__ import annotations

import atexit
import math
import os
import time
import warnings
from pathlib import Path

from graphc.runtime.host import host, is_loaded
from graphc.runtime.layout import POOL, Words
from graphc.runtime.process import POOL_WORDS

__all__ = ["get_num_threads", "set_num_threads", "usable_cores"]

MAX_THREADS = 1024
_EXIT_SECONDS = 1.0
_SPIN_NS = 5_000_000
"""How long a worker looks for work before it sleeps: longer than the Python between two training steps
usually takes, since waking it costs tens of microseconds to half a millisecond."""

_WANTED, _STARTED, _SPIN, _THREADS = (POOL.offset[n] for n in ("wanted", "started", "spin_ns", "threads"))


def _quota_cores() -> float:
    """Cores' worth of processor time that the control group grants; infinite where it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    base = Path("/sys/fs/cgroup/cpu")
    try:
        limit = int((base / "cpu.cfs_quota_us").read_text())
        return limit / int((base / "cpu.cfs_period_us").read_text()) if limit > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _physical_cores(processors: set[int]) -> int:
    """Distinct cores behind the logical `processors`; their number where the system does not say."""
    siblings = set()
    for number in processors:
        path = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        try:
            siblings.add(path.read_text().strip())
        except OSError:
            return len(processors)
    return len(siblings)


def usable_cores() -> int:
    """Physical cores that this process may use, at least 1."""
    processors = os.sched_getaffinity(0)
    return max(1, math.ceil(min(_physical_cores(processors), _quota_cores())))


def _initial_threads() -> int:
    text = os.environ.get("GRAPHC_THREADS")
    if text is None:
        return usable_cores()
    if text.isdecimal() and 1 <= int(text) <= MAX_THREADS:
        return int(text)
    warnings.warn(
        f"GRAPHC_THREADS={text!r} is ignored: expected a whole number from 1 to {MAX_THREADS}",
        RuntimeWarning, stacklevel=2,
    )  # fmt: skip
    return usable_cores()


def set_num_threads(n: int) -> None:
    """Lets programs run on `n` threads, the calling one included. Raises RuntimeError unless 1 ≤ n ≤ 1024.

    Waits until no program runs on the pool.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"set_num_threads expects an int, but got {type(n).__name__}")
    if not 1 <= n <= MAX_THREADS:
        raise RuntimeError(f"set_num_threads expects a number from 1 to {MAX_THREADS}, but got {n}")
    if n - 1 == POOL_WORDS[_WANTED]:
        return
    POOL_WORDS[_WANTED] = n - 1
    # With more threads than cores a spinning worker would take time from one that works.
    POOL_WORDS[_SPIN] = _SPIN_NS if n <= usable_cores() else 0
    _stop()


def get_num_threads() -> int:
    """Number of threads that programs run on."""
    return POOL_WORDS[_WANTED] + 1


def _stop() -> None:
    """Ends the workers; the next program with work for them starts new ones."""
    if is_loaded() and POOL_WORDS[_STARTED]:
        host().pool_stop(POOL_WORDS.address)


def _stop_at_exit() -> None:
    """Ends the workers, but never waits long for a program that another thread was in when Python ended."""
    deadline = time.monotonic() + _EXIT_SECONDS
    while POOL_WORDS[POOL.offset["owner"]] and time.monotonic() < deadline:
        time.sleep(0.001)
    if not POOL_WORDS[POOL.offset["owner"]]:
        _stop()


def _reset_after_fork() -> None:
    """A child has none of its parent's threads: the pool is as new."""
    kept = {name: POOL_WORDS[POOL.offset[name]] for name in ("wanted", "spin_ns", "threads", "claim")}
    for i in range(len(POOL_WORDS)):
        POOL_WORDS[i] = 0
    for name, value in kept.items():
        POOL_WORDS[POOL.offset[name]] = value
    # Whatever was published before the fork is not this process's work.
    POOL_WORDS[POOL.offset["claim"]] &= -1 << 32


_thread_handles = Words([0] * MAX_THREADS, permanent=True)
POOL_WORDS[_THREADS] = _thread_handles.address
set_num_threads(_initial_threads())
os.register_at_fork(after_in_child=_reset_after_fork)
atexit.register(_stop_at_exit)
