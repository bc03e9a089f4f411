"""The entry's view of its arguments: does a variant's signature hold, and where is the data.

Nothing here runs Python code except the comparison of static arguments of built-in types
(int, float, str, bytes), which runs none either. Invariant: what `arguments_match` accepted,
`place_arguments` can place without failing.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.backends.llvm.host.objects import (
    BYTES_DATA,
    LIST_ITEMS,
    OBJECT_DATA,
    SIZE,
    TUPLE_ITEMS,
    incref,
    type_of,
)
from graphc.backends.llvm.host.routine import INLINED, NULL, Routine, i64
from graphc.backends.llvm.text import ModuleText, Val
from graphc.runtime.layout import ARGUMENT, ARGUMENT_KINDS, STATE

__all__ = ["add_arguments"]

# NumPy's array object, in bytes; fixed by its ABI.
_ARRAY_DATA, _ARRAY_RANK, _ARRAY_DIMS, _ARRAY_DTYPE, _ARRAY_FLAGS = (
    OBJECT_DATA + n for n in (0, 8, 16, 40, 48)
)
_CONTIGUOUS_ALIGNED = 0x0001 | 0x0100

_RECORD_DIMS = 3
"""Words of a tensor's signature before its sizes: bytes, dtype and rank, whether it requires grad."""

_FALSE, _TRUE = Val("i1", "false"), Val("i1", "true")


def add_arguments(module: ModuleText) -> None:
    """`i1 arguments_match(args, specs, count)`, `i1 arguments_apart(args, specs, count, spans, spans count)`,
    `void place_arguments(args, specs, count, table, scratch)` and `i1 take_items(args, specs, count)`."""
    _add_words_equal(module)
    _add_take_items(module)
    _add_match(module)
    _add_apart(module)
    _add_place(module)
    _add_hold(module)


def _switch(r: Routine, kind: Val, cases: dict[str, Callable[[], None]], default: str) -> None:
    """Runs the case named by a number of `ARGUMENT_KINDS`; a case that does not branch goes on behind."""
    labels = {name: r.label(name) for name in cases}
    done = r.label("kind.done")
    targets = " ".join(f"i64 {ARGUMENT_KINDS.index(n)}, label %{label}" for n, label in labels.items())
    r.emit(f"switch {kind}, label %{default} [{targets}]")
    for name, build in cases.items():
        r.block(labels[name])
        build()
        r.branch(done)
    r.block(done)


def _add_words_equal(module: ModuleText) -> None:
    r = Routine.start(
        module,
        "words_equal",
        "i1",
        [("ptr", "a"), ("ptr", "b"), ("i64", "count")],
        linkage="internal",
        attributes=INLINED,
    )
    a, b, count = r.params
    with r.each(count) as n:
        differ = r.icmp("ne", r.load("i64", r.gep(a, n, "i64"), 8), r.load("i64", r.gep(b, n, "i64"), 8))
        with r.exit_if(differ):
            r.ret(_FALSE)
    r.ret(_TRUE)


