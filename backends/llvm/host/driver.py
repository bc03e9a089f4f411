"""Drivers: native functions that run a program's phases over a context.

`run_serial(ctx, program)` runs everything on the calling thread and calls nothing but
kernels, so it serves the process and exported libraries alike. `run_spmd(ctx, program, pool)`
shares each phase's items with the pool's workers.

Between the phases stand marks where a range of them begins and ends that is run several times, and where a
byte decides which range comes next; `pass_mark` moves the rows of the buffer table there. It runs on the calling
thread between phases, so all threads follow one decision.

Invariants: after a phase that set the error word no later phase runs. The calling thread
claims items from the front and workers from the back of a phase; it waits for items that
somebody claimed and never for a worker. A worker touches a context only while it holds a
claimed item, so a late worker can meet nothing but the pool's own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from graphc.backends.llvm.host.routine import INLINED, Routine, i64
from graphc.backends.llvm.text import ModuleText, Val
from graphc.ir.failure import NUMBER_BITS
from graphc.runtime.layout import (
    BEGIN_REPEAT,
    CALL,
    CHOICE,
    CHOOSE,
    CONTEXT,
    GO_TO,
    ITEM,
    MOVE,
    PHASE,
    POOL,
    PROGRAM,
    REPEAT,
)

__all__ = ["add_item_runner", "add_serial_driver", "add_spmd_driver", "claim_back", "has_work"]

MAX_ITEMS = 0xFFFF
"""Items published at once; a longer phase is published in pieces."""


def add_item_runner(module: ModuleText) -> None:
    """`void run_item(ptr ctx, ptr program, ptr item, i64 thread, i64 whole)`: gathers the buffers of a call and runs one part.

    `thread` is 0 for the thread that calls the program, else the number of a worker. Where `whole` is not 0 the call's first
    item runs all of it as one part and its other items do nothing: what parts would each do again is done once.
    """
    r = Routine.start(
        module, "run_item", "void",
        [("ptr", "ctx"), ("ptr", "program"), ("ptr", "item"), ("i64", "thread"), ("i64", "whole")],
        linkage="internal", attributes="nounwind noinline",
    )  # fmt: skip
    ctx, program, item, thread, whole = r.params
    number = r.read(item, ITEM, "call")
    with r.exit_if(r.icmp("slt", number, i64(0))):
        r.call("i64", "run_range", [ctx, program, r.sub(i64(-1), number), r.read(item, ITEM, "part"), thread])
        r.ret()
    part = r.read(item, ITEM, "part")
    with r.exit_if(r.nonzero(r.mul(whole, part))):
        r.ret()
    call = r.record_at(r.read_ptr(program, PROGRAM, "calls"), number, CALL)
    count = r.read(call, CALL, "row_count")
    rows = r.gep(r.read_ptr(program, PROGRAM, "rows"), r.read(call, CALL, "row_begin"), "i64")
    table = r.read_ptr(ctx, CONTEXT, "table")
    buffers = r.op("ptr", f"alloca ptr, {count}, align 16")
    with r.each(count) as n:
        row = r.load("i64", r.gep(rows, n, "i64"), 8)
        r.store(r.load_ptr(table, row), r.gep(buffers, n, "ptr"), 8)
    with r.if_(r.nonzero(r.mul(thread, r.read(call, CALL, "scratch")))):
        place = r.mul(r.sub(thread, i64(1)), r.read(program, PROGRAM, "scratch_bytes"))
        own = r.at_byte(r.read_ptr(ctx, CONTEXT, "scratch"), place)
        r.store(own, r.gep(buffers, r.sub(count, i64(1)), "ptr"), 8)
    parts = r.select(r.nonzero(whole), i64(1), r.read(call, CALL, "parts"))
    kernel = r.read_ptr(call, CALL, "kernel")
    # Kernels put the smallest error word of a failed check here with an unsigned atomic minimum.
    failed = r.variable(i64(-1))
    r.call_address("void", kernel, [buffers, part, parts, failed.slot])
    with r.if_(r.icmp("ne", failed.get(), i64(-1))):
        base = r.op("i64", f"shl {r.read(call, CALL, 'check_base')}, {NUMBER_BITS}")
        _record_failure(r, ctx, r.add(failed.get(), base))
    r.ret()


def _record_failure(r: Routine, ctx: Val, code: Val) -> None:
    """Makes `code` the error word unless a smaller one (0 is none) stands there."""
    word, done = r.field(ctx, CONTEXT, "error"), r.label("recorded")
    with r.forever():
        seen = r.atomic_load(word)
        r.leave_if(r.icmp("ult", r.sub(seen, i64(1)), code), done)
        r.leave_if(r.swap_if(word, seen, code), done)
    r.block(done)


def _items(r: Routine, program: Val, phase: Val) -> tuple[Val, Val]:
    """First item and item count of the phase with index `phase`."""
    record = r.record_at(r.read_ptr(program, PROGRAM, "phases"), phase, PHASE)
    first = r.record_at(r.read_ptr(program, PROGRAM, "items"), r.read(record, PHASE, "item_begin"), ITEM)
    return first, r.read(record, PHASE, "item_count")


def _run_all(r: Routine, ctx: Val, program: Val, first: Val, count: Val, thread: Val) -> None:
    """Runs all items of a phase on one thread."""
    with r.each(count) as n:
        r.call_void("run_item", [ctx, program, r.record_at(first, n, ITEM), thread, i64(1)])


def _return_error(r: Routine, ctx: Val) -> None:
    """Leaves with the error word where it is set."""
    error = r.atomic_load(r.field(ctx, CONTEXT, "error"))
    with r.exit_if(r.nonzero(error)):
        r.ret(error)


def add_serial_driver(module: ModuleText, *, linkage: str = "") -> None:
    """`i64 run_serial(ptr ctx, ptr program)`: the error word after the last phase that ran."""
    _add_pass_mark(module)
    r = Routine.start(module, "run_serial", "i64", [("ptr", "ctx"), ("ptr", "program")], linkage=linkage)
    ctx, program = r.params
    r.ret(r.call("i64", "run_range", [ctx, program, i64(0), r.read(program, PROGRAM, "phase_count"), i64(0)]))
    r = Routine.start(
        module, "run_range", "i64",
        [("ptr", "ctx"), ("ptr", "program"), ("i64", "begin"), ("i64", "end"), ("i64", "thread")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    ctx, program, begin, end, thread = r.params
    with _each_phase(r, ctx, program, begin, end) as (first, count):
        _run_all(r, ctx, program, first, count, thread)
        _return_error(r, ctx)
    r.ret(i64(0))


@contextmanager
def _each_phase(r: Routine, ctx: Val, program: Val, begin: Val, end: Val) -> Iterator[tuple[Val, Val]]:
    """Runs the body for the first item and item count of every phase of a range, as often as it is to be run."""
    at = r.variable(begin)
    with r.while_(lambda: r.icmp("slt", at.get(), end)):
        phase = at.get()
        first, count = _items(r, program, phase)
        mark, work, following = r.label("mark"), r.label("work"), r.label("phase.next")
        r.branch_if(r.icmp("slt", count, i64(0)), mark, work)
        r.block(mark)
        at.set(r.call("i64", "pass_mark", [ctx, program, phase]))
        r.branch(following)
        r.block(work)
        yield first, count
        at.set(r.add(phase, i64(1)))
        r.branch(following)
        r.block(following)


def _add_pass_mark(module: ModuleText) -> None:
    """`i64 pass_mark(ctx, program, place)`: passes the mark at a place; gives the place to go on at."""
    r = Routine.start(
        module, "pass_mark", "i64", [("ptr", "ctx"), ("ptr", "program"), ("i64", "place")],
        linkage="internal",
    )  # fmt: skip
    ctx, program, place = r.params
    mark = r.record_at(r.read_ptr(program, PROGRAM, "phases"), place, PHASE)
    with r.exit_if(r.icmp("eq", r.read(mark, PHASE, "item_count"), i64(GO_TO))):
        r.ret(r.read(mark, PHASE, "item_begin"))
    table = r.read_ptr(ctx, CONTEXT, "table")
    with r.exit_if(r.icmp("eq", r.read(mark, PHASE, "item_count"), i64(CHOOSE))):
        choices, number = r.read_ptr(program, PROGRAM, "choices"), r.read(mark, PHASE, "item_begin")
        choice = r.record_at(choices, number, CHOICE)
        row = r.load_ptr(table, r.read(choice, CHOICE, "row"))
        flag = r.load("i8", r.at_byte(row, r.read(choice, CHOICE, "offset")), 1)
        r.ret(r.select(r.zero(flag), r.read(choice, CHOICE, "otherwise"), r.add(place, i64(1))))
    repeat = r.record_at(r.read_ptr(program, PROGRAM, "repeats"), r.read(mark, PHASE, "item_begin"), REPEAT)
    counter = r.gep(table, r.read(repeat, REPEAT, "counter"), "i64")
    begins = r.icmp("eq", r.read(mark, PHASE, "item_count"), i64(BEGIN_REPEAT))
    with r.exit_if(begins):
        with r.exit_if(r.icmp("slt", r.read(repeat, REPEAT, "count"), i64(1))):
            r.ret(r.add(r.read(repeat, REPEAT, "end"), i64(1)))
        r.store(i64(1), counter, 8)
        _move_rows(r, program, table, repeat, "first")
        r.ret(r.add(place, i64(1)))
    done = r.load("i64", counter, 8)
    with r.exit_if(r.icmp("sge", done, r.read(repeat, REPEAT, "count"))):
        r.ret(r.add(place, i64(1)))
    r.store(r.add(done, i64(1)), counter, 8)
    _move_rows(r, program, table, repeat, "then")
    r.ret(r.add(r.read(repeat, REPEAT, "begin"), i64(1)))


def _move_rows(r: Routine, program: Val, table: Val, repeat: Val, which: str) -> None:
    first = r.record_at(r.read_ptr(program, PROGRAM, "moves"), r.read(repeat, REPEAT, f"{which}_begin"), MOVE)
    with r.each(r.read(repeat, REPEAT, f"{which}_count")) as n:
        move = r.record_at(first, n, MOVE)
        source = r.load_ptr(table, r.read(move, MOVE, "source"))
        address = r.at_byte(source, r.read(move, MOVE, "offset"))
        r.store(address, r.gep(table, r.read(move, MOVE, "row"), "ptr"), 8)


def has_work(r: Routine, claim: Val) -> Val:
    """Whether a claim word has unclaimed items."""
    front = r.and_(r.op("i64", f"lshr {claim}, 16"), i64(0xFFFF))
    return r.icmp("ult", front, r.and_(claim, i64(0xFFFF)))


def claim_back(r: Routine, pool: Val, claim: Val) -> tuple[Val, Val]:
    """Tries to claim the last item of `claim`; gives whether it did, and the item's number."""
    less = r.sub(claim, i64(1))
    taken = r.swap_if(r.field(pool, POOL, "claim"), claim, less)
    return taken, r.and_(less, i64(0xFFFF))


