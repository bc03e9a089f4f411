"""Aligned memory blocks: `block_alloc`, `block_free` and the capsule that owns a block.

A block's data is aligned to 64 bytes and lies behind a 64-byte header. Freed blocks are kept
in lists by size class (four to each doubling), up to a limit and as long as idle and live bytes
together are little more than the most that was ever live: a program whose blocks come and go in
different sizes holds no more than it needs at once. Blocks of a megabyte and more start at varying
cache sets, so that several streams do not share one set.
Invariant: only who holds `lock` touches the lists, and nobody calls Python while holding it.
"""

from __future__ import annotations

from graphc.backends.llvm.host.routine import INLINED, NULL, RARE, Routine, i64
from graphc.backends.llvm.text import ModuleText, Val
from graphc.runtime.layout import BLOCK, BLOCK_CLASSES, BLOCKS

__all__ = ["add_block_owner", "add_blocks"]

_HUGE_PAGE = 2 << 20
_HUGE = 2 * _HUGE_PAGE
"""Bytes from which a block asks for huge pages."""
_COLOURED = 1 << 20
_PAGE = 4096
_COLOUR_STEP = 5 * 64
_MADV_HUGEPAGE = 14
_SLACK = 1 << 20
_SLACK_SHARE = 32
"""Idle and live blocks may exceed the most that was ever live by so many bytes and by that part of it."""
_REACH = 8
"""How many classes above its own may serve an arena, which is given back at the end of a call."""


def add_blocks(module: ModuleText) -> None:
    """`block_alloc`, `arena_alloc`, `block_free`, `blocks_trim`; see each."""
    _add_size_class(module)
    _add_class_bytes(module)
    _add_fresh(module)
    _add_shrink(module)
    _add_take(module)
    for name, reach in (("block_alloc", 0), ("arena_alloc", _REACH)):
        r = Routine.start(module, name, "ptr", [("i64", "nbytes")])
        r.ret(r.call("ptr", "block_take", [r.params[0], i64(reach)]))
    _add_free(module)


def _add_size_class(module: ModuleText) -> None:
    """`i64 size_class(i64 nbytes)`: with n = number of 64-byte units, 1…4 have classes 0…3, then four a doubling."""
    r = Routine.start(
        module, "size_class", "i64", [("i64", "nbytes")], linkage="internal", attributes=INLINED
    )
    (nbytes,) = r.params
    units = r.op("i64", f"lshr {r.add(nbytes, i64(63))}, 6")
    units = r.intrinsic("umax", "i64", [units, i64(1)])
    with r.exit_if(r.icmp("ule", units, i64(4))):
        r.ret(r.sub(units, i64(1)))
    last = r.sub(units, i64(1))
    module.declare("llvm.ctlz.i64", "i64", ["i64", "i1 immarg"])
    zeros = r.call("i64", "llvm.ctlz.i64", [last, Val("i1", "true")])
    exponent = r.sub(i64(63), zeros)
    quarter = r.and_(r.op("i64", f"lshr {last}, {r.sub(exponent, i64(2)).text}"), i64(3))
    r.ret(r.add(r.add(r.mul(exponent, i64(4)), i64(-4)), quarter))


def _add_class_bytes(module: ModuleText) -> None:
    """`i64 class_bytes(i64 class)`: the largest size of a class, inverse of `size_class`."""
    r = Routine.start(
        module, "class_bytes", "i64", [("i64", "class")], linkage="internal", attributes=INLINED
    )
    (number,) = r.params
    with r.exit_if(r.icmp("ult", number, i64(4))):
        r.ret(r.mul(r.add(number, i64(1)), i64(64)))
    exponent = r.add(r.op("i64", f"lshr {number}, 2"), i64(1))
    quarter = r.add(r.and_(number, i64(3)), i64(5))
    r.ret(r.op("i64", f"shl {quarter}, {r.add(exponent, i64(4)).text}"))


