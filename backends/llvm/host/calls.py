"""Running an executable natively: frames, storage locks, the choice of driver.

A frame is a context and a buffer table; each call takes an idle one (or makes one) and gives
it back. Its arena is a memory block leased for the call. Invariants: a frame is used by one
call at a time; storage locks are taken in address order and given back before the caller
asks for the interpreter lock again. Frames and blocks are taken and given back with the
interpreter lock held, so that a fork never meets a list that is being changed.
"""

from __future__ import annotations

from graphc.backends.llvm.host.objects import LIST_ITEMS, TUPLE_ITEMS, type_of
from graphc.backends.llvm.host.routine import INLINED, NULL, RARE, Routine, Variable, i64
from graphc.backends.llvm.text import ModuleText, Val
from graphc.runtime.layout import BINDING, BLOCKS, EXECUTABLE, FRAME, KEPT, KEPT_HEAD, LOCK, POOL, TEMPORARY

__all__ = ["add_calls", "run_released"]


def add_calls(module: ModuleText) -> None:
    """All functions of this page."""
    _add_frame_take(module)
    _add_frame_give(module)
    _add_frames_free(module)
    _add_storage_locks(module)
    _add_kept(module)
    _add_execute(module)
    _add_set_rows(module)
    _add_run_addresses(module)


def _lists_lock(r: Routine) -> Val:
    return r.field(r.imported("blocks"), BLOCKS, "lock")


def _add_frame_take(module: ModuleText) -> None:
    """`ptr frame_take(ptr executable)`: a frame with its arena; null where memory is short."""
    r = Routine.start(
        module, "frame_take", "ptr", [("ptr", "executable")], linkage="internal", attributes=INLINED
    )
    (executable,) = r.params
    lock, frames = _lists_lock(r), r.field(executable, EXECUTABLE, "frames")
    r.lock(lock)
    idle = r.load("ptr", frames, 8)
    with r.if_(r.not_null(idle)):
        r.store(r.read_ptr(idle, FRAME, "next"), frames, 8)
    r.unlock(lock)
    chosen = r.variable(idle)
    with r.if_(r.is_null(idle)):
        made = r.call("ptr", "frame_make", [executable])
        with r.exit_if(r.is_null(made)):
            r.ret(NULL)
        chosen.set(made)
    frame = chosen.get()
    nbytes = r.read(executable, EXECUTABLE, "arena_bytes")
    with r.if_(r.nonzero(nbytes)):
        # Behind the arena lies the scratch memory of as many workers as are wanted now.
        workers = r.read(r.imported("pool"), POOL, "wanted")
        more = r.mul(workers, r.read(executable, EXECUTABLE, "scratch_bytes"))
        arena = r.call("ptr", "arena_alloc", [r.add(nbytes, more)])
        with r.exit_if(r.is_null(arena)):
            r.call_void("block_free", [frame])
            r.ret(NULL)
        with r.if_(r.icmp("ne", arena, r.read_ptr(frame, FRAME, "arena"))):
            r.write(arena, frame, FRAME, "arena")
            r.write(r.at_byte(arena, nbytes), frame, FRAME, "scratch")
            r.call_void("place_temporaries", [executable, frame])
        r.write(workers, frame, FRAME, "workers")
    r.write(i64(0), frame, FRAME, "error")
    r.ret(frame)
    _add_frame_make(module)
    _add_place_temporaries(module)


def _add_frame_make(module: ModuleText) -> None:
    r = Routine.start(
        module, "frame_make", "ptr", [("ptr", "executable")], linkage="internal", attributes=RARE
    )
    (executable,) = r.params
    nbytes = r.read(executable, EXECUTABLE, "frame_bytes")
    frame = r.call("ptr", "block_alloc", [nbytes])
    with r.exit_if(r.is_null(frame)):
        r.ret(NULL)
    r.memset(frame, 0, nbytes)
    table = r.gep(frame, FRAME.size, "i64")
    count = r.read(executable, EXECUTABLE, "row_count")
    r.memcpy(table, r.read_ptr(executable, EXECUTABLE, "template"), r.mul(count, i64(8)))
    r.write(table, frame, FRAME, "table")
    r.write(r.read_ptr(executable, EXECUTABLE, "dims"), frame, FRAME, "dims")
    r.ret(frame)