def add_spmd_driver(module: ModuleText) -> None:
    """`i64 run_spmd(ptr ctx, ptr program, ptr pool)`; the caller owns the pool while it runs."""
    _add_publisher(module)
    r = Routine.start(module, "run_spmd", "i64", [("ptr", "ctx"), ("ptr", "program"), ("ptr", "pool")])
    ctx, program, pool = r.params
    with _each_phase(r, ctx, program, i64(0), r.read(program, PROGRAM, "phase_count")) as (first, count):
        alone, shared, done = r.label("alone"), r.label("shared"), r.label("phase.done")
        r.branch_if(r.icmp("slt", count, i64(2)), alone, shared)
        r.block(alone)
        _run_all(r, ctx, program, first, count, i64(0))
        r.branch(done)
        r.block(shared)
        start = r.variable(i64(0))
        with r.while_(lambda: r.icmp("slt", start.get(), count)):
            left = r.sub(count, start.get())
            piece = r.intrinsic("smin", "i64", [left, i64(MAX_ITEMS)])
            r.call_void("run_shared", [ctx, program, pool, r.record_at(first, start.get(), ITEM), piece])
            start.set(r.add(start.get(), piece))
        r.branch(done)
        r.block(done)
        _return_error(r, ctx)
    r.ret(i64(0))