def _add_fresh(module: ModuleText) -> None:
    """`ptr block_fresh(i64 class, i64 used)`: a block from the system of which `used` bytes are asked for.

    Huge pages hold no more than whole pages of what is used: behind it memory is there when it is touched.
    """
    r = Routine.start(
        module, "block_fresh", "ptr", [("i64", "class"), ("i64", "used")], linkage="internal", attributes=RARE
    )
    number, used = r.params
    blocks = r.imported("blocks")
    nbytes = r.call("i64", "class_bytes", [number])
    coloured = r.icmp("uge", nbytes, i64(_COLOURED))
    turn = r.atomic("add", r.field(blocks, BLOCKS, "colour"), i64(1), "monotonic")
    colour = r.mul(r.and_(turn, i64(_PAGE // _COLOUR_STEP - 1)), i64(_COLOUR_STEP))
    colour = r.select(coloured, colour, i64(0))
    huge = r.icmp("uge", nbytes, i64(_HUGE))
    align = r.select(huge, i64(_HUGE_PAGE), i64(64))
    total = r.add(nbytes, i64(64 + _PAGE))
    total = r.select(coloured, total, r.add(nbytes, i64(64)))
    slot = r.alloca("ptr", 1, 8)
    error = r.import_call("i32", "posix_memalign", [slot, align, total])
    with r.exit_if(r.nonzero(error)):
        r.ret(NULL)
    start = r.load("ptr", slot, 8)
    with r.if_(huge):
        whole = r.and_(r.add(used, i64(BLOCK.nbytes)), i64(-_HUGE_PAGE))
        r.import_call("i32", "madvise", [start, whole, Val("i32", str(_MADV_HUGEPAGE))])
    header = r.at_byte(start, colour)
    r.write(number, header, BLOCK, "size_class")
    r.write(start, header, BLOCK, "allocation")
    r.ret(r.at_byte(header, BLOCK.nbytes))


def _add_take(module: ModuleText) -> None:
    """`ptr block_take(i64 nbytes, i64 reach)`: an idle block of its class or one of `reach` above, or a new one.

    Null where memory is short.
    """
    r = Routine.start(module, "block_take", "ptr", [("i64", "nbytes"), ("i64", "reach")], linkage="internal")
    nbytes, reach = r.params
    with r.exit_if(r.icmp("ugt", nbytes, i64(1 << 46))):
        r.ret(NULL)
    blocks = r.imported("blocks")
    number = r.call("i64", "size_class", [nbytes])
    last = r.intrinsic("umin", "i64", [r.add(number, reach), i64(BLOCK_CLASSES - 1)])
    heads = r.field(blocks, BLOCKS, "head0")
    lock, cached = r.field(blocks, BLOCKS, "lock"), r.field(blocks, BLOCKS, "cached_bytes")
    at = r.variable(number)
    r.lock(lock)
    live = r.field(blocks, BLOCKS, "live_blocks")
    r.store(r.add(r.load("i64", live, 8), i64(1)), live, 8)
    with r.while_(lambda: r.icmp("ule", at.get(), last)):
        head_at = r.gep(heads, at.get(), "i64")
        head = r.load("ptr", head_at, 8)
        with r.exit_if(r.not_null(head)):
            r.store(r.read_ptr(head, BLOCK, "next"), head_at, 8)
            size = r.call("i64", "class_bytes", [at.get()])
            r.store(r.sub(r.load("i64", cached, 8), size), cached, 8)
            _note_live(r, blocks, size)
            r.unlock(lock)
            r.ret(r.at_byte(head, BLOCK.nbytes))
        at.add(1)
    size = r.call("i64", "class_bytes", [number])
    most = _note_live(r, blocks, size)
    slack = r.add(r.op("i64", f"udiv {most}, {_SLACK_SHARE}"), i64(_SLACK))
    room = r.sub(r.add(most, slack), r.read(blocks, BLOCKS, "live_bytes"))
    crowded = r.icmp("ugt", r.load("i64", cached, 8), room)
    r.unlock(lock)
    with r.if_(crowded):
        r.call_void("blocks_shrink", [room])
    made = r.variable(r.call("ptr", "block_fresh", [number, nbytes]))
    with r.if_(r.is_null(made.get())):
        r.call_void("blocks_trim", [])
        made.set(r.call("ptr", "block_fresh", [number, nbytes]))
    with r.if_(r.is_null(made.get())):
        r.lock(lock)
        r.store(r.sub(r.load("i64", live, 8), i64(1)), live, 8)
        bytes_at = r.field(blocks, BLOCKS, "live_bytes")
        r.store(r.sub(r.load("i64", bytes_at, 8), size), bytes_at, 8)
        r.unlock(lock)
    r.ret(made.get())


def _note_live(r: Routine, blocks: Val, size: Val) -> Val:
    """Counts `size` more live bytes; gives the most that were ever live."""
    live = r.add(r.read(blocks, BLOCKS, "live_bytes"), size)
    r.write(live, blocks, BLOCKS, "live_bytes")
    most = r.intrinsic("umax", "i64", [live, r.read(blocks, BLOCKS, "most_live")])
    r.write(most, blocks, BLOCKS, "most_live")
    return most


def _add_free(module: ModuleText) -> None:
    r = Routine.start(module, "block_free", "void", [("ptr", "data")])
    (data,) = r.params
    with r.exit_if(r.is_null(data)):
        r.ret()
    blocks = r.imported("blocks")
    header = r.at_byte(data, -BLOCK.nbytes)
    number = r.read(header, BLOCK, "size_class")
    nbytes = r.call("i64", "class_bytes", [number])
    lock = r.field(blocks, BLOCKS, "lock")
    r.lock(lock)
    live = r.field(blocks, BLOCKS, "live_blocks")
    r.store(r.sub(r.load("i64", live, 8), i64(1)), live, 8)
    r.write(r.sub(r.read(blocks, BLOCKS, "live_bytes"), nbytes), blocks, BLOCKS, "live_bytes")
    cached = r.field(blocks, BLOCKS, "cached_bytes")
    sum_ = r.add(r.load("i64", cached, 8), nbytes)
    with r.exit_if(r.icmp("ule", sum_, r.read(blocks, BLOCKS, "limit"))):
        head_at = r.gep(r.field(blocks, BLOCKS, "head0"), number, "i64")
        r.write(r.load("ptr", head_at, 8), header, BLOCK, "next")
        r.store(header, head_at, 8)
        r.store(sum_, cached, 8)
        r.unlock(lock)
        r.ret()
    r.unlock(lock)
    r.import_call("void", "free", [r.read_ptr(header, BLOCK, "allocation")])
    r.ret()


def _add_shrink(module: ModuleText) -> None:
    """`void blocks_shrink(i64 bytes)`: gives idle blocks back, large ones first, until at most `bytes` are left.

    `void blocks_trim()` gives all back, and what was live before counts no more.
    """
    r = Routine.start(module, "blocks_shrink", "void", [("i64", "bytes")], attributes=RARE)
    blocks = r.imported("blocks")
    lock, cached = r.field(blocks, BLOCKS, "lock"), r.field(blocks, BLOCKS, "cached_bytes")
    r.lock(lock)
    with r.each(i64(BLOCK_CLASSES)) as k:
        number = r.sub(i64(BLOCK_CLASSES - 1), k)
        head_at = r.gep(r.field(blocks, BLOCKS, "head0"), number, "i64")

        def wanted() -> Val:
            many = r.icmp("ugt", r.load("i64", cached, 8), r.params[0])
            return r.op("i1", f"and {many}, {r.not_null(r.load('ptr', head_at, 8)).text}")

        with r.while_(wanted):
            head = r.load("ptr", head_at, 8)
            r.store(r.read_ptr(head, BLOCK, "next"), head_at, 8)
            r.store(r.sub(r.load("i64", cached, 8), r.call("i64", "class_bytes", [number])), cached, 8)
            r.import_call("void", "free", [r.read_ptr(head, BLOCK, "allocation")])
    r.unlock(lock)
    r.ret()

    r = Routine.start(module, "blocks_trim", "void", [], attributes=RARE)
    blocks = r.imported("blocks")
    r.call_void("blocks_shrink", [i64(0)])
    r.write(r.read(blocks, BLOCKS, "live_bytes"), blocks, BLOCKS, "most_live")
    r.ret()


def add_block_owner(module: ModuleText) -> None:
    """Python objects that own a block.

    `ptr block_owner(ptr data)` is a new capsule of the block (null with an exception where there
    is none), `ptr new_block(ptr self, ptr size)` a one-argument builtin that makes a block.
    """
    r = Routine.start(module, "free_capsule", "void", [("ptr", "capsule")])
    r.call_void("block_free", [r.import_call("ptr", "PyCapsule_GetPointer", [r.params[0], NULL])])
    r.ret()

    r = Routine.start(module, "block_owner", "ptr", [("ptr", "data")], linkage="internal", attributes=INLINED)
    r.ret(r.import_call("ptr", "PyCapsule_New", [r.params[0], NULL, Val("ptr", "@free_capsule")]))

    r = Routine.start(module, "new_block", "ptr", [("ptr", "self"), ("ptr", "size")], attributes=RARE)
    nbytes = r.import_call("i64", "PyLong_AsLongLong", [r.params[1]])
    with (
        r.if_(r.icmp("slt", nbytes, i64(0))),
        r.exit_if(r.not_null(r.import_call("ptr", "PyErr_Occurred", []))),
    ):
        r.ret(NULL)
    data = r.call("ptr", "block_alloc", [nbytes])
    with r.exit_if(r.is_null(data)):
        r.ret(r.import_call("ptr", "PyErr_NoMemory", []))
    owner = r.call("ptr", "block_owner", [data])
    with r.if_(r.is_null(owner)):
        r.call_void("block_free", [data])
    r.ret(owner)