def _add_place_temporaries(module: ModuleText) -> None:
    r = Routine.start(module, "place_temporaries", "void", [("ptr", "executable"), ("ptr", "frame")],
                      linkage="internal", attributes=RARE)  # fmt: skip
    executable, frame = r.params
    arena = r.read_ptr(frame, FRAME, "arena")
    table = r.read_ptr(frame, FRAME, "table")
    first = r.read_ptr(executable, EXECUTABLE, "temporaries")
    with r.each(r.read(executable, EXECUTABLE, "temporary_count")) as n:
        record = r.record_at(first, n, TEMPORARY)
        row = r.gep(table, r.read(record, TEMPORARY, "row"), "ptr")
        r.store(r.at_byte(arena, r.read(record, TEMPORARY, "offset")), row, 8)
    r.ret()


def _add_frame_give(module: ModuleText) -> None:
    """`void frame_give(ptr executable, ptr frame)`: back to the idle list, its arena to the pool."""
    r = Routine.start(
        module,
        "frame_give",
        "void",
        [("ptr", "executable"), ("ptr", "frame")],
        linkage="internal",
        attributes=INLINED,
    )
    executable, frame = r.params
    with r.if_(r.nonzero(r.read(executable, EXECUTABLE, "arena_bytes"))):
        # The frame remembers the address: the same block again needs no new table.
        r.call_void("block_free", [r.read_ptr(frame, FRAME, "arena")])
    lock, frames = _lists_lock(r), r.field(executable, EXECUTABLE, "frames")
    r.lock(lock)
    r.write(r.load("ptr", frames, 8), frame, FRAME, "next")
    r.store(frame, frames, 8)
    r.unlock(lock)
    r.ret()


def _add_frames_free(module: ModuleText) -> None:
    """`void frames_free(ptr executable)`: frees idle frames, when nothing can call the executable any more."""
    r = Routine.start(module, "frames_free", "void", [("ptr", "executable")], attributes=RARE)
    frames = r.field(r.params[0], EXECUTABLE, "frames")
    with r.while_(lambda: r.not_null(r.load("ptr", frames, 8))):
        frame = r.load("ptr", frames, 8)
        r.store(r.read_ptr(frame, FRAME, "next"), frames, 8)
        r.call_void("block_free", [frame])
    r.ret()


def _add_storage_locks(module: ModuleText) -> None:
    """Readers-writer spin locks: a word counts readers, -1 is a writer."""
    r = Routine.start(
        module, "storage_locks_take", "void", [("ptr", "binding")],
        linkage="internal", attributes="nounwind noinline",
    )  # fmt: skip
    (binding,) = r.params
    locks = r.read_ptr(binding, BINDING, "locks")
    exclusive = r.nonzero(r.read(binding, BINDING, "exclusive"))
    with r.each(r.read(binding, BINDING, "lock_count")) as n:
        address = r.load_ptr(locks, n)
        got, spins = r.label("held"), r.variable(i64(0))
        with r.forever():
            seen = r.atomic_load(address, "monotonic")
            free = r.select(exclusive, r.zero(seen), r.icmp("sge", seen, i64(0)))
            following = r.select(exclusive, i64(-1), r.add(seen, i64(1)))
            with r.if_(free):
                r.leave_if(r.swap_if(address, seen, following), got)
            r.pause()
            spins.add(1)
            with r.if_(r.zero(r.and_(spins.get(), i64(127)))):
                r.import_call("i32", "sched_yield", [])
        r.block(got)
    r.ret()

    r = Routine.start(
        module, "storage_locks_give", "void", [("ptr", "binding")],
        linkage="internal", attributes="nounwind noinline",
    )  # fmt: skip
    (binding,) = r.params
    locks = r.read_ptr(binding, BINDING, "locks")
    exclusive = r.nonzero(r.read(binding, BINDING, "exclusive"))
    change = r.select(exclusive, i64(1), i64(-1))
    with r.each(r.read(binding, BINDING, "lock_count")) as n:
        lock = r.load_ptr(locks, n)
        with r.if_(exclusive):
            r.write(r.add(r.read(lock, LOCK, "writes"), i64(1)), lock, LOCK, "writes")
        r.atomic("add", lock, change, "release")
    r.ret()