def _add_publisher(module: ModuleText) -> None:
    """`void run_shared(ctx, program, pool, first item, count)`: publishes items, helps, waits for them."""
    r = Routine.start(
        module, "run_shared", "void",
        [("ptr", "ctx"), ("ptr", "program"), ("ptr", "pool"), ("ptr", "first"), ("i64", "count")],
        linkage="internal", attributes="nounwind noinline",
    )  # fmt: skip
    ctx, program, pool, first, count = r.params
    claim_at, done_at = r.field(pool, POOL, "claim"), r.field(pool, POOL, "done")
    r.atomic_store(i64(0), done_at, "monotonic")
    # A worker may be reading these three for an old claim; its exchange then fails.
    for name, value in (("context", ctx), ("program", program), ("first_item", first)):
        r.atomic_store(value, r.field(pool, POOL, name), "monotonic")
    old = r.atomic_load(claim_at, "monotonic")
    generation = r.add(r.and_(old, i64(-1 << 32)), i64(1 << 32))
    r.atomic("xchg", claim_at, r.or_(generation, count))
    with r.if_(r.nonzero(r.atomic_load(r.field(pool, POOL, "sleepers"), "seq_cst"))):
        r.call_void("wake_workers", [pool])

    finish = r.label("finish")
    with r.forever():
        claim = r.atomic_load(claim_at)
        r.leave_if(r.zero(has_work(r, claim)), finish)
        taken = r.swap_if(claim_at, claim, r.add(claim, i64(1 << 16)))
        with r.if_(taken):
            index = r.and_(r.op("i64", f"lshr {claim}, 16"), i64(0xFFFF))
            r.call_void("run_item", [ctx, program, r.record_at(first, index, ITEM), i64(0), i64(0)])
            r.atomic("add", done_at, i64(1), "release")
    r.block(finish)
    spins = r.variable(i64(0))
    with r.while_(lambda: r.icmp("ne", r.atomic_load(done_at), count)):
        r.pause()
        spins.add(1)
        with r.if_(r.zero(r.and_(spins.get(), i64(0x3FF)))):
            r.import_call("i32", "sched_yield", [])
    r.ret()