def _add_take_items(module: ModuleText) -> None:
    """Puts the items of nests behind the arguments, in `args` itself; false where one is not what is expected."""
    r = Routine.start(
        module, "take_items", "i1", [("ptr", "args"), ("ptr", "specs"), ("i64", "count")], linkage="internal"
    )
    args, specs, count = r.params
    mismatch = r.label("mismatch")

    with r.each(count) as n:
        value, spec = r.load_ptr(args, n), r.record_at(specs, n, ARGUMENT)
        done = r.label("no.nest")
        items_count = r.read(spec, ARGUMENT, "signature_words")
        target = r.gep(args, r.read(spec, ARGUMENT, "slot"), "ptr")

        def begin(length: Callable[[], Val]) -> None:
            same = r.icmp("eq", type_of(r, value), r.read_ptr(spec, ARGUMENT, "expected"))
            r.leave_if(r.xor(same, _TRUE), mismatch)
            r.leave_if(r.icmp("ne", length(), items_count), mismatch)

        def in_line(items: Callable[[], Val]) -> None:
            begin(lambda: r.load("i64", r.at_byte(value, SIZE), 8))
            r.memcpy(target, items(), r.mul(items_count, i64(8)))

        def of_dict() -> None:
            begin(lambda: r.import_call("i64", "PyDict_Size", [value]))
            place = r.variable(i64(0))
            key, item = r.variable(NULL), r.variable(NULL)
            keys = r.read_ptr(spec, ARGUMENT, "signature")
            with r.each(items_count) as k:
                r.import_call("i32", "PyDict_Next", [value, place.slot, key.slot, item.slot])
                r.leave_if(r.icmp("ne", key.get(), r.load_ptr(keys, k)), mismatch)
                r.store(item.get(), r.gep(target, k, "ptr"), 8)

        _switch(
            r,
            r.read(spec, ARGUMENT, "kind"),
            {
                "tuple": lambda: in_line(lambda: r.at_byte(value, TUPLE_ITEMS)),
                "list": lambda: in_line(lambda: r.load("ptr", r.at_byte(value, LIST_ITEMS), 8)),
                "dict": of_dict,
            },
            done,
        )
        r.branch(done)
        r.block(done)
    r.ret(_TRUE)
    r.block(mismatch)
    r.ret(_FALSE)