def _add_kept(module: ModuleText) -> None:
    """`i64 kept_begin(ptr binding)`: says of each kept block whether this call fills it; gives the sum of what stamps are to be.

    `void kept_end(ptr binding, i64 sum)`: stamps the blocks after a call, unless one is to be filled again meanwhile. Storage
    locks are held from the one to the other, so no program writes what they are made from.
    """
    r = Routine.start(
        module, "kept_begin", "i64", [("ptr", "binding")],
        linkage="internal", attributes="nounwind noinline",
    )  # fmt: skip
    (binding,) = r.params
    total = r.variable(i64(0))
    with r.each(r.read(binding, BINDING, "kept_count")) as n:
        head, stamp = _stamp(r, binding, n)
        stale = r.icmp("ne", stamp, r.read(head, KEPT_HEAD, "stamp"))
        r.write(r.select(stale, i64(1), i64(0)), head, KEPT_HEAD, "fill")
        total.set(r.add(total.get(), stamp))
    r.ret(total.get())

    r = Routine.start(
        module, "kept_end", "void", [("ptr", "binding"), ("i64", "sum")],
        linkage="internal", attributes="nounwind noinline",
    )  # fmt: skip
    binding, before = r.params
    total = r.variable(i64(0))
    count = r.read(binding, BINDING, "kept_count")
    with r.each(count) as n:
        _, stamp = _stamp(r, binding, n)
        total.set(r.add(total.get(), stamp))
    with r.if_(r.icmp("eq", total.get(), before)), r.each(count) as n:
        head, stamp = _stamp(r, binding, n)
        r.write(stamp, head, KEPT_HEAD, "stamp")
    r.ret()


def _stamp(r: Routine, binding: Val, n: Val) -> tuple[Val, Val]:
    """The head of the n-th kept block, and what its stamp is where it is current."""
    kept = r.record_at(r.read_ptr(binding, BINDING, "kept"), n, KEPT)
    head, lock = r.read_ptr(kept, KEPT, "head"), r.read_ptr(kept, KEPT, "lock")
    return head, r.add(r.read(lock, LOCK, "writes"), r.read(head, KEPT_HEAD, "renewals"))


