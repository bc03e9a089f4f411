"""The thread pool's native side: start, stop, wake, and the loop of a worker.

Linux threads through libc: workers spin for `spin_ns` after their last item, then sleep in a
futex. Invariants: all words of the pool outlive every worker; a worker that goes to sleep
registers itself in `sleepers` before it looks for work a last time, and whoever publishes
work looks at `sleepers` after publishing, so that no wake-up is lost.
"""

from __future__ import annotations

from graphc.backends.llvm.host.driver import claim_back, has_work
from graphc.backends.llvm.host.routine import NULL, RARE, Routine, i64
from graphc.backends.llvm.text import ModuleText, Val
from graphc.runtime.layout import ITEM, POOL

__all__ = ["MAX_WORKERS", "add_thread_pool"]

MAX_WORKERS = 1023
_FUTEX = {"x86_64": 202, "aarch64": 98}
_FUTEX_WAIT_PRIVATE = 128
_FUTEX_WAKE_PRIVATE = 129
_CLOCK_MONOTONIC = 1
_SIG_BLOCK = 0
_SIG_SETMASK = 2
_SIGSET_BYTES = 128
_ALONE_NS = 50_000
"""How long a worker without work keeps its core from others: longer than what lies between two phases."""
_CHECKS = 256
"""Looks for work between two looks at the clock."""


def add_thread_pool(module: ModuleText) -> None:
    """All functions of the pool."""
    _add_clock(module)
    _add_wake(module)
    _add_worker(module)
    _add_start(module)
    _add_stop(module)


def _futex(r: Routine, address: Val, operation: int, value: Val) -> None:
    number = _FUTEX[module_arch(r.module)]
    arguments: list[Val] = [
        i64(number),
        address,
        i64(operation),
        r.cast("zext", value, "i64"),
        NULL,
        NULL,
        i64(0),
    ]
    r.import_call("i64", "syscall", arguments, variadic=1)


def module_arch(module: ModuleText) -> str:
    """Architecture part of the module's target triple."""
    return module.target.triple.partition("-")[0].replace("arm64", "aarch64")


def _add_clock(module: ModuleText) -> None:
    r = Routine.start(module, "nanoseconds", "i64", [], linkage="internal")
    time = r.alloca("i64", 2, 16)
    r.import_call("i32", "clock_gettime", [Val("i32", str(_CLOCK_MONOTONIC)), time])
    seconds = r.mul(r.load("i64", time, 8), i64(1_000_000_000))
    r.ret(r.add(seconds, r.load("i64", r.gep(time, 1, "i64"), 8)))


def _add_wake(module: ModuleText) -> None:
    r = Routine.start(
        module,
        "wake_workers",
        "void",
        [("ptr", "pool")],
        linkage="internal",
        attributes=RARE,
    )
    (pool,) = r.params
    wake = r.field(pool, POOL, "wake")
    r.atomic("add", wake, Val("i32", "1"))
    _futex(r, wake, _FUTEX_WAKE_PRIVATE, Val("i32", str(0x7FFFFFFF)))
    r.ret()


def _add_worker(module: ModuleText) -> None:
    """`ptr worker(ptr pool)`: runs items until the pool quits."""
    r = Routine.start(module, "worker", "ptr", [("ptr", "pool")])
    (pool,) = r.params
    number = r.add(r.atomic("add", r.field(pool, POOL, "entered"), i64(1)), i64(1))
    claim_at, quit_at = r.field(pool, POOL, "claim"), r.field(pool, POOL, "quit")
    deadline = r.variable(r.add(r.call("i64", "nanoseconds", []), r.read(pool, POOL, "spin_ns")))
    spins = r.variable(i64(0))
    with r.forever():
        again, idle = r.label("next"), r.label("idle")
        claim = r.atomic_load(claim_at)
        work = r.label("work")
        r.branch_if(has_work(r, claim), work, idle)

        r.block(work)
        ctx, program, first = (
            r.atomic_load(r.field(pool, POOL, name), "monotonic", "ptr")
            for name in ("context", "program", "first_item")
        )
        taken, index = claim_back(r, pool, claim)
        run = r.label("run")
        r.branch_if(taken, run, again)
        r.block(run)
        r.call_void("run_item", [ctx, program, r.record_at(first, index, ITEM), number, i64(0)])
        r.atomic("add", r.field(pool, POOL, "done"), i64(1), "release")
        deadline.set(i64(-1))
        r.branch(again)

        r.block(idle)
        with r.exit_if(r.nonzero(r.atomic_load(quit_at))):
            r.ret(NULL)
        spins.add(1)
        r.leave_if(r.nonzero(r.and_(spins.get(), i64(_CHECKS - 1))), again)
        # Rarely: a hypervisor takes the core from a guest whose pauses follow each other closely.
        r.pause()
        now = r.call("i64", "nanoseconds", [])
        with r.if_(r.icmp("eq", deadline.get(), i64(-1))):
            # The first look at the clock since the last item.
            deadline.set(r.add(now, r.read(pool, POOL, "spin_ns")))
        left = r.sub(deadline.get(), now)
        with r.exit_if(r.icmp("sgt", left, i64(0))):
            with r.if_(r.icmp("slt", left, r.sub(r.read(pool, POOL, "spin_ns"), i64(_ALONE_NS)))):
                # Whoever else waits for this core may have it.
                r.import_call("i32", "sched_yield", [])
            r.branch(again)
        _sleep(r, pool)
        deadline.set(i64(-1))
        r.branch(again)
        r.block(again)