def _add_match(module: ModuleText) -> None:
    r = Routine.start(
        module, "arguments_match", "i1", [("ptr", "args"), ("ptr", "specs"), ("i64", "count")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    args, specs, count = r.params
    mismatch = r.label("mismatch")

    with r.each(count) as n:
        value, spec = r.load_ptr(args, n), r.record_at(specs, n, ARGUMENT)

        def require(condition: Val) -> None:
            r.leave_if(r.xor(condition, _TRUE), mismatch)

        def has_type(field: str = "expected") -> None:
            require(r.icmp("eq", type_of(r, value), r.read_ptr(spec, ARGUMENT, field)))

        def record() -> Val:
            """The record of a Tensor whose value exists."""
            kind = type_of(r, value)
            first = r.icmp("eq", kind, r.read_ptr(spec, ARGUMENT, "expected"))
            second = r.icmp("eq", kind, r.read_ptr(spec, ARGUMENT, "alternative"))
            require(r.or_(first, second))
            found = _record(r, value, spec)
            require(r.not_null(found))
            require(r.icmp("eq", type_of(r, found), r.imported("bytes")))
            return found

        def tensor() -> None:
            twin = r.read(spec, ARGUMENT, "twin")
            with r.if_(r.nonzero(twin)):
                require(r.icmp("eq", value, r.load_ptr(args, r.sub(twin, i64(1)))))
            words = r.read(spec, ARGUMENT, "signature_words")
            expected = r.read_ptr(spec, ARGUMENT, "signature")
            arrays, others, good = r.label("array"), r.label("record"), r.label("good")
            r.branch_if(_is_array(r, value), arrays, others)
            r.block(arrays)
            array(r.sub(words, i64(_RECORD_DIMS)), r.gep(expected, _RECORD_DIMS, "i64"))
            r.branch(good)
            r.block(others)
            found = record()
            nbytes = r.mul(r.add(words, i64(2)), i64(8))
            require(r.icmp("eq", r.load("i64", r.at_byte(found, SIZE), 8), nbytes))
            stamp = r.load("i64", r.at_byte(found, BYTES_DATA + 8), 8)
            require(r.icmp("eq", stamp, r.read(r.imported("state"), STATE, "stamp")))
            require(r.call("i1", "words_equal", [r.at_byte(found, BYTES_DATA + 16), expected, words]))
            r.branch(good)
            r.block(good)

        def any_tensor() -> None:
            record()

        def same() -> None:
            require(r.icmp("eq", value, r.read_ptr(spec, ARGUMENT, "expected")))

        def equal() -> None:
            expected = r.read_ptr(spec, ARGUMENT, "expected")
            kind = type_of(r, value)
            require(r.icmp("eq", kind, type_of(r, expected)))
            numbers, others, equal_so_far = r.label("floats"), r.label("others"), r.label("equal")
            r.branch_if(r.icmp("eq", kind, r.imported("float")), numbers, others)
            r.block(numbers)
            # By bits: 0.0 and -0.0 are different programs, and a nan is equal to itself.
            require(r.call("i1", "words_equal", [
                r.at_byte(value, OBJECT_DATA), r.at_byte(expected, OBJECT_DATA), i64(1)]))  # fmt: skip
            r.branch(equal_so_far)
            r.block(others)
            outcome = r.import_call("i32", "PyObject_RichCompareBool", [value, expected, Val("i32", "2")])
            require(r.icmp("eq", outcome, Val("i32", "1")))
            r.branch(equal_so_far)
            r.block(equal_so_far)

        def array(words: Val, sizes: Val) -> None:
            require(r.icmp("eq", r.load("ptr", r.at_byte(value, _ARRAY_DTYPE), 8),
                           r.read_ptr(spec, ARGUMENT, "array")))  # fmt: skip
            flags = r.load("i32", r.at_byte(value, _ARRAY_FLAGS), 4)
            wanted = Val("i32", str(_CONTIGUOUS_ALIGNED))
            require(r.icmp("eq", r.and_(flags, wanted), wanted))
            rank = r.cast("sext", r.load("i32", r.at_byte(value, _ARRAY_RANK), 4), "i64")
            require(r.icmp("eq", rank, words))
            address = r.load("i64", r.at_byte(value, _ARRAY_DATA), 8)
            require(r.zero(r.and_(address, r.read(spec, ARGUMENT, "mask"))))
            dims = r.load("ptr", r.at_byte(value, _ARRAY_DIMS), 8)
            require(r.call("i1", "words_equal", [dims, sizes, words]))

        def int64() -> None:
            has_type()
            number = r.import_call("i64", "PyLong_AsLongLong", [value])
            with r.if_(r.icmp("eq", number, i64(-1))):
                error = r.import_call("ptr", "PyErr_Occurred", [])
                with r.if_(r.not_null(error)):
                    r.import_call("void", "PyErr_Clear", [])
                    r.leave_if(_TRUE, mismatch)

        _switch(
            r,
            r.read(spec, ARGUMENT, "kind"),
            {
                "tensor": tensor,
                "any_tensor": any_tensor,
                "same": same,
                "equal": equal,
                "float64": has_type,
                "float32": has_type,
                "int64": int64,
                # What they are was seen when their items were taken out.
                **dict.fromkeys(("tuple", "list", "dict"), lambda: None),
            },
            mismatch,
        )
    r.ret(_TRUE)
    r.block(mismatch)
    r.ret(_FALSE)


def _add_apart(module: ModuleText) -> None:
    """False where an accepted argument has bytes in one of the spans."""
    r = Routine.start(
        module, "arguments_apart", "i1",
        [("ptr", "args"), ("ptr", "specs"), ("i64", "count"), ("ptr", "spans"), ("i64", "span_count")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    args, specs, count, spans, span_count = r.params
    with r.each(count) as n:
        value, spec = r.load_ptr(args, n), r.record_at(specs, n, ARGUMENT)
        begin = r.variable(i64(0))
        nbytes = r.read(spec, ARGUMENT, "nbytes")
        with r.if_(r.nonzero(nbytes)):
            address, known = r.label("array.address"), r.label("address.known")
            record = r.label("record.address")
            r.branch_if(_is_array(r, value), address, record)
            r.block(address)
            begin.set(r.load("i64", r.at_byte(value, _ARRAY_DATA), 8))
            r.branch(known)
            r.block(record)
            begin.set(r.load("i64", r.at_byte(_record(r, value, spec), BYTES_DATA), 8))
            r.branch(known)
            r.block(known)
            first, last = begin.get(), r.add(begin.get(), nbytes)
            with r.each(span_count) as k:
                at = r.op("i64", f"shl {k}, 1")
                span_begin = r.load("i64", r.gep(spans, at, "i64"), 8)
                span_end = r.load("i64", r.gep(spans, r.add(at, i64(1)), "i64"), 8)
                meets = r.and_(r.icmp("ult", first, span_end), r.icmp("ult", span_begin, last))
                with r.exit_if(meets):
                    r.ret(_FALSE)
    r.ret(_TRUE)


def _is_array(r: Routine, value: Val) -> Val:
    return r.icmp("eq", type_of(r, value), r.imported("ndarray"))


def _record(r: Routine, value: Val, spec: Val) -> Val:
    return r.load("ptr", r.at_byte(value, r.read(spec, ARGUMENT, "record_offset")), 8)


def _add_place(module: ModuleText) -> None:
    """Puts the addresses of accepted arguments into the buffer table, numbers into the scratch words."""
    r = Routine.start(
        module, "place_arguments", "void",
        [("ptr", "args"), ("ptr", "specs"), ("i64", "count"), ("ptr", "table"), ("ptr", "scratch")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    args, specs, count, table, scratch = r.params
    with r.each(count) as n:
        value, spec = r.load_ptr(args, n), r.record_at(specs, n, ARGUMENT)
        number = r.gep(scratch, r.read(spec, ARGUMENT, "slot"), "i64")
        address = r.variable(number)
        skip = r.label("unused")

        def tensor() -> None:
            arrays, others, known = r.label("array"), r.label("record"), r.label("known")
            r.branch_if(_is_array(r, value), arrays, others)
            r.block(arrays)
            address.set(r.load("ptr", r.at_byte(value, _ARRAY_DATA), 8))
            r.branch(known)
            r.block(others)
            address.set(r.load("ptr", r.at_byte(_record(r, value, spec), BYTES_DATA), 8))
            r.branch(known)
            r.block(known)

        def float64() -> None:
            r.store(r.load("double", r.at_byte(value, OBJECT_DATA), 8), number, 8)

        def float32() -> None:
            exact = r.load("double", r.at_byte(value, OBJECT_DATA), 8)
            r.store(r.cast("fptrunc", exact, "float"), number, 8)

        def int64() -> None:
            r.store(r.import_call("i64", "PyLong_AsLongLong", [value]), number, 8)

        _switch(
            r,
            r.read(spec, ARGUMENT, "kind"),
            {
                "tensor": tensor,
                "any_tensor": tensor,
                "float64": float64,
                "float32": float32,
                "int64": int64,
            },
            skip,
        )
        row = r.read(spec, ARGUMENT, "row")
        with r.if_(r.icmp("sge", row, i64(0))):
            r.store(address.get(), r.gep(table, row, "ptr"), 8)
        r.branch(skip)
        r.block(skip)
    r.ret()


def _add_hold(module: ModuleText) -> None:
    """`void hold_owners(args, specs, count, held)`: references to what owns the arguments' memory.

    Another thread may replace a Tensor's storage while the call runs without the interpreter lock.
    """
    r = Routine.start(
        module, "hold_owners", "void",
        [("ptr", "args"), ("ptr", "specs"), ("i64", "count"), ("ptr", "held")],
        linkage="internal", attributes=INLINED,
    )  # fmt: skip
    args, specs, count, held = r.params
    with r.each(count) as n:
        value, spec = r.load_ptr(args, n), r.record_at(specs, n, ARGUMENT)
        owner = r.variable(NULL)
        offset = r.read(spec, ARGUMENT, "owner_offset")
        is_tensor = r.and_(r.nonzero(offset), r.xor(_is_array(r, value), _TRUE))
        with r.if_(is_tensor):
            owner.set(r.load("ptr", r.at_byte(value, offset), 8))
        with r.if_(r.not_null(owner.get())):
            incref(r, owner.get())
        r.store(owner.get(), r.gep(held, n, "ptr"), 8)
    r.ret()