def _add_execute(module: ModuleText) -> None:
    """`i64 execute(executable, frame, binding)`: runs a filled frame under its storage locks."""
    r = Routine.start(
        module, "execute", "i64", [("ptr", "executable"), ("ptr", "frame"), ("ptr", "binding")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    executable, frame, binding = r.params
    program = r.read_ptr(executable, EXECUTABLE, "program")
    locked = r.nonzero(r.read(binding, BINDING, "lock_count"))
    with r.if_(locked):
        r.call_void("storage_locks_take", [binding])
    result, stamps = r.variable(i64(0)), r.variable(i64(0))
    keeps = r.nonzero(r.read(binding, BINDING, "kept_count"))
    with r.if_(keeps):
        stamps.set(r.call("i64", "kept_begin", [binding]))
    serial, shared, done = r.label("serial"), r.label("try.pool"), r.label("ran")
    r.branch_if(r.nonzero(r.read(executable, EXECUTABLE, "parallel")), shared, serial)
    r.block(shared)
    _run_on_pool(r, executable, frame, program, result, serial, done)
    r.block(serial)
    result.set(r.call("i64", "run_serial", [frame, program]))
    r.branch(done)
    r.block(done)
    with r.if_(r.and_(keeps, r.zero(result.get()))):
        r.call_void("kept_end", [binding, stamps.get()])
    with r.if_(locked):
        r.call_void("storage_locks_give", [binding])
    r.ret(result.get())


def _run_on_pool(
    r: Routine, executable: Val, frame: Val, program: Val, result: Variable, serial: str, done: str
) -> None:
    """Runs on the pool where it is free and has workers; goes to `serial` otherwise."""
    pool = r.imported("pool")
    scratch = r.read(executable, EXECUTABLE, "scratch_bytes")
    wanted = r.nonzero(r.read(pool, POOL, "wanted"))
    owner = r.field(pool, POOL, "owner")
    mine, ready = r.label("mine"), r.label("ready")
    ask = r.label("ask")
    r.branch_if(wanted, ask, serial)
    r.block(ask)
    r.branch_if(r.swap_if(owner, i64(0), i64(1)), mine, serial)
    r.block(mine)
    with r.if_(r.zero(r.read(pool, POOL, "started"))):
        r.call_void("pool_start", [pool])
    # Somebody may have asked for more workers since the frame was taken.
    crowd = r.icmp("ugt", r.read(pool, POOL, "started"), r.read(frame, FRAME, "workers"))
    alone = r.label("too.many")
    r.branch_if(r.and_(crowd, r.nonzero(scratch)), alone, ready)
    r.block(alone)
    r.unlock(owner)
    r.branch(serial)
    r.block(ready)
    result.set(r.call("i64", "run_spmd", [frame, program, pool]))
    r.unlock(owner)
    r.branch(done)


def _add_set_rows(module: ModuleText) -> None:
    """`void set_rows(ptr table, ptr rows, i64 count, ptr values)`: table[rows[i]] = values[i]."""
    r = Routine.start(
        module, "set_rows", "void", [("ptr", "table"), ("ptr", "rows"), ("i64", "count"), ("ptr", "values")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    table, rows, count, values = r.params
    with r.each(count) as n:
        row = r.load("i64", r.gep(rows, n, "i64"), 8)
        r.store(r.load_ptr(values, n), r.gep(table, row, "ptr"), 8)
    r.ret()


def _add_run_addresses(module: ModuleText) -> None:
    """`run_addresses(executable, binding, inputs, outputs)`, a METH_FASTCALL builtin on exact arguments.

    The first two are addresses, the others lists or tuples of addresses in the order of the
    program's inputs and outputs. Returns the error word; raises MemoryError.
    """
    _add_place_addresses(module)
    r = Routine.start(
        module, "run_addresses", "ptr", [("ptr", "self"), ("ptr", "args"), ("i64", "nargs")], attributes=RARE
    )
    _, args, _ = r.params
    executable, binding = (_address_in(r, r.load_ptr(args, i)) for i in range(2))
    frame = r.call("ptr", "frame_take", [executable])
    with r.exit_if(r.is_null(frame)):
        r.ret(r.import_call("ptr", "PyErr_NoMemory", []))
    table = r.read_ptr(frame, FRAME, "table")
    for position, kind in ((2, "input"), (3, "output")):
        rows = r.read_ptr(executable, EXECUTABLE, f"{kind}_rows")
        count = r.read(executable, EXECUTABLE, f"{kind}_count")
        placed = r.call("i1", "place_addresses", [table, rows, count, r.load_ptr(args, position)])
        with r.exit_if(r.xor(placed, Val("i1", "true"))):
            r.call_void("frame_give", [executable, frame])
            r.ret(NULL)
    state_rows = r.read_ptr(executable, EXECUTABLE, "state_rows")
    state_count = r.read(executable, EXECUTABLE, "state_count")
    r.call_void("set_rows", [table, state_rows, state_count, r.read_ptr(binding, BINDING, "states")])
    release = r.nonzero(r.read(executable, EXECUTABLE, "release"))
    error = run_released(r, release, executable, frame, binding)
    r.call_void("frame_give", [executable, frame])
    r.ret(r.import_call("ptr", "PyLong_FromLongLong", [error]))


def _address_in(r: Routine, number: Val) -> Val:
    """The pointer that a Python int is."""
    slot = r.alloca("i64", 1, 8)
    r.store(r.import_call("i64", "PyLong_AsLongLong", [number]), slot, 8)
    return r.load("ptr", slot, 8)


def _add_place_addresses(module: ModuleText) -> None:
    """`i1 place_addresses(table, rows, count, sequence)`: table[rows[i]] = the int sequence[i].

    False with an exception where an item is no int of 64 bits.
    """
    r = Routine.start(
        module, "place_addresses", "i1",
        [("ptr", "table"), ("ptr", "rows"), ("i64", "count"), ("ptr", "sequence")],
        linkage="internal", attributes=RARE,
    )  # fmt: skip
    table, rows, count, sequence = r.params
    items = r.variable(r.at_byte(sequence, TUPLE_ITEMS))
    with r.if_(r.icmp("eq", type_of(r, sequence), r.imported("list"))):
        items.set(r.load("ptr", r.at_byte(sequence, LIST_ITEMS), 8))
    with r.each(count) as n:
        row = r.load("i64", r.gep(rows, n, "i64"), 8)
        number = r.import_call("i64", "PyLong_AsLongLong", [r.load_ptr(items.get(), n)])
        with r.if_(r.icmp("eq", number, i64(-1))):
            error = r.import_call("ptr", "PyErr_Occurred", [])
            with r.exit_if(r.not_null(error)):
                r.ret(Val("i1", "false"))
        r.store(number, r.gep(table, row, "i64"), 8)
    r.ret(Val("i1", "true"))


def run_released(r: Routine, release: Val, executable: Val, frame: Val, binding: Val) -> Val:
    """`execute`, without the interpreter lock where `release` holds."""
    thread = r.variable(NULL)
    with r.if_(release):
        thread.set(r.import_call("ptr", "PyEval_SaveThread", []))
    error = r.call("i64", "execute", [executable, frame, binding])
    with r.if_(release):
        r.import_call("void", "PyEval_RestoreThread", [thread.get()])
    return error