def _sleep(r: Routine, pool: Val) -> None:
    """Sleeps in the futex unless there is work or the pool quits."""
    sleepers, wake = r.field(pool, POOL, "sleepers"), r.field(pool, POOL, "wake")
    r.atomic("add", sleepers, i64(1))
    seen = r.atomic_load(wake, "seq_cst", "i32")
    work = has_work(r, r.atomic_load(r.field(pool, POOL, "claim"), "seq_cst"))
    leaving = r.nonzero(r.atomic_load(r.field(pool, POOL, "quit"), "seq_cst"))
    with r.if_(r.zero(r.or_(work, leaving))):
        _futex(r, wake, _FUTEX_WAIT_PRIVATE, seen)
    r.atomic("sub", sleepers, i64(1))


def _add_start(module: ModuleText) -> None:
    """`void pool_start(ptr pool)`: starts `wanted` workers with all signals blocked. Caller owns the pool."""
    r = Routine.start(module, "pool_start", "void", [("ptr", "pool")], attributes=RARE)
    (pool,) = r.params
    all_signals, before = r.alloca("i8", _SIGSET_BYTES, 16), r.alloca("i8", _SIGSET_BYTES, 16)
    r.memset(all_signals, -1, i64(_SIGSET_BYTES))
    r.import_call("i32", "pthread_sigmask", [Val("i32", str(_SIG_BLOCK)), all_signals, before])
    r.atomic_store(i64(0), r.field(pool, POOL, "quit"))
    r.atomic_store(i64(0), r.field(pool, POOL, "entered"))
    threads = r.read_ptr(pool, POOL, "threads")
    started = r.variable(i64(0))
    wanted = r.read(pool, POOL, "wanted")
    stop = r.label("enough")
    with r.while_(lambda: r.icmp("slt", started.get(), wanted)):
        slot = r.gep(threads, started.get(), "i64")
        error = r.import_call("i32", "pthread_create", [slot, NULL, Val("ptr", "@worker"), pool])
        r.leave_if(r.nonzero(error), stop)
        started.add(1)
    r.branch(stop)
    r.block(stop)
    r.write(started.get(), pool, POOL, "started")
    r.import_call("i32", "pthread_sigmask", [Val("i32", str(_SIG_SETMASK)), before, NULL])
    r.ret()


def _add_stop(module: ModuleText) -> None:
    """`void pool_stop(ptr pool)`: waits until nobody runs, then ends and joins all workers."""
    r = Routine.start(module, "pool_stop", "void", [("ptr", "pool")], attributes=RARE)
    (pool,) = r.params
    owner = r.field(pool, POOL, "owner")
    r.lock(owner)
    r.atomic_store(i64(1), r.field(pool, POOL, "quit"), "seq_cst")
    r.call_void("wake_workers", [pool])
    threads = r.read_ptr(pool, POOL, "threads")
    with r.each(r.read(pool, POOL, "started")) as n:
        r.import_call("i32", "pthread_join", [r.load("i64", r.gep(threads, n, "i64"), 8), NULL])
    r.write(i64(0), pool, POOL, "started")
    r.unlock(owner)
    r.ret()
